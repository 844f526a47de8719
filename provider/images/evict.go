//go:build linux

package images

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"rialto/blockstore"
	"rialto/blockstore/disk"
)

// room is the store of a fill, which gives up what is used least when it is full, and mends what is damaged.
type room struct{ f *fill }

// Has reports whether a block is here and not known to be damaged.
func (r room) Has(ctx context.Context, c blockstore.CID) (bool, error) {
	if r.f.images.damaged(c) {
		return false, nil
	}
	return r.f.images.cfg.Store.Has(ctx, c)
}

func (r room) Put(ctx context.Context, blocks ...blockstore.Block) error {
	m := r.f.images
	var fresh []blockstore.CID // the others are skipped, and were not looked at
	for _, b := range blocks {
		ok, err := m.cfg.Store.Has(ctx, b.CID())
		if err != nil {
			return err
		}
		if !ok {
			fresh = append(fresh, b.CID())
		}
	}
	err := r.put(ctx, blocks)
	if errors.Is(err, blockstore.ErrNoSpace) {
		var need int64
		for _, b := range blocks {
			need += int64(b.Size())
		}
		if evictErr := m.evict(ctx, need, r.f); evictErr != nil {
			return errors.Join(err, evictErr)
		}
		err = r.put(ctx, blocks)
	}
	if err != nil {
		return err
	}
	r.f.mu.Lock()
	for _, c := range fresh {
		r.f.sure[c] = struct{}{}
	}
	r.f.mu.Unlock()
	for _, b := range blocks {
		if !m.damaged(b.CID()) {
			continue
		}
		if err := m.cfg.Store.Repair(ctx, b); err != nil {
			return err
		}
		m.mu.Lock()
		delete(m.damage, b.CID())
		m.mu.Unlock()
	}
	return nil
}

// put keeps blocks. Those that were here already may belong to what is deleted just now: they are put once more.
func (r room) put(ctx context.Context, blocks []blockstore.Block) error {
	cids := make([]blockstore.CID, len(blocks))
	for i, b := range blocks {
		cids[i] = b.CID()
	}
	for {
		if err := r.f.images.cfg.Store.Put(ctx, blocks...); err != nil {
			return err
		}
		if err := r.f.pin(ctx, cids...); !errors.Is(err, blockstore.ErrNotFound) {
			return err
		}
	}
}

func (m *Images) damaged(c blockstore.CID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, yes := m.damage[c]
	return yes
}

// evict deletes what is used least: when the store is above its high watermark, down to the low one, and in any case
// when more bytes are needed than there is room for. What self fills stays: self is who calls.
func (m *Images) evict(ctx context.Context, need int64, self *fill) error {
	if err := m.take(ctx); err != nil {
		return err
	}
	defer m.pass()
	stats := m.cfg.Store.Stats()
	marks := blockstore.Watermarks{Quota: stats.Quota}
	if need > 0 { // what limits the store may be its quota or the disk: what it has now is too much
		low := max(0.1, min(0.8, 1-2*float64(need)/float64(stats.Bytes+1)))
		marks = blockstore.Watermarks{Quota: max(stats.Bytes, 1), High: low, Low: low}
	}
	if marks.Evict(time.Now(), stats.Bytes, []blockstore.Root{{Bytes: stats.Bytes}}) == nil {
		if need > 0 {
			return fmt.Errorf("%w: nothing is here that could go", blockstore.ErrNoSpace)
		}
		return nil // not above the mark
	}
	all, err := m.survey(ctx, self)
	if err != nil {
		return err
	}
	now, roots := time.Now(), all.roots()
	m.advised(now, roots)
	victims := marks.Evict(now, stats.Bytes, roots)
	if freed(roots, victims) < need { // then no more than it takes
		low := max(0.1, 1-2*float64(need)/float64(stats.Bytes+1))
		marks = blockstore.Watermarks{Quota: max(stats.Bytes, 1), High: low, Low: low, Needed: true}
		victims = marks.Evict(now, stats.Bytes, roots)
	}
	if len(victims) == 0 {
		if need > 0 {
			return fmt.Errorf("%w: everything here is in use: %s", blockstore.ErrNoSpace, inUse(roots))
		}
		return nil
	}
	done, err := m.filling()
	if err != nil {
		return err
	}
	for _, root := range victims {
		if err := m.drop(ctx, all, root); err != nil {
			done(false)
			return err
		}
	}
	done(true)
	m.cfg.Changed()
	return nil
}

