//go:build linux

package images_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"rialto/blockstore"
	"rialto/blockstore/disk"
	"rialto/blockstore/image"
	"rialto/broker"
	"rialto/provider"
)

// marker is in the private image's files and in a name.
const marker = "MARKER-of-a-secret-file"

// secret is a private image that a customer uploaded, and his key.
type secret struct {
	provider.Want
	key   blockstore.Key
	tree  blockstore.CID
	asked *atomic.Int64 // how often the key was asked for
}

// hide imports an image of layers privately into a host's store, as a customer uploads it to a broker's.
func hide(t *testing.T, s *shop, at *hostNode, layers ...map[string][]byte) secret {
	t.Helper()
	w := s.push(t, "secret", layers...)
	digest, err := blockstore.ParseDigest(w.Digest)
	if err != nil {
		t.Fatal(err)
	}
	source, err := image.Registry{}.Open(t.Context(), w.Image, digest)
	if err != nil {
		t.Fatal(err)
	}
	salt := blockstore.NewSalt()
	got, err := source.Import(t.Context(), image.Import{
		Put: func(ctx context.Context, b blockstore.Block) error { return at.store.Put(ctx, b) }, Salt: &salt,
	})
	if err != nil {
		t.Fatal(err)
	}
	x := secret{key: got.Key, tree: got.Image.Tree, asked: new(atomic.Int64)}
	x.Want = provider.Want{
		Image: broker.LocalImage("secret"), Digest: got.Root.Digest().String(), Root: got.Root.String(),
		Sources: []broker.BlockSource{at.source()}, Private: true,
		Key: func(context.Context) (blockstore.Key, error) { x.asked.Add(1); return got.Key, nil },
	}
	return x
}

func secretLayers(seed uint64) []map[string][]byte {
	layers := someLayers(seed)
	layers[0]["etc/"+marker] = []byte("small " + marker)
	layers[1]["lib/"+marker] = append(random(seed+2, 100_000), marker...)
	return layers
}

// with returns the want with another key.
func (x secret) with(key blockstore.Key) provider.Want {
	w := x.Want
	w.Key = func(context.Context) (blockstore.Key, error) { return key, nil }
	return w
}

// wantNoMarker looks through everything that a host has on its disk.
func (n *hostNode) wantNoMarker(t *testing.T) {
	t.Helper()
	files := 0
	err := filepath.WalkDir(n.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		files++
		p, err := os.ReadFile(path)
		if bytes.Contains(p, []byte(marker)) || bytes.Contains(p, []byte("small007")) {
			t.Errorf("%s holds what is private", path)
		}
		return err
	})
	if err != nil || files < 3 {
		t.Errorf("looked at %d files, %v", files, err)
	}
}

func TestPrivateImage(t *testing.T) {
	s := openShop(t)
	a, b := newHost(t, nil), newHost(t, nil)
	x := hide(t, s, a, secretLayers(600)...)
	s.down.Store(true)
	img, err := b.Ensure(t.Context(), x.Want, nil)
	if err != nil {
		t.Fatal(err)
	}
	b.wantTree(t, img, 600)
	b.wantFile(t, img, "etc/"+marker, "small "+marker)
	if img.Root != x.Root || img.Digest != x.Digest || img.Entrypoint[0] != "/bin/run" || img.User != "7" {
		t.Errorf("image = %+v", img)
	}
	b.awaitHeld(t, 1)
	if held, _, _ := b.Held(t.Context()); len(held) != 1 || held[0] != (broker.ImageHeld{Digest: x.Digest, Root: x.Root}) {
		t.Errorf("held = %v", held)
	}
	if got := ensure(t, b, x.Want); got.RootFS != img.RootFS || got.Fetched.Local == 0 {
		t.Errorf("second time: %+v", got)
	}
	if x.asked.Load() != 2 {
		t.Errorf("the key was asked for %d times, want 2: for each job", x.asked.Load())
	}
	for _, n := range []*hostNode{a, b} {
		n.wantNoMarker(t)
	}
	// From b, who has no key of his own, to c.
	c := newHost(t, nil)
	x.Sources = []broker.BlockSource{b.source()}
	c.wantTree(t, ensure(t, c, x.Want), 600)
	c.wantNoMarker(t)
	if len(b.mounts.sealed) > 0 {
		t.Error("a private tree was sealed")
	}
}

