package disk_test

import (
	"bytes"
	"errors"
	"os"
	"testing"

	"rialto/blockstore"
	"rialto/blockstore/disk"
	"rialto/blockstore/storetest"
)

// A held block that is damaged stays where it is, and is right again after its repair.
func TestRepair(t *testing.T) {
	s, err := disk.Open(t.Context(), disk.Config{Dir: t.TempDir(), Reserve: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	b := storetest.Block(t, "held", 200_000)
	if err := s.Repair(t.Context(), b); !errors.Is(err, blockstore.ErrNotFound) {
		t.Errorf("repair of what is not here: %v", err)
	}
	if err := s.Put(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	h, err := s.Hold(t.Context(), b.CID())
	if err != nil {
		t.Fatal(err)
	}
	defer h.Release()
	at, err := s.Locate(t.Context(), b.CID())
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(at.Path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("damage"), at.Offset+70_000); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(t.Context(), b.CID()); !errors.Is(err, blockstore.ErrMismatch) {
		t.Fatalf("get of damage: %v", err)
	}
	if err := s.Repair(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	got, err := s.Get(t.Context(), b.CID())
	if err != nil || !bytes.Equal(got.Data(), b.Data()) {
		t.Errorf("get after the repair: %v", err)
	}
	if now, err := s.Locate(t.Context(), b.CID()); err != nil || now != at {
		t.Errorf("it moved from %v to %v, %v", at, now, err)
	}
}
