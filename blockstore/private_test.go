package blockstore_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"rialto/blockstore"
)

// marker is in what private trees hold, and must be in nothing that leaves the customer's machine.
const marker = "MARKER-of-a-secret-file"

// hidden is a private tree in a store.
type hidden struct {
	root  blockstore.CID
	key   blockstore.Key
	store *blockstore.Memory
	all   []blockstore.Block // that are in it
}

// hide builds a plant's tree as a private one.
func (p *plant) hide(tb testing.TB, salt blockstore.Salt) hidden {
	tb.Helper()
	h := hidden{store: new(blockstore.Memory)}
	put := func(ctx context.Context, b blockstore.Block) error {
		h.all = append(h.all, b)
		return h.store.Put(ctx, b)
	}
	e := blockstore.NewEncrypter(salt, put)
	plain := p.build(tb)
	for r := range plain.Refs() {
		b, err := p.store.Get(tb.Context(), r.CID)
		if err != nil {
			tb.Fatal(err)
		}
		if err := e.Put(tb.Context(), b); err != nil {
			tb.Fatal(err)
		}
	}
	private, err := e.Tree(plain)
	if err != nil {
		tb.Fatal(err)
	}
	own, key, err := private.EncodePrivate(salt)
	if err != nil {
		tb.Fatal(err)
	}
	for _, b := range own {
		if err := put(tb.Context(), b); err != nil {
			tb.Fatal(err)
		}
	}
	h.root, h.key = own[0].CID(), key
	return h
}

// open returns the tree that a key opens, and its decrypted blocks.
func (h hidden) open(tb testing.TB, key blockstore.Key) (*blockstore.Tree, *blockstore.Memory, error) {
	tb.Helper()
	locked, err := blockstore.LoadLockedTree(tb.Context(), h.root, h.store)
	if err != nil {
		return nil, nil, err
	}
	t, err := locked.Open(key)
	if err != nil {
		return nil, nil, err
	}
	plain := new(blockstore.Memory)
	for i, r := range t.Blocks {
		b, err := h.store.Get(tb.Context(), r.CID)
		if err != nil {
			return nil, nil, err
		}
		data := bytes.Clone(b.Data())
		t.Keys[i].Crypt(data, 0)
		b, err = blockstore.NewBlock(data)
		if err != nil {
			return nil, nil, err
		}
		if err := plain.Put(tb.Context(), b); err != nil {
			return nil, nil, err
		}
	}
	return t, plain, nil
}

func sample(tb testing.TB) *plant {
	tb.Helper()
	p := newPlant()
	p.file(tb, "etc/"+marker, []byte("small "+marker))
	p.file(tb, "opt/large", append(random(4, 2*blockstore.MaxBlock+77), marker...))
	p.file(tb, "opt/other", random(5, blockstore.LargeFile))
	p.add(tb, "opt/link", &blockstore.Inode{Kind: blockstore.Symlink, Mode: 0o777, Target: marker})
	p.file(tb, "zero", nil)
	return p
}

func TestPrivateKnownAnswers(t *testing.T) {
	p := newPlant()
	p.file(t, "a", []byte("three tokens here\n"))
	h := p.hide(t, counting())
	if got, want := h.root.String(), "bafkreifyep4yzrchy4hfdfwtexop2yscdzfioe3gxevy2rce64uopz2ohe"; got != want {
		t.Errorf("root of the tree: got %s, want %s", got, want)
	}
	if got, want := hex.EncodeToString(h.key[:]), "d7ffff089512603765de30980d60b836ac4c764bb13b3dd64b2f011046f1b067"; got != want {
		t.Errorf("key of the tree: got %s, want %s", got, want)
	}
	m := &blockstore.Image{OCI: []byte("{manifest}"), Config: []byte("{config}"), Tree: h.root, TreeKey: h.key}
	blocks, key, err := m.EncodePrivate(counting())
	if err != nil {
		t.Fatal(err)
	}
	if got, want := blocks[0].CID().String(), "bafkreigidw4pfnguj6yfdbd74vzykltfd7dgvniitsedepsfmoqrrrfmna"; got != want {
		t.Errorf("root of the image: got %s, want %s", got, want)
	}
	if got, want := hex.EncodeToString(key[:]), "de6996e2de771377bc1f1a62bd8382a2f669c290103e8ef98eb481482d6dc358"; got != want {
		t.Errorf("key of the image: got %s, want %s", got, want)
	}
}