// Yield deletes what is used least until so many bytes more are free on the disk, for others than images.
func (m *Images) Yield(ctx context.Context, bytes int64) error {
	if bytes <= 0 {
		return nil
	}
	return m.evict(ctx, bytes, nil)
}

// inUse names what nobody may delete now, with its bytes.
func inUse(roots []blockstore.Root) string {
	const most = 4
	var parts []string
	for _, r := range roots {
		if r.Pinned {
			parts = append(parts, fmt.Sprintf("%s (%d MiB)", r.CID, r.Bytes>>20))
		}
	}
	if more := len(parts) - most; more > 0 {
		parts = append(parts[:most], fmt.Sprintf("and %d more", more))
	}
	if parts == nil {
		return "by what is being fetched"
	}
	return strings.Join(parts, ", ")
}

// freed returns the bytes that go with some roots.
func freed(roots []blockstore.Root, victims []blockstore.CID) (bytes int64) {
	for _, r := range roots {
		if slices.Contains(victims, r.CID) {
			bytes += r.Bytes
		}
	}
	return bytes
}

// survey is what is here, and which blocks each root needs.
type survey struct {
	records map[blockstore.CID]record
	blocks  map[blockstore.CID][]blockstore.Ref
	needs   map[blockstore.CID]int // block -> roots that need it
	pinned  map[blockstore.CID]bool
}

// survey reads the lists of all that is here. Its memory is some 50 bytes a block: 75 MB for 1.5 TB.
func (m *Images) survey(ctx context.Context, self *fill) (*survey, error) {
	s := &survey{
		records: make(map[blockstore.CID]record), blocks: make(map[blockstore.CID][]blockstore.Ref),
		needs: make(map[blockstore.CID]int), pinned: make(map[blockstore.CID]bool),
	}
	m.mu.Lock()
	used := make(map[blockstore.CID]bool, len(m.shown))
	for root, t := range m.shown {
		used[root] = t.users > 0 || t.fill == self
	}
	for _, j := range m.jobs { // they may be about to show it, or import it once more
		for _, rec := range m.records.list() {
			if rec.Root == j.target.root || j.target.image != "" && rec.of(j.target.signed) {
				s.pinned[rec.Root] = true
			}
		}
	}
	m.mu.Unlock()
	if self != nil {
		self.mu.Lock()
		for _, c := range self.pinned {
			s.needs[c] = 1 // it will be named
		}
		self.mu.Unlock()
	}
	mounted, err := m.cfg.Mounts.List(ctx)
	if err != nil {
		return nil, err
	}
	for _, at := range mounted {
		if _, known := used[at.Root]; !known { // by an earlier agent; a container may use it still
			used[at.Root] = true
		}
	}
	for _, rec := range m.records.list() {
		refs, err := m.refs(ctx, rec)
		if err != nil {
			return nil, err
		}
		s.records[rec.Root], s.blocks[rec.Root] = rec, refs
		s.pinned[rec.Root] = s.pinned[rec.Root] || used[rec.Tree]
		for _, r := range refs {
			s.needs[r.CID]++
		}
	}
	return s, nil
}

