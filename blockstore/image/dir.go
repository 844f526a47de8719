package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"rialto/blockstore"
)

// ErrWeights reports a directory or file that cannot become weights.
var ErrWeights = errors.New("not usable as weights")

// Weights is a directory of weights on this machine. Who opens it closes it.
type Weights struct {
	Size  int64 // of all its files
	root  *os.Root
	tree  *blockstore.Inode
	files []string // of small files and large ones, by Inode.Data
	large []*blockstore.Inode
	built *blockstore.Tree // by an import
}

// OpenWeights lists a directory, or a single file, which stands for a directory with that file. In the cache of
// Hugging Face's hub, a model's directory stands for the snapshot that its ref "main" names, or its only one, and the
// files that a snapshot links to are taken in.
//
// It takes regular files, directories, and symlinks that stay inside. The tree is the same on every machine: owner 0,
// mode 0644, or 0755 for directories and executable files, and mtimes of files in whole seconds and of nothing else.
func OpenWeights(name string) (*Weights, error) {
	w, err := openWeights(name)
	if err != nil {
		return nil, fmt.Errorf("weights %s: %w", name, err)
	}
	return w, nil
}

func openWeights(name string) (*Weights, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	w := &Weights{tree: newDir()}
	if !info.IsDir() {
		if w.root, err = os.OpenRoot(filepath.Dir(name)); err != nil {
			return nil, err
		}
		err = w.file(w.tree, filepath.Base(name), filepath.Base(name), info)
		return w.opened(err)
	}
	root, dir, err := hubSnapshot(name)
	if err != nil {
		return nil, err
	}
	if w.root, err = os.OpenRoot(root); err != nil {
		return nil, err
	}
	err = w.walk(dir)
	if err == nil && len(w.tree.Children) == 0 {
		err = fmt.Errorf("%w: the directory is empty", ErrWeights)
	}
	return w.opened(err)
}

func (w *Weights) opened(err error) (*Weights, error) {
	if err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return w, nil
}

// Close ends the use of the directory.
func (w *Weights) Close() error { return w.root.Close() }

// Import cuts the weights into blocks, hands each to put, the tree's root last, and returns the root. Memory is
// bounded by a few blocks and the list of files.
func (w *Weights) Import(ctx context.Context, put func(context.Context, blockstore.Block) error) (blockstore.CID, error) {
	t, err := w.build(ctx, put)
	if err != nil {
		return blockstore.CID{}, fmt.Errorf("import weights: %w", err)
	}
	return putTree(t, func(b blockstore.Block) error { return put(ctx, b) })
}

// build puts the files' data and returns the tree.
func (w *Weights) build(ctx context.Context, put func(context.Context, blockstore.Block) error) (*blockstore.Tree, error) {
	for _, n := range w.large {
		n.Leaves = nil
		if err := w.cut(ctx, n, put); err != nil {
			return nil, fmt.Errorf("%s: %w", w.files[n.Data], err)
		}
	}
	t, err := blockstore.Build(w.tree, w.read, func(b blockstore.Block) error { return put(ctx, b) })
	w.built = t
	return t, err
}

// Tree returns the tree that an import built; nil: none yet.
func (w *Weights) Tree() *blockstore.Tree { return w.built }

func newDir() *blockstore.Inode {
	return &blockstore.Inode{Kind: blockstore.Dir, Mode: 0o755, Children: make(map[string]*blockstore.Inode)}
}

// walk lists the directory dir of the root.
func (w *Weights) walk(dir string) error {
	dirs := map[string]*blockstore.Inode{dir: w.tree}
	// WalkDir comes to a directory before its children.
	return fs.WalkDir(w.root.FS(), dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == dir {
			return err
		}
		parent, base := dirs[path.Dir(name)], path.Base(name)
		switch {
		case d.IsDir():
			dirs[name] = newDir()
			parent.Children[base] = dirs[name]
			return nil
		case d.Type() == fs.ModeSymlink:
			return w.symlink(parent, dir, name)
		case d.Type().IsRegular():
			info, err := d.Info()
			if err != nil {
				return err
			}
			return w.file(parent, base, name, info)
		default:
			return fmt.Errorf("%s: %w: neither file, directory nor symlink", name, ErrWeights)
		}
	})
}

