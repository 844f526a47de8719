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

	"rialto/blockstore/disk"
	"rialto/blockstore/exchange"
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
	dir   string
	host  *p2p.Host
	store *disk.Store
	x     *exchange.Exchange
}

func newHost(tb testing.TB, change func(*images.Config)) *hostNode {
	tb.Helper()
	n := &hostNode{dir: tb.TempDir(), host: p2ptest.New(tb, p2p.Config{})}
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
	cfg := images.Config{
		Dir: n.dir, Store: n.store, Peers: n.x,
		Policy: images.Policy{Networks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}},
	}
	if change != nil {
		change(&cfg)
	}
	var err error
	if n.Images, err = images.New(tb.Context(), cfg); err != nil {
		tb.Fatal(err)
	}
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
	return img
}

func wantFile(t *testing.T, img provider.Image, path, content string) {
	t.Helper()
	got, err := os.ReadFile(filepath.Join(img.RootFS, path))
	if err != nil || string(got) != content {
		t.Errorf("%s = %.20q, %v; want %.20q", path, got, err, content)
	}
}

func wantTree(t *testing.T, img provider.Image, seed uint64) {
	t.Helper()
	wantFile(t, img, "lib/big", string(random(seed, 3_000_000)))
	wantFile(t, img, "lib/small007", string(random(seed+7, 3000)))
	wantFile(t, img, "etc/new", "new")
	if _, err := os.Lstat(filepath.Join(img.RootFS, "etc/old")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("etc/old: %v, want it whited out", err)
	}
}
