package blockstore

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"maps"
	"slices"
	"strings"
)

// Where packs end; the package comment says why.
const (
	packMin = 32 << 10
	packMax = 512 << 10
	// One path in packOdds ends a pack: with small files of about 8 KiB packs then average 96 KiB.
	packOdds = 8
)

// Inode is a file, directory or symlink on its way into a tree. Who builds it owns it; names of one file are names
// of one Inode.
type Inode struct {
	Kind     Kind // Dir, File or Symlink
	Mode     uint16
	UID, GID uint32
	Sec      int64
	Nsec     uint32
	Xattrs   map[string][]byte
	Children map[string]*Inode // of a Dir
	Target   string            // of a Symlink
	Size     int64             // of a File
	Leaves   []Ref             // of a File of at least LargeFile bytes: its data, cut each MaxBlock
	Data     int64             // of a smaller File: whatever the builder's reader knows it by
}

// Build makes a tree of what lies under root. It reads each smaller file once, in the tree's order, packs what it
// reads, and calls emit with the packs; the leaves of large files are its caller's. The tree depends on names,
// attributes and contents alone.
func Build(root *Inode, read func(*Inode) ([]byte, error), emit func(Block) error) (*Tree, error) {
	b := &treeBuilder{
		read: read, emit: emit,
		first:   make(map[*Inode]int),
		small:   make(map[[sha256.Size]byte]place),
		large:   make(map[[sha256.Size]byte]int),
		waiting: nil,
	}
	if err := b.node(root, "", 0); err != nil {
		return nil, err
	}
	if err := b.flush(); err != nil {
		return nil, err
	}
	return &b.tree, b.tree.check()
}

// place is where a small file lies.
type place struct{ block, offset int }

type treeBuilder struct {
	read  func(*Inode) ([]byte, error)
	emit  func(Block) error
	tree  Tree
	path  []string
	first map[*Inode]int // file or symlink -> its first node

	small map[[sha256.Size]byte]place // by the hash of the content
	large map[[sha256.Size]byte]int   // by the hash of the leaves' names -> first block

	pack    []byte
	waiting []int               // nodes whose data is in pack
	fresh   [][sha256.Size]byte // contents in pack
}

func (b *treeBuilder) node(from *Inode, name string, parent int) error {
	i := len(b.tree.Nodes)
	if i >= MaxNodes {
		return fmt.Errorf("%w: more than %d files", ErrTree, MaxNodes)
	}
	if first, again := b.first[from]; again {
		b.tree.Nodes = append(b.tree.Nodes, Node{Name: name, Parent: parent, Kind: Link, Link: first})
		return nil
	}
	b.tree.Nodes = append(b.tree.Nodes, Node{
		Name: name, Parent: parent, Kind: from.Kind, Mode: from.Mode, UID: from.UID, GID: from.GID,
		Sec: from.Sec, Nsec: from.Nsec, Target: from.Target, Size: from.Size, Xattrs: sortedXattrs(from.Xattrs),
	})
	switch from.Kind {
	case Dir:
		b.tree.Nodes[i].Size = 0
		for _, child := range slices.Sorted(maps.Keys(from.Children)) {
			b.path = append(b.path, child)
			if err := b.node(from.Children[child], child, i); err != nil {
				return err
			}
			b.path = b.path[:len(b.path)-1]
		}
		return nil
	case File:
		b.first[from] = i
		if err := b.file(from, i); err != nil {
			return fmt.Errorf("%s: %w", strings.Join(b.path, "/"), err)
		}
	case Symlink, Link:
		b.first[from] = i
	}
	return nil
}

func sortedXattrs(m map[string][]byte) []Xattr {
	var xs []Xattr
	for name, value := range m {
		xs = append(xs, Xattr{name, value})
	}
	slices.SortFunc(xs, func(a, b Xattr) int { return cmp.Compare(a.Name, b.Name) })
	return xs
}

func (b *treeBuilder) file(from *Inode, i int) error {
	switch {
	case from.Size == 0:
		return nil
	case from.Size >= LargeFile:
		return b.largeFile(from, i)
	}
	p, err := b.read(from)
	if err != nil {
		return err
	}
	if int64(len(p)) != from.Size {
		return fmt.Errorf("%d bytes, not %d", len(p), from.Size)
	}
	sum := sha256.Sum256(p)
	if at, known := b.small[sum]; known {
		b.tree.Nodes[i].Block, b.tree.Nodes[i].Offset = at.block, at.offset
		if at.block < 0 { // in the pack at hand, whose number is not known yet
			b.waiting = append(b.waiting, i)
		}
		return nil
	}
	b.small[sum] = place{-1, len(b.pack)}
	b.fresh = append(b.fresh, sum)
	b.tree.Nodes[i].Offset = len(b.pack)
	b.waiting = append(b.waiting, i)
	b.pack = append(b.pack, p...)
	if n := len(b.pack); n >= packMax || n >= packMin && crc32.ChecksumIEEE([]byte(strings.Join(b.path, "/")))%packOdds == 0 {
		return b.flush()
	}
	return nil
}

func (b *treeBuilder) largeFile(from *Inode, i int) error {
	h := sha256.New()
	for _, r := range from.Leaves {
		h.Write(r.CID[:])
	}
	h.Write(binary.AppendUvarint(nil, uint64(from.Size))) //nolint:gosec // never negative
	key := [sha256.Size]byte(h.Sum(nil))
	first, known := b.large[key]
	if !known {
		// The pack at hand goes on behind the file: a large file changes no boundary.
		first = len(b.tree.Blocks)
		b.large[key] = first
		b.tree.Blocks = append(b.tree.Blocks, from.Leaves...)
	}
	b.tree.Nodes[i].Block = first
	return nil
}

// flush ends the pack at hand.
func (b *treeBuilder) flush() error {
	if len(b.pack) == 0 {
		return nil
	}
	block, err := NewBlock(b.pack)
	if err != nil {
		return err
	}
	b.pack = nil
	for _, i := range b.waiting {
		b.tree.Nodes[i].Block = len(b.tree.Blocks)
	}
	b.waiting = b.waiting[:0]
	for _, sum := range b.fresh {
		b.small[sum] = place{len(b.tree.Blocks), b.small[sum].offset}
	}
	b.fresh = b.fresh[:0]
	b.tree.Blocks = append(b.tree.Blocks, block.Ref())
	return b.emit(block)
}
