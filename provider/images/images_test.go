//go:build linux

package images_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"rialto/blockstore"
	"rialto/blockstore/disk"
	"rialto/blockstore/image"
	"rialto/broker"
	"rialto/provider"
	"rialto/provider/images"
)

func cid(t *testing.T, s string) blockstore.CID {
	t.Helper()
	c, err := blockstore.ParseCID(s)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func treeOf(t *testing.T, n *hostNode, root string) *blockstore.Tree {
	t.Helper()
	m, err := blockstore.LoadImage(t.Context(), cid(t, root), n.store)
	if err != nil {
		t.Fatal(err)
	}
	tree, err := blockstore.LoadTree(t.Context(), m.Tree, n.store)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// lose takes a block from a host, which from then on only serves what it has: it would heal itself otherwise.
func lose(t *testing.T, n *hostNode, c blockstore.CID) {
	t.Helper()
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if err := n.store.Delete(t.Context(), c); err != nil {
		t.Fatal(err)
	}
}

func TestRegistryThenPeersThenLocal(t *testing.T) {
	s := openShop(t)
	w := s.push(t, "app", someLayers(1)...)
	a, b := newHost(t, nil), newHost(t, nil)

	first := ensure(t, a, w)
	a.wantTree(t, first, 1)
	if first.Fetched.Registry == 0 || first.Fetched.Peers != 0 {
		t.Errorf("first host fetched %+v, want all from the registry", first.Fetched)
	}
	if first.Digest != w.Digest || first.Entrypoint[0] != "/bin/run" || first.Cmd[0] != "x" || first.Env[0] != "A=b" || first.Workdir != "/w" || first.User != "7" {
		t.Errorf("image = %+v", first)
	}
	a.awaitHeld(t, 1)
	held, _, err := a.Held(t.Context())
	if err != nil || len(held) != 1 || held[0] != (broker.ImageHeld{Digest: w.Digest, Root: first.Root}) {
		t.Fatalf("held = %v, %v", held, err)
	}

	s.down.Store(true)
	w.Root, w.Sources = held[0].Root, []broker.BlockSource{a.source()}
	second := ensure(t, b, w)
	b.wantTree(t, second, 1)
	b.awaitHeld(t, 1)
	if got := ensure(t, b, w); got.Fetched.Local < 3_700_000 || got.Fetched.Peers != 0 || got.Root != first.Root {
		t.Errorf("second time: %+v", got)
	}
	if b.x.Stats().ServedBytes != 0 || a.x.Stats().ServedBytes < 3_700_000 {
		t.Errorf("served %d and %d bytes", a.x.Stats().ServedBytes, b.x.Stats().ServedBytes)
	}

	// A new process has it all, with nobody to ask.
	w.Sources = nil
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b.open(t, nil)
	got := ensure(t, b, w)
	b.wantTree(t, got, 1)
	if got.Fetched.Local == 0 || got.Fetched.Peers+got.Fetched.Registry != 0 {
		t.Errorf("after a restart: %+v", got.Fetched)
	}
}

// A container starts when the list of files is here; what it reads comes when it reads it.
func TestShownBeforeItIsWhole(t *testing.T) {
	s := openShop(t)
	w := s.push(t, "app", someLayers(2)...)
	a, b := newHost(t, nil), newHost(t, nil)
	w.Root = ensure(t, a, w).Root
	big := treeOf(t, a, w.Root).Blocks
	lost, err := a.store.Get(t.Context(), big[len(big)-1].CID)
	if err != nil {
		t.Fatal(err)
	}
	lose(t, a, lost.CID())
	s.down.Store(true)
	w.Sources = []broker.BlockSource{a.source()}
	img := ensure(t, b, w) // though nobody can give all of it
	b.wantFile(t, img, "bin/run", "#!")
	if held, _, _ := b.Held(t.Context()); len(held) != 0 {
		t.Errorf("held = %v, want nothing that is not whole", held)
	}
	// Who comes back later is asked again.
	if err := a.store.Put(t.Context(), lost); err != nil {
		t.Fatal(err)
	}
	b.wantTree(t, img, 2)
}

// Only a root that the customer's spec names is taken from peers, and what came so serves nobody else.
func TestWhoVouches(t *testing.T) {
	s := openShop(t)
	good, evil := s.push(t, "good", someLayers(5)...), s.push(t, "evil", someLayers(6)...)
	a, b := newHost(t, nil), newHost(t, nil)
	// A root with the good image's OCI parts and another tree.
	goodRoot, evilRoot := ensure(t, a, good).Root, ensure(t, a, evil).Root
	m, err := blockstore.LoadImage(t.Context(), cid(t, goodRoot), a.store)
	if err != nil {
		t.Fatal(err)
	}
	other, err := blockstore.LoadImage(t.Context(), cid(t, evilRoot), a.store)
	if err != nil {
		t.Fatal(err)
	}
	m.Tree = other.Tree
	blocks, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if err := a.store.Put(t.Context(), blocks...); err != nil {
		t.Fatal(err)
	}
	lie := good
	lie.Root, lie.Sources = blocks[0].CID().String(), []broker.BlockSource{a.source()}
	b.wantTree(t, ensure(t, b, lie), 6) // the customer who signs a lie gets it
	unnamed := good
	unnamed.Sources = lie.Sources
	img := ensure(t, b, unnamed)
	b.wantTree(t, img, 5) // and nobody else does
	if img.Fetched.Registry == 0 || img.Root != goodRoot {
		t.Errorf("fetched %+v, root %v", img.Fetched, img.Root)
	}
	// A root of another image than the signed digest's is not taken from anybody.
	wrong := good
	wrong.Root, wrong.Sources = evilRoot, lie.Sources
	c := newHost(t, nil)
	c.wantTree(t, ensure(t, c, wrong), 5)
}

// Where a peer lost blocks the registry gives them.
func TestPeerFailsHalfWay(t *testing.T) {
	s := openShop(t)
	w := s.push(t, "app", someLayers(8)...)
	a, b := newHost(t, nil), newHost(t, nil)
	w.Root = ensure(t, a, w).Root
	blocks := treeOf(t, a, w.Root).Blocks
	lose(t, a, blocks[len(blocks)-1].CID)
	w.Sources = []broker.BlockSource{a.source()}
	img := ensure(t, b, w)
	b.wantTree(t, img, 8)
	b.awaitHeld(t, 1)
	if held, _, _ := b.Held(t.Context()); len(held) != 1 || held[0].Root != w.Root {
		t.Errorf("held = %v", held)
	}
}

// A registry whose layers add up to something else than the root that was vouched for gives no block.
func TestRegistryThatDoesNotAgree(t *testing.T) {
	s := openShop(t)
	w, other := s.push(t, "app", someLayers(14)...), s.push(t, "other", someLayers(15)...)
	a, b := newHost(t, nil), newHost(t, nil)
	m, err := blockstore.LoadImage(t.Context(), cid(t, ensure(t, a, w).Root), a.store)
	if err != nil {
		t.Fatal(err)
	}
	o, err := blockstore.LoadImage(t.Context(), cid(t, ensure(t, a, other).Root), a.store)
	if err != nil {
		t.Fatal(err)
	}
	m.Tree = o.Tree
	blocks, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	tree, err := blockstore.LoadTree(t.Context(), o.Tree, a.store)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.store.Put(t.Context(), blocks...); err != nil {
		t.Fatal(err)
	}
	lose(t, a, tree.Blocks[0].CID)
	w.Root, w.Sources = blocks[0].CID().String(), []broker.BlockSource{a.source()}
	img := ensure(t, b, w)
	if _, err := b.mounts.readFile(t.Context(), img.RootFS, "lib/big"); !errors.Is(err, image.ErrProof) {
		t.Errorf("error = %v, want that the registry has another image", err)
	}
}

// Images that share their base share the work of importing it, for as long as one of them is here.
func TestBaseLayerIsImportedOnce(t *testing.T) {
	s := openShop(t)
	base := someLayers(3)[0]
	n := newHost(t, nil)
	ensure(t, n, s.push(t, "one", base))
	n.awaitHeld(t, 1)
	before := s.blobs.Load()
	two := s.push(t, "two", base, map[string][]byte{"more": []byte("m"), "lib/.wh.small001": nil})
	img := ensure(t, n, two)
	n.wantFile(t, img, "more", "m")
	n.wantFile(t, img, "bin/run", "#!")
	n.wantFile(t, img, "lib/small002", string(random(5, 3000)))
	if got := s.blobs.Load() - before; got != 2 { // config and one layer
		t.Errorf("%d blobs fetched for the second image, want 2", got)
	}
	if img.Fetched.Local == 0 {
		t.Errorf("fetched %+v, want the base from here", img.Fetched)
	}
	if other := ensure(t, newHost(t, nil), two); other.Root != img.Root {
		t.Errorf("a recalled layer makes root %v, a read one %v", img.Root, other.Root)
	}
}

// Who signed an index gets the platform's image, and peers can prove it: the index is a block, too.
func TestSignedIndex(t *testing.T) {
	s := openShop(t)
	w := s.push(t, "app", someLayers(13)...)
	ref, err := name.ParseReference(w.Image)
	if err != nil {
		t.Fatal(err)
	}
	img, err := remote.Image(ref)
	if err != nil {
		t.Fatal(err)
	}
	index := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{
		Add:        img,
		Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}},
	})
	if err := remote.WriteIndex(ref.Context().Tag("multi"), index); err != nil {
		t.Fatal(err)
	}
	h, err := index.Digest()
	if err != nil {
		t.Fatal(err)
	}
	platform := w.Digest
	w.Digest = h.String()
	a, b := newHost(t, nil), newHost(t, nil)
	first := ensure(t, a, w)
	if first.Digest != platform {
		t.Errorf("digest = %v, want the platform's %v", first.Digest, platform)
	}
	s.down.Store(true)
	w.Root, w.Sources = first.Root, []broker.BlockSource{a.source()}
	second := ensure(t, b, w)
	b.wantTree(t, second, 13)
	b.wantTree(t, ensure(t, b, w), 13)
}

