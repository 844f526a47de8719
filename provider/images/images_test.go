//go:build linux

package images_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"golang.org/x/sys/unix"

	"rialto/blockstore"
	"rialto/blockstore/image"
	"rialto/broker"
	"rialto/provider"
	"rialto/provider/images"
)

func TestRegistryThenPeersThenLocal(t *testing.T) {
	s := openShop(t)
	w := s.push(t, "app", someLayers(1)...)
	a, b := newHost(t, nil), newHost(t, nil)

	first := ensure(t, a, w)
	wantTree(t, first, 1)
	if first.Fetched.Registry == 0 || first.Fetched.Peers != 0 {
		t.Errorf("first host fetched %+v, want all from the registry", first.Fetched)
	}
	if first.Digest != w.Digest || first.Entrypoint[0] != "/bin/run" || first.Cmd[0] != "x" || first.Env[0] != "A=b" || first.Workdir != "/w" || first.User != "7" {
		t.Errorf("image = %+v", first)
	}
	held, _, err := a.Held(t.Context())
	if err != nil || len(held) != 1 || held[0] != (broker.ImageHeld{Digest: w.Digest, Root: first.Root}) {
		t.Fatalf("held = %v, %v", held, err)
	}

	s.down.Store(true)
	w.Root, w.Sources = held[0].Root, []broker.BlockSource{a.source()}
	second := ensure(t, b, w)
	wantTree(t, second, 1)
	if second.Fetched.Peers < 3_800_000 || second.Fetched.Registry != 0 || second.Root != first.Root {
		t.Errorf("second host: root %v, fetched %+v, want all from the peer", second.Root, second.Fetched)
	}

	again := ensure(t, b, w)
	if again.Fetched.Local == 0 || again.Fetched.Peers != 0 || again.RootFS != second.RootFS {
		t.Errorf("second time: %+v", again)
	}

	// A new process finds the tree; after a reboot it unpacks again, from its own blocks.
	b.open(t, nil)
	if got := ensure(t, b, w); got.RootFS != second.RootFS || got.Fetched.Local == 0 {
		t.Errorf("after a restart: %+v", got)
	}
	trees, _ := filepath.Glob(filepath.Join(b.dir, "trees", "*"))
	if err := os.Rename(trees[0], trees[0]+"-of-another-boot"); err != nil {
		t.Fatal(err)
	}
	b.open(t, nil)
	if left, _ := filepath.Glob(filepath.Join(b.dir, "trees", "*boot")); len(left) > 0 {
		t.Errorf("trees of another boot are still there: %v", left)
	}
	got := ensure(t, b, w)
	wantTree(t, got, 1)
	if got.Fetched.Peers+got.Fetched.Registry != 0 {
		t.Errorf("after a reboot: fetched %+v", got.Fetched)
	}
}

func TestBaseLayerIsImportedOnce(t *testing.T) {
	s := openShop(t)
	base := someLayers(3)[0]
	n := newHost(t, nil)
	ensure(t, n, s.push(t, "one", base))
	before := s.blobs.Load()
	img := ensure(t, n, s.push(t, "two", base, map[string][]byte{"more": []byte("m")}))
	wantFile(t, img, "more", "m")
	wantFile(t, img, "bin/run", "#!")
	if got := s.blobs.Load() - before; got != 2 { // config and one layer
		t.Errorf("%d blobs fetched for the second image, want 2", got)
	}
}

