package blockstore

import (
	"bytes"
	"context"
	"io"
	"slices"
	"testing"

	"github.com/ipfs/boxo/ipld/unixfs/importer/balanced"
	"github.com/ipfs/boxo/ipld/unixfs/importer/helpers"
	unixfs "github.com/ipfs/boxo/ipld/unixfs/io"
	"github.com/ipfs/go-cid"
	ipld "github.com/ipfs/go-ipld-format"
	"pgregory.net/rapid"
)

// added is what boxo, and so Kubo, makes of a file: its nodes in the order in which they were made, the root last.
type added struct {
	ipld.DAGService // nil: only what is below is called

	nodes []ipld.Node
}

func (a *added) Add(_ context.Context, n ipld.Node) error {
	a.nodes = append(a.nodes, n)
	return nil
}

// chunks is a file that was cut.
type chunks struct {
	next func() ([]byte, error)
}

func (c *chunks) NextBytes() ([]byte, error) { return c.next() }
func (c *chunks) Reader() io.Reader          { return nil }

// fataler is what a test and a property have in common.
type fataler interface {
	Helper()
	Errorf(format string, args ...any)
	Fatal(args ...any)
}

// add adds a file to boxo under the profile, except for the width of a node.
func add(tb fataler, width int, next func() ([]byte, error)) *added {
	tb.Helper()
	profile := unixfs.UnixFS_v1_2025
	a := new(added)
	params := helpers.DagBuilderParams{
		Maxlinks: width, RawLeaves: profile.RawLeaves, CidBuilder: profile.CidBuilder(), Dagserv: a,
	}
	h, err := params.New(&chunks{next})
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := balanced.Layout(h); err != nil {
		tb.Fatal(err)
	}
	return a
}

// check compares all nodes with boxo's that are no leaves.
func (a *added) check(tb fataler, got []FileNode) {
	tb.Helper()
	want := slices.DeleteFunc(a.nodes, func(n ipld.Node) bool { return n.Cid().Type() == cid.Raw })
	byName := make(map[string][]byte)
	for _, n := range got {
		byName[n.CID.String()] = n.Data
	}
	for _, n := range want {
		if data, ok := byName[n.Cid().String()]; !ok || !bytes.Equal(data, n.RawData()) {
			tb.Errorf("node %v of boxo is missing or another", n.Cid())
		}
	}
	names := make(map[cid.Cid]struct{}) // boxo adds equal nodes twice
	for _, n := range want {
		names[n.Cid()] = struct{}{}
	}
	if len(byName) != len(names) {
		tb.Errorf("%d nodes, want %d", len(byName), len(names))
	}
	if n := len(want); n > 0 && (len(got) == 0 || got[len(got)-1].CID.String() != want[n-1].Cid().String()) {
		tb.Errorf("root is not %v", want[n-1].Cid())
	}
}

// Files of our trees have the CIDs that boxo gives them under UnixFS_v1_2025.
func TestFileNodes(t *testing.T) {
	profile := unixfs.UnixFS_v1_2025
	if profile.ChunkSize != MaxBlock || profile.FileDAGWidth != maxFileLinks || !profile.RawLeaves {
		t.Fatalf("the profile is another one: %+v", profile)
	}
	pattern := make([]byte, MaxBlock+1)
	for i := range pattern {
		pattern[i] = byte(i * i >> 3)
	}
	tests := []struct {
		name  string
		size  int64
		large bool
		nodes int
	}{
		{"empty", 0, false, 0},
		{"small", LargeFile - 1, false, 0},
		{"least large", LargeFile, true, 0},
		{"a byte less than a block", MaxBlock - 1, true, 0},
		{"a block", MaxBlock, true, 0},
		{"a byte more than a block", MaxBlock + 1, true, 1},
		{"ten blocks", 10 * MaxBlock, true, 1},
		{"a full node", maxFileLinks * MaxBlock, true, 1},
		{"a byte more than a full node", maxFileLinks*MaxBlock + 1, true, 3},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			if tc.size > 16*MaxBlock && testing.Short() {
				t.Skip("hashes a GiB")
			}
			tree := &Tree{Nodes: []Node{{Kind: Dir}, {Name: "f", Kind: File, Size: tc.size}}}
			rest, number := tc.size, 0
			theirs := add(t, maxFileLinks, func() ([]byte, error) {
				if rest == 0 {
					return nil, io.EOF
				}
				p := pattern[number%2:][:min(rest, MaxBlock)] // two kinds of blocks
				number++
				rest -= int64(len(p))
				tree.Blocks = append(tree.Blocks, Ref{CID: Sum(p), Size: len(p)})
				return p, nil
			})
			root := theirs.nodes[len(theirs.nodes)-1].Cid()
			got := tree.FileNodes(&tree.Nodes[1])
			if len(got) != tc.nodes {
				t.Errorf("%d nodes, want %d", len(got), tc.nodes)
			}
			theirs.check(t, got)
			want := root.String()
			if !tc.large {
				want = ""
			}
			if got := tree.FileCID(&tree.Nodes[1]); got != want {
				t.Errorf("CID %q, want %q", got, want)
			}
			if tc.size == 10*MaxBlock && len(got[0].Data) != 509 {
				t.Errorf("root of %d bytes, not of 509 as Helia's tests say", len(got[0].Data))
			}
		})
	}
}

// Files of any depth have boxo's shape: with narrow nodes, because three full levels are a petabyte.
func TestFileNodesDeep(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		width := rapid.IntRange(2, 6).Draw(t, "width")
		count := rapid.IntRange(1, 400).Draw(t, "leaves")
		sizes := rapid.SliceOfN(rapid.IntRange(1, 300), count, count).Draw(t, "sizes")
		var level []fileLink
		i := 0
		theirs := add(t, width, func() ([]byte, error) {
			if i == len(sizes) {
				return nil, io.EOF
			}
			p := bytes.Repeat([]byte{byte(i), byte(i >> 8)}, sizes[i])
			level = append(level, fileLink{prefix: cidPrefix, hash: Sum(p), file: uint64(len(p)), total: uint64(len(p))})
			i++
			return p, nil
		})
		theirs.check(t, fileNodes(level, width))
	})
}