// TestPrivateTreeComesBack builds random trees and opens them again.
func TestPrivateTreeComesBack(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		p := newPlant()
		for i := range rapid.IntRange(0, 8).Draw(rt, "files") {
			size := rapid.OneOf(rapid.IntRange(0, 300), rapid.IntRange(blockstore.LargeFile-2, blockstore.LargeFile+2)).Draw(rt, "size")
			p.file(t, fmt.Sprintf("d%d/f%d", i%3, i), random(byte(i/2), size)) // some are equal
		}
		h := p.hide(t, counting())
		got, plain, err := h.open(t, h.key)
		if err != nil {
			rt.Fatal(err)
		}
		want := p.build(t)
		if !got.Private() || !reflect.DeepEqual(got.Nodes, want.Nodes) {
			rt.Fatalf("got %d nodes, want %d, or they differ", len(got.Nodes), len(want.Nodes))
		}
		for _, r := range want.Blocks {
			if ok, _ := plain.Has(t.Context(), r.CID); !ok {
				rt.Fatalf("block %s did not come back", r.CID)
			}
		}
		refs, err := blockstore.LoadBlocks(t.Context(), h.root, h.store)
		if err != nil || !reflect.DeepEqual(refs, got.Blocks) {
			rt.Fatalf("blocks without a key: %d, %v; with it %d", len(refs), err, len(got.Blocks))
		}
	})
}

func TestPrivateBlocksSayNothing(t *testing.T) {
	h := sample(t).hide(t, counting())
	for _, b := range h.all {
		for _, text := range []string{marker, "opt", "other"} {
			if bytes.Contains(b.Data(), []byte(text)) {
				t.Errorf("block %s contains %q", b.CID(), text)
			}
		}
	}
}

func TestSaltsAreApart(t *testing.T) {
	one, again, other := sample(t).hide(t, counting()), sample(t).hide(t, counting()), sample(t).hide(t, blockstore.NewSalt())
	if one.root != again.root || one.key != again.key {
		t.Error("one customer's equal trees have different roots or keys")
	}
	if one.root == other.root || one.key == other.key {
		t.Error("two customers' trees have one root or key")
	}
	for _, b := range other.all {
		if ok, _ := one.store.Has(t.Context(), b.CID()); ok {
			t.Errorf("two customers share block %s", b.CID())
		}
	}
	// A file in two trees of one customer is kept once.
	more := newPlant()
	more.file(t, "elsewhere", append(random(4, 2*blockstore.MaxBlock+77), marker...))
	shared := 0
	for _, b := range more.hide(t, counting()).all {
		if ok, _ := one.store.Has(t.Context(), b.CID()); ok {
			shared++
		}
	}
	if shared != 3 {
		t.Errorf("%d leaves of the same file are shared, want 3", shared)
	}
}

func TestWrongKey(t *testing.T) {
	h := sample(t).hide(t, counting())
	locked, err := blockstore.LoadLockedTree(t.Context(), h.root, h.store)
	if err != nil {
		t.Fatal(err)
	}
	m := &blockstore.Image{OCI: []byte("{}"), Config: []byte("{}"), Tree: h.root, TreeKey: h.key}
	blocks, key, err := m.EncodePrivate(counting())
	if err != nil {
		t.Fatal(err)
	}
	var store blockstore.Memory
	if err := store.Put(t.Context(), blocks...); err != nil {
		t.Fatal(err)
	}
	image, err := blockstore.LoadLockedImage(t.Context(), blocks[0].CID(), &store)
	if err != nil || image.Tree != h.root {
		t.Fatalf("got tree %s, %v", image.Tree, err)
	}
	if got, err := image.Open(key); err != nil || !reflect.DeepEqual(got, m) {
		t.Errorf("the image's own key: got %+v, %v", got, err)
	}
	for name, wrong := range map[string]blockstore.Key{"zero": {}, "another's": blockstore.NewSalt().Key(nil), "the image's": key} {
		if got, err := locked.Open(wrong); !errors.Is(err, blockstore.ErrKey) || got != nil {
			t.Errorf("%s key: got %v, %v, want ErrKey", name, got, err)
		}
	}
	if got, err := image.Open(h.key); !errors.Is(err, blockstore.ErrKey) || got != nil {
		t.Errorf("the tree's key: got %v, %v, want ErrKey", got, err)
	}
}

