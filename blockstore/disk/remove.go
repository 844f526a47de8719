package disk

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"

	"rialto/blockstore"
)

// ErrPinned says that a block is held.
var ErrPinned = errors.New("block is held")

// PinnedError names the blocks that were not deleted because they are held. It is ErrPinned.
type PinnedError struct{ CIDs []blockstore.CID }

func (e *PinnedError) Error() string {
	return fmt.Sprintf("%d blocks are held, such as %s", len(e.CIDs), e.CIDs[0])
}

// Unwrap returns ErrPinned.
func (e *PinnedError) Unwrap() error { return ErrPinned }

// Hold keeps blocks where they are: while it lasts, nothing deletes or punches them, not even damage.
// A block may be in several. Holds end with the process: after a restart the owner makes them again
// before it deletes or sweeps anything.
type Hold struct {
	store *Store
	cids  []blockstore.CID
	once  sync.Once
}

// Hold holds blocks until Release. All of them must be here, otherwise none is held and the error is
// ErrNotFound for the first that is not. It does not wait for puts and deletes under way.
func (s *Store) Hold(_ context.Context, cids ...blockstore.CID) (*Hold, error) {
	h := &Hold{store: s, cids: slices.Clone(cids)}
	var missing *blockstore.CID
	s.mu.Lock()
	for _, c := range h.cids {
		s.pins[c]++
		if _, late := s.going[c]; late && missing == nil {
			missing = &c
		}
	}
	s.mu.Unlock()
	// From here on no delete begins. One that began before has shown above.
	if missing != nil {
		h.Release()
		return nil, &blockstore.BlockError{Op: "hold", CID: *missing, Err: blockstore.ErrNotFound}
	}
	for _, c := range h.cids {
		if _, err := s.entry("hold", c); err != nil {
			h.Release()
			return nil, err
		}
	}
	return h, nil
}

// Release ends the hold. Further calls do nothing.
func (h *Hold) Release() {
	h.once.Do(func() {
		h.store.mu.Lock()
		defer h.store.mu.Unlock()
		for _, c := range h.cids {
			if h.store.pins[c]--; h.store.pins[c] == 0 {
				delete(h.store.pins, c)
			}
		}
	})
}

// Delete forgets blocks and gives their space back. Held ones stay; when all others are gone, Delete
// names them in a PinnedError.
func (s *Store) Delete(ctx context.Context, cids ...blockstore.CID) error {
	if err := s.acquireTurn(ctx); err != nil {
		return err
	}
	defer func() { <-s.turn }()
	victims := make([]entry, 0, len(cids))
	seen := make(map[blockstore.CID]struct{}, len(cids))
	for _, c := range cids {
		e, found, err := s.index.find(c)
		if err != nil {
			return err
		}
		if _, dup := seen[c]; found && !dup {
			seen[c] = struct{}{}
			victims = append(victims, e)
		}
	}
	dead, _, err := s.drop(ctx, victims)
	return errors.Join(err, s.punch(dead))
}

// Sweep deletes each block that keep refuses, unless it is held or was put after Sweep began, and
// returns how many owned bytes that freed. It works in small batches, between which others have their
// turn, and gives the space back at the end, when neighbours can go together. keep must know the blocks of
// imports under way: a block that was here before and is put again by one is not new. keep is called
// without locks and may use the store.
func (s *Store) Sweep(ctx context.Context, keep func(blockstore.CID) bool) (freed int64, err error) {
	if err := s.acquireTurn(ctx); err != nil {
		return 0, err
	}
	newPack, newPage := s.active, uint32(0)
	if p := s.packs[s.active]; p != nil {
		newPage = p.record.end
	}
	<-s.turn
	var dead []span
	freed, err = func() (freed int64, err error) {
		for batch, err := range s.batches(ctx) {
			if err != nil {
				return freed, err
			}
			victims := slices.DeleteFunc(batch, func(e entry) bool {
				isNew := e.at.pack > newPack || e.at.pack == newPack && e.at.page >= newPage
				return isNew || keep(e.cid)
			})
			spans, n, err := s.remove(ctx, victims)
			freed += n
			dead = append(dead, spans...)
			if err != nil && !errors.Is(err, ErrPinned) {
				return freed, err
			}
			if len(dead) >= sweepSpans {
				if err := s.punchInTurns(ctx, dead); err != nil {
					return freed, err
				}
				dead = dead[:0]
			}
		}
		return freed, nil
	}()
	// Also if ctx has ended: what is out of the index would be found by Open only.
	return freed, errors.Join(err, s.punchInTurns(context.WithoutCancel(ctx), dead))
}

// remove is drop for who has not got the turn: blocks that have moved since are passed over.
func (s *Store) remove(ctx context.Context, victims []entry) (dead []span, freed int64, err error) {
	if len(victims) == 0 {
		return nil, 0, nil
	}
	if err := s.acquireTurn(ctx); err != nil {
		return nil, 0, err
	}
	defer func() { <-s.turn }()
	still := make([]entry, 0, len(victims))
	for _, e := range victims {
		now, found, err := s.index.find(e.cid)
		if err != nil {
			return nil, 0, err
		}
		if found && now.at == e.at {
			still = append(still, e)
		}
	}
	return s.drop(ctx, still)
}

