package disk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"syscall"
	"testing"

	"rialto/blockstore"
)

// faults are errors that a pack's file returns, by operation.
type faults struct{ errs map[string]error }

type faultyFile struct {
	file
	*faults
}

func (f faultyFile) writev(parts [][]byte, off int64) error {
	if err := f.errs["write"]; err != nil {
		_ = f.file.writev(parts[:len(parts)/2], off) // as far as it got
		return err
	}
	return f.file.writev(parts, off)
}

func (f faultyFile) datasync() error { return errors.Join(f.errs["sync"], f.file.datasync()) }

func (f faultyFile) punch(off, n int64) error {
	if err := f.errs["punch"]; err != nil {
		return err
	}
	return f.file.punch(off, n)
}

func (f faultyFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.errs["read"]; err != nil {
		return 0, err
	}
	return f.file.ReadAt(p, off)
}

func (x *faults) open(name string, flag int) (file, error) {
	f, err := openFile(name, flag)
	return faultyFile{f, x}, err
}

// An error of the device is told as it is, loses nothing that was confirmed, and ends with the fault.
func TestFaults(t *testing.T) {
	for _, op := range []string{"write", "sync"} {
		for _, fault := range []error{syscall.EIO, syscall.ENOSPC} {
			t.Run(op+" "+fault.Error(), func(t *testing.T) {
				dir := t.TempDir()
				x := &faults{errs: make(map[string]error)}
				s := testOpen(t, Config{Dir: dir, open: x.open})
				kept := testBlock(t, "kept", 100_000)
				if err := s.Put(t.Context(), kept); err != nil {
					t.Fatal(err)
				}
				before := s.Stats()
				refused := testBlock(t, "refused", 100_000)
				x.errs[op] = fault
				err := s.Put(t.Context(), refused)
				if !errors.Is(err, fault) || errors.Is(err, blockstore.ErrNoSpace) != (fault == syscall.ENOSPC) { //nolint:errorlint // a table's own values
					t.Errorf("put: %v", err)
				}
				if got := s.Stats(); got != before {
					t.Errorf("a refused put changed %+v to %+v", before, got)
				}
				if ok, err := s.Has(t.Context(), refused.CID()); ok || err != nil {
					t.Errorf("has what was refused: %v, %v", ok, err)
				}
				clear(x.errs)
				more := testBlock(t, "more", 100_000)
				if err := s.Put(t.Context(), refused, more); err != nil {
					t.Fatal(err)
				}
				// What a failed sync lost may look written: nothing more goes behind it.
				if at, err := s.Locate(t.Context(), refused.CID()); err != nil || (at.Path == packPath(dir, 1)) != (op == "write") {
					t.Errorf("put again into %+v, %v", at, err)
				}
				for range 2 {
					for _, b := range []blockstore.Block{kept, refused, more} {
						if _, err := s.Get(t.Context(), b.CID()); err != nil {
							t.Error(err)
						}
					}
					s.Close()
					s = testOpen(t, Config{Dir: dir})
				}
				s.Close()
			})
		}
	}
	t.Run("read", func(t *testing.T) {
		x := &faults{errs: make(map[string]error)}
		s := testOpen(t, Config{Dir: t.TempDir(), open: x.open})
		defer s.Close()
		b := testBlock(t, "kept", 100_000)
		if err := s.Put(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		x.errs["read"] = syscall.EIO
		if _, err := s.Get(t.Context(), b.CID()); !errors.Is(err, syscall.EIO) {
			t.Errorf("get: %v", err)
		}
		if n, err := s.ReadAt(t.Context(), b.CID(), make([]byte, 10), 0); n != 0 || !errors.Is(err, syscall.EIO) {
			t.Errorf("read: %d, %v", n, err)
		}
		report, err := s.Scrub(t.Context(), 0)
		if err != nil || len(report.Unreadable) != 1 || len(report.Damaged) != 0 {
			t.Errorf("scrub: %+v, %v", report, err)
		}
		clear(x.errs)
		if _, err := s.Get(t.Context(), b.CID()); err != nil {
			t.Errorf("get after the fault: %v", err)
		}
	})
	t.Run("punch", func(t *testing.T) {
		dir := t.TempDir()
		x := &faults{errs: make(map[string]error)}
		s := testOpen(t, Config{Dir: dir, open: x.open})
		var blocks []blockstore.Block
		for i := range 20 {
			blocks = append(blocks, testBlock(t, fmt.Sprint(i), 200_000))
		}
		if err := s.Put(t.Context(), blocks...); err != nil {
			t.Fatal(err)
		}
		x.errs["punch"] = syscall.EIO
		for _, b := range blocks[1:] {
			if err := s.Delete(t.Context(), b.CID()); !errors.Is(err, syscall.EIO) {
				t.Errorf("delete: %v", err)
			}
		}
		s.Close()
		s = testOpen(t, Config{Dir: dir}) // what a crash between index and pack leaves is found
		defer s.Close()
		taken, err := s.packs[1].file.allocated()
		if err != nil {
			t.Fatal(err)
		}
		if taken > s.packs[1].owned+leakSlack/8 {
			t.Errorf("the pack takes %d bytes and owns %d", taken, s.packs[1].owned)
		}
		if _, err := s.Get(t.Context(), blocks[0].CID()); err != nil {
			t.Error(err)
		}
	})
}

// logged collects a store's warnings.
func logged(w *bytes.Buffer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }

// What the index loses is found by its records, wherever it is.
func TestIndexLosesEntries(t *testing.T) {
	for _, tc := range []struct {
		name string
		lose func(s *Store, blocks []blockstore.Block, old map[uint32]record) error
		warn bool // that a pack is read anew, and not its end only
	}{
		{"end of the log", func(s *Store, blocks []blockstore.Block, old map[uint32]record) error {
			return s.index.commit(nil, cidsOf(blocks[20:]), old)
		}, false},
		{"middle of the log", func(s *Store, blocks []blockstore.Block, _ map[uint32]record) error {
			return s.index.commit(nil, cidsOf(blocks[7:9]), nil)
		}, true},
		{"one and its place taken by another", func(s *Store, blocks []blockstore.Block, _ map[uint32]record) error {
			e, _, err := s.index.find(blocks[3].CID())
			e.cid = blockstore.Sum([]byte("absent"))
			return errors.Join(err, s.index.commit([]entry{e}, cidsOf(blocks[3:4]), nil))
		}, true},
		{"one moved", func(s *Store, blocks []blockstore.Block, _ map[uint32]record) error {
			e, _, err := s.index.find(blocks[3].CID())
			e.at.page++
			return errors.Join(err, s.index.commit([]entry{e}, nil, nil))
		}, true},
		{"the record", func(s *Store, _ []blockstore.Block, old map[uint32]record) error {
			gone := make(map[uint32]record)
			for id := range old {
				gone[id] = record{}
			}
			return s.index.commit(nil, nil, gone)
		}, true},
		{"a record, but not its blocks", func(s *Store, _ []blockstore.Block, old map[uint32]record) error {
			for id, r := range old {
				if r.end == 0 {
					delete(old, id)
					continue
				}
				r.blocks, r.sum = s.packs[id].record.blocks, s.packs[id].record.sum
				old[id] = r
			}
			return s.index.commit(nil, nil, old)
		}, true},
		{"value", func(s *Store, blocks []blockstore.Block, _ map[uint32]record) error {
			e, _, err := s.index.find(blocks[3].CID())
			e.sums = nil
			return errors.Join(err, s.index.commit([]entry{e}, nil, nil))
		}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var log bytes.Buffer
			cfg := Config{Dir: t.TempDir(), PackSize: 200_000}
			s := testOpen(t, cfg)
			var blocks []blockstore.Block
			for i := range 40 {
				blocks = append(blocks, testBlock(t, fmt.Sprint(i), 9000))
			}
			if err := s.Put(t.Context(), blocks[:20]...); err != nil {
				t.Fatal(err)
			}
			old, err := s.index.records()
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Put(t.Context(), blocks[20:]...); err != nil {
				t.Fatal(err)
			}
			now, err := s.index.records()
			if err != nil {
				t.Fatal(err)
			}
			for id := range now {
				if _, ok := old[id]; !ok {
					old[id] = record{} // not known then
				}
			}
			before := s.Stats()
			if err := tc.lose(s, blocks, old); err != nil {
				t.Fatal(err)
			}
			s.Close()
			cfg.Logger = logged(&log)
			s = testOpen(t, cfg)
			defer s.Close()
			for _, b := range blocks {
				if _, err := s.Get(t.Context(), b.CID()); err != nil {
					t.Error(err)
				}
			}
			if got := s.Stats(); got != before {
				t.Errorf("stats %+v, want %+v", got, before)
			}
			if warned := strings.Contains(log.String(), "anew"); warned != tc.warn {
				t.Errorf("log: %s", &log)
			}
		})
	}
}

