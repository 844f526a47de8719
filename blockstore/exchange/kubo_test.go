package exchange_test

import (
	"bytes"
	"io"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/ipfs/boxo/blockservice"
	boxo "github.com/ipfs/boxo/blockstore"
	chunk "github.com/ipfs/boxo/chunker"
	"github.com/ipfs/boxo/ipld/merkledag"
	"github.com/ipfs/boxo/ipld/unixfs/importer/balanced"
	"github.com/ipfs/boxo/ipld/unixfs/importer/helpers"
	unixfs "github.com/ipfs/boxo/ipld/unixfs/io"
	"github.com/ipfs/go-cid"

	"rialto/blockstore"
	"rialto/blockstore/exchange"
	"rialto/p2p/p2ptest"
)

// weights is a directory with one file, as a tree whose blocks are in a store.
func weights(tb testing.TB, store blockstore.Store, content []byte) (root blockstore.CID, t *blockstore.Tree) {
	tb.Helper()
	put := func(b blockstore.Block) blockstore.Ref {
		if err := store.Put(tb.Context(), b); err != nil {
			tb.Fatal(err)
		}
		return b.Ref()
	}
	f := &blockstore.Inode{Kind: blockstore.File, Mode: 0o644, Size: int64(len(content))}
	for leaf := range slices.Chunk(content, blockstore.MaxBlock) {
		b, err := blockstore.NewBlock(leaf)
		if err != nil {
			tb.Fatal(err)
		}
		f.Leaves = append(f.Leaves, put(b))
	}
	dir := &blockstore.Inode{Kind: blockstore.Dir, Mode: 0o755, Children: map[string]*blockstore.Inode{"model": f}}
	t, err := blockstore.Build(dir, nil, nil) // there are no small files
	if err != nil {
		tb.Fatal(err)
	}
	own, err := t.Encode()
	if err != nil {
		tb.Fatal(err)
	}
	for _, b := range own {
		put(b)
	}
	return own[0].CID(), t
}

func bytesOf(n int) []byte {
	p := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{7}).Read(p)
	return p
}

// An unmodified boxo node, which is what Kubo is made of, reads a file from us by the CID that it has there.
func TestBoxoReadsAFile(t *testing.T) {
	content := bytesOf(5*blockstore.MaxBlock + 7)
	x := start(t, exchange.Config{})
	root, tree := weights(t, x.store, content)
	x.AddFiles(root, tree)
	name, err := cid.Decode(tree.FileCID(&tree.Nodes[1]))
	if err != nil {
		t.Fatal(err)
	}
	store := memory()
	theirs, _, h := stock(t, store)
	p2ptest.Connect(t, h, x.host)
	dag := merkledag.NewDAGService(blockservice.New(store, theirs))
	node, err := dag.Get(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	file, err := unixfs.NewDagReader(t.Context(), node, dag)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(file)
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("%d bytes, %v; want the file's %d", len(got), err, len(content))
	}
}

// A file that a boxo node added can be fetched from it, block by block.
func TestBoxoSeedsAFile(t *testing.T) {
	content := bytesOf(3*blockstore.MaxBlock + 1)
	store := memory()
	_, peer, _ := stock(t, store)
	added := addToBoxo(t, store, content)

	root, tree := weights(t, new(blockstore.Memory), content)
	if got := tree.FileCID(&tree.Nodes[1]); got != added.String() {
		t.Fatalf("the file of tree %v is %v, and boxo says %v", root, got, added)
	}
	x := start(t, exchange.Config{})
	got, err := x.Fetch(t.Context(), tree.Refs(), []exchange.Peer{peer}, into(x.store))
	if err != nil || got.Bytes != int64(len(content)) {
		t.Errorf("fetched %+v, %v", got, err)
	}
}

func addToBoxo(t *testing.T, store boxo.Blockstore, content []byte) cid.Cid {
	t.Helper()
	profile := unixfs.UnixFS_v1_2025
	params := helpers.DagBuilderParams{
		Maxlinks: profile.FileDAGWidth, RawLeaves: profile.RawLeaves, CidBuilder: profile.CidBuilder(),
		Dagserv: merkledag.NewDAGService(blockservice.New(store, nil)),
	}
	h, err := params.New(chunk.NewSizeSplitter(bytes.NewReader(content), profile.ChunkSize))
	if err != nil {
		t.Fatal(err)
	}
	node, err := balanced.Layout(h)
	if err != nil {
		t.Fatal(err)
	}
	return node.Cid()
}
