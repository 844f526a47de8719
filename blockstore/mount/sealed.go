package mount

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	"golang.org/x/sync/errgroup"

	"rialto/blockstore"
	"rialto/blockstore/erofs"
)

// Files of a sealed tree.
const (
	sealFile  = "seal.json"
	metaFile  = "meta.erofs"
	smallFile = "small"
)

// seal is the record of a sealed tree. It is written when everything else is on the disk.
type seal struct {
	Meta, Small string // sha256 of the files, in hex
	Places      string // sha256 of where the leaves were
	Copied      []int  `json:",omitempty"` // leaves that are in the small files' file, with their zeros
}

// errNotSealed reports a tree that was not sealed, or not with the blocks where they are now.
var errNotSealed = errors.New("not sealed")

func (m *Mounts) sealedDir(root blockstore.CID) string {
	return filepath.Join(m.cfg.Dir, "sealed", root.String())
}

// wasSealed reports whether there is a record of that.
func (m *Mounts) wasSealed(root blockstore.CID) bool {
	_, err := os.Stat(filepath.Join(m.sealedDir(root), sealFile))
	return err == nil
}

// Seal prepares that a tree whose blocks are all here is mounted without the server from the next Mount on. It compares
// each block with its name, unless the source did. It returns ErrIncomplete if a block is absent.
func (m *Mounts) Seal(ctx context.Context, root blockstore.CID, t *blockstore.Tree, src Source) error {
	unlock, err := m.lock(ctx, root)
	if err == nil {
		defer unlock()
		_, err = m.prepare(ctx, root, t, src, false)
	}
	if err != nil {
		return &Error{"seal", root, err}
	}
	return nil
}

// prepare seals a tree that is not sealed yet, unless it must be.
func (m *Mounts) prepare(ctx context.Context, root blockstore.CID, t *blockstore.Tree, src Source, ready bool) (*packed, error) {
	if t.Private() { // the packs have what is encrypted, and a small files' file would have what is not
		return nil, fmt.Errorf("%w: only the server decrypts it", ErrPrivate)
	}
	dir := m.sealedDir(root)
	p, err := locate(ctx, t, src)
	if err != nil {
		return nil, err
	}
	switch {
	case m.sealed(dir, p):
		return p, nil
	case ready:
		return nil, errNotSealed
	}
	return p, m.seal(ctx, dir, p)
}

// mountSealed mounts a tree whose blocks are all here, from where they are.
func (m *Mounts) mountSealed(ctx context.Context, at string, root blockstore.CID, t *blockstore.Tree, src Source, ready bool) error {
	dir := m.sealedDir(root)
	p, err := m.prepare(ctx, root, t, src, ready)
	if err != nil {
		return err
	}
	files := append([]string{filepath.Join(dir, smallFile)}, p.packs...)
	if p.size == 0 {
		files = files[1:]
	}
	if m.cfg.Can.FileBacked != nil {
		return mountLoop(at, filepath.Join(dir, metaFile), files)
	}
	return mountFile(at, filepath.Join(dir, metaFile), files)
}

// packed places leaves in the store's pack files, and the rest in a file of their own: device 1, if there is any.
type packed struct {
	tree   *blockstore.Tree
	places []Place // of blocks
	leaf   []bool  // by block
	packs  []string
	number map[string]int // of packs, from 0
	copied []int64        // by block: where a leaf was copied to in the small files' file, or -1

	layout *blockstore.Layout
	small  []int64 // by slot: where a small file is there
	size   int64   // of that file
}

// locate finds every block.
func locate(ctx context.Context, t *blockstore.Tree, src Source) (*packed, error) {
	p := &packed{tree: t, places: make([]Place, len(t.Blocks)), leaf: make([]bool, len(t.Blocks))}
	for i := range t.Nodes {
		if n := &t.Nodes[i]; n.Large() {
			for b := n.Block; int64(b-n.Block)*blockstore.MaxBlock < n.Size; b++ {
				p.leaf[b] = true
			}
		}
	}
	for i, ref := range t.Blocks {
		place, err := src.Locate(ctx, ref)
		if errors.Is(err, blockstore.ErrNotFound) {
			return nil, fmt.Errorf("%w: block %d of %d, %s", ErrIncomplete, i, len(t.Blocks), ref.CID)
		}
		if err != nil {
			return nil, err
		}
		p.places[i] = place
	}
	return p, nil
}