// TestKindsOfRoots checks that a private root passes for no public one, and the other way round.
func TestKindsOfRoots(t *testing.T) {
	p := sample(t)
	h := p.hide(t, counting())
	public := p.keep(t, p.build(t))
	m := &blockstore.Image{OCI: []byte("{}"), Config: []byte("{}"), Tree: h.root, TreeKey: h.key}
	image, _, err := m.EncodePrivate(counting())
	if err != nil {
		t.Fatal(err)
	}
	if err := h.store.Put(t.Context(), image...); err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	for name, err := range map[string]error{
		"private tree as public": second(blockstore.LoadTree(ctx, h.root, h.store)),
		"public tree as private": second(blockstore.LoadLockedTree(ctx, public, &p.store)),
		"private image":          second(blockstore.LoadImage(ctx, image[0].CID(), h.store)),
		"tree as private image":  second(blockstore.LoadLockedImage(ctx, h.root, h.store)),
	} {
		if !errors.Is(err, blockstore.ErrFrame) || !strings.Contains(err.Error(), "it is a ") {
			t.Errorf("%s: got %v, want ErrFrame that says what it is", name, err)
		}
	}
	// What would lay private things open is an error.
	private, _, err := h.open(t, h.key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := private.Encode(); !errors.Is(err, blockstore.ErrTree) {
		t.Errorf("a private tree was encoded for all to read: %v", err)
	}
	if _, err := m.Encode(); !errors.Is(err, blockstore.ErrImage) {
		t.Errorf("a private image was encoded for all to read: %v", err)
	}
	if _, _, err := p.build(t).EncodePrivate(counting()); !errors.Is(err, blockstore.ErrTree) {
		t.Errorf("a public tree became a private one: %v", err)
	}
	for _, b := range append(image, h.all[len(h.all)-1]) {
		if _, err := blockstore.Parts(b); err != nil {
			t.Errorf("parts of a private root: %v", err)
		}
	}
}

// TestLongPrivateTree is one whose list takes several blocks.
func TestLongPrivateTree(t *testing.T) {
	p := newPlant()
	for i := range 30_000 {
		p.file(t, fmt.Sprintf("%s-%06d", strings.Repeat("n", 40), i), nil)
	}
	h := p.hide(t, counting())
	if len(h.all) < 3 {
		t.Fatalf("%d blocks, want a list in several", len(h.all))
	}
	got, _, err := h.open(t, h.key)
	if err != nil || len(got.Nodes) != 30_001 {
		t.Errorf("got %v", err)
	}
}

// FuzzLockedTree decodes what a stranger says is a private tree: in the open part, and behind a key that he knows.
func FuzzLockedTree(f *testing.F) {
	h := sample(f).hide(f, counting())
	open, _, err := h.open(f, h.key)
	if err != nil {
		f.Fatal(err)
	}
	root, err := h.store.Get(f.Context(), h.root)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(root.Data(), []byte("x"))
	var key blockstore.Key
	key[0] = 1
	secret := blockstore.SecretOf(open)
	f.Add([]byte{}, secret)
	f.Add([]byte{0}, secret[:len(secret)-1])
	f.Fuzz(func(t *testing.T, p, secret []byte) {
		if len(p) > 0 && len(p) <= blockstore.MaxBlock {
			var store blockstore.Memory
			b, err := blockstore.NewBlock(p)
			if err != nil {
				t.Fatal(err)
			}
			if err := store.Put(t.Context(), b); err != nil {
				t.Fatal(err)
			}
			if l, err := blockstore.LoadLockedTree(t.Context(), b.CID(), &store); err == nil {
				if again, err := blockstore.EncodeLocked(l); err != nil || again[0].CID() != b.CID() {
					t.Fatalf("decoded what encodes otherwise: %v", err)
				}
				_, _ = l.Open(h.key)
				_, _ = l.Open(key)
			}
			if l, err := blockstore.LoadLockedImage(t.Context(), b.CID(), &store); err == nil {
				_, _ = l.Open(key)
			}
		}
		// Whoever makes a tree knows its key: what is inside is as hostile as what is outside.
		locked := blockstore.Locked(open.Blocks, secret, key)
		got, err := locked.Open(key)
		if err != nil {
			return
		}
		if again := blockstore.SecretOf(got); !bytes.Equal(again, secret) {
			t.Fatalf("decoded from %d bytes, encoded to %d others", len(secret), len(again))
		}
	})
}