func cidsOf(blocks []blockstore.Block) []blockstore.CID {
	var cids []blockstore.CID
	for _, b := range blocks {
		cids = append(cids, b.CID())
	}
	return cids
}

// A failed commit leaves an index of which nothing is known: the store refuses all changes and says why.
func TestBroken(t *testing.T) {
	s := testOpen(t, Config{Dir: t.TempDir()})
	b := testBlock(t, "kept", 100)
	if err := s.Put(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	cause := errors.New("index refuses")
	if err := s.fail(cause); !errors.Is(err, cause) {
		t.Error(err)
	}
	if err := s.Put(t.Context(), testBlock(t, "more", 100)); !errors.Is(err, cause) {
		t.Errorf("put: %v", err)
	}
	if err := s.Delete(t.Context(), b.CID()); !errors.Is(err, cause) {
		t.Errorf("delete: %v", err)
	}
	if _, err := s.Get(context.Background(), b.CID()); err != nil {
		t.Errorf("get: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// A block that is being deleted can no longer be held, although the index still has it.
func TestHoldTooLate(t *testing.T) {
	s := testOpen(t, Config{Dir: t.TempDir()})
	defer s.Close()
	blocks := []blockstore.Block{testBlock(t, "a", 100), testBlock(t, "b", 100)}
	if err := s.Put(t.Context(), blocks...); err != nil {
		t.Fatal(err)
	}
	s.going[blocks[1].CID()] = struct{}{}
	h, err := s.Hold(t.Context(), cidsOf(blocks)...)
	if !errors.Is(err, blockstore.ErrNotFound) {
		t.Errorf("hold: %v, %v", h, err)
	}
	if len(s.pins) != 0 {
		t.Errorf("pins are left: %v", s.pins)
	}
}
