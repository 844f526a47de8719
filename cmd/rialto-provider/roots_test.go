package main

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"testing"

	"rialto/blockstore"
	"rialto/broker"
	"rialto/p2p"
)

// library holds what a test says.
type library struct {
	images  []broker.ImageHeld
	weights []string
	// shared by sharing
	roots []p2p.Root
	files map[blockstore.CID]*blockstore.Tree
}

func (l *library) Held(context.Context) (images []broker.ImageHeld, weights []string, err error) {
	return l.images, l.weights, nil
}

func (l *library) AddFiles(root blockstore.CID, t *blockstore.Tree) { l.files[root] = t }
func (l *library) DropFiles(root blockstore.CID)                    { delete(l.files, root) }

// put stores blocks whose first is a root.
func put(t *testing.T, store blockstore.Store, blocks []blockstore.Block, err error) blockstore.CID {
	t.Helper()
	if err == nil {
		err = store.Put(t.Context(), blocks...)
	}
	if err != nil {
		t.Fatal(err)
	}
	return blocks[0].CID()
}

// What is held is shared by its root, images and weights alike, and no longer than it is held.
func TestSharing(t *testing.T) {
	store := new(blockstore.Memory)
	tree := func(name string) blockstore.CID {
		leaf := blockstore.Ref{CID: blockstore.Sum([]byte(name)), Size: blockstore.MaxBlock}
		b, err := (&blockstore.Tree{
			Nodes:  []blockstore.Node{{Kind: blockstore.Dir}, {Name: name, Kind: blockstore.File, Size: blockstore.MaxBlock}},
			Blocks: []blockstore.Ref{leaf},
		}).Encode()
		return put(t, store, b, err)
	}
	weights := tree("weights")
	m := blockstore.Image{OCI: []byte("{}"), Config: []byte("{}"), Tree: tree("image")}
	b, err := m.Encode()
	image := put(t, store, b, err)
	gone := blockstore.Sum([]byte("evicted a moment ago"))

	l := &library{files: make(map[blockstore.CID]*blockstore.Tree)}
	s := &sharing{
		held: l, store: store, files: l, provide: func(r []p2p.Root) { l.roots = r }, log: slog.New(slog.DiscardHandler),
		changed: make(chan struct{}, 1), shared: make(map[blockstore.CID]struct{}),
	}
	check := func(what string, roots []blockstore.CID, files map[blockstore.CID]string) {
		t.Helper()
		if err := s.share(t.Context()); err != nil {
			t.Fatal(err)
		}
		got := make(map[p2p.Root]bool)
		for _, r := range l.roots {
			got[r] = true
		}
		want := make(map[p2p.Root]bool)
		for _, r := range roots {
			want[p2p.Root(r)] = true
		}
		if !maps.Equal(got, want) {
			t.Errorf("%s: %d roots, want %d, or others", what, len(got), len(want))
		}
		named := make(map[blockstore.CID]string)
		for root, t := range l.files {
			named[root] = t.Nodes[1].Name
		}
		if !maps.Equal(named, files) {
			t.Errorf("%s: files of %v, want of %v", what, slices.Collect(maps.Values(named)), slices.Collect(maps.Values(files)))
		}
	}
	check("nothing", nil, map[blockstore.CID]string{})
	l.images = []broker.ImageHeld{{Root: image.String()}}
	l.weights = []string{weights.String(), gone.String()}
	check("all", []blockstore.CID{image, weights, gone}, map[blockstore.CID]string{image: "image", weights: "weights"})
	l.images = nil
	check("no image", []blockstore.CID{weights, gone}, map[blockstore.CID]string{weights: "weights"})
	l.weights = []string{"no CID"}
	if err := s.share(t.Context()); err == nil {
		t.Error("no error for what is no root")
	}
	s.provide, l.weights = nil, nil
	check("no DHT", []blockstore.CID{weights, gone}, map[blockstore.CID]string{})
}
