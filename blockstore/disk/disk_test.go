package disk_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"rialto/blockstore"
	"rialto/blockstore/disk"
	"rialto/blockstore/storetest"
)

func open(tb testing.TB, cfg disk.Config) *disk.Store {
	tb.Helper()
	if cfg.Reserve == 0 {
		cfg.Reserve = -1
	}
	s, err := disk.Open(tb.Context(), cfg)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func TestStore(t *testing.T) {
	for _, size := range []int64{0, 32 << 10} {
		t.Run(fmt.Sprint("pack size ", size), func(t *testing.T) {
			storetest.Run(t, func(t *testing.T) blockstore.Store {
				t.Helper()
				s := open(t, disk.Config{Dir: t.TempDir(), PackSize: size})
				t.Cleanup(func() { s.Close() })
				return s
			})
		})
	}
}

// fill puts n blocks and returns them.
func fill(t *testing.T, s *disk.Store, n int) []blockstore.Block {
	t.Helper()
	var blocks []blockstore.Block
	for i := range n {
		blocks = append(blocks, storetest.Block(t, fmt.Sprint("fill", i), 5000+i))
	}
	if err := s.Put(t.Context(), blocks...); err != nil {
		t.Fatal(err)
	}
	return blocks
}

func wantAll(t *testing.T, s *disk.Store, blocks []blockstore.Block) {
	t.Helper()
	for _, b := range blocks {
		if _, err := s.Get(t.Context(), b.CID()); err != nil {
			t.Error(err)
		}
	}
}

func TestReopen(t *testing.T) {
	dir := t.TempDir()
	s := open(t, disk.Config{Dir: dir, PackSize: 50_000})
	blocks := fill(t, s, 20)
	if err := s.Delete(t.Context(), blocks[3].CID(), blocks[7].CID()); err != nil {
		t.Fatal(err)
	}
	blocks = slices.Delete(slices.Delete(blocks, 7, 8), 3, 4)
	before := s.Stats()
	s.Close()
	var log bytes.Buffer
	s = open(t, disk.Config{Dir: dir, PackSize: 50_000, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	defer s.Close()
	wantAll(t, s, blocks)
	if got := s.Stats(); got != before {
		t.Errorf("stats after reopening = %+v, want %+v", got, before)
	}
	if log.Len() > 0 {
		t.Errorf("a store that was closed had to be mended: %s", &log)
	}
}

func TestIndexIsRebuiltFromPacks(t *testing.T) {
	dir := t.TempDir()
	s := open(t, disk.Config{Dir: dir, PackSize: 20000})
	blocks := fill(t, s, 20)
	if err := s.Delete(t.Context(), blocks[0].CID()); err != nil {
		t.Fatal(err)
	}
	s.Close()
	if err := os.RemoveAll(filepath.Join(dir, "index")); err != nil {
		t.Fatal(err)
	}
	s = open(t, disk.Config{Dir: dir})
	defer s.Close()
	wantAll(t, s, blocks[1:])
	if ok, _ := s.Has(t.Context(), blocks[0].CID()); ok {
		t.Error("a deleted block came back")
	}
}

func TestDamage(t *testing.T) {
	packFile := func(t *testing.T, dir string) string {
		t.Helper()
		names, err := filepath.Glob(filepath.Join(dir, "packs", "*.pack"))
		if err != nil || len(names) != 1 {
			t.Fatal(names, err)
		}
		return names[0]
	}
	t.Run("flipped bit", func(t *testing.T) {
		dir := t.TempDir()
		s := open(t, disk.Config{Dir: dir})
		defer s.Close()
		blocks := fill(t, s, 3)
		f, err := os.OpenFile(packFile(t, dir), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		place, err := s.Locate(t.Context(), blocks[0].CID())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte{0xff}, place.Offset+100); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Get(t.Context(), blocks[0].CID()); !errors.Is(err, blockstore.ErrMismatch) {
			t.Errorf("get of a damaged block: %v", err)
		}
		if _, err := s.Get(t.Context(), blocks[0].CID()); !errors.Is(err, blockstore.ErrNotFound) {
			t.Errorf("second get of a damaged block: %v", err)
		}
		if err := s.Put(t.Context(), blocks[0]); err != nil {
			t.Fatal(err)
		}
		wantAll(t, s, blocks)
	})
	t.Run("lost tail", func(t *testing.T) {
		dir := t.TempDir()
		s := open(t, disk.Config{Dir: dir})
		blocks := fill(t, s, 3)
		s.Close()
		if err := os.Truncate(packFile(t, dir), 4*4096); err != nil {
			t.Fatal(err)
		}
		s = open(t, disk.Config{Dir: dir})
		defer s.Close()
		wantAll(t, s, blocks[:1])
		for _, b := range blocks[1:] {
			if ok, err := s.Has(t.Context(), b.CID()); ok || err != nil {
				t.Errorf("has a block without data: %v, %v", ok, err)
			}
		}
		if err := s.Put(t.Context(), blocks...); err != nil {
			t.Fatal(err)
		}
		wantAll(t, s, blocks)
	})
	t.Run("torn tail", func(t *testing.T) {
		dir := t.TempDir()
		s := open(t, disk.Config{Dir: dir})
		blocks := fill(t, s, 3)
		s.Close()
		f, err := os.OpenFile(packFile(t, dir), os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			t.Fatal(err)
		}
		f.WriteString("rialto table 2\n\x00half a table")
		f.Close()
		s = open(t, disk.Config{Dir: dir})
		defer s.Close()
		more := storetest.Block(t, "more", 100)
		if err := s.Put(t.Context(), more); err != nil {
			t.Fatal(err)
		}
		wantAll(t, s, append(blocks, more))
	})
}

func TestQuota(t *testing.T) {
	s := open(t, disk.Config{Dir: t.TempDir(), Quota: 180_000})
	defer s.Close()
	blocks := fill(t, s, 15)
	big := storetest.Block(t, "big", 50_000)
	if err := s.Put(t.Context(), big); !errors.Is(err, blockstore.ErrNoSpace) {
		t.Fatalf("put over the quota: %v", err)
	}
	wantAll(t, s, blocks)
	for _, b := range blocks {
		if err := s.Delete(t.Context(), b.CID()); err != nil {
			t.Fatal(err)
		}
	}
	if got := s.Stats().Bytes; got != 4096 { // the pack's header
		t.Errorf("%d bytes used by nothing", got)
	}
	if err := s.Put(t.Context(), big); err != nil {
		t.Errorf("put after deleting: %v", err)
	}
}

func TestReserve(t *testing.T) {
	s := open(t, disk.Config{Dir: t.TempDir(), Reserve: 1 << 60})
	defer s.Close()
	err := s.Put(t.Context(), storetest.Block(t, "x", 10))
	if !errors.Is(err, blockstore.ErrNoSpace) {
		t.Errorf("put into the reserve: %v", err)
	}
}

func TestOneProcess(t *testing.T) {
	dir := t.TempDir()
	s := open(t, disk.Config{Dir: dir})
	defer s.Close()
	if other, err := disk.Open(t.Context(), disk.Config{Dir: dir}); err == nil {
		other.Close()
		t.Error("opened twice")
	}
}
