// Package erofstest makes file trees for tests, and compares what is mounted with them.
package erofstest

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"testing"

	"rialto/blockstore"
)

// packSize is about how many bytes of small files share a block.
const packSize = 256 << 10

// Files is a tree with the bytes of its blocks.
type Files struct {
	Tree *blockstore.Tree
	Data [][]byte // by block
}

// Content returns the bytes of a file.
func (f *Files) Content(n *blockstore.Node) []byte {
	if n.Size == 0 {
		return nil
	}
	if !n.Large() {
		return f.Data[n.Block][n.Offset : n.Offset+int(n.Size)]
	}
	var all []byte
	for b := n.Block; int64(len(all)) < n.Size; b++ {
		all = append(all, f.Data[b]...)
	}
	return all
}

// Builder collects what a tree shall hold. The zero value is an empty tree, whose root has mode 0755.
type Builder struct {
	nodes map[string]blockstore.Node
	data  map[string][]byte
	links map[string]string
}

// Add adds a node at a path, of which Name, Parent and the place of data are ignored, with its data if it is a file.
// Directories on the way that are not added come into being.
func (b *Builder) Add(at string, n blockstore.Node, data []byte) {
	if b.nodes == nil {
		b.nodes, b.data, b.links = make(map[string]blockstore.Node), make(map[string][]byte), make(map[string]string)
	}
	n.Size = int64(len(data))
	b.nodes[at], b.data[at] = n, data
	for at != "" {
		at = strings.TrimPrefix(path.Dir("/"+at), "/")
		if _, ok := b.nodes[at]; !ok {
			b.nodes[at] = blockstore.Node{Kind: blockstore.Dir, Mode: 0o755}
		}
	}
}

// Link adds a further name of what stands at a path that sorts before it.
func (b *Builder) Link(at, first string) {
	b.Add(at, blockstore.Node{Kind: blockstore.Link}, nil)
	b.links[at] = first
}

// Build returns the tree.
func (b *Builder) Build() *Files {
	children := make(map[string][]string)
	for _, p := range slices.Sorted(maps.Keys(b.nodes)) {
		if p != "" {
			dir := strings.TrimPrefix(path.Dir("/"+p), "/")
			children[dir] = append(children[dir], p)
		}
	}
	f := &Files{Tree: &blockstore.Tree{}}
	index := make(map[string]int)
	var pack []byte
	var packed []int
	flush := func() {
		for _, i := range packed {
			f.Tree.Nodes[i].Block = len(f.Data)
		}
		if len(pack) > 0 {
			f.block(pack)
		}
		pack, packed = nil, nil
	}
	var visit func(p string, parent int)
	visit = func(p string, parent int) {
		n := b.nodes[p]
		n.Name, n.Parent = path.Base("/"+p), parent
		if p == "" {
			n = blockstore.Node{Kind: blockstore.Dir, Mode: max(n.Mode, 0o755), UID: n.UID, Sec: n.Sec}
		}
		i := len(f.Tree.Nodes)
		index[p] = i
		data := b.data[p]
		switch {
		case n.Kind == blockstore.Link:
			n.Link = index[b.links[p]]
		case n.Large():
			flush()
			n.Block = len(f.Data)
			for c := range slices.Chunk(data, blockstore.MaxBlock) {
				f.block(c)
			}
		case n.Size > 0:
			n.Offset = len(pack)
			pack, packed = append(pack, data...), append(packed, i)
		}
		f.Tree.Nodes = append(f.Tree.Nodes, n)
		if len(pack) > packSize {
			flush()
		}
		for _, c := range children[p] {
			visit(c, i)
		}
	}
	visit("", 0)
	flush()
	return f
}

func (f *Files) block(p []byte) {
	f.Data = append(f.Data, p)
	f.Tree.Blocks = append(f.Tree.Blocks, blockstore.Ref{CID: blockstore.Sum(p), Size: len(p)})
}

// Random returns n bytes that a seed decides.
func Random(seed uint64, n int) []byte {
	p := make([]byte, n)
	var s [32]byte
	for i := range 8 {
		s[i] = byte(seed >> (8 * i))
	}
	_, _ = rand.NewChaCha8(s).Read(p) // never fails
	return p
}