// sum is that of where all leaves are.
func (p *packed) sum() string {
	var b []byte
	for i, at := range p.places {
		if p.leaf[i] {
			b = append(append(b, at.Path...), 0)
			b = binary.AppendUvarint(b, uint64(at.Offset))
		}
	}
	return hexSum(b)
}

// smallFiles gives small files their places.
func (p *packed) smallFiles() {
	p.layout = p.tree.Layout()
	p.small = make([]int64, len(p.layout.Slots))
	for i, s := range p.layout.Slots {
		if !p.leaf[s.Block] {
			p.small[i] = p.size
			p.size += roundUp(int64(s.Size))
		}
	}
}

func roundUp(n int64) int64 { return (n + blockstore.Page - 1) &^ (blockstore.Page - 1) }

// copyLeaves gives leaves that cannot be mounted where they are a place in the small files' file, and numbers the packs
// that are left.
func (p *packed) copyLeaves(blocks []int) {
	p.copied = slices.Repeat([]int64{-1}, len(p.leaf))
	for _, b := range blocks {
		p.copied[b] = p.size
		p.size += roundUp(int64(p.tree.Blocks[b].Size))
	}
	p.number = make(map[string]int)
	for i := range p.places {
		if path := p.places[i].Path; p.leaf[i] && p.copied[i] < 0 {
			if _, ok := p.number[path]; !ok {
				p.number[path] = len(p.packs)
				p.packs = append(p.packs, path)
			}
		}
	}
}

// first is the number of the device that is the first pack.
func (p *packed) first() int {
	if p.size > 0 {
		return 2
	}
	return 1
}

// Devices implements erofs.Placement. A pack may grow, and where it ends is nobody's business: it is as long as what
// is used of it.
func (p *packed) Devices() []int64 {
	sizes := make([]int64, len(p.packs))
	for i := range p.places {
		if p.leaf[i] && p.copied[i] < 0 {
			k := p.number[p.places[i].Path]
			sizes[k] = max(sizes[k], p.places[i].Offset+roundUp(int64(p.tree.Blocks[i].Size)))
		}
	}
	if p.size > 0 {
		sizes = append([]int64{p.size}, sizes...)
	}
	return sizes
}

// Chunks implements erofs.Placement.
func (p *packed) Chunks(n *blockstore.Node, places []erofs.Place) (int64, []erofs.Place) {
	if !n.Large() {
		at := p.layout.File(n)
		i, _ := slices.BinarySearchFunc(p.layout.Slots, at, func(s blockstore.Slot, at int64) int { return int(min(max(s.Addr-at, -1), 1)) })
		return chunkFor(n.Size), append(places, erofs.Place{Device: 1, Addr: p.small[i]})
	}
	for b := n.Block; int64(b-n.Block)*blockstore.MaxBlock < n.Size; b++ {
		at := erofs.Place{Device: 1, Addr: p.copied[b]}
		if at.Addr < 0 {
			at = erofs.Place{Device: p.first() + p.number[p.places[b].Path], Addr: p.places[b].Offset}
		}
		places = append(places, at)
	}
	return min(chunkFor(n.Size), blockstore.MaxBlock), places
}

// sealed reports whether a tree was sealed with the blocks where they are now, and whether its files are intact.
func (m *Mounts) sealed(dir string, p *packed) bool {
	b, err := os.ReadFile(filepath.Join(dir, sealFile))
	var s seal
	if err != nil || json.Unmarshal(b, &s) != nil || s.Places != p.sum() || !m.intact(filepath.Join(dir, metaFile), s.Meta) {
		return false
	}
	for i, b := range s.Copied {
		if b < 0 || b >= len(p.leaf) || !p.leaf[b] || i > 0 && b <= s.Copied[i-1] {
			return false
		}
	}
	if s.Small != "" && !m.intact(filepath.Join(dir, smallFile), s.Small) {
		return false
	}
	p.copyLeaves(s.Copied)
	p.size = 0
	if s.Small != "" {
		p.size = 1 // there is that file; how long it is, is in the metadata
	}
	return true
}

