package exchange

import (
	"fmt"
	"testing"

	"github.com/ipfs/go-cid"

	"rialto/blockstore"
)

// model is a tree with one file of some blocks, which are told apart by seed.
func model(seed string, count int) *blockstore.Tree {
	t := &blockstore.Tree{Nodes: []blockstore.Node{
		{Kind: blockstore.Dir},
		{Name: "model", Kind: blockstore.File, Size: int64(count) * blockstore.MaxBlock},
	}}
	for i := range count {
		t.Blocks = append(t.Blocks, blockstore.Ref{CID: blockstore.Sum(fmt.Append(nil, seed, i)), Size: blockstore.MaxBlock})
	}
	return t
}

// names returns the names of the nodes over a tree's file.
func names(tb testing.TB, t *blockstore.Tree) []cid.Cid {
	tb.Helper()
	var all []cid.Cid
	for _, n := range t.FileNodes(&t.Nodes[1]) {
		c, err := cid.Decode(n.CID.String())
		if err != nil {
			tb.Fatal(err)
		}
		all = append(all, c)
	}
	return all
}

// served counts the nodes that are there, by all that Bitswap asks.
func (f *files) served(tb testing.TB, all []cid.Cid) int {
	tb.Helper()
	s := served{new(blockstore.Memory), f}
	count := 0
	for _, c := range all {
		has, err := s.Has(tb.Context(), c)
		if err != nil {
			tb.Fatal(err)
		}
		size, sizeErr := s.GetSize(tb.Context(), c)
		b, err := s.Get(tb.Context(), c)
		if has != (err == nil) || has != (sizeErr == nil) || has && len(b.RawData()) != size {
			tb.Errorf("%v: has %v, size %d, %v, get %v", c, has, size, sizeErr, err)
		}
		if has {
			count++
		}
	}
	return count
}

func TestFiles(t *testing.T) {
	root := func(i byte) blockstore.CID { return blockstore.CID{i} }
	one, two, big := model("one", 1025), model("two", 2), model("big", 3000)
	large, _ := listFiles(root(1), one, 1<<20)
	f := newFiles(2*large.size + 10) // two of the large ones and not the small one as well
	check := func(what string, wantOne, wantTwo int) {
		t.Helper()
		if a, b := f.served(t, names(t, one)), f.served(t, names(t, two)); a != wantOne || b != wantTwo {
			t.Errorf("%s: %d and %d nodes, want %d and %d", what, a, b, wantOne, wantTwo)
		}
	}
	check("empty", 0, 0)
	f.add(root(1), one)
	f.add(root(1), one)
	f.add(root(2), two)
	f.add(root(3), one) // two trees share a file
	check("added", 3, 1)
	f.drop(root(1))
	check("the other tree has it", 3, 1)
	f.drop(root(3))
	f.drop(root(3))
	check("nobody has it", 0, 1)
	f.drop(root(2))
	if f.size != 0 || len(f.nodes) != 0 || len(f.trees) != 0 {
		t.Errorf("%d bytes, %d nodes of %d trees are left of nothing", f.size, len(f.nodes), len(f.trees))
	}
	f.add(root(2), two)
	f.add(root(1), one)
	f.add(root(4), model("three", 1025))
	check("the first made room", 3, 0)
	f.add(root(5), big)
	check("too big to be taken", 3, 0)
	if got := f.served(t, names(t, big)); got != 0 {
		t.Errorf("%d nodes of a file that is too big", got)
	}
}

func TestFilesArePublicAsTheirRoots(t *testing.T) {
	private, public := blockstore.CID{1}, blockstore.CID{2}
	x := &Exchange{cfg: Config{Public: func(c blockstore.CID) bool { return c == public }}, files: newFiles(1 << 20)}
	tree := model("x", 2)
	name := names(t, tree)[0]
	for _, step := range []struct {
		root blockstore.CID
		want bool
	}{{private, false}, {public, true}} {
		x.AddFiles(step.root, tree)
		if got := x.public("", name); got != step.want {
			t.Errorf("public = %v, want %v", got, step.want)
		}
	}
	x.DropFiles(public)
	if x.public("", name) {
		t.Error("a node is public although its only root is not")
	}
	x.cfg.Public = nil
	if !x.public("", name) {
		t.Error("a node is not public although everything is")
	}
}
