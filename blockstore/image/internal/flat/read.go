package flat

import (
	"archive/tar"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"

	"rialto/blockstore"
)

const (
	maxPath     = 4095 // PATH_MAX without the end
	xattrPrefix = "SCHILY.xattr."
)

// Budget is what the layers of one image may use up together. It is safe for concurrent use.
type Budget struct {
	limits         Limits
	entries, bytes atomic.Int64
}

// NewBudget returns a budget of what limits allow.
func NewBudget(l Limits) *Budget { return &Budget{limits: l.WithDefaults()} }

func (b *Budget) spend(entries, bytes int64) error {
	if b.entries.Add(entries) > int64(b.limits.Entries) {
		return fmt.Errorf("%w: more than %d entries", ErrRefused, b.limits.Entries)
	}
	if b.bytes.Add(bytes) > b.limits.Bytes {
		return fmt.Errorf("%w: more than %d bytes", ErrRefused, b.limits.Bytes)
	}
	return nil
}

// entry is what a layer says about one name.
type entry struct {
	name  string
	kind  byte   // tar's type flag
	link  string // of a hard link: its target's name
	inode *blockstore.Inode
	sum   [sha256.Size]byte // of a small file's data
}

// Layer is a tar stream that was read.
type Layer struct {
	entries []entry
	skipped int
}

// Read takes in a layer. It calls emit with the blocks of large files, in order, and puts small files on the spool.
func Read(r io.Reader, spool *Spool, budget *Budget, emit func(blockstore.Block) error) (*Layer, error) {
	l := new(Layer)
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) { // Apply judges names
			return nil, fmt.Errorf("read tar: %w", err)
		}
		if err := l.read(h, tr, spool, budget, emit); err != nil {
			return nil, fmt.Errorf("%q: %w", h.Name[:min(len(h.Name), 200)], err)
		}
	}
	_, err := io.Copy(io.Discard, r) // bytes behind the end marker count: the layer's hash covers them
	return l, err
}

func (l *Layer) read(h *tar.Header, data io.Reader, spool *Spool, budget *Budget, emit func(blockstore.Block) error) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	e := entry{name: h.Name, kind: h.Typeflag}
	size := int64(0)
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse:
		e.kind, size = tar.TypeReg, h.Size
	case tar.TypeLink:
		e.link = h.Linkname
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		l.skipped++
	case tar.TypeDir, tar.TypeSymlink:
	default:
		return fmt.Errorf("%w: entry of type %q", ErrRefused, h.Typeflag)
	}
	if err := budget.spend(1, size); err != nil {
		return err
	}
	var err error
	if e.inode, err = l.inode(h); err != nil {
		return err
	}
	if size > 0 {
		if err := e.contents(data, spool, emit); err != nil {
			return err
		}
	}
	l.entries = append(l.entries, e)
	return nil
}

// inode takes attributes from a header. A hard link has none of its own.
func (l *Layer) inode(h *tar.Header) (*blockstore.Inode, error) {
	if h.Uid < 0 || h.Gid < 0 || h.Uid > 1<<32-2 || h.Gid > 1<<32-2 {
		return nil, fmt.Errorf("%w: impossible owner", ErrRefused)
	}
	n := &blockstore.Inode{
		Mode: uint16(h.Mode & 0o7777), //nolint:gosec // masked
		UID:  uint32(h.Uid), GID: uint32(h.Gid),
	}
	if !h.ModTime.IsZero() {
		n.Sec, n.Nsec = h.ModTime.Unix(), uint32(h.ModTime.Nanosecond()) //nolint:gosec // below 1e9
	}
	switch h.Typeflag {
	case tar.TypeDir:
		n.Kind = blockstore.Dir
	case tar.TypeSymlink:
		n.Kind, n.Target, n.Mode = blockstore.Symlink, h.Linkname, 0o777
		if n.Target == "" || len(n.Target) > blockstore.MaxTarget || strings.IndexByte(n.Target, 0) >= 0 {
			return nil, fmt.Errorf("%w: impossible symlink", ErrRefused)
		}
		return n, nil
	case tar.TypeReg, tar.TypeGNUSparse:
		n.Kind, n.Size = blockstore.File, h.Size
	default:
		return n, nil
	}
	for k, v := range h.PAXRecords {
		name, ok := strings.CutPrefix(k, xattrPrefix)
		if !ok {
			continue
		}
		if !blockstore.KeepXattr(name) {
			l.skipped++
			continue
		}
		if n.Xattrs == nil {
			n.Xattrs = make(map[string][]byte)
		}
		n.Xattrs[name] = []byte(v)
	}
	return n, nil
}

func (e *entry) contents(data io.Reader, spool *Spool, emit func(blockstore.Block) error) error {
	n := e.inode
	if n.Size < blockstore.LargeFile {
		p := make([]byte, n.Size)
		if _, err := io.ReadFull(data, p); err != nil {
			return fmt.Errorf("read tar: %w", err)
		}
		e.sum = sha256.Sum256(p)
		var err error
		n.Data, err = spool.add(p)
		return err
	}
	for rest := n.Size; rest > 0; {
		p := make([]byte, min(rest, blockstore.MaxBlock))
		if _, err := io.ReadFull(data, p); err != nil {
			return fmt.Errorf("read tar: %w", err)
		}
		b, err := blockstore.NewBlock(p)
		if err != nil {
			return err
		}
		n.Leaves = append(n.Leaves, b.Ref())
		if err := emit(b); err != nil {
			return err
		}
		rest -= int64(len(p))
	}
	return nil
}
