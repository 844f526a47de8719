// Package storetest holds every blockstore.Store to the interface's promises.
package storetest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"

	"rialto/blockstore"
)

// Run tests the stores that open makes. Each call of open returns an empty store.
func Run(t *testing.T, open func(t *testing.T) blockstore.Store) {
	t.Helper()
	t.Run("put then get", func(t *testing.T) { putGet(t, open(t)) })
	t.Run("absent", func(t *testing.T) { absent(t, open(t)) })
	t.Run("ranges", func(t *testing.T) { ranges(t, open(t)) })
	t.Run("large batch", func(t *testing.T) { largeBatch(t, open(t)) })
	t.Run("put twice", func(t *testing.T) { putTwice(t, open(t)) })
	t.Run("delete", func(t *testing.T) { deletes(t, open(t)) })
	t.Run("no block", func(t *testing.T) { noBlock(t, open(t)) })
	t.Run("concurrent", func(t *testing.T) { concurrent(t, open(t)) })
	t.Run("get while deleted", func(t *testing.T) { getWhileDeleted(t, open(t)) })
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
	for _, off := range []int{-1, 0, 50, blockstore.MaxBlock + 1} {
		if n, err := s.ReadAt(t.Context(), c, make([]byte, 10), off); n != 0 || !errors.Is(err, blockstore.ErrNotFound) {
			t.Errorf("read at %d: %d, %v", off, n, err)
		}
	}
	if err := s.Delete(t.Context(), c); err != nil {
		t.Errorf("delete: %v", err)
	}
}

// ranges compares ReadAt with io.ReaderAt as the standard library has it.
func ranges(t *testing.T, s blockstore.Store) {
	t.Helper()
	const chunk = 64 << 10
	random := rand.New(rand.NewPCG(1, 2))
	for _, size := range []int{1, 4096, chunk - 1, chunk, chunk + 1, 3*chunk + 500, blockstore.MaxBlock} {
		b := Block(t, fmt.Sprint("range", size), size)
		if err := s.Put(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		same := func(n, off int) {
			t.Helper()
			got, want := make([]byte, n), make([]byte, n)
			gotN, gotErr := s.ReadAt(t.Context(), b.CID(), got, off)
			wantN, wantErr := bytes.NewReader(b.Data()).ReadAt(want, int64(off))
			if gotN != wantN || !errors.Is(gotErr, wantErr) || !bytes.Equal(got[:max(gotN, 0)], want[:wantN]) {
				t.Errorf("%d bytes of %d at %d: %d, %v; want %d, %v", n, size, off, gotN, gotErr, wantN, wantErr)
			}
		}
		edges := []int{0, 1, chunk - 1, chunk, chunk + 1, 2 * chunk, size - 1, size, size + 1}
		for _, off := range edges {
			for _, n := range edges {
				same(n, off)
			}
		}
		for range 50 {
			same(random.IntN(size+10), random.IntN(size+10))
		}
		if n, err := s.ReadAt(t.Context(), b.CID(), make([]byte, 10), -1); n != 0 || !errors.Is(err, blockstore.ErrOffset) {
			t.Errorf("read before the start: %d, %v", n, err)
		}
		if n, err := s.ReadAt(t.Context(), b.CID(), nil, size); n != 0 || !errors.Is(err, io.EOF) {
			t.Errorf("read of nothing at the end: %d, %v", n, err)
		}
	}
}

// largeBatch puts more blocks at once than any table or transaction of a store is likely to take.
func largeBatch(t *testing.T, s blockstore.Store) {
	t.Helper()
	var blocks []blockstore.Block
	var cids []blockstore.CID
	for i := range 5000 {
		b := Block(t, fmt.Sprint("batch", i), 100+i%3)
		blocks, cids = append(blocks, b), append(cids, b.CID())
	}
	blocks = append(blocks, Block(t, "large one", blockstore.MaxBlock), blocks[7])
	if err := s.Put(t.Context(), blocks...); err != nil {
		t.Fatal(err)
	}
	for _, b := range blocks {
		if got, err := s.Get(t.Context(), b.CID()); err != nil || !bytes.Equal(got.Data(), b.Data()) {
			t.Fatalf("get: %v", err)
		}
	}
	if err := s.Delete(t.Context(), cids...); err != nil {
		t.Fatal(err)
	}
	for _, b := range blocks {
		if ok, err := s.Has(t.Context(), b.CID()); err != nil || ok != (b.Size() == blockstore.MaxBlock) {
			t.Fatalf("has after the delete = %v, %v", ok, err)
		}
	}
}

// getWhileDeleted reads blocks that others delete and put: what is returned is right or not here.
func getWhileDeleted(t *testing.T, s blockstore.Store) {
	t.Helper()
	var blocks []blockstore.Block
	for i := range 8 {
		blocks = append(blocks, Block(t, fmt.Sprint("moving", i), 150_000))
	}
	var readers, writers sync.WaitGroup
	done := make(chan struct{})
	for range 2 {
		readers.Go(func() {
			p := make([]byte, 70_000)
			for i := 0; ; i++ {
				select {
				case <-done:
					return
				default:
				}
				b := blocks[i%len(blocks)]
				if _, err := s.Get(t.Context(), b.CID()); err != nil && !errors.Is(err, blockstore.ErrNotFound) {
					t.Error("get: ", err)
				}
				n, err := s.ReadAt(t.Context(), b.CID(), p, 50_000)
				if err == nil && !bytes.Equal(p[:n], b.Data()[50_000:120_000]) {
					t.Error("read: wrong bytes")
				}
				if err != nil && !errors.Is(err, blockstore.ErrNotFound) {
					t.Error("read: ", err)
				}
			}
		})
	}
	for w := range 2 {
		writers.Go(func() {
			for i := range 60 {
				if err := s.Put(t.Context(), blocks[w*4:w*4+4]...); err != nil {
					t.Error("put: ", err)
				}
				if err := s.Delete(t.Context(), blocks[w*4+i%4].CID(), blocks[w*4].CID()); err != nil {
					t.Error("delete: ", err)
				}
			}
		})
	}
	writers.Wait()
	close(done)
	readers.Wait()
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
	if ok, err := s.Has(t.Context(), drop.CID()); ok || err != nil {
		t.Errorf("has a deleted block: %v, %v", ok, err)
	}
	if _, err := s.Size(t.Context(), drop.CID()); !errors.Is(err, blockstore.ErrNotFound) {
		t.Errorf("size of a deleted block: %v", err)
	}
	if _, err := s.ReadAt(t.Context(), drop.CID(), make([]byte, 1), 0); !errors.Is(err, blockstore.ErrNotFound) {
		t.Errorf("read of a deleted block: %v", err)
	}
	if err := s.Delete(t.Context(), drop.CID(), drop.CID()); err != nil {
		t.Errorf("delete of a deleted block: %v", err)
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
