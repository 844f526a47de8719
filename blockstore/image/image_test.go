package image_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"

	"rialto/blockstore"
	"rialto/blockstore/image"
)

// rawLayer is a layer in any compression.
type rawLayer struct {
	blob []byte
	diff v1.Hash
}

func (l rawLayer) Digest() (v1.Hash, error) {
	h, _, err := v1.SHA256(bytes.NewReader(l.blob))
	return h, err
}
func (l rawLayer) DiffID() (v1.Hash, error) { return l.diff, nil }
func (l rawLayer) Compressed() (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(l.blob)), nil
}
func (l rawLayer) Uncompressed() (io.ReadCloser, error) { return nil, errors.ErrUnsupported }
func (l rawLayer) Size() (int64, error)                 { return int64(len(l.blob)), nil }
func (l rawLayer) MediaType() (types.MediaType, error)  { return types.OCILayer, nil }

func tarOf(t *testing.T, content string) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	if err := w.WriteHeader(&tar.Header{Name: "f", Mode: 0o644, Size: int64(len(content))}); err != nil {
		t.Fatal(err)
	}
	io.WriteString(w, content)
	w.Close()
	return buf.Bytes()
}

func compress(t *testing.T, how string, p []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	var w io.WriteCloser
	switch how {
	case "gzip":
		w = gzip.NewWriter(&buf)
	case "zstd":
		var err error
		if w, err = zstd.NewWriter(&buf); err != nil {
			t.Fatal(err)
		}
	default:
		return p
	}
	w.Write(p)
	w.Close()
	return buf.Bytes()
}