// A block that is damaged on the disk is found out when it is read, and comes again.
func TestDamagedHostHealsItself(t *testing.T) {
	s := openShop(t)
	w := s.push(t, "app", someLayers(9)...)
	n := newHost(t, nil)
	first := ensure(t, n, w)
	<-n.mounts.seals // until then what was written just now is trusted
	tree := treeOf(t, n, first.Root)
	for _, r := range []blockstore.Ref{tree.Blocks[0], tree.Blocks[len(tree.Blocks)-1]} {
		at, err := n.store.Locate(t.Context(), r.CID)
		if err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(at.Path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte("damage"), at.Offset+int64(at.Size)/2); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	n.wantTree(t, first, 9)
	for i := range tree.Nodes { // with the blocks that those did not touch
		if tree.Nodes[i].Kind == blockstore.File {
			if _, err := n.mounts.readFile(t.Context(), first.RootFS, tree.Path(i)); err != nil {
				t.Error(err)
			}
		}
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	n.open(t, nil)
	if held, _, _ := n.Held(t.Context()); len(held) != 1 {
		t.Errorf("held = %v", held)
	}
}

func TestWeights(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, p := range map[string][]byte{"model.safetensors": random(1, 5_000_000), "sub/config.json": []byte("{}")} {
		if err := os.WriteFile(filepath.Join(dir, name), p, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	a, b := newHost(t, nil), newHost(t, nil)
	from, err := image.OpenWeights(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	root, err := from.Import(t.Context(), func(ctx context.Context, b blockstore.Block) error { return a.store.Put(ctx, b) })
	if err != nil {
		t.Fatal(err)
	}
	w := provider.Want{Root: root.String(), Sources: []broker.BlockSource{a.source()}}
	img := ensure(t, b, w)
	b.wantFile(t, img, "model.safetensors", string(random(1, 5_000_000)))
	b.wantFile(t, img, "sub/config.json", "{}")
	b.awaitHeld(t, 1)
	if _, weights, _ := b.Held(t.Context()); len(weights) != 1 || weights[0] != w.Root {
		t.Errorf("weights held = %v", weights)
	}
}

func TestRefusals(t *testing.T) {
	s := openShop(t)
	w := s.push(t, "app", map[string][]byte{"a": nil})
	absent, local := w, w
	absent.Digest = blockstore.Sum([]byte("absent")).Digest().String()
	local.Image = "local/app"
	n := newHost(t, nil)
	strict := newHost(t, func(c *images.Config) { c.Policy = image.Policy{} })
	tests := []struct {
		name string
		n    *hostNode
		w    provider.Want
		want error
	}{
		{"absent image", n, absent, image.ErrNoImage},
		{"weights from nobody", n, provider.Want{Root: blockstore.Sum([]byte("w")).String()}, images.ErrUnavailable},
		{"local image from nobody", n, local, images.ErrUnavailable},
		{"private registry", strict, w, image.ErrForbidden},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			if _, err := tc.n.Ensure(t.Context(), tc.w, nil); !errors.Is(err, tc.want) {
				t.Errorf("error = %v, want %v", err, tc.want)
			}
		})
	}
	if _, err := n.Ensure(t.Context(), provider.Want{Image: "x", Digest: "sha256:short"}, nil); err == nil {
		t.Error("took a bad digest")
	}
}

func TestConcurrentWantsShareTheWork(t *testing.T) {
	s := openShop(t)
	w := s.push(t, "app", someLayers(11)...)
	n := newHost(t, nil)
	before := s.blobs.Load()
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			if i%3 == 0 { // who leaves early does not end the work of the others
				ctx, leave := context.WithCancel(t.Context())
				leave()
				_, _ = n.Ensure(ctx, w, nil)
				return
			}
			img, err := n.Ensure(t.Context(), w, func(broker.Fetched) {})
			if err != nil {
				t.Error(err)
				return
			}
			n.wantTree(t, img, 11)
			img.Release()
			img.Release() // once is enough
		})
	}
	wg.Wait()
	if got := s.blobs.Load() - before; got > 6 { // config and two layers, perhaps begun twice
		t.Errorf("%d blobs fetched", got)
	}
}