// Corners returns a tree with what is easily got wrong: sizes next to powers of two, long names and targets, large
// directories, ids and times at their limits, attributes, and several names of one file.
func Corners(tb testing.TB) *Files {
	tb.Helper()
	var b Builder
	for i, size := range []int{0, 1, 4095, 4096, 4097, 8192, 65535, 65536, 1 << 20, 1<<20 + 1, 5<<20 + 7} {
		b.Add(fmt.Sprintf("size/%d", size), blockstore.Node{Kind: blockstore.File, Mode: 0o644, Sec: int64(i)}, Random(uint64(i), size))
	}
	for i := range 5000 {
		b.Add(fmt.Sprintf("many/entry %04d", i), blockstore.Node{Kind: blockstore.File, Mode: 0o600}, nil)
	}
	for _, c := range []string{"n", "\xff", "é"} {
		name := strings.Repeat(c, 255/len(c))
		b.Add("names/"+name, blockstore.Node{Kind: blockstore.File, Mode: 0o644}, []byte(name))
	}
	for _, name := range []string{"!", "+x", "-", ".a", "...", "..a", "\x01", " "} { // around "." and ".."
		b.Add("dots/"+name, blockstore.Node{Kind: blockstore.File, Mode: 0o644}, []byte(name))
	}
	for _, n := range []int{1, 3900, 4000, 4032, 4033, 4095} {
		b.Add(fmt.Sprintf("target/%d", n), blockstore.Node{Kind: blockstore.Symlink, Mode: 0o777, Target: strings.Repeat("t", n)}, nil)
	}
	b.Add("dir/empty", blockstore.Node{Kind: blockstore.Dir, Mode: 0o1777, UID: 1000, GID: 4294967294, Sec: 1e9}, nil)
	b.Add("dir/setuid", blockstore.Node{Kind: blockstore.File, Mode: 0o4755, UID: 1}, []byte("s"))
	b.Add("dir/setgid", blockstore.Node{Kind: blockstore.File, Mode: 0o2755, GID: 70000}, []byte("s"))
	b.Add("dir/old", blockstore.Node{Kind: blockstore.File, Mode: 0o400, Sec: -86400 * 365, Nsec: 123456789}, []byte("o"))
	b.Add("dir/new", blockstore.Node{Kind: blockstore.File, Mode: 0o444, Sec: 1 << 33, Nsec: 999999999}, Random(99, 70000))
	capability := []byte("\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")
	b.Add("xattr/few", blockstore.Node{Kind: blockstore.File, Mode: 0o755, Xattrs: []blockstore.Xattr{
		{Name: "security.capability", Value: capability}, {Name: "user.empty"}, {Name: "user.odd", Value: []byte("odd")},
	}}, Random(7, 5000))
	for _, n := range []int{3900, 4000, 4100, 30000} {
		b.Add(fmt.Sprintf("xattr/long %d", n), blockstore.Node{Kind: blockstore.File, Mode: 0o644, Xattrs: []blockstore.Xattr{
			{Name: "user.long", Value: Random(8, n)},
		}}, []byte("x"))
	}
	b.Add("xattr/dir", blockstore.Node{Kind: blockstore.Dir, Mode: 0o700, Xattrs: []blockstore.Xattr{{Name: "user.d", Value: Random(9, 3000)}}}, nil)
	for i := range 40 {
		b.Add(fmt.Sprintf("xattr/dir/%d", i), blockstore.Node{Kind: blockstore.File, Mode: 0o644}, nil)
	}
	b.Add("link/a", blockstore.Node{Kind: blockstore.File, Mode: 0o644}, []byte("linked"))
	b.Link("link/b", "link/a")
	b.Link("link/deep/c", "link/a")
	b.Add("link/e", blockstore.Node{Kind: blockstore.Symlink, Mode: 0o777, Target: "a"}, nil)
	b.Link("link/f", "link/e")
	b.Add(strings.TrimSuffix(strings.Repeat("d/", 200), "/"), blockstore.Node{Kind: blockstore.File, Mode: 0o644}, []byte("deep"))
	return b.Build()
}

// Has reports whether something was added at a path.
func (b *Builder) Has(at string) bool {
	_, ok := b.nodes[at]
	return ok
}

// Before reports whether a path stands before another in a tree.
func (b *Builder) Before(p, q string) bool {
	return slices.Compare(strings.Split(p, "/"), strings.Split(q, "/")) < 0
}
