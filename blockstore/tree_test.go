package blockstore_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"rialto/blockstore"
)

func random(seed byte, n int) []byte {
	p := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(p)
	return p
}

// plant makes inodes from paths; contents of small files are in the returned slice, by Inode.Data.
type plant struct {
	root  *blockstore.Inode
	data  [][]byte
	store blockstore.Memory
}

func newPlant() *plant {
	return &plant{root: &blockstore.Inode{Kind: blockstore.Dir, Mode: 0o755, Children: map[string]*blockstore.Inode{}}}
}

func (p *plant) dir(tb testing.TB, path string) *blockstore.Inode {
	tb.Helper()
	at := p.root
	for part := range strings.SplitSeq(path, "/") {
		if part == "" {
			continue
		}
		next := at.Children[part]
		if next == nil {
			next = &blockstore.Inode{Kind: blockstore.Dir, Mode: 0o755, Children: map[string]*blockstore.Inode{}}
			at.Children[part] = next
		}
		at = next
	}
	return at
}

func (p *plant) add(tb testing.TB, path string, n *blockstore.Inode) *blockstore.Inode {
	tb.Helper()
	i := strings.LastIndexByte("/"+path, '/')
	p.dir(tb, path[:max(i-1, 0)]).Children[path[i:]] = n
	return n
}

func (p *plant) file(tb testing.TB, path string, content []byte) *blockstore.Inode {
	tb.Helper()
	n := &blockstore.Inode{Kind: blockstore.File, Mode: 0o644, Sec: 1_700_000_000, Nsec: 5, Size: int64(len(content))}
	if len(content) >= blockstore.LargeFile {
		for rest := content; len(rest) > 0; {
			size := min(len(rest), blockstore.MaxBlock)
			b, err := blockstore.NewBlock(rest[:size:size])
			if err != nil {
				tb.Fatal(err)
			}
			if err := p.store.Put(tb.Context(), b); err != nil {
				tb.Fatal(err)
			}
			n.Leaves = append(n.Leaves, b.Ref())
			rest = rest[size:]
		}
	} else {
		n.Data = int64(len(p.data))
		p.data = append(p.data, content)
	}
	return p.add(tb, path, n)
}

func (p *plant) build(tb testing.TB) *blockstore.Tree {
	tb.Helper()
	t, err := blockstore.Build(p.root, func(n *blockstore.Inode) ([]byte, error) { return p.data[n.Data], nil },
		func(b blockstore.Block) error { return p.store.Put(tb.Context(), b) })
	if err != nil {
		tb.Fatal(err)
	}
	return t
}

// keep keeps the tree's own blocks and returns the first one's name.
func (p *plant) keep(tb testing.TB, t *blockstore.Tree) blockstore.CID {
	tb.Helper()
	blocks, err := t.Encode()
	if err != nil {
		tb.Fatal(err)
	}
	if err := p.store.Put(tb.Context(), blocks...); err != nil {
		tb.Fatal(err)
	}
	return blocks[0].CID()
}

// content reads a file of a tree by way of the virtual device.
func (p *plant) content(tb testing.TB, t *blockstore.Tree, l *blockstore.Layout, i int) []byte {
	tb.Helper()
	n := &t.Nodes[i]
	if n.Kind == blockstore.Link {
		n = &t.Nodes[n.Link]
	}
	if n.Size == 0 {
		return nil
	}
	addr := l.File(n)
	got := make([]byte, n.Size)
	for s := range l.At(addr, n.Size) {
		b, err := p.store.Get(tb.Context(), t.Blocks[s.Block].CID)
		if err != nil {
			tb.Fatal(err)
		}
		copy(got[s.Addr-addr:], b.Data()[s.Offset:s.Offset+s.Size])
	}
	return got
}

func find(tb testing.TB, t *blockstore.Tree, path string) int {
	tb.Helper()
	for i := range t.Nodes {
		if t.Path(i) == path {
			return i
		}
	}
	tb.Fatalf("no %q in the tree: %v", path, fs.ErrNotExist)
	return 0
}

