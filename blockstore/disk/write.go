package disk

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"syscall"

	"rialto/blockstore"
)

// Put appends the blocks that are not here yet, syncs the packs, and then commits the index.
func (s *Store) Put(ctx context.Context, blocks ...blockstore.Block) error {
	if err := s.acquireTurn(ctx); err != nil {
		return err
	}
	defer func() { <-s.turn }()
	fresh, err := s.missing(blocks)
	if err != nil || len(fresh) == 0 {
		return err
	}
	if err := s.admit(fresh); err != nil {
		return err
	}
	entries, ends, err := s.append(fresh)
	if err != nil {
		s.cutBack()
		if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
			err = fmt.Errorf("%w: %w", blockstore.ErrNoSpace, err)
		}
		return fmt.Errorf("put %d blocks: %w", len(fresh), err)
	}
	return s.commit(entries, ends)
}

func (s *Store) missing(blocks []blockstore.Block) ([]blockstore.Block, error) {
	fresh := make([]blockstore.Block, 0, len(blocks))
	batch := make(map[blockstore.CID]struct{}, len(blocks))
	for _, b := range blocks {
		if b.Size() == 0 {
			return nil, &blockstore.BlockError{Op: "put", CID: b.CID(), Err: blockstore.ErrSize}
		}
		if _, dup := batch[b.CID()]; dup {
			continue
		}
		_, found, err := s.index.find(b.CID())
		if err != nil {
			return nil, err
		}
		if !found {
			batch[b.CID()] = struct{}{}
			fresh = append(fresh, b)
		}
	}
	return fresh, nil
}

// admit refuses a batch that would break the quota or eat into the reserve.
func (s *Store) admit(blocks []blockstore.Block) error {
	var need int64
	for _, b := range blocks {
		need += int64(b.Size()) + recordHeader
	}
	s.mu.RLock()
	used := s.used
	s.mu.RUnlock()
	if s.cfg.Quota > 0 && used+need > s.cfg.Quota {
		return fmt.Errorf("put %d bytes over the quota of %d, %d used: %w", need, s.cfg.Quota, used, blockstore.ErrNoSpace)
	}
	if s.cfg.Reserve < 0 {
		return nil
	}
	free, known, err := freeSpace(s.cfg.Dir)
	if err != nil {
		return err
	}
	if known && free-need < s.cfg.Reserve {
		return fmt.Errorf("put %d bytes with %d free and %d reserved: %w", need, free, s.cfg.Reserve, blockstore.ErrNoSpace)
	}
	return nil
}

// append writes and syncs records behind the committed ends, which stay as they are.
func (s *Store) append(blocks []blockstore.Block) ([]entry, map[uint32]int64, error) {
	s.mu.RLock()
	p := s.packs[s.active]
	s.mu.RUnlock()
	off := int64(0)
	if p != nil {
		off = p.end
	}
	entries := make([]entry, 0, len(blocks))
	ends := make(map[uint32]int64)
	for _, b := range blocks {
		if p == nil || off >= s.cfg.PackSize {
			next, err := s.nextPack()
			if err != nil {
				return nil, nil, err
			}
			p, off = next, 0
		}
		at, end, err := p.write(off, b)
		if err != nil {
			return nil, nil, err
		}
		off = end
		ends[p.id] = end
		entries = append(entries, entry{b.CID(), at})
	}
	for id := range ends {
		s.mu.RLock()
		f := s.packs[id].file
		s.mu.RUnlock()
		if err := f.Sync(); err != nil {
			return nil, nil, err
		}
	}
	return entries, ends, nil
}

func (s *Store) nextPack() (*pack, error) {
	s.mu.RLock()
	id := s.active + 1
	s.mu.RUnlock()
	p, err := createPack(s.cfg.Dir, id)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.packs[id], s.active = p, id
	s.mu.Unlock()
	return p, nil
}

// cutBack undoes a failed append. That it may fail too is no harm: the next append overwrites the
// rest, and Open cuts it off.
func (s *Store) cutBack() {
	s.mu.RLock()
	packs := slices.Collect(maps.Values(s.packs))
	s.mu.RUnlock()
	for _, p := range packs {
		if info, err := p.file.Stat(); err == nil && info.Size() > p.end {
			_ = p.file.Truncate(p.end)
		}
	}
}

func (s *Store) commit(entries []entry, ends map[uint32]int64) error {
	err := s.index.add(entries, ends)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.broken = fmt.Errorf("commit index of blocks: %w", err)
		return s.broken
	}
	for _, e := range entries {
		n := int64(e.at.size) + recordHeader
		s.packs[e.at.pack].live += n
		s.used += n
	}
	for id, end := range ends {
		s.packs[id].end = end
	}
	return nil
}

// Delete forgets blocks and gives their space back.
func (s *Store) Delete(ctx context.Context, cids ...blockstore.CID) error {
	return s.remove(ctx, cids...)
}

func (s *Store) remove(ctx context.Context, cids ...blockstore.CID) error {
	if err := s.acquireTurn(ctx); err != nil {
		return err
	}
	defer func() { <-s.turn }()
	gone := make(map[blockstore.CID]location, len(cids))
	for _, c := range cids {
		at, found, err := s.index.find(c)
		if err != nil {
			return err
		}
		if found {
			gone[c] = at
		}
	}
	err := s.index.drop(slices.Collect(maps.Keys(gone)))
	if err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.broken = fmt.Errorf("commit index of blocks: %w", err)
		return s.broken
	}
	for _, at := range gone {
		s.mu.Lock()
		p := s.packs[at.pack]
		n := int64(at.size) + recordHeader
		s.used -= n
		if p != nil {
			p.live -= n
		}
		s.mu.Unlock()
		if p == nil {
			continue
		}
		if err := punch(p.file, at.offset, int64(at.size)); err != nil {
			return fmt.Errorf("free a deleted block: %w", err)
		}
	}
	return s.dropEmpty()
}

// dropEmpty removes packs that hold nothing any more and will not be appended to.
func (s *Store) dropEmpty() error {
	var empty []*pack
	s.mu.Lock()
	for id, p := range s.packs {
		if p.live == 0 && id != s.active {
			empty = append(empty, p)
			delete(s.packs, id)
		}
	}
	s.mu.Unlock()
	for _, p := range empty {
		if err := s.index.drop(nil, p.id); err != nil {
			return err
		}
		p.file.Close()
		if err := os.Remove(packPath(s.cfg.Dir, p.id)); err != nil {
			return err
		}
	}
	return nil
}
