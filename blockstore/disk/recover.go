package disk

import (
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"rialto/blockstore"
)

// leakSlack is how much more than it owns a pack may take before Open looks for the difference. The
// file system's own bookkeeping of many holes is part of it.
const leakSlack = 1 << 20

// openPacks opens every pack there is.
func (s *Store) openPacks() error {
	names, err := os.ReadDir(filepath.Join(s.cfg.Dir, "packs"))
	if err != nil {
		return err
	}
	for _, name := range names {
		id, ok := packID(name.Name())
		if !ok {
			continue
		}
		p, err := openPack(s.cfg, id)
		if err != nil {
			return err
		}
		s.packs[id] = p
		s.active = max(s.active, id)
		s.used += p.owned
	}
	return nil
}

// recover makes packs and index agree; the package comment says how. It may be called again with
// another index.
func (s *Store) recover(ctx context.Context) error {
	records, err := s.index.records()
	if err != nil {
		return err
	}
	for _, p := range s.packs {
		s.reset(p)
	}
	for id := range records {
		s.active = max(s.active, id) // a number is not used again while the index may remember it
	}
	actual, strays, err := s.survey(records)
	if err != nil {
		return err
	}
	for id, r := range records {
		if s.packs[id] == nil {
			strays[id] = true
		} else if a := actual[id]; a.blocks != r.blocks || a.sum != r.sum {
			strays[id] = true
		}
	}
	for _, id := range slices.Sorted(maps.Keys(s.packs)) {
		r, known := records[id]
		info, err := s.packs[id].file.Stat()
		if err != nil {
			return err
		}
		if info.Size() < int64(r.end)*pageSize {
			strays[id] = true
		}
		if known && !strays[id] {
			s.packs[id].record = r
		}
	}
	if err := s.disown(ctx, strays); err != nil {
		return err
	}
	for _, id := range slices.Sorted(maps.Keys(s.packs)) {
		if err := s.settle(ctx, s.packs[id]); err != nil {
			return err
		}
	}
	if err := s.index.sync(); err != nil {
		return err
	}
	_, err = s.dropEmpty()
	return err
}

// reset forgets what was counted of a pack.
func (s *Store) reset(p *pack) {
	s.used += pageSize - p.owned
	p.owned = pageSize
	p.record = record{end: 1}
	clear(p.tables)
}

// survey counts the index's blocks, and returns what the records should say about them, and the packs
// of blocks that are behind their record's end, or that have no pack or no record.
func (s *Store) survey(records map[uint32]record) (actual map[uint32]record, strays map[uint32]bool, err error) {
	actual, strays = make(map[uint32]record), make(map[uint32]bool)
	err = s.index.scan([]byte{keyBlock}, func(k, v []byte) (bool, error) {
		e, err := decodeEntry(k, v)
		if err != nil {
			return false, err
		}
		p := s.packs[e.at.pack]
		if p == nil || e.at.end() > records[e.at.pack].end {
			strays[e.at.pack] = true
			return true, nil
		}
		actual[e.at.pack] = actual[e.at.pack].with(e.cid, e.at)
		s.used += p.count(e.at, true)
		return true, nil
	})
	return actual, strays, err
}

// disown takes all that the index says about some packs out of it, because it is wrong.
func (s *Store) disown(ctx context.Context, strays map[uint32]bool) error {
	if len(strays) == 0 {
		return nil
	}
	gone := make(map[uint32]record)
	for id := range strays {
		gone[id] = record{}
		if p := s.packs[id]; p != nil {
			s.reset(p)
		}
		s.cfg.Logger.WarnContext(ctx, "index and pack disagree: the pack is read anew", "pack", id)
	}
	// First the records, so that a crash meanwhile leaves packs that the index does not know.
	if err := s.index.commit(nil, nil, gone); err != nil {
		return err
	}
	for batch, err := range s.batches(ctx) {
		if err != nil {
			return err
		}
		var drop []blockstore.CID
		for _, e := range batch {
			if strays[e.at.pack] {
				drop = append(drop, e.cid)
			}
		}
		if err := s.index.commit(nil, drop, nil); err != nil {
			return err
		}
	}
	return nil
}

// settle reads what the index does not know of a pack, cuts off what is torn, and frees what a crash
// left behind.
func (s *Store) settle(ctx context.Context, p *pack) error {
	info, err := p.file.Stat()
	if err != nil {
		return err
	}
	from, blocks := p.record.end, 0
	if int64(from)*pageSize < info.Size() {
		if err := p.file.datasync(); err != nil { // the index must not be ahead of what it names
			return err
		}
		err = p.walk(from, info.Size(), func(t table) error {
			n, err := s.adopt(ctx, p, t)
			blocks += n
			return err
		})
		if err != nil {
			return err
		}
	}
	if blocks > 0 {
		s.cfg.Logger.InfoContext(ctx, "blocks read into the index", "pack", p.id, "blocks", blocks)
	}
	// Without a salt it is a file that a crash left before its header was written, which dropEmpty removes
	// because nothing is in it, or a pack of which the index alone knows what is where.
	p.sealed = p.salt == [saltSize]byte{}
	if p.sealed && p.record.blocks == 0 && info.Size() > 2*pageSize {
		s.cfg.Logger.WarnContext(ctx, "header and first table of a pack are damaged: nothing in it can be found", "pack", p.id)
	}
	if end := int64(p.record.end) * pageSize; !p.sealed {
		// Also where the length is right: this frees what was allocated behind it.
		if err := p.file.Truncate(end); err != nil {
			return err
		}
	}
	return s.reclaim(p)
}

// adopt takes a segment's blocks that are whole and not known yet into the index, and returns how many.
// A segment without any is as good as torn.
func (s *Store) adopt(ctx context.Context, p *pack, t table) (int, error) {
	var good []entry
	var dead []span
	r := p.record
	buf := make([]byte, blockstore.MaxBlock)
	for _, e := range t.entries() {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		data := buf[:e.at.size]
		_, err := p.file.ReadAt(data, e.at.offset())
		if err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		whole := err == nil && blockstore.Sum(data) == e.cid
		_, known, err := s.index.find(e.cid)
		if err != nil {
			return 0, err
		}
		if whole && !known {
			good = append(good, e)
			r = r.with(e.cid, e.at)
		} else {
			dead = append(dead, span{p, e.at.page, e.at.end()})
		}
	}
	if len(good) == 0 {
		return 0, nil
	}
	r.end = t.end()
	if err := s.index.commit(good, nil, map[uint32]record{p.id: r}); err != nil {
		return 0, err
	}
	p.record = r
	for _, e := range good {
		s.used += p.count(e.at, true)
	}
	return len(good), s.punch(dead)
}

// reclaim punches what nothing owns, if that is worth the reading.
func (s *Store) reclaim(p *pack) error {
	taken, err := p.file.allocated()
	if err != nil || taken <= p.owned+leakSlack {
		return err
	}
	var dead []span
	err = p.walk(1, int64(p.record.end)*pageSize, func(t table) error {
		for _, e := range t.entries() {
			now, known, err := s.index.find(e.cid)
			if err != nil {
				return err
			}
			if !known || now.at != e.at {
				dead = append(dead, span{p, e.at.page, e.at.end()})
			}
		}
		if p.tables[t.page] == 0 {
			dead = append(dead, span{p, t.page, t.page + 1})
		}
		return nil
	})
	if err != nil {
		return err
	}
	return s.punch(dead)
}