// TestPrivateGoesWithItsLastUser: it stays on the disk, and is shown no more.
func TestPrivateGoesWithItsLastUser(t *testing.T) {
	s := openShop(t)
	a, b := newHost(t, nil), newHost(t, nil)
	x := hide(t, s, a, secretLayers(610)...)
	one, err := b.Ensure(t.Context(), x.Want, nil)
	if err != nil {
		t.Fatal(err)
	}
	two, err := b.Ensure(t.Context(), x.Want, nil)
	if err != nil {
		t.Fatal(err)
	}
	b.awaitHeld(t, 1)
	one.Release()
	b.wantTree(t, two, 610)
	two.Release()
	if err := b.Close(); err != nil { // waits for what Release began
		t.Fatal(err)
	}
	if left := b.mounts.list(); len(left) > 0 {
		t.Errorf("still shown: %v", left)
	}
	// The next process knows what it has without any key.
	b.open(t, nil)
	if held, _, _ := b.Held(t.Context()); len(held) != 1 {
		t.Errorf("held after a restart: %v", held)
	}
	x.Sources = nil
	b.wantTree(t, ensure(t, b, x.Want), 610)
}

// TestRootIsNoKey: neither a root nor a tree that is shown to somebody else opens what is private.
func TestRootIsNoKey(t *testing.T) {
	s := openShop(t)
	a, b := newHost(t, nil), newHost(t, nil)
	x := hide(t, s, a, secretLayers(620)...)
	mine := hide(t, s, a, secretLayers(640)...)
	public := s.push(t, "public", someLayers(660)...)
	pub := cid(t, ensure(t, a, public).Root)
	m, err := blockstore.LoadImage(t.Context(), pub, a.store)
	if err != nil {
		t.Fatal(err)
	}
	m.Tree = x.tree // a public image that says that its files are the private one's
	forged, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	locked, err := blockstore.LoadLockedImage(t.Context(), cid(t, mine.Root), a.store)
	if err != nil {
		t.Fatal(err)
	}
	own, err := locked.Open(mine.key)
	if err != nil {
		t.Fatal(err)
	}
	own.Tree = x.tree // a private image of the thief's, likewise
	thief, thiefKey, err := own.EncodePrivate(blockstore.NewSalt())
	if err != nil {
		t.Fatal(err)
	}
	if err := a.store.Put(t.Context(), append(forged, thief...)...); err != nil {
		t.Fatal(err)
	}
	s.down.Store(true)
	local := func(root blockstore.CID) provider.Want {
		return provider.Want{Image: broker.LocalImage("x"), Digest: root.Digest().String(), Root: root.String(), Sources: x.Sources}
	}
	forgedWant := local(forged[0].CID())
	forgedWant.Digest = m.Digest().String()
	thiefWant := local(thief[0].CID())
	thiefWant.Private, thiefWant.Key = true, func(context.Context) (blockstore.Key, error) { return thiefKey, nil }
	for _, shown := range []bool{false, true} {
		if shown {
			b.wantTree(t, ensure(t, b, x.Want), 620)
		}
		before := len(b.mounts.list())
		for name, c := range map[string]struct {
			want provider.Want
			err  error
			text string
		}{
			"another key":     {x.with(mine.key), blockstore.ErrKey, "local/secret is private: private image: the key does not open it"},
			"zero key":        {x.with(blockstore.Key{}), blockstore.ErrKey, "the key does not open it"},
			"public image":    {local(cid(t, x.Root)), blockstore.ErrFrame, `it is a "rialto private image 1"`},
			"public weights":  {provider.Want{Root: x.tree.String(), Sources: x.Sources}, blockstore.ErrFrame, `it is a "rialto private tree 1"`},
			"public cover":    {forgedWant, blockstore.ErrFrame, `it is a "rialto private tree 1"`},
			"private cover":   {thiefWant, blockstore.ErrKey, "the key does not open it"},
			"registry's name": {provider.Want{Image: public.Image, Digest: x.Digest, Root: x.Root, Private: true, Key: x.Key}, nil, "is not private"},
		} {
			img, err := b.Ensure(t.Context(), c.want, nil)
			if err == nil {
				img.Release()
			}
			if err == nil || c.err != nil && !errors.Is(err, c.err) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("shown %v: %s: got %v, want an error with %q", shown, name, err, c.text)
			}
		}
		if after := len(b.mounts.list()); after != before {
			t.Errorf("shown %v: %d trees are shown, before it were %d", shown, after, before)
		}
	}
	b.wantNoMarker(t)
}

