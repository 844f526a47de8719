//go:build linux

package images_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"rialto/blockstore"
	"rialto/blockstore/disk"
	"rialto/blockstore/exchange"
	"rialto/blockstore/image"
	"rialto/blockstore/mount"
	"rialto/broker"
	"rialto/p2p"
	"rialto/p2p/p2ptest"
	"rialto/provider"
	"rialto/provider/images"
)

// shop is a registry on loopback that counts requests for blobs.
type shop struct {
	host  string
	blobs atomic.Int64
	down  atomic.Bool
}

func openShop(tb testing.TB) *shop {
	tb.Helper()
	s := &shop{}
	inner := registry.New(registry.Logger(slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.down.Load() {
			http.Error(w, "down", http.StatusServiceUnavailable)
			return
		}
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
			s.blobs.Add(1)
		}
		inner.ServeHTTP(w, r)
	}))
	tb.Cleanup(server.Close)
	s.host = strings.TrimPrefix(server.URL, "http://")
	return s
}

// push builds an image of layers, each a map from path to content, and returns a want for it.
func (s *shop) push(tb testing.TB, repo string, layers ...map[string][]byte) provider.Want {
	tb.Helper()
	img, err := mutate.Config(empty.Image, v1.Config{Entrypoint: []string{"/bin/run"}, Cmd: []string{"x"}, Env: []string{"A=b"}, WorkingDir: "/w", User: "7"})
	if err != nil {
		tb.Fatal(err)
	}
	for _, files := range layers {
		var buf bytes.Buffer
		tw := tar.NewWriter(&buf)
		for _, p := range slices.Sorted(maps.Keys(files)) {
			if err := tw.WriteHeader(&tar.Header{Name: p, Mode: 0o755, Size: int64(len(files[p])), ModTime: time.Unix(1e9, 0)}); err != nil {
				tb.Fatal(err)
			}
			tw.Write(files[p])
		}
		tw.Close()
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(buf.Bytes())), nil })
		if err != nil {
			tb.Fatal(err)
		}
		if img, err = mutate.AppendLayers(img, layer); err != nil {
			tb.Fatal(err)
		}
	}
	ref := s.host + "/" + repo + ":latest"
	tag, err := name.ParseReference(ref)
	if err != nil {
		tb.Fatal(err)
	}
	if err := remote.Write(tag, img); err != nil {
		tb.Fatal(err)
	}
	digest, err := img.Digest()
	if err != nil {
		tb.Fatal(err)
	}
	return provider.Want{Image: ref, Digest: digest.String()}
}

// random returns n bytes that do not compress.
func random(seed uint64, n int) []byte {
	p := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	r.Read(p)
	return p
}

func someLayers(seed uint64) []map[string][]byte {
	base := map[string][]byte{"bin/run": []byte("#!"), "lib/big": random(seed, 3_000_000), "etc/old": []byte("old")}
	for i := range 200 {
		base[fmt.Sprintf("lib/small%03d", i)] = random(seed+uint64(i), 3000)
	}
	return []map[string][]byte{base, {"etc/.wh.old": nil, "etc/new": []byte("new"), "lib/other": random(seed+1, 200_000)}}
}

type hostNode struct {
	*images.Images
	mounts  *shelf
	changed chan struct{} // Held has changed
	dir     string
	host    *p2p.Host
	store   *disk.Store
	x       *exchange.Exchange
}

func newHost(tb testing.TB, change func(*images.Config)) *hostNode {
	tb.Helper()
	n := &hostNode{dir: tb.TempDir(), changed: make(chan struct{}, 100), host: p2ptest.New(tb, p2p.Config{Tell: true})}
	var err error
	if n.store, err = disk.Open(tb.Context(), disk.Config{Dir: filepath.Join(n.dir, "blocks"), Reserve: -1}); err != nil {
		tb.Fatal(err)
	}
	if n.x, err = exchange.New(exchange.Config{Host: n.host.Libp2p(), Store: n.store, Patience: time.Second}); err != nil {
		tb.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- n.x.Run(ctx) }()
	tb.Cleanup(func() {
		stop()
		<-done
		n.store.Close()
	})
	n.open(tb, change)
	return n
}

// open begins anew on what is on the disk.
func (n *hostNode) open(tb testing.TB, change func(*images.Config)) {
	tb.Helper()
	n.mounts = &shelf{shown: make(map[string]shown), sealed: make(map[blockstore.CID]bool), read: make(map[blockstore.CID][]mount.Touch), seals: make(chan struct{}, 100)}
	cfg := images.Config{
		Dir: n.dir, Store: n.store, Peers: n.x, Mounts: n.mounts, Changed: func() { n.changed <- struct{}{} },
		Policy: image.Policy{Networks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}},
	}
	if change != nil {
		change(&cfg)
	}
	opened, err := images.New(tb.Context(), cfg)
	if err != nil {
		tb.Fatal(err)
	}
	n.Images = opened
	tb.Cleanup(func() {
		if err := opened.Close(); err != nil {
			tb.Error(err)
		}
	})
}

func (n *hostNode) source() broker.BlockSource {
	return broker.BlockSource{Peer: broker.PeerID(n.host.ID()), Addrs: n.host.Addrs()}
}