func imageOf(t *testing.T, layers ...v1.Layer) v1.Image {
	t.Helper()
	img, err := mutate.AppendLayers(empty.Image, layers...)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func layerOf(t *testing.T, how, content string) v1.Layer {
	t.Helper()
	raw := tarOf(t, content)
	diff, _, err := v1.SHA256(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	return rawLayer{blob: compress(t, how, raw), diff: diff}
}

func serve(t *testing.T) string {
	t.Helper()
	s := httptest.NewServer(registry.New(registry.Logger(slog.NewLogLogger(slog.DiscardHandler, slog.LevelError))))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

func push(t *testing.T, ref string, what remote.Taggable) {
	t.Helper()
	tag, err := name.NewTag(ref)
	if err != nil {
		t.Fatal(err)
	}
	switch what := what.(type) {
	case v1.Image:
		err = remote.Write(tag, what)
	case v1.ImageIndex:
		err = remote.WriteIndex(tag, what)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func digestOf(t *testing.T, x interface{ Digest() (v1.Hash, error) }) blockstore.Digest {
	t.Helper()
	h, err := x.Digest()
	if err != nil {
		t.Fatal(err)
	}
	d, err := blockstore.ParseDigest(h.String())
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// collect is an Import that keeps the bytes of each layer.
type collect struct {
	mu     sync.Mutex
	layers map[int][]byte
	read   int
}

func (c *collect) into() image.Import {
	c.layers = make(map[int][]byte)
	return image.Import{
		Put: func(_ context.Context, layer int, b blockstore.Block) error {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.layers[layer] = append(c.layers[layer], b.Data()...)
			return nil
		},
		Read: func(n int) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.read += n
		},
	}
}

func rootOf(t *testing.T, m *blockstore.Manifest) blockstore.CID {
	t.Helper()
	blocks, err := m.Blocks()
	if err != nil {
		t.Fatal(err)
	}
	return blocks[0].CID()
}

func TestImportFromRegistryAndLayout(t *testing.T) {
	host := serve(t)
	img := imageOf(t, layerOf(t, "gzip", strings.Repeat("a", 100_000)), layerOf(t, "zstd", "b"), layerOf(t, "", "c"))
	signed := digestOf(t, img)
	push(t, host+"/app:1", img)

	var r image.Registry
	if got, err := r.Resolve(t.Context(), host+"/app:1"); err != nil || got != signed {
		t.Fatalf("resolve = %v, %v; want %v", got, err, signed)
	}
	opened, err := r.Open(t.Context(), host+"/app:1", signed)
	if err != nil {
		t.Fatal(err)
	}
	var c collect
	m, err := opened.Import(t.Context(), c.into())
	if err != nil {
		t.Fatal(err)
	}
	if err := image.Prove(m, signed, nil); err != nil {
		t.Error(err)
	}
	for i, want := range []string{strings.Repeat("a", 100_000), "b", "c"} {
		if !bytes.Equal(c.layers[i], tarOf(t, want)) {
			t.Errorf("layer %d has other bytes", i)
		}
	}
	if int64(c.read) != opened.CompressedSize() {
		t.Errorf("told of %d bytes read, want %d", c.read, opened.CompressedSize())
	}

	dir := t.TempDir()
	if _, err := layout.Write(dir, mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: img})); err != nil {
		t.Fatal(err)
	}
	for _, d := range []blockstore.Digest{{}, signed} {
		local, err := image.OpenLayout(dir, d, v1.Platform{})
		if err != nil {
			t.Fatal(err)
		}
		var c collect
		got, err := local.Import(t.Context(), c.into())
		if err != nil {
			t.Fatal(err)
		}
		if rootOf(t, got) != rootOf(t, m) {
			t.Error("registry and layout give different roots")
		}
	}
}

func TestIndex(t *testing.T) {
	host := serve(t)
	amd, arm := imageOf(t, layerOf(t, "gzip", "amd")), imageOf(t, layerOf(t, "gzip", "arm"))
	platform := func(arch string) v1.Descriptor {
		return v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}
	}
	index := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: arm, Descriptor: platform("arm64")}, mutate.IndexAddendum{Add: amd, Descriptor: platform("amd64")})
	push(t, host+"/multi:1", index)

	var r image.Registry
	if got, err := r.Resolve(t.Context(), host+"/multi:1"); err != nil || got != digestOf(t, amd) {
		t.Errorf("resolve = %v, %v; want the amd64 manifest", got, err)
	}
	opened, err := r.Open(t.Context(), host+"/multi", digestOf(t, index))
	if err != nil {
		t.Fatal(err)
	}
	var c collect
	m, err := opened.Import(t.Context(), c.into())
	if err != nil {
		t.Fatal(err)
	}
	if err := image.Prove(m, digestOf(t, index), opened.Index); err != nil {
		t.Error(err)
	}
	if err := image.Prove(m, digestOf(t, index), nil); !errors.Is(err, image.ErrProof) {
		t.Errorf("proved without the index: %v", err)
	}
	riscv := image.Registry{Platform: v1.Platform{OS: "linux", Architecture: "riscv64"}}
	if _, err := riscv.Resolve(t.Context(), host+"/multi:1"); !errors.Is(err, image.ErrNoImage) || !strings.Contains(err.Error(), "linux/arm64") {
		t.Errorf("error = %v, want what platforms there are", err)
	}
}

func TestImportRefuses(t *testing.T) {
	host := serve(t)
	wrong := layerOf(t, "gzip", "x").(rawLayer)
	wrong.blob = compress(t, "gzip", tarOf(t, "y"))
	for _, tc := range []struct {
		name  string
		layer v1.Layer
		max   int64
		want  error
	}{
		{"layer is not its diff_id", wrong, 0, image.ErrProof},
		{"bomb", layerOf(t, "gzip", strings.Repeat("\x00", 5<<20)), 1 << 20, image.ErrTooLarge},
	} {
		t.Run(tc.name, func(t *testing.T) {
			img := imageOf(t, tc.layer)
			ref := host + "/bad:" + strings.ReplaceAll(tc.name, " ", "-")
			push(t, ref, img)
			opened, err := image.Registry{}.Open(t.Context(), ref, digestOf(t, img))
			if err != nil {
				t.Fatal(err)
			}
			var c collect
			to := c.into()
			to.MaxBytes = tc.max
			if _, err := opened.Import(t.Context(), to); !errors.Is(err, tc.want) {
				t.Errorf("error = %v, want %v", err, tc.want)
			}
		})
	}
	if _, err := (image.Registry{}).Resolve(t.Context(), host+"/absent:1"); !errors.Is(err, image.ErrNoImage) {
		t.Errorf("error = %v, want that there is no such image", err)
	}
	if _, err := (image.Registry{}).Resolve(t.Context(), "Not A Name"); err == nil {
		t.Error("resolved a bad name")
	}
}