func (w *Weights) symlink(parent *blockstore.Inode, dir, name string) error {
	target, err := w.root.Readlink(name)
	if err != nil {
		return err
	}
	target = filepath.ToSlash(target)
	to := path.Join(path.Dir(name), target)
	if within(dir, to) && !path.IsAbs(target) {
		parent.Children[path.Base(name)] = &blockstore.Inode{Kind: blockstore.Symlink, Mode: 0o777, Target: target}
		return nil
	}
	// The root is wider than dir in the hub's cache only, whose files are links to blobs beside the snapshots.
	info, err := w.root.Stat(name)
	if err != nil || dir == "." || !info.Mode().IsRegular() {
		return fmt.Errorf("%s: %w: the symlink leaves the directory", name, ErrWeights)
	}
	return w.file(parent, path.Base(name), name, info)
}

// within reports whether a cleaned path lies in a directory.
func within(dir, name string) bool {
	return dir == "." && name != ".." && !strings.HasPrefix(name, "../") || strings.HasPrefix(name, dir+"/")
}

func (w *Weights) file(parent *blockstore.Inode, base, name string, info fs.FileInfo) error {
	n := &blockstore.Inode{
		Kind: blockstore.File, Mode: 0o644, Sec: info.ModTime().Unix(), Size: info.Size(), Data: int64(len(w.files)),
	}
	if info.Mode()&0o100 != 0 {
		n.Mode = 0o755
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s: %w: not a regular file", name, ErrWeights)
	}
	w.files = append(w.files, name)
	if n.Size >= blockstore.LargeFile {
		w.large = append(w.large, n)
	}
	w.Size += n.Size
	parent.Children[base] = n
	return nil
}

// cut reads a large file.
func (w *Weights) cut(ctx context.Context, n *blockstore.Inode, put func(context.Context, blockstore.Block) error) error {
	f, err := w.root.Open(w.files[n.Data])
	if err != nil {
		return err
	}
	defer f.Close()
	for rest := n.Size; rest > 0; {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		p := make([]byte, min(rest, blockstore.MaxBlock))
		if _, err := io.ReadFull(f, p); err != nil {
			return fmt.Errorf("it changed while it was read: %w", err)
		}
		b, err := blockstore.NewBlock(p)
		if err != nil {
			return err
		}
		n.Leaves = append(n.Leaves, b.Ref())
		if err := put(ctx, b); err != nil {
			return err
		}
		rest -= int64(len(p))
	}
	return nil
}

// read reads a small file.
func (w *Weights) read(n *blockstore.Inode) ([]byte, error) {
	p, err := w.root.ReadFile(w.files[n.Data])
	if err == nil && int64(len(p)) != n.Size {
		err = errors.New("it changed while it was read")
	}
	return p, err
}

// hubSnapshot returns the directory to list, and the root that it and what it links to lie in. They differ in the
// hub's cache, "models--ORG--NAME/{blobs,refs,snapshots}", only.
func hubSnapshot(name string) (root, dir string, err error) {
	isDir := func(p string) bool {
		info, err := os.Stat(p)
		return err == nil && info.IsDir()
	}
	abs, err := filepath.Abs(name)
	if err != nil {
		return "", "", err
	}
	model := filepath.Dir(filepath.Dir(abs))
	if filepath.Base(filepath.Dir(abs)) == "snapshots" && isDir(filepath.Join(model, "blobs")) {
		return model, "snapshots/" + filepath.Base(abs), nil
	}
	if !isDir(filepath.Join(abs, "snapshots")) || !isDir(filepath.Join(abs, "blobs")) {
		return abs, ".", nil
	}
	if ref, err := os.ReadFile(filepath.Join(abs, "refs", "main")); err == nil {
		revision := strings.TrimSpace(string(ref))
		if fs.ValidPath(revision) && isDir(filepath.Join(abs, "snapshots", revision)) {
			return abs, "snapshots/" + revision, nil
		}
	}
	all, err := os.ReadDir(filepath.Join(abs, "snapshots"))
	if err != nil {
		return "", "", err
	}
	if len(all) != 1 {
		return "", "", fmt.Errorf("%w: %d snapshots and no ref \"main\"; name the directory of one", ErrWeights, len(all))
	}
	return abs, "snapshots/" + all[0].Name(), nil
}
