package disk

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"rialto/blockstore"
)

// syncEach is after how many bytes the index is synced. Reading that much takes Open a fraction of a second.
const syncEach = 256 << 20

// segment is a table and the data of its blocks.
type segment struct {
	table table
	data  []blockstore.Block
}

// entries returns what the index has to learn of the segment's blocks.
func (t table) entries() []entry {
	entries := make([]entry, len(t.blocks))
	page := t.page + 1
	for i, b := range t.blocks {
		at := location{pack: t.pack, page: page, size: uint32(b.size), table: t.page} //nolint:gosec // at most MaxBlock
		entries[i] = entry{cid: b.cid, at: at, sums: b.sums}
		page = at.end()
	}
	return entries
}

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
	segments, need := s.plan(fresh)
	if err := s.admit(need); err != nil {
		return err
	}
	if err := s.append(segments); err != nil {
		if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
			err = fmt.Errorf("%w: %w", blockstore.ErrNoSpace, err)
		}
		return fmt.Errorf("put %d blocks: %w", len(fresh), err)
	}
	if err := s.publish(segments); err != nil {
		return s.fail(err)
	}
	if s.unsynced += need; s.unsynced >= syncEach {
		if err := s.index.sync(); err != nil {
			return s.fail(err)
		}
		s.unsynced = 0
	}
	return nil
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

// plan cuts blocks into segments that say where they will be, and counts the bytes that they will own.
// A segment ends when its table is full, and where the pack ends.
func (s *Store) plan(blocks []blockstore.Block) (segments []segment, need int64) {
	id, end := s.active, uint32(0)
	p := s.packs[s.active] // reading needs no lock: only who has the turn changes it
	if p != nil {
		end = p.record.end
	}
	var seg *segment
	room := 0
	for _, b := range blocks {
		if p == nil && end == 0 || p != nil && p.sealed || int64(end)*pageSize >= s.cfg.PackSize {
			id, end, p, seg = id+1, 1, nil, nil
			need += pageSize
		}
		if size := descriptorSize(b.Size()); seg == nil || room < size {
			segments = append(segments, segment{table: table{pack: id, page: end}})
			seg = &segments[len(segments)-1]
			room = tableRoom
			end++
			need += pageSize
		}
		room -= descriptorSize(b.Size())
		seg.table.blocks = append(seg.table.blocks, descriptor{cid: b.CID(), size: b.Size(), sums: sums(b.Data())})
		seg.data = append(seg.data, b)
		end += pages(b.Size())
		need += int64(pages(b.Size())) * pageSize
	}
	return segments, need
}

// admit refuses a batch that would break the quota or eat into the reserve.
func (s *Store) admit(need int64) error {
	s.mu.RLock()
	used := s.used
	s.mu.RUnlock()
	if s.cfg.Quota > 0 && used+need > s.cfg.Quota {
		return fmt.Errorf("put %d bytes over the quota of %d, %d used: %w", need, s.cfg.Quota, used, blockstore.ErrNoSpace)
	}
	free, err := s.free()
	if err != nil {
		return err
	}
	if reserve := max(s.cfg.Reserve, indexRoom) + s.aside.Load(); free-need < reserve {
		return fmt.Errorf("put %d bytes with %d free and %d reserved: %w", need, free, reserve, blockstore.ErrNoSpace)
	}
	return nil
}

// append writes and syncs segments behind the committed ends, which stay as they are. If that fails, it
// leaves nothing of them.
func (s *Store) append(segments []segment) error {
	touched := make(map[uint32]*pack)
	err := func() error {
		for i := range segments {
			seg := &segments[i]
			p, err := s.packFor(seg.table.pack)
			if err != nil {
				return err
			}
			touched[p.id] = p
			seg.table.salt = p.salt
			if err := seg.write(p.file); err != nil {
				return err
			}
		}
		return nil
	}()
	for _, id := range slices.Sorted(maps.Keys(touched)) {
		if err == nil {
			if err = touched[id].file.datasync(); err != nil {
				// The system may now believe that what it lost is written: the pack is not trusted with more.
				touched[id].sealed = true
			}
		}
	}
	if err != nil {
		for _, p := range touched {
			if p.file.Truncate(int64(p.record.end)*pageSize) != nil {
				p.sealed = true
			}
		}
	}
	return err
}

