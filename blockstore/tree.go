package blockstore

import (
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
)

// Bounds of a tree. They are far above real images and keep a hostile one cheap.
const (
	MaxNodes     = 4 << 20
	MaxDepth     = 256       // components of a path
	MaxName      = 255       // NAME_MAX
	MaxTarget    = 4095      // PATH_MAX without the end
	MaxXattrs    = 64        // of one node
	MaxXattrSize = 64 << 10  // names and values of one node together
	MaxFile      = 8 << 40   // bytes of one file
	maxTreeBlock = 16 << 20  // blocks of a tree: 16 TiB
	maxSeconds   = 1<<40 - 1 // of a time, to either side of 1970: what file systems keep
)

// LargeFile is the size from which a file has blocks of its own; smaller ones share packs.
const LargeFile = 64 << 10

// ErrTree reports a tree that cannot be, or bytes that are no canonical encoding of one.
var ErrTree = errors.New("invalid file tree")

// Kind says what a node is.
type Kind uint8

// Kinds of nodes. Device nodes, pipes and sockets have no place in a tree.
const (
	Dir Kind = iota + 1
	File
	Symlink
	Link // a further name of a file or symlink that stands before it
)

// Xattr is an extended attribute, "security.capability" or "user.…".
type Xattr struct {
	Name  string
	Value []byte
}

// Node is a file, directory, symlink or further name of a tree.
type Node struct {
	Name   string // the last component; empty for the root
	Parent int    // index of its directory; 0 for the root itself
	Kind   Kind

	// Of all but a Link.
	Mode   uint16 // permissions, setuid, setgid and sticky bit: 0o7777
	UID    uint32
	GID    uint32
	Sec    int64 // of the last change, since 1970
	Nsec   uint32
	Xattrs []Xattr // in the order of their names

	Target string // of a Symlink
	Link   int    // of a Link: index of the first name

	// Of a File: Size bytes, from Offset of block number Block. A file of at least LargeFile bytes begins at its
	// block's start and goes on through the following ones, all but the last MaxBlock long; a smaller one lies
	// inside its block, and an empty one nowhere.
	Size   int64
	Block  int
	Offset int
}

// Large reports whether a file has blocks of its own.
func (n *Node) Large() bool { return n.Kind == File && n.Size >= LargeFile }

// Tree is a file system as content: what an image holds, or a directory of weights. Who shares a tree does not
// change it.
type Tree struct {
	// Nodes stand in depth-first order, the children of a directory by the bytes of their names; the root comes
	// first. So a parent stands before its children, and the first name of a file before its further ones.
	Nodes []Node
	// Blocks hold the files' data. A block is used either by one large file, or by small ones. A block that two
	// files need in different places stands here twice.
	Blocks []Ref
	// Keys open the blocks of a private tree, one each; nil: the tree is public.
	Keys []Key
}

// Private reports whether the tree's blocks are encrypted.
func (t *Tree) Private() bool { return t.Keys != nil }

// Path returns a node's path without a leading slash; the root's is empty.
func (t *Tree) Path(i int) string {
	if i == 0 {
		return ""
	}
	parts := []string{t.Nodes[i].Name}
	for i = t.Nodes[i].Parent; i != 0; i = t.Nodes[i].Parent {
		parts = append(parts, t.Nodes[i].Name)
	}
	slices.Reverse(parts)
	return strings.Join(parts, "/")
}

// Size returns the bytes in the tree's files; what several names or files share counts once.
func (t *Tree) Size() int64 {
	var n int64
	for _, r := range t.Blocks {
		n += int64(r.Size)
	}
	return n
}

// Refs yields each distinct block once, in the order of first use.
func (t *Tree) Refs() iter.Seq[Ref] { return distinct(t.Blocks) }

func distinct(refs []Ref) iter.Seq[Ref] {
	return func(yield func(Ref) bool) {
		seen := make(map[CID]struct{}, len(refs))
		for _, r := range refs {
			if _, dup := seen[r.CID]; dup {
				continue
			}
			seen[r.CID] = struct{}{}
			if !yield(r) {
				return
			}
		}
	}
}

// leaves returns how many blocks a large file has.
func leaves(size int64) int { return int((size + MaxBlock - 1) / MaxBlock) }

// check holds for everything that is encoded and everything that was decoded: a tree that passes can be laid
// out and mounted without another look at its numbers.
func (t *Tree) check() error {
	switch {
	case len(t.Nodes) == 0 || len(t.Nodes) > MaxNodes:
		return fmt.Errorf("%w: %d nodes", ErrTree, len(t.Nodes))
	case len(t.Blocks) > maxTreeBlock:
		return fmt.Errorf("%w: %d blocks", ErrTree, len(t.Blocks))
	case t.Keys != nil && len(t.Keys) != len(t.Blocks):
		return fmt.Errorf("%w: %d keys for %d blocks", ErrTree, len(t.Keys), len(t.Blocks))
	}
	if err := checkRefs(t.Blocks); err != nil {
		return err
	}
	use := make([]blockUse, len(t.Blocks))
	depth := make([]uint16, len(t.Nodes))
	last := make([]string, len(t.Nodes)) // a directory's child that came last
	for i := range t.Nodes {
		n := &t.Nodes[i]
		if err := t.checkPlace(i, depth, last); err != nil {
			return t.nodeError(i, err)
		}
		if err := n.check(); err != nil {
			return t.nodeError(i, err)
		}
		var err error
		switch n.Kind {
		case File:
			err = t.checkData(n, use)
		case Link:
			if n.Link <= 0 || n.Link >= i || t.Nodes[n.Link].Kind != File && t.Nodes[n.Link].Kind != Symlink {
				err = errors.New("link to what is no file before it")
			}
		case Dir, Symlink:
		}
		if err != nil {
			return t.nodeError(i, err)
		}
	}
	for i, u := range use {
		if u == unused {
			return fmt.Errorf("%w: block %d is nobody's", ErrTree, i)
		}
	}
	return nil
}

