//go:build linux

// Package unpack applies the layers of an image, as blocks, to one directory.
//
// A layer is hostile until it ended: its blocks are hashed together while it is applied, and [Tree.Apply]
// fails unless the whole is the layer that the config names. So a tree may be used only after Finish.
//
// # What an image cannot do
//
// Every path is resolved by this package, one component at a time below an os.Root: absolute symlinks
// and ".." in a symlink stay inside, as they would in the container; ".." in an entry's own name is refused.
// The last component is never followed, and what is in the way of an entry is removed, never written
// through. A hard link needs a target inside. Device nodes and pipes are left out and counted: the
// sandbox makes those that a container needs, and a 0/0 character device would be a hole in an overlay.
// Of extended attributes only user.* and file capabilities are kept: trusted.overlay.* would steer
// the overlay that is put on top. Counts, bytes, path lengths and depth are bounded by [Limits].
//
// Owners, setuid bits and capabilities are kept when the process is root; else files belong to the
// process. Modification times are always kept: Python trusts compiled files by them.
package unpack

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path"

	"golang.org/x/sync/errgroup"

	"rialto/blockstore"
)

var (
	// ErrRefused reports an image that asks for what no image may have.
	ErrRefused = errors.New("image refused")
	// ErrDiffID reports a layer that is not the one that the config names.
	ErrDiffID = errors.New("layer does not hash to its diff_id")
)

// EntryError says which entry of which layer could not be applied.
type EntryError struct {
	Layer int // counted from 1
	Name  string
	Err   error
}

func (e *EntryError) Error() string {
	return fmt.Sprintf("layer %d: %q: %v", e.Layer, e.Name[:min(len(e.Name), 200)], e.Err)
}

// Unwrap returns the cause.
func (e *EntryError) Unwrap() error { return e.Err }

// DefaultBytes is the most that the files of a tree may have together, unless Limits say otherwise.
const DefaultBytes = 256 << 30

// Limits bound a tree. Zero fields get defaults.
type Limits struct {
	Entries int   // of all layers; default 2 million: the largest public images have a tenth
	Bytes   int64 // of all files; default DefaultBytes
	Depth   int   // of a path; default 128
}

func (l Limits) withDefaults() Limits {
	if l.Entries == 0 {
		l.Entries = 2_000_000
	}
	if l.Bytes == 0 {
		l.Bytes = DefaultBytes
	}
	if l.Depth == 0 {
		l.Depth = 128
	}
	return l
}

// Stats says what a tree is made of.
type Stats struct {
	Entries int
	Bytes   int64
	Skipped int // device nodes, pipes and extended attributes that were left out
}

// Tree is a directory under construction. It is not safe for concurrent use.
type Tree struct {
	limits Limits
	stats  Stats
	places places
	layer  int
	own    map[string]struct{}    // real paths that the present layer made; nil in the first
	meta   map[string]*tar.Header // of directories, by real path; applied at the end
	buf    []byte
	asRoot bool
}

// New begins a tree in a directory, which must be empty or absent.
func New(dir string, limits Limits) (*Tree, error) {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	old, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	if len(old) > 0 {
		return nil, fmt.Errorf("unpack into %s: directory is not empty", dir)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	return &Tree{
		limits: limits.withDefaults(),
		places: newPlaces(root),
		meta:   map[string]*tar.Header{".": {Mode: 0o755}},
		buf:    make([]byte, 256<<10),
		asRoot: os.Geteuid() == 0,
	}, nil
}

// Apply puts the next layer on top. Its blocks come from open, which is called once, with a context that
// ends when the layer cannot be applied. Reading, hashing and writing go on side by side.
func (t *Tree) Apply(ctx context.Context, diffID blockstore.Digest, open func(context.Context) iter.Seq2[blockstore.Block, error]) error {
	t.layer++
	t.own = nil
	if t.layer > 1 {
		t.own = make(map[string]struct{})
	}
	const ahead = 8 // blocks between two stages: at most 8 MiB each
	g, ctx := errgroup.WithContext(ctx)
	read := make(chan blockstore.Block, ahead)
	hashed := make(chan blockstore.Block, ahead)
	g.Go(func() error {
		for b, err := range open(ctx) {
			if err != nil {
				return err
			}
			if err := send(ctx, read, b); err != nil {
				return err
			}
		}
		close(read)
		return nil
	})
	g.Go(func() error {
		h := sha256.New()
		for b := range receive(ctx, read) {
			h.Write(b.Data())
			if err := send(ctx, hashed, b); err != nil {
				return err
			}
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if blockstore.Digest(h.Sum(nil)) != diffID {
			return fmt.Errorf("layer %d: %w", t.layer, ErrDiffID)
		}
		close(hashed)
		return nil
	})
	g.Go(func() error { return t.entries(&stream{ctx: ctx, blocks: hashed}) })
	return g.Wait()
}

func (t *Tree) entries(r io.Reader) error {
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) { // entry judges names itself
			return fmt.Errorf("layer %d: read tar: %w", t.layer, err)
		}
		if err := t.entry(h, tr); err != nil {
			return &EntryError{Layer: t.layer, Name: h.Name, Err: err}
		}
	}
	_, err := io.Copy(io.Discard, r)
	return err
}

// Finish sets what directories may only get when nothing is added to them any more.
func (t *Tree) Finish() (Stats, error) {
	for _, p := range deepestFirst(t.meta) {
		if err := t.finishDir(p, t.meta[p]); err != nil {
			return t.stats, fmt.Errorf("directory %q: %w", p, err)
		}
	}
	return t.stats, nil
}

// Close gives back what the tree holds open.
func (t *Tree) Close() error { return t.places.close() }

// mark notes that the present layer made a path, and so everything above it.
func (t *Tree) mark(real string) {
	if t.own == nil {
		return
	}
	for ; real != "."; real = path.Dir(real) {
		if _, done := t.own[real]; done {
			return
		}
		t.own[real] = struct{}{}
	}
}

func send(ctx context.Context, to chan<- blockstore.Block, b blockstore.Block) error {
	select {
	case to <- b:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func receive(ctx context.Context, from <-chan blockstore.Block) iter.Seq[blockstore.Block] {
	return func(yield func(blockstore.Block) bool) {
		for {
			select {
			case b, ok := <-from:
				if !ok || !yield(b) {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}
}

// stream is a layer's bytes.
type stream struct {
	ctx    context.Context //nolint:containedctx // a Reader has no other way to be told; it lives for one call
	blocks <-chan blockstore.Block
	rest   []byte
}

func (s *stream) Read(p []byte) (int, error) {
	for len(s.rest) == 0 {
		select {
		case b, ok := <-s.blocks:
			if !ok {
				return 0, io.EOF
			}
			s.rest = b.Data()
		case <-s.ctx.Done():
			return 0, context.Cause(s.ctx)
		}
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}
