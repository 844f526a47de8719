package image_test

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"

	"rialto/blockstore"
	"rialto/blockstore/image"
)

const marker = "MARKER-of-a-secret-file"

// sealed keeps what an import puts, and sees that nothing of it is plain.
type sealed struct {
	store blockstore.Memory
	t     *testing.T
}

func (s *sealed) put(ctx context.Context, b blockstore.Block) error {
	if bytes.Contains(b.Data(), []byte(marker)) {
		s.t.Errorf("block %s is not encrypted", b.CID())
	}
	return s.store.Put(ctx, b)
}

// files decrypts what is below the root of a private tree.
func (s *sealed) files(root blockstore.CID, key blockstore.Key) map[string]string {
	s.t.Helper()
	locked := must(blockstore.LoadLockedTree(s.t.Context(), root, &s.store))
	tree := must(locked.Open(key))
	var plain blockstore.Memory
	public := &blockstore.Tree{Nodes: tree.Nodes, Blocks: slices.Clone(tree.Blocks)}
	for i, r := range tree.Blocks {
		data := bytes.Clone(must(s.store.Get(s.t.Context(), r.CID)).Data())
		tree.Keys[i].Crypt(data, 0)
		b := must(blockstore.NewBlock(data))
		public.Blocks[i] = b.Ref()
		if err := plain.Put(s.t.Context(), b); err != nil {
			s.t.Fatal(err)
		}
	}
	blocks := must(public.Encode())
	if err := plain.Put(s.t.Context(), blocks...); err != nil {
		s.t.Fatal(err)
	}
	return filesOf(s.t, blocks[0].CID(), &plain)
}

// TestPrivateImage imports one image twice for one customer and once for another.
func TestPrivateImage(t *testing.T) {
	large := marker + strings.Repeat("large", 50_000)
	dir := t.TempDir()
	built := imageOf(t, filesLayer(t, "small", marker, "large", large), filesLayer(t, ".wh.small", "", marker, "x"))
	if err := must(layout.Write(dir, empty.Index)).AppendImage(built); err != nil {
		t.Fatal(err)
	}
	imported := func(salt blockstore.Salt) (*sealed, *image.Imported) {
		s := &sealed{t: t}
		source := must(image.OpenLayout(dir, blockstore.Digest{}, image.Registry{}.Platform))
		got, err := source.Import(t.Context(), image.Import{Put: s.put, Salt: &salt})
		if err != nil {
			t.Fatal(err)
		}
		return s, got
	}
	mine, yours := blockstore.NewSalt(), blockstore.NewSalt()
	s, got := imported(mine)
	_, again := imported(mine)
	_, other := imported(yours)
	if got.Root != again.Root || got.Key != again.Key {
		t.Error("one customer's equal images differ")
	}
	if got.Root == other.Root || got.Key == other.Key || got.Image.Tree == other.Image.Tree {
		t.Error("two customers' images are alike")
	}
	m := must(must(blockstore.LoadLockedImage(t.Context(), got.Root, &s.store)).Open(got.Key))
	if err := image.Prove(m, digestOf(t, built), nil); err != nil {
		t.Errorf("what came back is not the image: %v", err)
	}
	if want, have := map[string]string{"large": large, marker: "x"}, s.files(m.Tree, m.TreeKey); !maps.Equal(have, want) {
		t.Errorf("got %d files, want %d, or they differ", len(have), len(want))
	}
}

func TestPrivateWeights(t *testing.T) {
	dir := t.TempDir()
	want := map[string]string{"model.bin": marker + strings.Repeat("w", 2<<20), marker: marker}
	write(t, dir, want)
	s := &sealed{t: t}
	w := must(image.OpenWeights(dir))
	defer w.Close()
	root, key, err := w.ImportPrivate(t.Context(), blockstore.NewSalt(), s.put)
	if err != nil {
		t.Fatal(err)
	}
	if have := s.files(root, key); !maps.Equal(have, want) {
		t.Errorf("got %d files, want %d, or they differ", len(have), len(want))
	}
	if _, err := must(blockstore.LoadLockedTree(t.Context(), root, &s.store)).Open(blockstore.NewSalt().Key(nil)); !errors.Is(err, blockstore.ErrKey) {
		t.Errorf("another key: got %v, want ErrKey", err)
	}
}