// TestKeyThatDoesNotCome ends with whoever waits for it, and says why.
func TestKeyThatDoesNotCome(t *testing.T) {
	s := openShop(t)
	a, b := newHost(t, nil), newHost(t, nil)
	x := hide(t, s, a, secretLayers(680)...)
	late := errors.New("no key came in time")
	x.Key = func(context.Context) (blockstore.Key, error) { return blockstore.Key{}, late }
	if _, err := b.Ensure(t.Context(), x.Want, nil); !errors.Is(err, late) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	x.Key = func(ctx context.Context) (blockstore.Key, error) {
		cancel()
		<-ctx.Done()
		return blockstore.Key{}, ctx.Err()
	}
	if _, err := b.Ensure(ctx, x.Want, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the end of who waits", err)
	}
	if left := b.mounts.list(); len(left) > 0 {
		t.Errorf("shown without a key: %v", left)
	}
}

// TestPrivateAfterARestart: what a container reads that outlived the agent is fetched without a key. Who comes with the
// key then is shown the same.
func TestPrivateAfterARestart(t *testing.T) {
	s := openShop(t)
	a, b := newHost(t, nil), newHost(t, nil)
	x := hide(t, s, a, secretLayers(700)...)
	adopted := x.Want
	adopted.Key = nil
	img := ensure(t, b, adopted)
	if img.Root != x.Root {
		t.Errorf("image = %+v", img)
	}
	at := b.mounts.shown[img.RootFS]
	for _, r := range at.tree.Blocks {
		if _, err := at.source.Block(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	if len(at.tree.Nodes) > 0 || x.asked.Load() > 0 {
		t.Error("something was opened")
	}
	b.awaitHeld(t, 1)
	again := ensure(t, b, x.Want)
	if again.RootFS != img.RootFS || again.Entrypoint[0] != "/bin/run" {
		t.Errorf("image = %+v", again)
	}
}

// TestPrivateWeightsAreEvicted: making room needs no key.
func TestPrivateWeightsAreEvicted(t *testing.T) {
	a, b := newHost(t, nil), newHost(t, nil)
	b.store.Close()
	var err error
	if b.store, err = disk.Open(t.Context(), disk.Config{Dir: filepath.Join(b.dir, "blocks"), Reserve: -1, Quota: 12 << 20}); err != nil {
		t.Fatal(err)
	}
	b.open(t, nil)
	salt := blockstore.NewSalt()
	for seed := range uint64(5) {
		dir := t.TempDir()
		content := random(720+seed, 4_000_000)
		if err := os.WriteFile(filepath.Join(dir, "model"), content, 0o600); err != nil {
			t.Fatal(err)
		}
		from, err := image.OpenWeights(dir)
		if err != nil {
			t.Fatal(err)
		}
		root, key, err := from.ImportPrivate(t.Context(), salt, func(ctx context.Context, b blockstore.Block) error { return a.store.Put(ctx, b) })
		from.Close()
		if err != nil {
			t.Fatal(err)
		}
		img, err := b.Ensure(t.Context(), provider.Want{
			Root: root.String(), Sources: []broker.BlockSource{a.source()}, Private: true,
			Key: func(context.Context) (blockstore.Key, error) { return key, nil },
		}, nil)
		if err != nil {
			t.Fatal(err)
		}
		b.wantFile(t, img, "model", string(content))
		img.Release()
	}
	if used := b.store.Stats().Bytes; used > 12<<20 {
		t.Errorf("%d bytes used", used)
	}
	if len(b.mounts.forgot) < 2 {
		t.Errorf("%d trees forgotten by the mounts", len(b.mounts.forgot))
	}
}