// What nobody uses and is not whole is taken away; its blocks stay for the next time.
func TestReleased(t *testing.T) {
	s := openShop(t)
	w := s.push(t, "app", someLayers(16)...)
	a, b := newHost(t, nil), newHost(t, nil)
	w.Root = ensure(t, a, w).Root
	blocks := treeOf(t, a, w.Root).Blocks
	lose(t, a, blocks[0].CID)
	s.down.Store(true)
	w.Sources = []broker.BlockSource{a.source()}
	img, err := b.Ensure(t.Context(), w, nil)
	if err != nil {
		t.Fatal(err)
	}
	img.Release()
	if err := b.Close(); err != nil { // waits for what Release began
		t.Fatal(err)
	}
	if left := b.mounts.list(); len(left) != 0 {
		t.Errorf("still shown: %v", left)
	}
	b.open(t, nil)
	s.down.Store(false)
	b.wantTree(t, ensure(t, b, w), 16)
}

// A full store gives up what was used least, and never what is in use.
func TestEviction(t *testing.T) {
	s := openShop(t)
	n := newHost(t, nil)
	n.store.Close()
	var err error
	if n.store, err = disk.Open(t.Context(), disk.Config{Dir: filepath.Join(n.dir, "blocks"), Reserve: -1, Quota: 12 << 20}); err != nil {
		t.Fatal(err)
	}
	n.open(t, nil)
	var roots []string
	for seed := range uint64(5) { // 3.8 MB each
		img, err := n.Ensure(t.Context(), s.push(t, "app", someLayers(20+seed*300)...), nil)
		if err != nil {
			t.Fatal(err)
		}
		roots = append(roots, img.Root)
		n.wantTree(t, img, 20+seed*300)
		if seed > 0 { // the first one stays in use
			img.Release()
		} else {
			defer img.Release()
		}
	}
	held, _, err := n.Held(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, h := range held {
		left = append(left, h.Root)
	}
	if !slices.Contains(left, roots[0]) || !slices.Contains(left, roots[4]) || len(left) > 3 {
		t.Errorf("left %d of 5; the one in use %v, the last one %v", len(left), slices.Contains(left, roots[0]), slices.Contains(left, roots[4]))
	}
	if used := n.store.Stats().Bytes; used > 12<<20 {
		t.Errorf("%d bytes used", used)
	}
	if len(n.mounts.forgot) < 2 {
		t.Errorf("%d trees forgotten by the mounts", len(n.mounts.forgot))
	}
}

// Blocks of an import that a crash ended are found and deleted.
func TestOrphansAreSwept(t *testing.T) {
	s := openShop(t)
	w := s.push(t, "app", someLayers(17)...)
	n := newHost(t, nil)
	img := ensure(t, n, w)
	n.awaitHeld(t, 1)
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	orphan, err := blockstore.NewBlock(random(99, 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	if err := n.store.Put(t.Context(), orphan); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(n.dir, "filling"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	n.open(t, nil)
	if ok, err := n.store.Has(t.Context(), orphan.CID()); ok || err != nil {
		t.Errorf("the orphan is still here: %v", err)
	}
	s.down.Store(true)
	n.wantTree(t, ensure(t, n, w), 17)
	_ = img
}

// What the first run reads first is traced, and comes first where the trace is given.
func TestTrace(t *testing.T) {
	s := openShop(t)
	w := s.push(t, "app", someLayers(18)...)
	a := newHost(t, nil)
	first := ensure(t, a, w)
	if first.Trace == nil {
		t.Fatal("the first run is not traced")
	}
	a.wantFile(t, first, "etc/new", "new")
	a.wantFile(t, first, "bin/run", "#!")
	trace, err := first.Trace(t.Context())
	if err != nil || len(trace) == 0 {
		t.Fatalf("trace = %v, %v", trace, err)
	}
	tree := treeOf(t, a, first.Root)
	if n := tree.Nodes[find(t, tree, "etc/new")]; int(trace[0]) != n.Block {
		t.Errorf("trace = %v, want block %d first", trace, n.Block)
	}
	if again := ensure(t, a, w); again.Trace != nil {
		t.Error("a run is traced that finds everything read already")
	}
}

// Blocks come in the order of a trace: the store has what came first in front.
func TestTraceLeads(t *testing.T) {
	s := openShop(t)
	w := s.push(t, "app", map[string][]byte{"big": random(1, 40<<20)})
	a, b := newHost(t, nil), newHost(t, nil)
	w.Root, w.Sources = ensure(t, a, w).Root, []broker.BlockSource{a.source()}
	blocks := treeOf(t, a, w.Root).Blocks
	for i := range blocks {
		w.Trace = append(w.Trace, uint32(len(blocks)-1-i))
	}
	ensure(t, b, w)
	b.awaitHeld(t, 1)
	first, err1 := b.store.Locate(t.Context(), blocks[len(blocks)-1].CID)
	last, err2 := b.store.Locate(t.Context(), blocks[0].CID)
	if err1 != nil || err2 != nil || first.Offset > last.Offset {
		t.Errorf("what the trace has first lies at %d, what it has last at %d: %v, %v", first.Offset, last.Offset, err1, err2)
	}
}

func find(t *testing.T, tree *blockstore.Tree, path string) int {
	t.Helper()
	for i := range tree.Nodes {
		if tree.Path(i) == path {
			return i
		}
	}
	t.Fatalf("no %q in the tree", path)
	return 0
}
