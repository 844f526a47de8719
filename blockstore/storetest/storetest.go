// Package storetest holds every blockstore.Store to the interface's promises.
package storetest

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"testing"

	"rialto/blockstore"
)

// Run tests the stores that open makes. Each call of open returns an empty store.
func Run(t *testing.T, open func(t *testing.T) blockstore.Store) {
	t.Helper()
	t.Run("put then get", func(t *testing.T) { putGet(t, open(t)) })
	t.Run("absent", func(t *testing.T) { absent(t, open(t)) })
	t.Run("put twice", func(t *testing.T) { putTwice(t, open(t)) })
	t.Run("delete", func(t *testing.T) { deletes(t, open(t)) })
	t.Run("no block", func(t *testing.T) { noBlock(t, open(t)) })
	t.Run("concurrent", func(t *testing.T) { concurrent(t, open(t)) })
}

// Block returns a block of n bytes that depend on seed.
func Block(tb testing.TB, seed string, n int) blockstore.Block {
	tb.Helper()
	pattern := []byte(seed + "\n")
	b, err := blockstore.NewBlock(bytes.Repeat(pattern, n/len(pattern)+1)[:n])
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func putGet(t *testing.T, s blockstore.Store) {
	t.Helper()
	var blocks []blockstore.Block
	for i, n := range []int{1, 2, 4095, 4096, 4097, blockstore.MaxBlock} {
		blocks = append(blocks, Block(t, fmt.Sprint("block", i), n))
	}
	if err := s.Put(t.Context(), blocks...); err != nil {
		t.Fatal(err)
	}
	for _, b := range blocks {
		got, err := s.Get(t.Context(), b.CID())
		if err != nil {
			t.Fatal(err)
		}
		if got.CID() != b.CID() || !bytes.Equal(got.Data(), b.Data()) {
			t.Errorf("get %v: other bytes", b.CID())
		}
		if n, err := s.Size(t.Context(), b.CID()); err != nil || n != b.Size() {
			t.Errorf("size = %d, %v; want %d", n, err, b.Size())
		}
		if ok, err := s.Has(t.Context(), b.CID()); err != nil || !ok {
			t.Errorf("has = %v, %v", ok, err)
		}
	}
}

func absent(t *testing.T, s blockstore.Store) {
	t.Helper()
	c := Block(t, "absent", 100).CID()
	if ok, err := s.Has(t.Context(), c); err != nil || ok {
		t.Errorf("has = %v, %v", ok, err)
	}
	if _, err := s.Get(t.Context(), c); !errors.Is(err, blockstore.ErrNotFound) {
		t.Errorf("get: %v", err)
	}
	if _, err := s.Size(t.Context(), c); !errors.Is(err, blockstore.ErrNotFound) {
		t.Errorf("size: %v", err)
	}
	if err := s.Delete(t.Context(), c); err != nil {
		t.Errorf("delete: %v", err)
	}
}

func putTwice(t *testing.T, s blockstore.Store) {
	t.Helper()
	b := Block(t, "twice", 5000)
	for range 2 {
		if err := s.Put(t.Context(), b, b); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := s.Get(t.Context(), b.CID()); err != nil || !bytes.Equal(got.Data(), b.Data()) {
		t.Errorf("get: %v", err)
	}
}

func deletes(t *testing.T, s blockstore.Store) {
	t.Helper()
	keep, drop := Block(t, "keep", 9000), Block(t, "drop", 9000)
	if err := s.Put(t.Context(), keep, drop); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(t.Context(), drop.CID()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(t.Context(), drop.CID()); !errors.Is(err, blockstore.ErrNotFound) {
		t.Errorf("get of a deleted block: %v", err)
	}
	if _, err := s.Get(t.Context(), keep.CID()); err != nil {
		t.Errorf("get of its neighbour: %v", err)
	}
	if err := s.Put(t.Context(), drop); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(t.Context(), drop.CID()); err != nil {
		t.Errorf("get of a block put again: %v", err)
	}
}

func noBlock(t *testing.T, s blockstore.Store) {
	t.Helper()
	if err := s.Put(t.Context(), blockstore.Block{}); !errors.Is(err, blockstore.ErrSize) {
		t.Errorf("put of the zero block: %v", err)
	}
	if err := s.Put(t.Context()); err != nil {
		t.Errorf("put of nothing: %v", err)
	}
}

func concurrent(t *testing.T, s blockstore.Store) {
	t.Helper()
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 25 {
				b := Block(t, fmt.Sprint("shared", (w+i)%10), 3000)
				if err := s.Put(t.Context(), b); err != nil {
					t.Error(err)
				}
				_, err := s.Get(t.Context(), b.CID())
				if err != nil && !errors.Is(err, blockstore.ErrNotFound) {
					t.Error(err)
				}
				if i%5 == 0 {
					if err := s.Delete(t.Context(), b.CID()); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
}
