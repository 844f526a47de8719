//go:build linux

package campaign

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
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
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"rialto/blockstore"
	"rialto/blockstore/disk"
	"rialto/blockstore/exchange"
	"rialto/blockstore/image"
	"rialto/blockstore/mount"
	"rialto/broker"
	"rialto/p2p"
	"rialto/p2p/p2ptest"
	"rialto/provider"
)

// files is what a tree must have: bytes by path.
type files map[string][]byte

// thing is an image, or weights, that hosts want.
type thing struct {
	name  string
	want  provider.Want // with root and sources; from a registry without
	tree  string
	files files
}

// world is what surrounds a host: a registry, and a peer that has everything. Both are slow enough to be caught at work.
type world struct {
	registry string
	store    *disk.Store
	host     *p2p.Host
	things   []*thing
}

// bytesPerSecond is what the registry and the peer give. A thing then takes some tenths of a second.
const bytesPerSecond = 20 << 20

func newWorld(tb testing.TB) *world {
	tb.Helper()
	needMounts(tb)
	w := &world{host: p2ptest.New(tb, p2p.Config{})}
	inner := registry.New(registry.Logger(slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)))
	server := httptest.NewServer(http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		inner.ServeHTTP(&slow{out, r.Context(), rate.NewLimiter(bytesPerSecond, 64<<10)}, r)
	}))
	tb.Cleanup(server.Close)
	w.registry = strings.TrimPrefix(server.URL, "http://")
	var err error
	if w.store, err = disk.Open(tb.Context(), disk.Config{Dir: tb.TempDir(), Reserve: -1}); err != nil {
		tb.Fatal(err)
	}
	x, err := exchange.New(exchange.Config{Host: w.host.Libp2p(), Store: w.store, Upload: bytesPerSecond})
	if err != nil {
		tb.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- x.Run(ctx) }()
	tb.Cleanup(func() {
		stop()
		if err := errors.Join(<-done, w.store.Close()); err != nil {
			tb.Error(err)
		}
	})
	return w
}

// owners says which things blocks belong to.
func (w *world) owners(blocks []string) map[string]int {
	owners := make(map[string]int)
	for _, t := range w.things {
		root, err := blockstore.ParseCID(t.tree)
		if err != nil {
			continue
		}
		tree, err := blockstore.LoadTree(context.Background(), root, w.store)
		if err != nil {
			continue
		}
		for ref := range tree.Refs() {
			if slices.Contains(blocks, ref.CID.String()) {
				owners[t.name]++
			}
		}
	}
	return owners
}

// slow is an answer whose body comes at a rate.
type slow struct {
	http.ResponseWriter
	ctx   context.Context //nolint:containedctx // of the request that is answered
	limit *rate.Limiter
}

func (s *slow) Write(p []byte) (int, error) {
	n := 0
	for part := range slices.Chunk(p, s.limit.Burst()) {
		if err := s.limit.WaitN(s.ctx, len(part)); err != nil {
			return n, err
		}
		k, err := s.ResponseWriter.Write(part)
		if n += k; err != nil {
			return n, err
		}
	}
	return n, nil
}

func (w *world) source() broker.BlockSource {
	return broker.BlockSource{Peer: broker.PeerID(w.host.ID()), Addrs: w.host.Addrs()}
}

// random returns n bytes that do not compress.
func random(seed uint64, n int) []byte {
	p := make([]byte, n)
	var s [32]byte
	for i := range 8 {
		s[i] = byte(seed >> (8 * i))
	}
	rand.NewChaCha8(s).Read(p)
	return p
}

// some returns files of all kinds of sizes: large bytes in four files, and small ones.
func some(seed uint64, dir string, large, small int) files {
	f := make(files)
	for i := range 4 {
		f[fmt.Sprintf("%s/large%d", dir, i)] = random(seed*1000+uint64(i), large/4+i*7)
	}
	for i := range small {
		f[fmt.Sprintf("%s/d%d/small%03d", dir, i%7, i)] = random(seed*1000+100+uint64(i), 1+i*97%9000)
	}
	return f
}

// addImage pushes an image to the registry, and has the peer import it.
func (w *world) addImage(tb testing.TB, repo string, layers ...files) *thing {
	tb.Helper()
	img, err := mutate.Config(empty.Image, v1.Config{Entrypoint: []string{"/bin/run"}})
	if err != nil {
		tb.Fatal(err)
	}
	t := &thing{name: repo, files: make(files)}
	for _, layer := range layers {
		maps.Copy(t.files, layer)
		packed := archive(tb, layer)
		l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(packed)), nil })
		if err != nil {
			tb.Fatal(err)
		}
		if img, err = mutate.AppendLayers(img, l); err != nil {
			tb.Fatal(err)
		}
	}
	t.want.Image = w.registry + "/" + repo + ":latest"
	ref, err := name.ParseReference(t.want.Image)
	if err != nil {
		tb.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		tb.Fatal(err)
	}
	digest, err := img.Digest()
	if err != nil {
		tb.Fatal(err)
	}
	t.want.Digest = digest.String()
	signed, err := blockstore.ParseDigest(t.want.Digest)
	if err != nil {
		tb.Fatal(err)
	}
	src, err := image.Registry{}.Open(tb.Context(), t.want.Image, signed)
	if err != nil {
		tb.Fatal(err)
	}
	got, err := src.Import(tb.Context(), image.Import{Put: w.put, Scratch: tb.TempDir()})
	if err != nil {
		tb.Fatal(err)
	}
	t.tree = got.Image.Tree.String()
	t.want.Root, t.want.Sources = got.Root.String(), []broker.BlockSource{w.source()}
	w.things = append(w.things, t)
	return t
}

