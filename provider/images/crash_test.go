//go:build linux

package images_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"rialto/blockstore"
	"rialto/blockstore/disk"
	"rialto/blockstore/mount"
	"rialto/broker"
	"rialto/provider"
	"rialto/provider/images"
)

// newFullHost has a store with room for three images of someLayers.
func newFullHost(t *testing.T, change func(*images.Config)) *hostNode {
	t.Helper()
	n := newHost(t, nil)
	if err := errors.Join(n.Close(), n.store.Close()); err != nil {
		t.Fatal(err)
	}
	var err error
	n.store, err = disk.Open(t.Context(), disk.Config{Dir: filepath.Join(n.dir, "blocks"), Reserve: -1, Quota: 12 << 20})
	if err != nil {
		t.Fatal(err)
	}
	n.open(t, change)
	return n
}

// What an earlier process showed is in use until Settle, and makes room after that.
func TestSettle(t *testing.T) {
	s := openShop(t)
	n := newFullHost(t, nil)
	var wants []provider.Want
	for seed := range uint64(4) {
		wants = append(wants, s.push(t, "app", someLayers(30+seed*300)...))
	}
	for i, w := range wants[:3] {
		ensure(t, n, w)
		n.awaitHeld(t, i+1)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	before := n.mounts
	n.open(t, func(c *images.Config) { c.Mounts = before })
	n.mounts = before
	ensure(t, n, wants[0]) // by a container that outlived it
	if _, err := n.Ensure(t.Context(), wants[3], nil); !errors.Is(err, blockstore.ErrNoSpace) {
		t.Errorf("error = %v, want that all is in use", err)
	}
	if err := n.Settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, at := range n.mounts.list() {
		if n.mounts.shown[at].root != treeRoot(t, n, wants[0]) {
			t.Errorf("%s is still shown", at)
		}
	}
	n.wantTree(t, ensure(t, n, wants[3]), 30+3*300)
	n.wantTree(t, ensure(t, n, wants[0]), 30)
}

// A layer's list that another import writes just now, or that a crash tore, keeps nothing from being deleted.
func TestEvictionBesideATornList(t *testing.T) {
	s := openShop(t)
	n := newFullHost(t, nil)
	for i, seed := range []uint64{40, 340, 640} {
		img := ensure(t, n, s.push(t, "app", someLayers(seed)...))
		n.awaitHeld(t, i+1)
		img.Release()
	}
	for name, size := range map[string]int{"empty.new": 0, "short.new": 31} {
		if err := os.WriteFile(filepath.Join(n.dir, "layers", name), make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	n.wantTree(t, ensure(t, n, s.push(t, "app", someLayers(940)...)), 940)
}

// treeRoot returns the root of an image's tree that is here.
func treeRoot(t *testing.T, n *hostNode, w provider.Want) blockstore.CID {
	t.Helper()
	m, err := blockstore.LoadImage(t.Context(), cid(t, ensure(t, n, w).Root), n.store)
	if err != nil {
		t.Fatal(err)
	}
	return m.Tree
}

// crashing ends whatever goes on when a tree is forgotten.
type crashing struct {
	*shelf
	crash context.CancelFunc
}

func (c crashing) Forget(root blockstore.CID) error {
	c.crash()
	return c.shelf.Forget(root)
}

// An eviction that a crash ends leaves no blocks that nobody knows of.
func TestEvictionThatACrashEnds(t *testing.T) {
	s := openShop(t)
	ctx, crash := context.WithCancel(t.Context())
	n := newFullHost(t, func(c *images.Config) { c.Mounts = crashing{c.Mounts.(*shelf), crash} })
	for _, seed := range []uint64{40, 340} {
		ensure(t, n, s.push(t, "app", someLayers(seed)...)).Release()
	}
	large := s.push(t, "large", map[string][]byte{"lib/large": random(90, 8<<20)})
	if _, err := n.Ensure(ctx, large, nil); err == nil {
		t.Fatal("no crash")
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	n.open(t, nil)
	n.wantNoOrphans(t)
}

// Blocks that came in vain are deleted by the next process.
func TestBlocksThatCameInVain(t *testing.T) {
	s := openShop(t)
	good, evil := s.push(t, "good", someLayers(50)...), s.push(t, "evil", someLayers(51)...)
	a, b := newHost(t, nil), newHost(t, nil)
	good.Root, good.Sources = ensure(t, a, evil).Root, []broker.BlockSource{a.source()}
	s.down.Store(true)
	if _, err := b.Ensure(t.Context(), good, nil); err == nil {
		t.Fatal("took another image")
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	rest := filepath.Join(b.dir, "roots", "new-1")
	if err := os.WriteFile(rest, []byte("{"), 0o600); err != nil { // a record that a crash tore
		t.Fatal(err)
	}
	b.open(t, nil)
	b.wantNoOrphans(t)
	if _, err := os.Stat(rest); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there: %v", rest, err)
	}
}

// wantNoOrphans wants the store to have the blocks of what is whole here, and no others.
func (n *hostNode) wantNoOrphans(t *testing.T) {
	t.Helper()
	named := make(map[blockstore.CID]bool)
	held, _, err := n.Held(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range held {
		root := cid(t, h.Root)
		m, err := blockstore.LoadImage(t.Context(), root, n.store)
		if err != nil {
			t.Fatal(err)
		}
		named[root], named[m.Tree] = true, true
		for _, r := range treeOf(t, n, h.Root).Blocks {
			named[r.CID] = true
		}
	}
	for ref, err := range n.store.Each(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if !named[ref.CID] {
			t.Errorf("block %v of %d bytes belongs to nothing", ref.CID, ref.Size)
		}
	}
}

// A fill that finds no room says so to who reads, and goes on when there is some.
func TestRoomComesLater(t *testing.T) {
	s := openShop(t)
	a, n := newHost(t, nil), newFullHost(t, nil)
	var used []provider.Image
	for i, seed := range []uint64{60, 360, 660} {
		used = append(used, ensure(t, n, s.push(t, "app", someLayers(seed)...)))
		n.awaitHeld(t, i+1)
	}
	w := s.push(t, "late", someLayers(960)...)
	w.Root, w.Sources = ensure(t, a, w).Root, []broker.BlockSource{a.source()}
	s.down.Store(true)
	late := ensure(t, n, w)
	hasty, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := n.mounts.readFile(hasty, late.RootFS, "lib/big"); !errors.Is(err, blockstore.ErrNoSpace) {
		t.Errorf("error = %v, want that there is no room", err)
	}
	patient := make(chan error, 1)
	go func() {
		_, err := n.mounts.readFile(t.Context(), late.RootFS, "lib/big")
		patient <- err
	}()
	n.wantTree(t, used[0], 60)
	for _, img := range used[1:] {
		img.Release()
	}
	if err := <-patient; err != nil {
		t.Errorf("who waited for room: %v", err)
	}
	n.wantTree(t, late, 960)
	for whole := false; !whole; {
		<-n.changed
		held, _, err := n.Held(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range held {
			whole = whole || h.Root == w.Root
		}
	}
}

// lossy says of what is shown that its server died, and counts how often it is shown.
type lossy struct {
	*shelf
	times *int
}

func (l lossy) List(ctx context.Context) ([]mount.Mounted, error) {
	all, err := l.shelf.List(ctx)
	for i := range all {
		all[i].Lost = true
	}
	return all, err
}

func (l lossy) Mount(ctx context.Context, root blockstore.CID, t *blockstore.Tree, source mount.Source) (string, error) {
	*l.times++
	return l.shelf.Mount(ctx, root, t, source)
}

// Who comes when the mount server has died is shown the image anew, though others use it.
func TestShownAnewWhenTheServerDied(t *testing.T) {
	s := openShop(t)
	w := s.push(t, "app", someLayers(70)...)
	a := newHost(t, nil)
	w.Root, w.Sources = ensure(t, a, w).Root, []broker.BlockSource{a.source()}
	blocks := treeOf(t, a, w.Root).Blocks
	lose(t, a, blocks[len(blocks)-1].CID) // so that it is never whole
	s.down.Store(true)
	times := 0
	b := newHost(t, func(c *images.Config) { c.Mounts = lossy{c.Mounts.(*shelf), &times} })
	for range 3 {
		b.wantFile(t, ensure(t, b, w), "bin/run", "#!")
	}
	if times != 3 {
		t.Errorf("shown %d times, want 3", times)
	}
}

// An import takes blocks for here that belong to what it must delete to make room for the others.
func TestImportKeepsWhatItFinds(t *testing.T) {
	s := openShop(t)
	n := newFullHost(t, nil)
	layers := someLayers(80) // 3.8 MB
	before := ensure(t, n, s.push(t, "before", layers...))
	n.awaitHeld(t, 1)
	before.Release()
	other := ensure(t, n, s.push(t, "other", someLayers(380)...))
	n.awaitHeld(t, 2)
	other.Release()
	layers = append(layers, map[string][]byte{"lib/more": random(81, 7<<20)})
	after := ensure(t, n, s.push(t, "after", layers[2], layers[0], layers[1]))
	held, _, err := n.Held(t.Context())
	holds := func(root string) bool {
		return slices.ContainsFunc(held, func(h broker.ImageHeld) bool { return h.Root == root })
	}
	// Whether the first goes, too, whose blocks the import has found, is a matter of moments.
	if err != nil || !holds(after.Root) || holds(other.Root) {
		t.Fatalf("held = %v, %v; want %s and not %s", held, err, after.Root, other.Root)
	}
	for _, ref := range treeOf(t, n, after.Root).Blocks {
		if ok, err := n.store.Has(t.Context(), ref.CID); !ok || err != nil {
			t.Errorf("%v is not here, %v, though the image is whole", ref.CID, err)
		}
	}
	n.wantNoOrphans(t)
}