func ensure(tb testing.TB, n *hostNode, w provider.Want) provider.Image {
	tb.Helper()
	img, err := n.Ensure(tb.Context(), w, nil)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(img.Release)
	return img
}

// shelf stands in for mounts: a file is read through the source when somebody reads it, block by block.
type shelf struct {
	mu     sync.Mutex
	shown  map[string]shown // by directory
	sealed map[blockstore.CID]bool
	read   map[blockstore.CID][]mount.Touch
	forgot []blockstore.CID
	seals  chan struct{} // of each Seal
}

type shown struct {
	root   blockstore.CID
	tree   *blockstore.Tree
	source mount.Source
	sealed bool
}

var _ images.Mounts = (*shelf)(nil)

func (s *shelf) Mount(_ context.Context, root blockstore.CID, t *blockstore.Tree, source mount.Source) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	dir := fmt.Sprintf("/shelf/%v/%v", s.sealed[root], root)
	s.shown[dir] = shown{root, t, source, s.sealed[root]}
	return dir, nil
}

func (s *shelf) Seal(ctx context.Context, root blockstore.CID, t *blockstore.Tree, source mount.Source) error {
	for ref := range t.Refs() {
		if _, err := source.Locate(ctx, ref); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sealed[root] = true
	s.seals <- struct{}{}
	return nil
}

func (s *shelf) Unmount(root blockstore.CID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := len(s.shown)
	maps.DeleteFunc(s.shown, func(_ string, at shown) bool { return at.root == root })
	if len(s.shown) == before {
		return errors.New("not shown")
	}
	return nil
}

func (s *shelf) Forget(root blockstore.CID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forgot = append(s.forgot, root)
	return nil
}

func (s *shelf) List(context.Context) ([]mount.Mounted, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []mount.Mounted
	for dir, at := range s.shown {
		all = append(all, mount.Mounted{Path: dir, Root: at.root})
	}
	return all, nil
}

func (s *shelf) Trace(_ context.Context, root blockstore.CID) ([]mount.Touch, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, at := range s.shown {
		if at.root == root && !at.sealed {
			return slices.Clone(s.read[root]), nil
		}
	}
	return nil, errors.New("not served")
}

// touch notes the first read of a block.
func (s *shelf) touch(root blockstore.CID, block int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.ContainsFunc(s.read[root], func(t mount.Touch) bool { return t.Block == block }) {
		s.read[root] = append(s.read[root], mount.Touch{Block: block})
	}
}

func (s *shelf) list() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.shown))
}

var errNoFile = errors.New("no such file")

// read reads a file of what is shown in a directory.
func (s *shelf) readFile(ctx context.Context, dir, path string) ([]byte, error) {
	s.mu.Lock()
	at, ok := s.shown[dir]
	s.mu.Unlock()
	if !ok {
		return nil, errors.New("nothing is shown")
	}
	for i := range at.tree.Nodes {
		n := &at.tree.Nodes[i]
		if n.Kind != blockstore.File || at.tree.Path(i) != path {
			continue
		}
		var got []byte
		for k := n.Block; int64(len(got)) < n.Size; k++ {
			s.touch(at.root, k)
			place, err := at.source.Block(ctx, at.tree.Blocks[k])
			if err != nil {
				return nil, err
			}
			f, err := os.Open(place.Path)
			if err != nil {
				return nil, err
			}
			p := make([]byte, at.tree.Blocks[k].Size)
			_, err = f.ReadAt(p, place.Offset)
			f.Close()
			if err != nil {
				return nil, err
			}
			if at.tree.Private() {
				at.tree.Keys[k].Crypt(p, 0)
			}
			p = p[n.Offset:]
			got = append(got, p[:min(int64(len(p)), n.Size-int64(len(got)))]...)
		}
		return got, nil
	}
	return nil, errNoFile
}

func (n *hostNode) wantFile(t *testing.T, img provider.Image, path, content string) {
	t.Helper()
	got, err := n.mounts.readFile(t.Context(), img.RootFS, path)
	if err != nil || string(got) != content {
		t.Errorf("%s = %.20q, %v; want %.20q", path, got, err, content)
	}
}

func (n *hostNode) wantTree(t *testing.T, img provider.Image, seed uint64) {
	t.Helper()
	n.wantFile(t, img, "lib/big", string(random(seed, 3_000_000)))
	n.wantFile(t, img, "lib/small007", string(random(seed+7, 3000)))
	n.wantFile(t, img, "etc/new", "new")
	if _, err := n.mounts.readFile(t.Context(), img.RootFS, "etc/old"); !errors.Is(err, errNoFile) {
		t.Errorf("etc/old: %v, want it whited out", err)
	}
}

// awaitHeld returns when n things are whole here.
func (n *hostNode) awaitHeld(t *testing.T, count int) {
	t.Helper()
	for {
		images, weights, err := n.Held(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(images)+len(weights) >= count {
			return
		}
		select {
		case <-n.changed:
		case <-t.Context().Done():
			t.Fatalf("%d are whole, want %d", len(images)+len(weights), count)
		}
	}
}