func TestBuild(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		p := newPlant()
		want := make(map[string][]byte)
		for i := range rapid.IntRange(0, 40).Draw(rt, "files") {
			size := rapid.OneOf(rapid.IntRange(0, 9000), rapid.IntRange(65_530, 65_540), rapid.IntRange(1<<20-2, 2<<20+2)).Draw(rt, "size")
			path := fmt.Sprintf("d%d/f%d", rapid.IntRange(0, 3).Draw(rt, "dir"), i)
			want[path] = random(byte(rapid.IntRange(0, 20).Draw(rt, "seed")), size)
			p.file(t, path, want[path])
		}
		tree := p.build(t)
		l := tree.Layout()
		for path, content := range want {
			if got := p.content(t, tree, l, find(t, tree, path)); !bytes.Equal(got, content) {
				rt.Fatalf("%s: other content", path)
			}
		}
		for i, s := range l.Slots {
			if s.Addr%blockstore.Page != 0 || i > 0 && s.Addr < l.Slots[i-1].Addr+int64(l.Slots[i-1].Size) {
				rt.Fatalf("slot %d at %d overlaps or is not aligned", i, s.Addr)
			}
		}
		loaded, err := blockstore.LoadTree(t.Context(), p.keep(t, tree), &p.store)
		if err != nil {
			rt.Fatal(err)
		}
		if fmt.Sprint(loaded) != fmt.Sprint(tree) {
			rt.Fatal("decoded another tree")
		}
	})
}

func TestTreeKeepsAttributes(t *testing.T) {
	p := newPlant()
	p.root.Mode, p.root.Sec = 0o1777, -5
	first := p.file(t, "bin/ping", []byte("elf"))
	first.Mode, first.UID, first.GID, first.Sec, first.Nsec = 0o4755, 1000, 1<<32-1, -1, 999_999_999
	first.Xattrs = map[string][]byte{"user.b": []byte("2"), "security.capability": {0, 1}, "user.a": nil}
	p.add(t, "bin/ping6", first)
	s := p.add(t, "lib", &blockstore.Inode{Kind: blockstore.Symlink, Mode: 0o777, Target: "usr/lib"})
	p.add(t, "lib64", s)
	p.dir(t, "empty")
	tree := p.build(t)
	loaded, err := blockstore.LoadTree(t.Context(), p.keep(t, tree), &p.store)
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for i, n := range loaded.Nodes {
		fmt.Fprintf(&got, "%d /%s %o %d:%d %d.%d %q %d %v\n", n.Kind, loaded.Path(i), n.Mode, n.UID, n.GID, n.Sec, n.Nsec, n.Target, n.Link, n.Xattrs)
	}
	want := `1 / 1777 0:0 -5.0 "" 0 []
1 /bin 755 0:0 0.0 "" 0 []
2 /bin/ping 4755 1000:4294967295 -1.999999999 "" 0 [{security.capability [0 1]} {user.a []} {user.b [50]}]
4 /bin/ping6 0 0:0 0.0 "" 2 []
1 /empty 755 0:0 0.0 "" 0 []
3 /lib 777 0:0 0.0 "usr/lib" 0 []
4 /lib64 0 0:0 0.0 "" 5 []
`
	if got.String() != want {
		t.Errorf("got\n%swant\n%s", got.String(), want)
	}
}

// What a tree is made of, and not how it came about, decides its root.
func TestRootDependsOnContentAlone(t *testing.T) {
	paths := []string{"a/one", "a/two", "b", "c/d/e/f", "z"}
	root := func(seed uint64) blockstore.CID {
		p := newPlant()
		order := rand.New(rand.NewPCG(seed, 0)).Perm(len(paths))
		for _, i := range order {
			p.file(t, paths[i], random(byte(i), 70_000*(i%2)+100))
		}
		return p.keep(t, p.build(t))
	}
	for seed := range uint64(5) {
		if root(seed) != root(0) {
			t.Fatal("another root for the same files")
		}
	}
}

// One changed, one added and one removed small file change few blocks, and new times change none.
func TestChangeOfTreeIsLocal(t *testing.T) {
	modules := func(change bool) *blockstore.Tree {
		p := newPlant()
		for i := range 2000 {
			if change && i == 700 {
				continue
			}
			n := p.file(t, fmt.Sprintf("lib/module%04d.py", i), random(byte(i), 4000+i))
			if change {
				n.Sec++
			}
		}
		if change {
			p.data[1000] = random(99, 9000)
			p.dir(t, "lib").Children["module1001.py"].Size = 9000
			p.file(t, "lib/module0300b.py", random(98, 3000))
		}
		return p.build(t)
	}
	before, after := modules(false), modules(true)
	fresh := 0
	for r := range after.Refs() {
		if !slices.Contains(before.Blocks, r) {
			fresh++
		}
	}
	if fresh > len(after.Blocks)/8 || len(after.Blocks) < 60 {
		t.Errorf("%d of %d blocks are new after three changes", fresh, len(after.Blocks))
	}
}

