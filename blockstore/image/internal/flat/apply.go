package flat

import (
	"archive/tar"
	"fmt"
	"io/fs"
	"strings"

	"rialto/blockstore"
)

const (
	whiteout       = ".wh."
	whiteoutOpaque = ".wh..wh..opq"
	whiteoutAUFS   = ".wh..wh." // bookkeeping of an old driver
	maxSymlinks    = 40         // as in the kernel
)

// name is a name in the tree. Several may have one inode.
type name struct {
	parent   *name // nil: the root
	inode    *blockstore.Inode
	children map[string]*name // of a directory
	layer    int              // the last layer that put something here or below
	depth    int
}

// FS is a file system that layers are applied to. It is not safe for concurrent use.
type FS struct {
	limits  Limits
	root    *name
	layer   int
	skipped int
}

// New returns an empty root directory.
func New(limits Limits) *FS {
	return &FS{limits: limits.WithDefaults(), root: newDir(nil, 0)}
}

func newDir(parent *name, layer int) *name {
	n := &name{
		parent: parent, layer: layer, children: make(map[string]*name),
		inode: &blockstore.Inode{Kind: blockstore.Dir, Mode: 0o755},
	}
	if parent != nil {
		n.depth = parent.depth + 1
	}
	return n
}

// Skipped returns how many device nodes, pipes and extended attributes were left out.
func (f *FS) Skipped() int { return f.skipped }

// Apply lays a layer over those before. After an error the file system is of no use.
func (f *FS) Apply(l *Layer) error {
	f.layer++
	f.skipped += l.skipped
	for _, e := range l.entries {
		if err := f.entry(e); err != nil {
			return &EntryError{Layer: f.layer, Name: e.name, Err: err}
		}
	}
	return nil
}

// Root returns the tree of all layers for [blockstore.Build].
func (f *FS) Root() *blockstore.Inode {
	link(f.root)
	return f.root.inode
}

// link gives directories' inodes their children. Depth is bounded by the limits.
func link(n *name) {
	if n.inode.Kind != blockstore.Dir {
		return
	}
	n.inode.Children = make(map[string]*blockstore.Inode, len(n.children))
	for base, child := range n.children {
		link(child)
		n.inode.Children[base] = child.inode
	}
}

func (f *FS) entry(e entry) error {
	dir, base, err := f.split(e.name)
	if err != nil {
		return err
	}
	if base == "" {
		if e.kind != tar.TypeDir {
			return fmt.Errorf("%w: the root is a directory", ErrRefused)
		}
		f.root.inode = e.inode
		return nil
	}
	parent, err := f.resolve(dir, true)
	if err != nil {
		return err
	}
	if strings.HasPrefix(base, whiteout) {
		return f.white(parent, base)
	}
	switch e.kind {
	case tar.TypeDir:
		if old := parent.children[base]; old != nil && old.inode.Kind == blockstore.Dir {
			old.inode = e.inode
			f.mark(old)
			return nil
		}
		n := newDir(parent, f.layer)
		n.inode = e.inode
		return f.put(parent, base, n)
	case tar.TypeReg, tar.TypeSymlink:
		return f.put(parent, base, &name{parent: parent, inode: e.inode, depth: parent.depth + 1})
	case tar.TypeLink:
		return f.hardLink(parent, base, e.link)
	default: // a device node or a pipe: it hides what was there
		delete(parent.children, base)
		f.mark(parent)
		return nil
	}
}

func (f *FS) put(parent *name, base string, n *name) error {
	if n.depth > f.limits.Depth {
		return fmt.Errorf("%w: path of more than %d components", ErrRefused, f.limits.Depth)
	}
	parent.children[base] = n
	f.mark(n)
	return nil
}

// mark notes that the present layer made a name, and so everything above it.
func (f *FS) mark(n *name) {
	n.layer = f.layer
	for n = n.parent; n != nil && n.layer != f.layer; n = n.parent {
		n.layer = f.layer
	}
}

