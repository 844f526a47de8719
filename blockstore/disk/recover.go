package disk

import (
	"context"
	"os"
	"path/filepath"

	"rialto/blockstore"
)

// recover makes packs and index agree; the package comment says how.
func (s *Store) recover(ctx context.Context) error {
	ends, err := s.index.ends()
	if err != nil {
		return err
	}
	names, err := os.ReadDir(filepath.Join(s.cfg.Dir, "packs"))
	if err != nil {
		return err
	}
	for _, name := range names {
		id, ok := packID(name.Name())
		if !ok {
			continue
		}
		f, err := os.OpenFile(packPath(s.cfg.Dir, id), os.O_RDWR, 0)
		if err != nil {
			return err
		}
		s.packs[id] = &pack{id: id, file: f}
		s.active = max(s.active, id)
	}
	for id := range ends {
		s.active = max(s.active, id) // a number is not used again while the index may remember it
	}
	for id, p := range s.packs {
		end, known := ends[id]
		if err := s.settle(ctx, p, end, known); err != nil {
			return err
		}
	}
	if err := s.account(ctx); err != nil {
		return err
	}
	return s.dropEmpty()
}

// settle cuts a pack back to its committed length. A pack that the index does not know is read.
func (s *Store) settle(ctx context.Context, p *pack, end int64, known bool) error {
	info, err := p.file.Stat()
	if err != nil {
		return err
	}
	if !known {
		var entries []entry
		end, err = p.scan(func(c blockstore.CID, at location) error {
			entries = append(entries, entry{c, at})
			return ctx.Err()
		})
		if err != nil {
			return err
		}
		if err := p.file.Sync(); err != nil { // the index must not be ahead of what it names
			return err
		}
		if err := s.index.add(entries, map[uint32]int64{p.id: end}); err != nil {
			return err
		}
		s.cfg.Logger.InfoContext(ctx, "pack of blocks read into the index", "pack", p.id, "blocks", len(entries))
	}
	p.end = min(end, info.Size())
	if info.Size() > p.end {
		return p.file.Truncate(p.end)
	}
	return nil
}

// account drops entries that point past the data and counts what is left.
func (s *Store) account(ctx context.Context) error {
	var lost []blockstore.CID
	err := s.index.blocks(func(c blockstore.CID, at location) {
		p := s.packs[at.pack]
		if p == nil || at.offset+int64(at.size) > p.end {
			lost = append(lost, c)
			return
		}
		p.live += int64(at.size) + recordHeader
		s.used += int64(at.size) + recordHeader
	})
	if err != nil || len(lost) == 0 {
		return err
	}
	s.cfg.Logger.WarnContext(ctx, "blocks without data dropped from the index", "blocks", len(lost))
	return s.index.drop(lost)
}