func TestBuildSharesContent(t *testing.T) {
	p := newPlant()
	small, large := random(1, 5000), random(2, 3<<20)
	for i := range 10 {
		p.file(t, fmt.Sprint("small", i), small)
		p.file(t, fmt.Sprint("large", i), large)
	}
	tree := p.build(t)
	if tree.Size() != int64(len(small)+len(large)) {
		t.Errorf("%d bytes, want %d: every content once", tree.Size(), len(small)+len(large))
	}
}

func TestTreeRefuses(t *testing.T) {
	leaf := blockstore.Ref{CID: blockstore.Sum([]byte("leaf")), Size: blockstore.MaxBlock}
	root := blockstore.Node{Kind: blockstore.Dir}
	small := func(name string, block, offset int, size int64) blockstore.Node {
		return blockstore.Node{Name: name, Kind: blockstore.File, Block: block, Offset: offset, Size: size}
	}
	deep := blockstore.Tree{Nodes: []blockstore.Node{root}}
	for i := range blockstore.MaxDepth + 1 {
		deep.Nodes = append(deep.Nodes, blockstore.Node{Name: "d", Kind: blockstore.Dir, Parent: i})
	}
	link := func(to int) blockstore.Node { return blockstore.Node{Name: "z", Kind: blockstore.Link, Link: to} }
	for name, tree := range map[string]blockstore.Tree{
		"empty":           {},
		"root is a file":  {Nodes: []blockstore.Node{small("", 0, 0, 0)}},
		"root has a name": {Nodes: []blockstore.Node{{Name: "x", Kind: blockstore.Dir}}},
		"dot dot":         {Nodes: []blockstore.Node{root, small("..", 0, 0, 0)}},
		"slash":           {Nodes: []blockstore.Node{root, small("a/b", 0, 0, 0)}},
		"nul":             {Nodes: []blockstore.Node{root, small("a\x00", 0, 0, 0)}},
		"no name":         {Nodes: []blockstore.Node{root, small("", 0, 0, 0)}},
		"long name":       {Nodes: []blockstore.Node{root, small(strings.Repeat("n", 256), 0, 0, 0)}},
		"twice":           {Nodes: []blockstore.Node{root, small("a", 0, 0, 0), small("a", 0, 0, 0)}},
		"out of order":    {Nodes: []blockstore.Node{root, small("b", 0, 0, 0), small("a", 0, 0, 0)}},
		"child of a file": {Nodes: []blockstore.Node{root, small("a", 0, 0, 0), {Name: "b", Kind: blockstore.File, Parent: 1}}},
		"not depth first": {Nodes: []blockstore.Node{root, {Name: "a", Kind: blockstore.Dir}, {Name: "b", Kind: blockstore.Dir}, {Name: "c", Kind: blockstore.Dir, Parent: 1}}},
		"deep":            deep,
		"kind":            {Nodes: []blockstore.Node{root, {Name: "a", Kind: 9}}},
		"mode":            {Nodes: []blockstore.Node{root, {Name: "a", Kind: blockstore.Dir, Mode: 0o10000}}},
		"nanoseconds":     {Nodes: []blockstore.Node{root, {Name: "a", Kind: blockstore.Dir, Nsec: 1e9}}},
		"target":          {Nodes: []blockstore.Node{root, {Name: "a", Kind: blockstore.Symlink}}},
		"long target":     {Nodes: []blockstore.Node{root, {Name: "a", Kind: blockstore.Symlink, Target: strings.Repeat("t", 4096)}}},
		"link to itself":  {Nodes: []blockstore.Node{root, link(1)}},
		"link to a dir":   {Nodes: []blockstore.Node{root, {Name: "a", Kind: blockstore.Dir}, link(1)}},
		"link to a link":  {Nodes: []blockstore.Node{root, small("a", 0, 0, 0), {Name: "b", Kind: blockstore.Link, Link: 1}, link(2)}},
		"no block":        {Nodes: []blockstore.Node{root, small("a", 0, 0, 10)}},
		"past the block":  {Nodes: []blockstore.Node{root, small("a", 0, 1<<20-5, 10)}, Blocks: []blockstore.Ref{leaf}},
		"overflow":        {Nodes: []blockstore.Node{root, small("a", 0, 0, 1<<62)}, Blocks: []blockstore.Ref{leaf}},
		"negative":        {Nodes: []blockstore.Node{root, small("a", 0, 0, -1)}, Blocks: []blockstore.Ref{leaf}},
		"nobody's block":  {Nodes: []blockstore.Node{root}, Blocks: []blockstore.Ref{leaf}},
		"mixed use":       {Nodes: []blockstore.Node{root, small("a", 0, 0, 10), small("b", 0, 0, 1<<20)}, Blocks: []blockstore.Ref{leaf}},
		"short leaf":      {Nodes: []blockstore.Node{root, small("a", 0, 0, 1<<20+5)}, Blocks: []blockstore.Ref{leaf, leaf}},
		"large, inside":   {Nodes: []blockstore.Node{root, small("a", 0, 5, 1<<20)}, Blocks: []blockstore.Ref{leaf, leaf}},
		"foreign xattr":   {Nodes: []blockstore.Node{root, {Name: "a", Kind: blockstore.Dir, Xattrs: []blockstore.Xattr{{Name: "trusted.overlay.opaque"}}}}},
		"overlay's xattr": {Nodes: []blockstore.Node{root, {Name: "a", Kind: blockstore.Dir, Xattrs: []blockstore.Xattr{{Name: "user.overlay.redirect"}}}}},
		"xattrs, order":   {Nodes: []blockstore.Node{root, {Name: "a", Kind: blockstore.Dir, Xattrs: []blockstore.Xattr{{Name: "user.b"}, {Name: "user.a"}}}}},
		"long xattr":      {Nodes: []blockstore.Node{root, {Name: "a", Kind: blockstore.Dir, Xattrs: []blockstore.Xattr{{Name: "user.a", Value: make([]byte, 1<<16)}}}}},
	} {
		if _, err := tree.Encode(); !errors.Is(err, blockstore.ErrTree) {
			t.Errorf("%s: error = %v", name, err)
		}
	}
}

