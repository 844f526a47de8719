package image_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
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

// filesLayer has files by name and content.
func filesLayer(t *testing.T, files ...string) v1.Layer {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for i := 0; i < len(files); i += 2 {
		if err := w.WriteHeader(&tar.Header{Name: files[i], Mode: 0o644, Size: int64(len(files[i+1]))}); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, files[i+1])
	}
	w.Close()
	return rawOf(t, buf.Bytes())
}

// trailing has n zero bytes behind the end of its tar stream.
func trailing(t *testing.T, n int) v1.Layer {
	t.Helper()
	return rawOf(t, append(tarOf(t, "x"), make([]byte, n)...))
}

func rawOf(t *testing.T, raw []byte) v1.Layer {
	t.Helper()
	diff, _, err := v1.SHA256(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	return rawLayer{blob: compress(t, "gzip", raw), diff: diff}
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

// keep is an Import that keeps the blocks.
type keep struct {
	blockstore.Memory
	read atomic.Int64
}

func (k *keep) into() image.Import {
	return image.Import{
		Put:  func(ctx context.Context, b blockstore.Block) error { return k.Put(ctx, b) },
		Read: func(n int) { k.read.Add(int64(n)) },
	}
}

// files returns the paths and contents of what lies under a root.
func (k *keep) files(t *testing.T, root blockstore.CID) map[string]string {
	t.Helper()
	m, err := blockstore.LoadImage(t.Context(), root, k)
	if err != nil {
		t.Fatal(err)
	}
	return filesOf(t, m.Tree, k)
}

func filesOf(t *testing.T, root blockstore.CID, from blockstore.Getter) map[string]string {
	t.Helper()
	tree, err := blockstore.LoadTree(t.Context(), root, from)
	if err != nil {
		t.Fatal(err)
	}
	files := make(map[string]string)
	for i := range tree.Nodes {
		n := &tree.Nodes[i]
		if n.Kind != blockstore.File {
			continue
		}
		var content []byte
		for at := n.Block; int64(len(content)) < n.Size; at++ {
			b, err := from.Get(t.Context(), tree.Blocks[at].CID)
			if err != nil {
				t.Fatal(err)
			}
			data := b.Data()[n.Offset:]
			content = append(content, data[:min(int64(len(data)), n.Size-int64(len(content)))]...)
		}
		files[tree.Path(i)] = string(content)
	}
	return files
}

func TestImport(t *testing.T) {
	host := serve(t)
	img := imageOf(t, layerOf(t, "gzip", "hidden"), layerOf(t, "zstd", strings.Repeat("a", 3<<20+5)), filesLayer(t, "g", "b", "d/h", "c"))
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
	var k keep
	m, err := opened.Import(t.Context(), k.into())
	if err != nil {
		t.Fatal(err)
	}
	if err := image.Prove(m.Image, signed, nil); err != nil {
		t.Error(err)
	}
	want := map[string]string{"f": strings.Repeat("a", 3<<20+5), "g": "b", "d/h": "c"}
	if got := k.files(t, m.Root); !maps.Equal(got, want) {
		t.Errorf("%d files, want %d, or other content", len(got), len(want))
	}
	if k.read.Load() != opened.CompressedSize() {
		t.Errorf("told of %d bytes read, want %d", k.read.Load(), opened.CompressedSize())
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
		got, err := local.Import(t.Context(), new(keep).into())
		if err != nil {
			t.Fatal(err)
		}
		if got.Root != m.Root {
			t.Error("registry and layout give different roots")
		}
	}
}

// The order of a layer's entries, its cut into layers and its compression change the image and not the tree.
func TestTreeDependsOnFilesAlone(t *testing.T) {
	large := strings.Repeat("l", 100_000)
	var trees []blockstore.CID
	for _, layers := range [][]v1.Layer{
		{filesLayer(t, "a", "1", "b", large, "d/c", "3")},
		{filesLayer(t, "d/c", "3", "b", large, "a", "1")},
		{filesLayer(t, "d/c", "old", "d/e", "gone"), filesLayer(t, "b", large), filesLayer(t, "d/.wh.e", "", "d/c", "3", "a", "1")},
	} {
		host := serve(t)
		img := imageOf(t, layers...)
		push(t, host+"/app:1", img)
		opened, err := image.Registry{}.Open(t.Context(), host+"/app:1", digestOf(t, img))
		if err != nil {
			t.Fatal(err)
		}
		m, err := opened.Import(t.Context(), new(keep).into())
		if err != nil {
			t.Fatal(err)
		}
		if trees = append(trees, m.Image.Tree); trees[0] != m.Image.Tree {
			t.Error("another tree for the same files")
		}
	}
}

func TestArchive(t *testing.T) {
	one, two := imageOf(t, filesLayer(t, "f", "one")), imageOf(t, filesLayer(t, "f", "two"))
	file := filepath.Join(t.TempDir(), "saved.tar")
	tags := map[name.Tag]v1.Image{must(name.NewTag("app:1")): one, must(name.NewTag("app:2")): two}
	if err := tarball.MultiWriteToFile(file, tags); err != nil {
		t.Fatal(err)
	}
	s, err := image.OpenArchive(file, "app:2")
	if err != nil {
		t.Fatal(err)
	}
	var k keep
	m, err := s.Import(t.Context(), k.into())
	if err != nil {
		t.Fatal(err)
	}
	if got := k.files(t, m.Root)["f"]; got != "two" {
		t.Errorf("f = %q", got)
	}
	if _, err := image.OpenArchive(file, ""); err == nil || !strings.Contains(err.Error(), "app:2") {
		t.Errorf("error = %v, want the tags that there are", err)
	}
	if _, err := image.OpenArchive(filepath.Join(t.TempDir(), "absent.tar"), ""); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error = %v", err)
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
	m, err := opened.Import(t.Context(), new(keep).into())
	if err != nil {
		t.Fatal(err)
	}
	if err := image.Prove(m.Image, digestOf(t, index), opened.Index); err != nil {
		t.Error(err)
	}
	if err := image.Prove(m.Image, digestOf(t, index), nil); !errors.Is(err, image.ErrProof) {
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
		{"bomb of one file", layerOf(t, "gzip", strings.Repeat("\x00", 5<<20)), 1 << 20, image.ErrRefused},
		{"bomb behind the end", trailing(t, 90<<20), 1 << 20, image.ErrTooLarge},
	} {
		t.Run(tc.name, func(t *testing.T) {
			img := imageOf(t, tc.layer)
			ref := host + "/bad:" + strings.ReplaceAll(tc.name, " ", "-")
			push(t, ref, img)
			opened, err := image.Registry{}.Open(t.Context(), ref, digestOf(t, img))
			if err != nil {
				t.Fatal(err)
			}
			to := new(keep).into()
			to.Limits = image.Limits{Bytes: tc.max, Entries: 20_000}
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
	signed := digestOf(t, full)
	good := func() *blockstore.Image {
		return &blockstore.Image{OCI: bytes.Clone(manifest), Config: bytes.Clone(config), Tree: blockstore.Sum([]byte("tree"))}
	}
	if err := image.Prove(good(), signed, nil); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*blockstore.Image){
		"manifest":   func(m *blockstore.Image) { m.OCI = append(m.OCI, ' ') },
		"config":     func(m *blockstore.Image) { m.Config = append(m.Config, ' ') },
		"other JSON": func(m *blockstore.Image) { m.OCI = []byte("{}") },
	} {
		m := good()
		change(m)
		if err := image.Prove(m, signed, nil); !errors.Is(err, image.ErrProof) {
			t.Errorf("%s changed: %v", name, err)
		}
	}
}

func must[T any](x T, err error) T {
	if err != nil {
		panic(err)
	}
	return x
}