// hardLink makes a second name of a file that an entry made before.
func (f *FS) hardLink(parent *name, base, target string) error {
	dir, last, err := f.split(target)
	if err != nil {
		return err
	}
	if last == "" {
		return fmt.Errorf("%w: hard link to a directory", ErrRefused)
	}
	from, err := f.resolve(dir, false)
	if err != nil {
		return fmt.Errorf("hard link to %q: %w", target, err)
	}
	old := from.children[last]
	switch {
	case old == nil:
		return fmt.Errorf("hard link to %q: %w", target, fs.ErrNotExist)
	case old.inode.Kind == blockstore.Dir:
		return fmt.Errorf("%w: hard link to a directory", ErrRefused)
	case old == parent.children[base]:
		return nil
	}
	return f.put(parent, base, &name{parent: parent, inode: old.inode, depth: parent.depth + 1})
}

// white removes what lower layers put at a name, or with the opaque mark all that they put in a directory.
func (f *FS) white(parent *name, base string) error {
	if base == whiteoutOpaque {
		f.pruneChildren(parent)
		return nil
	}
	if strings.HasPrefix(base, whiteoutAUFS) {
		return nil
	}
	hidden := strings.TrimPrefix(base, whiteout)
	if hidden == "" || hidden == "." || hidden == ".." {
		return fmt.Errorf("%w: whiteout of %q", ErrRefused, hidden)
	}
	f.prune(parent, hidden)
	return nil
}

func (f *FS) prune(parent *name, base string) {
	n := parent.children[base]
	switch {
	case n == nil:
	case n.layer != f.layer:
		delete(parent.children, base)
	default:
		f.pruneChildren(n)
	}
}

func (f *FS) pruneChildren(n *name) {
	for base := range n.children {
		f.prune(n, base)
	}
}

// split returns the path of an entry's directory and its last component. Both are empty for the root itself.
func (f *FS) split(path string) (dir []string, base string, err error) {
	if len(path) > maxPath || strings.IndexByte(path, 0) >= 0 {
		return nil, "", fmt.Errorf("%w: impossible path", ErrRefused)
	}
	parts := components(path)
	for _, part := range parts {
		switch {
		case part == "..":
			return nil, "", fmt.Errorf("%w: path with \"..\"", ErrRefused)
		case len(part) > blockstore.MaxName:
			return nil, "", fmt.Errorf("%w: name of %d bytes", ErrRefused, len(part))
		}
	}
	if len(parts) > f.limits.Depth {
		return nil, "", fmt.Errorf("%w: path of %d components", ErrRefused, len(parts))
	}
	if len(parts) == 0 {
		return nil, "", nil
	}
	last := len(parts) - 1
	return parts[:last], parts[last], nil
}

// components returns the parts of a path that are not empty and not ".".
func components(path string) []string {
	var parts []string
	for part := range strings.SplitSeq(path, "/") {
		if part != "" && part != "." {
			parts = append(parts, part)
		}
	}
	return parts
}

// resolve returns a directory, following symlinks as the container would. With create, missing ones are made.
func (f *FS) resolve(todo []string, create bool) (*name, error) {
	cur := f.root
	links := 0
	for len(todo) > 0 {
		part := todo[0]
		todo = todo[1:]
		if part == ".." {
			if cur.parent != nil {
				cur = cur.parent
			}
			continue
		}
		next := cur.children[part]
		switch {
		case next == nil && !create:
			return nil, fs.ErrNotExist
		case next == nil:
			if len(part) > blockstore.MaxName {
				return nil, fmt.Errorf("%w: name of %d bytes", ErrRefused, len(part))
			}
			next = newDir(cur, f.layer)
			if err := f.put(cur, part, next); err != nil {
				return nil, err
			}
		case next.inode.Kind == blockstore.Symlink:
			if links++; links > maxSymlinks {
				return nil, fmt.Errorf("%w: too many symlinks", ErrRefused)
			}
			if strings.HasPrefix(next.inode.Target, "/") {
				cur = f.root
			}
			todo = append(components(next.inode.Target), todo...)
			if len(todo) > maxPath {
				return nil, fmt.Errorf("%w: impossible path", ErrRefused)
			}
			continue
		case next.inode.Kind != blockstore.Dir:
			return nil, fmt.Errorf("%w: %q is not a directory", ErrRefused, part)
		}
		cur = next
	}
	return cur, nil
}