func TestProve(t *testing.T) {
	img, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(tarOf(t, "x"))), nil })
	if err != nil {
		t.Fatal(err)
	}
	full := imageOf(t, img)
	manifest, _ := full.RawManifest()
	config, _ := full.RawConfigFile()
	diff, err := partial.BlobToDiffID(full, must(img.Digest()))
	if err != nil {
		t.Fatal(err)
	}
	id, _ := blockstore.ParseDigest(diff.String())
	signed := digestOf(t, full)
	block := []blockstore.Ref{{CID: blockstore.Sum([]byte("b")), Size: 1}}
	good := func() *blockstore.Manifest {
		return &blockstore.Manifest{OCI: bytes.Clone(manifest), Config: bytes.Clone(config), Layers: []blockstore.Layer{{DiffID: id, Blocks: block}}}
	}
	if err := image.Prove(good(), signed, nil); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*blockstore.Manifest){
		"manifest":   func(m *blockstore.Manifest) { m.OCI = append(m.OCI, ' ') },
		"config":     func(m *blockstore.Manifest) { m.Config = append(m.Config, ' ') },
		"diff id":    func(m *blockstore.Manifest) { m.Layers[0].DiffID[0] ^= 1 },
		"more":       func(m *blockstore.Manifest) { m.Layers = append(m.Layers, m.Layers[0]) },
		"fewer":      func(m *blockstore.Manifest) { m.Layers = nil },
		"no OCI":     func(m *blockstore.Manifest) { m.OCI, m.Config = nil, nil },
		"other JSON": func(m *blockstore.Manifest) { m.OCI = []byte("{}") },
	} {
		m := good()
		change(m)
		if err := image.Prove(m, signed, nil); !errors.Is(err, image.ErrProof) {
			t.Errorf("%s changed: %v", name, err)
		}
	}
}

func must(h v1.Hash, err error) v1.Hash {
	if err != nil {
		panic(err)
	}
	return h
}

func TestImportDir(t *testing.T) {
	build := func(order ...string) string {
		dir := t.TempDir()
		for _, n := range order {
			p := filepath.Join(dir, n)
			os.MkdirAll(filepath.Dir(p), 0o700)
			if err := os.WriteFile(p, []byte(n), 0o600); err != nil {
				t.Fatal(err)
			}
			os.Chtimes(p, time.Unix(1e9, 0), time.Unix(1e9, 0))
		}
		os.Symlink("../b", filepath.Join(dir, "sub", "link"))
		return dir
	}
	put := func(context.Context, blockstore.Block) error { return nil }
	one, err := image.ImportDir(t.Context(), build("a", "sub/x", "b"), put)
	if err != nil {
		t.Fatal(err)
	}
	two, err := image.ImportDir(t.Context(), build("b", "sub/x", "a"), put)
	if err != nil {
		t.Fatal(err)
	}
	if one.IsImage() || fmt.Sprint(one.Layers) != fmt.Sprint(two.Layers) {
		t.Errorf("the same files give\n  %v\nand\n  %v", one.Layers, two.Layers)
	}
	for name, make := range map[string]func(dir string) error{
		"empty":            func(string) error { return nil },
		"absolute symlink": func(dir string) error { return os.Symlink("/etc/passwd", filepath.Join(dir, "s")) },
		"symlink outside":  func(dir string) error { return os.Symlink("../x", filepath.Join(dir, "s")) },
	} {
		dir := t.TempDir()
		if err := make(dir); err != nil {
			t.Fatal(err)
		}
		if _, err := image.ImportDir(t.Context(), dir, put); !errors.Is(err, image.ErrWeights) {
			t.Errorf("%s: error = %v", name, err)
		}
	}
	stop := errors.New("stop")
	if _, err := image.ImportDir(t.Context(), build("a", "sub/x"), func(context.Context, blockstore.Block) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("error = %v, want that of put", err)
	}
}