func checkRefs(refs []Ref) error {
	for _, r := range refs {
		if r.CID.IsZero() || r.Size < 1 || r.Size > MaxBlock {
			return fmt.Errorf("%w: impossible block", ErrTree)
		}
	}
	return nil
}

type blockUse uint8

const (
	unused blockUse = iota
	asPack
	asLeaf
)

func (t *Tree) nodeError(i int, err error) error {
	return fmt.Errorf("%w: node %d %q: %w", ErrTree, i, clip(t.Nodes[i].Name), err)
}

// checkPlace checks that nodes stand in depth-first order under directories.
func (t *Tree) checkPlace(i int, depth []uint16, last []string) error {
	n := &t.Nodes[i]
	if i == 0 {
		if n.Name != "" || n.Parent != 0 || n.Kind != Dir {
			return errors.New("the root is a directory without a name")
		}
		return nil
	}
	switch {
	case n.Name == "" || n.Name == "." || n.Name == ".." || len(n.Name) > MaxName || strings.ContainsAny(n.Name, "/\x00"):
		return errors.New("impossible name")
	case n.Parent < 0 || n.Parent >= i || t.Nodes[n.Parent].Kind != Dir:
		return errors.New("not below a directory before it")
	case n.Name <= last[n.Parent]:
		return errors.New("names are not in order")
	}
	// Depth first: the parent is the node before, or a directory that is still open, which is an ancestor of it.
	p := i - 1
	for p != n.Parent && p != 0 {
		p = t.Nodes[p].Parent
	}
	if p != n.Parent {
		return errors.New("not in depth-first order")
	}
	last[n.Parent] = n.Name
	if depth[i] = depth[n.Parent] + 1; depth[i] > MaxDepth {
		return errors.New("path is too deep")
	}
	return nil
}

func (n *Node) check() error {
	if n.Kind == Link {
		if n.Mode != 0 || n.UID != 0 || n.GID != 0 || n.Sec != 0 || n.Nsec != 0 || n.Xattrs != nil {
			return errors.New("a link has no attributes of its own")
		}
	} else if n.Link != 0 {
		return errors.New("only a link has a first name")
	}
	switch {
	case n.Kind < Dir || n.Kind > Link:
		return errors.New("unknown kind")
	case n.Mode&^0o7777 != 0:
		return errors.New("impossible mode")
	case n.Nsec >= 1e9 || n.Sec > maxSeconds || n.Sec < -maxSeconds:
		return errors.New("impossible time")
	case (n.Kind == Symlink) != (n.Target != ""):
		return errors.New("a symlink, and nothing else, has a target")
	case len(n.Target) > MaxTarget || strings.IndexByte(n.Target, 0) >= 0:
		return errors.New("impossible target")
	case n.Kind != File && (n.Size != 0 || n.Block != 0 || n.Offset != 0):
		return errors.New("only a file has data")
	}
	return n.checkXattrs()
}

func (n *Node) checkXattrs() error {
	if len(n.Xattrs) > MaxXattrs {
		return errors.New("too many extended attributes")
	}
	total, before := 0, ""
	for _, x := range n.Xattrs {
		if !KeepXattr(x.Name) || x.Name <= before {
			return errors.New("extended attributes are impossible or not in order")
		}
		before = x.Name
		total += len(x.Name) + len(x.Value)
	}
	if total > MaxXattrSize {
		return errors.New("extended attributes are too long")
	}
	return nil
}

// KeepXattr reports whether a tree keeps an extended attribute: file capabilities, and what users may set. Others
// belong to a kernel's security module or to an overlay, and mean nothing, or harm, on another host.
func KeepXattr(name string) bool {
	user, ok := strings.CutPrefix(name, "user.")
	return name == "security.capability" ||
		ok && user != "" && len(name) <= MaxName && strings.IndexByte(name, 0) < 0 && !strings.HasPrefix(user, "overlay.")
}

func (t *Tree) checkData(n *Node, use []blockUse) error {
	switch {
	case n.Size < 0 || n.Size > MaxFile || n.Block < 0 || n.Offset < 0:
		return errors.New("impossible size or place")
	case n.Size == 0:
		if n.Block != 0 || n.Offset != 0 {
			return errors.New("an empty file lies nowhere")
		}
		return nil
	case !n.Large():
		if n.Block >= len(t.Blocks) || int64(n.Offset)+n.Size > int64(t.Blocks[n.Block].Size) {
			return errors.New("data outside the blocks")
		}
		return claim(use, n.Block, asPack)
	case n.Offset != 0:
		return errors.New("a large file begins at a block's start")
	}
	count := leaves(n.Size)
	if count > len(t.Blocks)-n.Block {
		return errors.New("data outside the blocks")
	}
	rest := n.Size
	for i := n.Block; i < n.Block+count; i++ {
		if int64(t.Blocks[i].Size) != min(rest, MaxBlock) {
			return errors.New("a leaf of another length than the file has there")
		}
		rest -= MaxBlock
		if err := claim(use, i, asLeaf); err != nil {
			return err
		}
	}
	return nil
}

func claim(use []blockUse, i int, as blockUse) error {
	if use[i] != unused && use[i] != as {
		return fmt.Errorf("block %d is used by large and by small files", i)
	}
	use[i] = as
	return nil
}
