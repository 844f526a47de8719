package disk_test

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"

	"rialto/blockstore"
	"rialto/blockstore/disk"
	"rialto/blockstore/storetest"
)

func cids(blocks []blockstore.Block) []blockstore.CID {
	var names []blockstore.CID
	for _, b := range blocks {
		names = append(names, b.CID())
	}
	return names
}

func TestHold(t *testing.T) {
	s := open(t, disk.Config{Dir: t.TempDir(), PackSize: 20_000})
	defer s.Close()
	blocks := fill(t, s, 10)
	names := cids(blocks)
	place, err := s.Locate(t.Context(), names[3])
	must(t, err)
	h, err := s.Hold(t.Context(), names[3], names[4], names[3])
	must(t, err)
	other, err := s.Hold(t.Context(), names[3])
	must(t, err)
	if got := s.Stats().Pinned; got != 2 {
		t.Errorf("%d blocks pinned", got)
	}

	err = s.Delete(t.Context(), names...)
	pinned, ok := errors.AsType[*disk.PinnedError](err)
	if !ok || !errors.Is(err, disk.ErrPinned) || !slices.Equal(pinned.CIDs, []blockstore.CID{names[3], names[4]}) {
		t.Fatalf("delete: %v", err)
	}
	for i, c := range names {
		if has, err := s.Has(t.Context(), c); err != nil || has != (i == 3 || i == 4) {
			t.Errorf("block %d is here: %v, %v", i, has, err)
		}
	}
	if _, err := s.Sweep(t.Context(), func(blockstore.CID) bool { return false }); err != nil {
		t.Fatal(err)
	}
	wantAll(t, s, blocks[3:5])
	if now, err := s.Locate(t.Context(), names[3]); err != nil || now != place {
		t.Errorf("a held block moved from %+v to %+v, %v", place, now, err)
	}
	if _, err := os.Stat(place.Path); err != nil {
		t.Error(err)
	}

	h.Release()
	h.Release()
	if err := s.Delete(t.Context(), names[3:5]...); !errors.Is(err, disk.ErrPinned) {
		t.Errorf("delete of a block that another hold has: %v", err)
	}
	other.Release()
	if err := s.Delete(t.Context(), names...); err != nil {
		t.Error(err)
	}
	if _, err := s.Get(t.Context(), names[3]); !errors.Is(err, blockstore.ErrNotFound) {
		t.Errorf("get: %v", err)
	}
	if h, err := s.Hold(t.Context(), names[3]); !errors.Is(err, blockstore.ErrNotFound) || h != nil {
		t.Errorf("hold of an absent block: %v, %v", h, err)
	}
	if got := s.Stats().Pinned; got != 0 {
		t.Errorf("%d blocks pinned", got)
	}
}

// Hold all or none, while others delete and put: a hold that succeeded is true.
func TestHoldRace(t *testing.T) {
	s := open(t, disk.Config{Dir: t.TempDir()})
	defer s.Close()
	blocks := fill(t, s, 4)
	names := cids(blocks)
	var holders, deleters sync.WaitGroup
	done := make(chan struct{})
	held := 0
	holders.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			h, err := s.Hold(t.Context(), names...)
			if errors.Is(err, blockstore.ErrNotFound) {
				continue
			}
			if err != nil {
				t.Error(err)
				return
			}
			held++
			for _, c := range names {
				if _, err := s.Get(t.Context(), c); err != nil {
					t.Error("a held block: ", err)
				}
			}
			h.Release()
		}
	})
	for w := range 2 {
		deleters.Go(func() {
			for i := range 100 {
				b := blocks[w*2+i%2]
				if err := s.Delete(t.Context(), b.CID()); err != nil && !errors.Is(err, disk.ErrPinned) {
					t.Error(err)
				}
				if err := s.Put(t.Context(), b); err != nil {
					t.Error(err)
				}
			}
		})
	}
	deleters.Wait()
	close(done)
	holders.Wait()
	t.Logf("%d holds", held)
}

func TestSweepAndEach(t *testing.T) {
	s := open(t, disk.Config{Dir: t.TempDir(), PackSize: 1 << 20})
	defer s.Close()
	var blocks []blockstore.Block
	for i := range 3000 {
		blocks = append(blocks, storetest.Block(t, fmt.Sprint("sweep", i), 100+i))
	}
	must(t, s.Put(t.Context(), blocks...))
	listed := make(map[blockstore.CID]int)
	for ref, err := range s.Each(t.Context()) {
		must(t, err)
		listed[ref.CID] = ref.Size
		if len(listed)%500 == 0 { // the store can be used meanwhile
			must(t, s.Put(t.Context(), blocks[0]))
		}
	}
	for _, b := range blocks {
		if listed[b.CID()] != b.Size() {
			t.Fatalf("%v listed with %d bytes, want %d", b.CID(), listed[b.CID()], b.Size())
		}
	}
	if len(listed) != len(blocks) {
		t.Errorf("%d blocks listed", len(listed))
	}

	keep := make(map[blockstore.CID]bool)
	for _, b := range blocks[:1000] {
		keep[b.CID()] = true
	}
	before := s.Stats().Bytes
	late := storetest.Block(t, "late", 5000)
	freed, err := s.Sweep(t.Context(), func(c blockstore.CID) bool {
		// What comes in meanwhile is nobody's yet, and stays.
		if err := s.Put(t.Context(), late); err != nil {
			t.Error(err)
		}
		return keep[c]
	})
	must(t, err)
	if got := before + 3*4096 - s.Stats().Bytes; freed != got {
		t.Errorf("freed %d, says %d", got, freed)
	}
	wantAll(t, s, append(blocks[:1000:1000], late))
	for _, b := range blocks[1000:] {
		if has, err := s.Has(t.Context(), b.CID()); has || err != nil {
			t.Fatalf("a swept block is here: %v, %v", has, err)
		}
	}
	for range s.Each(t.Context()) {
		break
	}
}