// A peer that announces another image's root for the wanted digest is found out before a block is fetched.
func TestManifestLie(t *testing.T) {
	s := openShop(t)
	good, other := s.push(t, "good", someLayers(5)...), s.push(t, "other", someLayers(6)...)
	a, b := newHost(t, nil), newHost(t, nil)
	good.Root = ensure(t, a, other).Root
	// The liar also has what the signed digest names, which is no index that lists the other image.
	ref, err := name.ParseReference(good.Image)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := remote.Get(ref)
	if err != nil {
		t.Fatal(err)
	}
	proof, err := blockstore.NewBlock(signed.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.store.Put(t.Context(), proof); err != nil {
		t.Fatal(err)
	}
	good.Sources = []broker.BlockSource{a.source()}
	img := ensure(t, b, good)
	wantTree(t, img, 5)
	if img.Fetched.Registry == 0 || img.Digest != good.Digest {
		t.Errorf("fetched %+v, digest %v", img.Fetched, img.Digest)
	}
}

// A manifest may have the right OCI parts and wrong blocks: then a layer does not hash to its diff_id.
func TestBlockListLie(t *testing.T) {
	s := openShop(t)
	w := s.push(t, "app", someLayers(7)...)
	a, b := newHost(t, nil), newHost(t, nil)
	img := ensure(t, a, w)
	root, err := blockstore.ParseCID(img.Root)
	if err != nil {
		t.Fatal(err)
	}
	m, err := blockstore.Load(t.Context(), root, a.store)
	if err != nil {
		t.Fatal(err)
	}
	blocks := m.Layers[0].Blocks
	blocks[0], blocks[1] = blocks[1], blocks[0]
	lie, err := m.Blocks()
	if err != nil {
		t.Fatal(err)
	}
	if err := a.store.Put(t.Context(), lie...); err != nil {
		t.Fatal(err)
	}
	w.Root, w.Sources = lie[0].CID().String(), []broker.BlockSource{a.source()}
	got := ensure(t, b, w)
	wantTree(t, got, 7)
	if got.Root != img.Root {
		t.Errorf("root %v, want %v", got.Root, img.Root)
	}
	if left, _ := filepath.Glob(filepath.Join(b.dir, "trees", "*", "new-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// A peer that lost blocks costs no more than the layers that have them.
func TestPeerFailsHalfWay(t *testing.T) {
	s := openShop(t)
	w := s.push(t, "app", someLayers(8)...)
	a, b := newHost(t, nil), newHost(t, nil)
	w.Root = ensure(t, a, w).Root
	root, _ := blockstore.ParseCID(w.Root)
	m, err := blockstore.Load(t.Context(), root, a.store)
	if err != nil {
		t.Fatal(err)
	}
	last := m.Layers[0].Blocks[len(m.Layers[0].Blocks)-1]
	if err := a.store.Delete(t.Context(), last.CID); err != nil {
		t.Fatal(err)
	}
	w.Sources = []broker.BlockSource{a.source()}
	img := ensure(t, b, w)
	wantTree(t, img, 8)
	if img.Fetched.Peers == 0 || img.Fetched.Registry == 0 {
		t.Errorf("fetched %+v, want from both", img.Fetched)
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
	wantTree(t, second, 13)
	if again := ensure(t, b, w); again.RootFS != second.RootFS || again.Fetched.Local == 0 {
		t.Errorf("second want of the index: %+v", again)
	}
}

func TestDamagedHostHealsItself(t *testing.T) {
	s := openShop(t)
	w := s.push(t, "app", someLayers(9)...)
	n := newHost(t, nil)
	first := ensure(t, n, w)
	root, _ := blockstore.ParseCID(first.Root)
	m, err := blockstore.Load(t.Context(), root, n.store)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.store.Delete(t.Context(), m.Layers[0].Blocks[0].CID); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(first.RootFS); err != nil {
		t.Fatal(err)
	}
	wantTree(t, ensure(t, n, w), 9)
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
	m, err := image.ImportDir(t.Context(), dir, func(ctx context.Context, b blockstore.Block) error { return a.store.Put(ctx, b) })
	if err != nil {
		t.Fatal(err)
	}
	blocks, err := m.Blocks()
	if err != nil {
		t.Fatal(err)
	}
	if err := a.store.Put(t.Context(), blocks...); err != nil {
		t.Fatal(err)
	}
	w := provider.Want{Root: blocks[0].CID().String(), Sources: []broker.BlockSource{a.source()}}
	img := ensure(t, b, w)
	wantFile(t, img, "model.safetensors", string(random(1, 5_000_000)))
	wantFile(t, img, "sub/config.json", "{}")
	if _, weights, _ := b.Held(t.Context()); len(weights) != 1 || weights[0] != w.Root {
		t.Errorf("weights held = %v", weights)
	}
}

func TestRefusals(t *testing.T) {
	s := openShop(t)
	w := s.push(t, "app", map[string][]byte{"a": nil})
	absent := w
	absent.Digest = blockstore.Sum([]byte("absent")).Digest().String()
	n := newHost(t, nil)
	strict := newHost(t, func(c *images.Config) { c.Policy = images.Policy{} })
	tests := []struct {
		name string
		n    *hostNode
		w    provider.Want
		want error
	}{
		{"absent image", n, absent, image.ErrNoImage},
		{"weights from nobody", n, provider.Want{Root: blockstore.Sum([]byte("w")).String()}, images.ErrUnavailable},
		{"private registry", strict, w, images.ErrForbidden},
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

// Trees keep apart from those that were deleted shortly before; see spread.
func TestTreesAreSpreadOnExt4(t *testing.T) {
	n := newHost(t, nil)
	var fs unix.Statfs_t
	if err := unix.Statfs(n.dir, &fs); err != nil {
		t.Fatal(err)
	}
	if fs.Type != unix.EXT4_SUPER_MAGIC {
		t.Skip("needs temporary files on ext4")
	}
	trees, err := filepath.Glob(filepath.Join(n.dir, "trees", "*"))
	if err != nil || len(trees) != 1 {
		t.Fatal(trees, err)
	}
	d, err := os.Open(trees[0])
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	const topDir = 0x20000
	flags, err := unix.IoctlGetUint32(int(d.Fd()), unix.FS_IOC_GETFLAGS)
	if err != nil || flags&topDir == 0 {
		t.Errorf("flags of %s = %#x, %v; want %#x among them", trees[0], flags, err, topDir)
	}
}

func TestConcurrentWantsShareTheWork(t *testing.T) {
	s := openShop(t)
	w := s.push(t, "app", someLayers(11)...)
	n := newHost(t, nil)
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
			wantTree(t, img, 11)
		})
	}
	wg.Wait()
}