// seal compares every block with its name, copies what must be copied, and writes metadata and record.
func (m *Mounts) seal(ctx context.Context, dir string, p *packed) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(dir, sealFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	odd, err := p.verifyLeaves(ctx)
	if err != nil {
		return err
	}
	p.smallFiles()
	p.copyLeaves(odd)
	s := seal{Copied: odd, Places: p.sum()}
	if p.size > 0 {
		if s.Small, err = writeFile(filepath.Join(dir, smallFile), func(w io.Writer) error { return p.writeSmall(ctx, w, odd) }); err != nil {
			return err
		}
	}
	if s.Meta, err = writeFile(filepath.Join(dir, metaFile), func(w io.Writer) error { return erofs.Write(w, p.tree, p) }); err != nil {
		return err
	}
	_, err = writeFile(filepath.Join(dir, sealFile), func(w io.Writer) error { return json.NewEncoder(w).Encode(s) })
	return err
}

// verifyLeaves compares all leaves with their names. It returns those that cannot be mounted where they are: a place
// that is no multiple of a page, or not followed by zeros up to the next one, which a program that maps the file's last
// page would see.
func (p *packed) verifyLeaves(ctx context.Context) (odd []int, err error) {
	var work errgroup.Group
	work.SetLimit(runtime.GOMAXPROCS(0))
	strange := make([]bool, len(p.leaf))
	for from := 0; from < len(p.leaf); from += 64 { // one opening of a pack for many leaves
		work.Go(func() error {
			r := reader{buf: make([]byte, blockstore.MaxBlock)}
			defer r.close()
			for i := from; i < min(from+64, len(p.leaf)) && ctx.Err() == nil; i++ {
				if !p.leaf[i] {
					continue
				}
				if _, err := r.block(p.places[i], p.tree.Blocks[i]); err != nil {
					return err
				}
				strange[i] = p.places[i].Offset%blockstore.Page != 0 || !r.padded(p.places[i], p.tree.Blocks[i])
			}
			return ctx.Err()
		})
	}
	if err := work.Wait(); err != nil {
		return nil, err
	}
	for i, s := range strange {
		if s {
			odd = append(odd, i)
		}
	}
	return odd, nil
}

// writeSmall writes the small files, each on pages of its own, and copies of leaves behind them.
func (p *packed) writeSmall(ctx context.Context, w io.Writer, odd []int) error {
	out := bufio.NewWriterSize(w, 1<<20)
	r := reader{buf: make([]byte, blockstore.MaxBlock)}
	defer r.close()
	var zeros [blockstore.Page]byte
	put := func(b []byte) error {
		if _, err := out.Write(b); err != nil {
			return err
		}
		_, err := out.Write(zeros[:roundUp(int64(len(b)))-int64(len(b))])
		return err
	}
	for i := range p.tree.Blocks {
		if p.leaf[i] {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		b, err := r.block(p.places[i], p.tree.Blocks[i])
		if err != nil {
			return err
		}
		for _, s := range p.layout.Block(i) {
			if err := put(b[s.Offset : s.Offset+s.Size]); err != nil {
				return err
			}
		}
	}
	for _, i := range odd {
		b, err := r.block(p.places[i], p.tree.Blocks[i])
		if err != nil {
			return err
		}
		if err := put(b); err != nil {
			return err
		}
	}
	return out.Flush()
}

// reader reads verified blocks from one file after the other.
type reader struct {
	f   *os.File
	buf []byte
}

func (r *reader) close() { r.f.Close() }

// block returns a block, which is valid until the next call.
func (r *reader) block(p Place, ref blockstore.Ref) ([]byte, error) {
	if r.f == nil || r.f.Name() != p.Path {
		r.f.Close()
		var err error
		if r.f, err = os.Open(p.Path); err != nil {
			return nil, err
		}
	}
	return r.buf[:ref.Size], verifyAt(r.f, p, ref, r.buf[:ref.Size])
}

// padded reports whether zeros follow the block that was read last, up to the end of its page.
func (r *reader) padded(p Place, ref blockstore.Ref) bool {
	var b [blockstore.Page]byte
	rest := b[:roundUp(int64(ref.Size))-int64(ref.Size)]
	_, err := r.f.ReadAt(rest, p.Offset+int64(ref.Size))
	return err == nil && !slices.ContainsFunc(rest, func(c byte) bool { return c != 0 })
}