// refs lists the blocks that belong to a record, each once, as far as its lists are here.
func (m *Images) refs(ctx context.Context, rec record) ([]blockstore.Ref, error) {
	var refs []blockstore.Ref
	for _, root := range []blockstore.CID{rec.Root, rec.Tree} {
		if root == rec.Tree && len(refs) > 0 && rec.Root == rec.Tree {
			break
		}
		b, err := m.cfg.Store.Get(ctx, root)
		if errors.Is(err, blockstore.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		refs = append(refs, b.Ref())
		parts, err := blockstore.Parts(b)
		if err != nil {
			return nil, err
		}
		for _, part := range parts {
			refs = append(refs, blockstore.Ref{CID: part})
		}
	}
	if !rec.Index.IsZero() {
		refs = append(refs, blockstore.Ref{CID: rec.Index.CID()})
	}
	tree, err := blockstore.LoadBlocks(ctx, rec.Tree, m.cfg.Store)
	if errors.Is(err, blockstore.ErrNotFound) || errors.Is(err, blockstore.ErrMismatch) {
		return refs, nil
	}
	if err != nil {
		return nil, err
	}
	seen := make(map[blockstore.CID]bool, len(tree))
	for _, r := range tree {
		if !seen[r.CID] {
			seen[r.CID] = true
			refs = append(refs, r)
		}
	}
	return refs, nil
}

// roots says of each root what goes with it and whether it may go.
func (s *survey) roots() []blockstore.Root {
	roots := make([]blockstore.Root, 0, len(s.records))
	for root, rec := range s.records {
		r := blockstore.Root{CID: root, LastUsed: rec.Used, Pinned: s.pinned[root]}
		for _, b := range s.blocks[root] {
			if s.needs[b.CID] == 1 {
				r.Bytes += int64(b.Size+blockstore.Page-1) &^ (blockstore.Page - 1)
			}
		}
		roots = append(roots, r)
	}
	return roots
}

// drop deletes a root and what nothing else needs. The caller has the turn.
func (m *Images) drop(ctx context.Context, s *survey, root blockstore.CID) error {
	rec := s.records[root]
	m.mu.Lock()
	t := m.shown[rec.Tree]
	inUse := t != nil && t.users > 0
	if t != nil && !inUse {
		delete(m.shown, rec.Tree)
	}
	m.mu.Unlock()
	if inUse {
		return nil
	}
	if t != nil {
		if err := m.hide(t); err != nil {
			return err
		}
	}
	// A crash leaves at most a record of what is whole still, or else blocks that the next sweep finds.
	if err := m.cfg.Mounts.Forget(rec.Tree); err != nil {
		return err
	}
	if err := errors.Join(m.forgetLayers(root), m.records.drop(root)); err != nil {
		return err
	}
	var gone []blockstore.CID
	for _, b := range s.blocks[root] {
		if s.needs[b.CID]--; s.needs[b.CID] == 0 {
			gone = append(gone, b.CID)
		}
	}
	m.cfg.Logger.InfoContext(ctx, "image deleted to make room", "root", root.String(), "blocks", len(gone))
	err := m.cfg.Store.Delete(ctx, gone...)
	if errors.Is(err, disk.ErrPinned) { // they come again just now, for another image
		return nil
	}
	return err
}

func (m *Images) fillingFile() string { return filepath.Join(m.cfg.Dir, "filling") }

// filling marks that there are blocks which no record names yet, or none any more, until done is called. Without clean
// some stay that way, until the next process finds the mark.
func (m *Images) filling() (done func(clean bool), err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.importing == 0 {
		if err := os.WriteFile(m.fillingFile(), nil, 0o600); err != nil {
			return nil, err
		}
	}
	m.importing++
	return func(clean bool) {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.unclean = m.unclean || !clean
		if m.importing--; m.importing == 0 && !m.unclean {
			_ = os.Remove(m.fillingFile()) // a sweep too many does no harm
		}
	}, nil
}

// sweep deletes blocks that an import left which a crash ended.
func (m *Images) sweep(ctx context.Context) error {
	if _, err := os.Stat(m.fillingFile()); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	all, err := m.survey(ctx, nil)
	if err != nil {
		return err
	}
	freed, err := m.cfg.Store.Sweep(ctx, func(c blockstore.CID) bool { return all.needs[c] > 0 })
	if err != nil {
		return err
	}
	m.cfg.Logger.InfoContext(ctx, "blocks of an import that a crash ended are deleted", "bytes", freed)
	return os.Remove(m.fillingFile())
}