func TestImageRoot(t *testing.T) {
	m := &blockstore.Image{OCI: []byte(`{"m":1}`), Config: random(3, 3<<20), Tree: blockstore.Sum([]byte("tree"))}
	blocks, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	var s blockstore.Memory
	if err := s.Put(t.Context(), blocks...); err != nil {
		t.Fatal(err)
	}
	got, err := blockstore.LoadImage(t.Context(), blocks[0].CID(), &s)
	if err != nil || !bytes.Equal(got.OCI, m.OCI) || !bytes.Equal(got.Config, m.Config) || got.Tree != m.Tree {
		t.Errorf("got %v, %v", got, err)
	}
	parts, err := blockstore.Parts(blocks[0])
	if err != nil || len(parts) != len(blocks)-1 {
		t.Errorf("%d parts, %v; want %d", len(parts), err, len(blocks)-1)
	}
	if _, err := blockstore.LoadTree(t.Context(), blocks[0].CID(), &s); !errors.Is(err, blockstore.ErrFrame) {
		t.Errorf("an image read as a tree: %v", err)
	}
	for _, bad := range []blockstore.Image{{}, {OCI: m.OCI, Config: m.Config}, {OCI: m.OCI, Tree: m.Tree}, {OCI: make([]byte, 5<<20), Config: m.Config, Tree: m.Tree}} {
		if _, err := bad.Encode(); !errors.Is(err, blockstore.ErrImage) {
			t.Errorf("error = %v", err)
		}
	}
}

// FuzzTree decodes what claims to be a tree: what is accepted encodes to the same bytes, and can be laid out.
func FuzzTree(f *testing.F) {
	p := newPlant()
	p.file(f, "a/b", []byte("small"))
	p.file(f, "a/c", random(1, 70_000))
	p.add(f, "l", &blockstore.Inode{Kind: blockstore.Symlink, Target: "a"})
	blocks, err := p.build(f).Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(blocks[0].Data())
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := blockstore.NewBlock(data)
		if err != nil {
			return
		}
		var s blockstore.Memory
		if err := s.Put(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		tree, err := blockstore.LoadTree(t.Context(), b.CID(), &s)
		if err != nil {
			return
		}
		again, err := tree.Encode()
		if err != nil || again[0].CID() != b.CID() {
			t.Fatalf("decoded what encodes otherwise: %v", err)
		}
		l := tree.Layout()
		for i := range tree.Nodes {
			if n := &tree.Nodes[i]; n.Kind == blockstore.File && n.Size > 0 {
				if at := l.File(n); at < 0 || at+n.Size > l.Size {
					t.Fatalf("%s lies outside the device", tree.Path(i))
				}
			}
		}
	})
}

func FuzzImage(f *testing.F) {
	blocks, err := (&blockstore.Image{OCI: []byte("{}"), Config: []byte("{}"), Tree: blockstore.Sum([]byte("t"))}).Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(blocks[0].Data())
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := blockstore.NewBlock(data)
		if err != nil {
			return
		}
		var s blockstore.Memory
		if err := s.Put(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		m, err := blockstore.LoadImage(t.Context(), b.CID(), &s)
		if err != nil {
			return
		}
		if again, err := m.Encode(); err != nil || again[0].CID() != b.CID() {
			t.Fatalf("decoded what encodes otherwise: %v", err)
		}
	})
}