// drop takes blocks out of the index, removes packs that are empty then, and returns what is to be
// punched. The caller has the turn.
func (s *Store) drop(ctx context.Context, victims []entry) (dead []span, freed int64, err error) {
	var held PinnedError
	s.mu.Lock()
	victims = slices.DeleteFunc(victims, func(e entry) bool {
		if s.pins[e.cid] > 0 {
			held.CIDs = append(held.CIDs, e.cid)
			return true
		}
		s.going[e.cid] = struct{}{}
		return false
	})
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		clear(s.going)
	}()
	if len(victims) > 0 {
		if err := s.giveWay(); err != nil {
			return nil, 0, err
		}
	}
	for chunk := range slices.Chunk(victims, txnEntries) {
		spans, n, err := s.dropSome(chunk)
		dead = append(dead, spans...)
		freed += n
		if err != nil {
			return dead, freed, err
		}
	}
	n, err := s.dropEmpty()
	freed += n
	if err == nil && freed > 0 {
		s.keepBallast(ctx)
	}
	if err == nil && len(held.CIDs) > 0 {
		err = &held
	}
	return dead, freed, err
}

// dropSome takes blocks out of the index in one transaction, and syncs it before they may be punched:
// after a power cut it must not name what reads as zeros.
func (s *Store) dropSome(victims []entry) (dead []span, freed int64, err error) {
	cids := make([]blockstore.CID, len(victims))
	records := make(map[uint32]record)
	for i, e := range victims {
		cids[i] = e.cid
		r, ok := records[e.at.pack]
		if !ok {
			r = s.packs[e.at.pack].record
		}
		records[e.at.pack] = r.without(e.cid, e.at)
	}
	err = s.index.commit(nil, cids, records)
	if err == nil {
		err = s.index.sync()
	}
	if err != nil {
		return nil, 0, s.fail(err)
	}
	s.unsynced = 0
	s.mu.Lock()
	for id, r := range records {
		s.packs[id].record = r
	}
	for _, e := range victims {
		p := s.packs[e.at.pack]
		n := -p.count(e.at, false)
		freed += n
		s.used -= n
		dead = append(dead, span{p, e.at.page, e.at.end()})
		if p.tables[e.at.table] == 0 {
			dead = append(dead, span{p, e.at.table, e.at.table + 1})
		}
	}
	s.mu.Unlock()
	return dead, freed, nil
}

const (
	sweepSpans = 1 << 18 // 6 MiB of memory
	turnSpans  = 64      // some milliseconds
)

// span is pages of a pack that nothing owns any more.
type span struct {
	pack       *pack
	first, end uint32
}

// merge sorts spans and makes one of neighbours.
func merge(dead []span) []span {
	slices.SortFunc(dead, func(a, b span) int {
		return cmp.Or(cmp.Compare(a.pack.id, b.pack.id), cmp.Compare(a.first, b.first))
	})
	merged := dead[:0]
	for _, d := range dead {
		if n := len(merged); n > 0 && merged[n-1].pack == d.pack && merged[n-1].end == d.first {
			merged[n-1].end = d.end
			continue
		}
		merged = append(merged, d)
	}
	return merged
}

// punch gives spans back, those of packs that are still there. The caller has the turn.
func (s *Store) punch(dead []span) error {
	for _, d := range merge(dead) {
		if s.packs[d.pack.id] != d.pack {
			continue
		}
		if err := d.pack.file.punch(int64(d.first)*pageSize, int64(d.end-d.first)*pageSize); err != nil {
			return fmt.Errorf("free deleted blocks: %w", err)
		}
	}
	return nil
}

// punchInTurns is punch for who has not got the turn and does not want it for long.
func (s *Store) punchInTurns(ctx context.Context, dead []span) error {
	for some := range slices.Chunk(merge(dead), turnSpans) {
		if err := s.acquireTurn(ctx); err != nil {
			return err
		}
		err := s.punch(some)
		<-s.turn
		if err != nil {
			return err
		}
	}
	return nil
}

// dropEmpty removes packs that hold nothing any more and will not be appended to.
func (s *Store) dropEmpty() (freed int64, err error) {
	var empty []*pack
	s.mu.Lock()
	for id, p := range s.packs {
		if len(p.tables) == 0 && (id != s.active || p.sealed) {
			empty = append(empty, p)
			delete(s.packs, id)
			s.used -= p.owned
			freed += p.owned
		}
	}
	s.mu.Unlock()
	for _, p := range empty {
		if err := s.index.commit(nil, nil, map[uint32]record{p.id: {}}); err != nil {
			return freed, s.fail(err)
		}
		p.file.Close()
		if err := os.Remove(packPath(s.cfg.Dir, p.id)); err != nil {
			return freed, err
		}
	}
	return freed, nil
}