// write takes the segment's space first, so that a full disk fails before anything is written.
func (seg *segment) write(f file) error {
	off := int64(seg.table.page) * pageSize
	if err := f.allocate(off, int64(seg.table.end())*pageSize-off); err != nil {
		return err
	}
	padding := make([]byte, pageSize)
	parts := make([][]byte, 0, 1+2*len(seg.data))
	parts = append(parts, seg.table.encode())
	for _, b := range seg.data {
		parts = append(parts, b.Data())
		if over := b.Size() % pageSize; over != 0 {
			parts = append(parts, padding[over:])
		}
	}
	return f.writev(parts, off)
}

// packFor returns the pack of a number, made if it is not there.
func (s *Store) packFor(id uint32) (*pack, error) {
	if p := s.packs[id]; p != nil {
		return p, nil
	}
	p, err := createPack(s.cfg, id)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.packs[id], s.active = p, id
	s.used += p.owned
	return p, nil
}

// publish commits segments that are on disk to the index, and counts them.
func (s *Store) publish(segments []segment) error {
	for len(segments) > 0 {
		var entries []entry
		records := make(map[uint32]record)
		for len(segments) > 0 && len(entries)+len(segments[0].data) <= txnEntries {
			t := segments[0].table
			r, ok := records[t.pack]
			if !ok {
				r = s.packs[t.pack].record
			}
			for _, e := range t.entries() {
				entries = append(entries, e)
				r = r.with(e.cid, e.at)
			}
			r.end = t.end()
			records[t.pack] = r
			segments = segments[1:]
		}
		if err := s.index.commit(entries, nil, records); err != nil {
			return err
		}
		s.mu.Lock()
		for id, r := range records {
			s.packs[id].record = r
		}
		for _, e := range entries {
			s.used += s.packs[e.at.pack].count(e.at, true)
		}
		s.mu.Unlock()
	}
	return nil
}

// Badger writes through mappings, so that a full disk does not give it an error but kills the process.
// Put leaves indexRoom free. When others take that too, the ballast, a file of allocated blocks, is
// given up: half of it for what Open and Delete write, who fail below openRoom, and the rest for Close.
const (
	indexRoom   = 32 << 20
	openRoom    = 16 << 20 // a memtable
	closeRoom   = 4 << 20  // nothing was written below openRoom, so that there is little in memory
	ballastHalf = 20 << 20 // openRoom and what the file system needs to know it by
)

// free returns how much may be written, or why nothing may. A file system that fell back to reading
// only tells nobody who does not try.
func (s *Store) free() (int64, error) {
	if _, err := s.lock.WriteAt([]byte{'\n'}, 0); err != nil && !errors.Is(err, syscall.ENOSPC) {
		return 0, err
	}
	free, known, err := freeSpace(s.cfg.Dir)
	if err == nil && !known {
		free = 1 << 62
	}
	return free, err
}

func (s *Store) ballast() string { return filepath.Join(s.cfg.Dir, "ballast") }

// giveWay makes sure that the index can be written, and gives up half of the ballast for that.
func (s *Store) giveWay() error {
	free, err := s.free()
	if err == nil && free < openRoom {
		s.shrinkBallast(ballastHalf)
		free, err = s.free()
	}
	if err == nil && free < openRoom {
		err = fmt.Errorf("%d bytes free on the disk, the index needs %d: %w", free, openRoom, blockstore.ErrNoSpace)
	}
	return err
}

// makeWay gives up what is left of the ballast if Close needs it, and says if that is not enough.
func (s *Store) makeWay() error {
	free, err := s.free()
	if err == nil && free < openRoom {
		s.shrinkBallast(0)
		free, err = s.free()
	}
	if err == nil && free < closeRoom {
		err = fmt.Errorf("%d bytes free on the disk: %w", free, blockstore.ErrNoSpace)
	}
	return err
}

func (s *Store) shrinkBallast(size int64) {
	info, err := os.Lstat(s.ballast())
	if err == nil && info.Size() > size {
		err = os.Truncate(s.ballast(), size)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		s.cfg.Logger.Warn("cannot give up the ballast", "err", err)
	}
}

// keepBallast makes the ballast anew where it is not whole and there is room. The store works without.
func (s *Store) keepBallast(ctx context.Context) {
	if info, err := os.Lstat(s.ballast()); err == nil && info.Size() == 2*ballastHalf {
		return
	}
	if free, err := s.free(); err != nil || free < indexRoom+2*ballastHalf {
		return
	}
	f, err := openFile(s.ballast(), os.O_RDWR|os.O_CREATE)
	if err == nil {
		err = f.allocate(0, 2*ballastHalf)
		if err == nil {
			err = f.Truncate(2 * ballastHalf)
		}
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		s.cfg.Logger.WarnContext(ctx, "no ballast for a full disk", "err", err)
	}
}