func (w *world) put(ctx context.Context, b blockstore.Block) error { return w.store.Put(ctx, b) }

func archive(tb testing.TB, layer files) []byte {
	tb.Helper()
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, p := range slices.Sorted(maps.Keys(layer)) {
		if err := tw.WriteHeader(&tar.Header{Name: p, Mode: 0o755, Size: int64(len(layer[p])), ModTime: time.Unix(1e9, 0)}); err != nil {
			tb.Fatal(err)
		}
		if _, err := tw.Write(layer[p]); err != nil {
			tb.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		tb.Fatal(err)
	}
	return buf.Bytes()
}

// addWeights has the peer import weights.
func (w *world) addWeights(tb testing.TB, name string, f files) *thing {
	tb.Helper()
	dir := tb.TempDir()
	for p, data := range f {
		at := filepath.Join(dir, p)
		if err := errors.Join(os.MkdirAll(filepath.Dir(at), 0o755), os.WriteFile(at, data, 0o600)); err != nil {
			tb.Fatal(err)
		}
	}
	from, err := image.OpenWeights(dir)
	if err != nil {
		tb.Fatal(err)
	}
	defer from.Close()
	root, err := from.Import(tb.Context(), w.put)
	if err != nil {
		tb.Fatal(err)
	}
	t := &thing{name: name, files: f, tree: root.String(), want: provider.Want{Root: root.String(), Sources: []broker.BlockSource{w.source()}}}
	w.things = append(w.things, t)
	return t
}

// needMounts skips where this host cannot show trees.
func needMounts(tb testing.TB) mount.Capabilities {
	tb.Helper()
	if os.Geteuid() != 0 {
		tb.Skip("needs root to mount")
	}
	can, err := mount.Probe(tb.Context(), tb.TempDir(), os.Args[0], serverVerb)
	if err == nil {
		_, err = can.Lazy()
	}
	if err != nil {
		tb.Skip("needs a kernel that shows trees: ", err)
	}
	return can
}

// wrongError is a file that has other bytes than it must have.
type wrongError struct {
	path string
	at   int64
	want []byte // from there on, some
	got  []byte
}

func (e *wrongError) Error() string {
	return fmt.Sprintf("%s is wrong at %d: % x, want % x", e.path, e.at, e.got, e.want)
}

// differ returns where a part of a file, read at an offset, differs from what it must be.
func differ(path string, at int64, got, want []byte) error {
	if bytes.Equal(got, want) {
		return nil
	}
	i := 0
	for i < min(len(got), len(want)) && got[i] == want[i] {
		i++
	}
	return &wrongError{path, at + int64(i), want[i:min(i+8, len(want))], got[i:min(i+8, len(got))]}
}

// uncache has the kernel read a file anew.
func uncache(f *os.File) { _ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED) }

// compare reads everything that is shown in a directory, past what the kernel has cached of it.
func (f files) compare(dir string) error {
	seen := 0
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		want, ok := f[rel]
		if !ok {
			return fmt.Errorf("%s does not belong there", p)
		}
		seen++
		file, err := os.Open(p)
		if err != nil {
			return err
		}
		defer file.Close()
		uncache(file)
		got := make([]byte, len(want)+1)
		n, err := readFull(file, got)
		if err != nil {
			return err
		}
		if sha256.Sum256(got[:n]) != sha256.Sum256(want) {
			return differ(p, 0, got[:n], want)
		}
		return nil
	})
	if err == nil && seen != len(f) {
		err = fmt.Errorf("%s has %d files, not %d", dir, seen, len(f))
	}
	return err
}

// readFull reads to the end of a file.
func readFull(f *os.File, p []byte) (int, error) {
	n := 0
	for n < len(p) {
		k, err := unix.Pread(int(f.Fd()), p[n:], int64(n))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return n, &fs.PathError{Op: "read", Path: f.Name(), Err: err}
		case k == 0:
			return n, nil
		default:
			n += k
		}
	}
	return n, nil
}

// loopback lets hosts reach registries of tests.
func loopback() image.Policy {
	return image.Policy{Networks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
}
