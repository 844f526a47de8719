package disk

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"rialto/blockstore"
)

func testOpen(tb testing.TB, cfg Config) *Store {
	tb.Helper()
	cfg.Reserve = -1
	s, err := Open(tb.Context(), cfg)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func testBlock(tb testing.TB, seed string, n int) blockstore.Block {
	tb.Helper()
	var p []byte
	for i := 0; len(p) < n; i++ {
		sum := sha256.Sum256(fmt.Appendf(nil, "%s %d", seed, i))
		p = append(p, sum[:]...)
	}
	b, err := blockstore.NewBlock(p[:n])
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// FuzzTable holds the decoder to one encoding for each table, and to what a table may say.
func FuzzTable(f *testing.F) {
	full := table{pack: 3, page: 9}
	for room := tableRoom; room >= descriptorSize(1); room -= descriptorSize(1) {
		full.blocks = append(full.blocks, descriptor{cid: blockstore.Sum([]byte{byte(room)}), size: 1, sums: sums([]byte{1})})
	}
	large := table{pack: 1, page: 1, salt: [saltSize]byte{1, 2, 3}}
	for i := range 3 {
		p := bytes.Repeat([]byte{byte(i)}, blockstore.MaxBlock-i*chunkSize-i)
		large.blocks = append(large.blocks, descriptor{cid: blockstore.Sum(p), size: len(p), sums: sums(p)})
	}
	for _, t := range []table{full, large, {blocks: full.blocks[:1]}} {
		f.Add(t.encode()[:pageSize-4])
	}
	trailing := table{pack: 1, page: 1, blocks: full.blocks[:2]}.encode()
	trailing[3000] = 1
	f.Add(trailing[:pageSize-4])
	f.Add(bytes.Repeat([]byte{0xff}, pageSize-4))
	f.Add([]byte(tableMagic))
	f.Fuzz(func(t *testing.T, p []byte) {
		page := seal(append(bytes.Clone(p[:min(len(p), pageSize-4)]), make([]byte, pageSize)...))
		got, err := decodeTable(page)
		if err != nil {
			return
		}
		if !bytes.Equal(got.encode(), page) {
			t.Error("a second encoding of a table")
		}
		page[pageSize-1] ^= 1
		if _, err := decodeTable(page); err == nil {
			t.Error("a page with another checksum decodes")
		}
		if end := uint64(got.page) + 1 + uint64(len(got.blocks))*256; uint64(got.end()) > end {
			t.Errorf("%d blocks from page %d to %d", len(got.blocks), got.page, got.end())
		}
		for i, b := range got.blocks {
			if b.size <= 0 || b.size > blockstore.MaxBlock || len(b.sums) != 4*chunks(b.size) || b.cid.IsZero() {
				t.Errorf("block %d: %+v", i, b)
			}
		}
	})
}

// torn is a store with one pack, of which the last batch is to be damaged: three blocks in three pages and a table.
type torn struct {
	store       *Store
	pack        *pack
	whole       []byte
	first, last []blockstore.Block
	before      record
	table       table // of the last batch
}

// unsynced spares the disk of a test that asks for thousands of syncs.
type unsynced struct{ file }

func (unsynced) datasync() error { return nil }

func newTorn(t *testing.T) *torn {
	t.Helper()
	s := testOpen(t, Config{Dir: t.TempDir(), open: func(name string, flag int) (file, error) {
		f, err := openFile(name, flag)
		return unsynced{f}, err
	}})
	t.Cleanup(func() { s.Close() })
	x := &torn{store: s}
	for i := range 3 {
		x.first = append(x.first, testBlock(t, fmt.Sprint("first", i), 5000))
		x.last = append(x.last, testBlock(t, fmt.Sprint("last", i), 1+i*2100))
	}
	if err := s.Put(t.Context(), x.first...); err != nil {
		t.Fatal(err)
	}
	x.pack = s.packs[1]
	x.before = x.pack.record
	if err := s.Put(t.Context(), x.last...); err != nil {
		t.Fatal(err)
	}
	var err error
	if x.whole, err = os.ReadFile(packPath(s.cfg.Dir, 1)); err != nil {
		t.Fatal(err)
	}
	if x.table, err = decodeTable(x.whole[x.before.end*pageSize:][:pageSize]); err != nil {
		t.Fatal(err)
	}
	return x
}

// settle gives the pack other bytes and an index that knows only the first batch, and lets Open's code
// make them agree. It returns which of the last batch's blocks are here then.
func (x *torn) settle(t *testing.T, data []byte) []bool {
	t.Helper()
	s := x.store
	var last []blockstore.CID
	for _, b := range x.last {
		last = append(last, b.CID())
	}
	if err := s.index.commit(nil, last, map[uint32]record{1: x.before}); err != nil {
		t.Fatal(err)
	}
	x.pack.record = x.before
	f := x.pack.file
	if err := errors.Join(f.Truncate(0), f.writev([][]byte{data}, 0), s.settle(t.Context(), x.pack)); err != nil {
		t.Fatal(err)
	}
	for _, b := range x.first {
		if _, err := s.Get(t.Context(), b.CID()); err != nil {
			t.Fatal(err)
		}
	}
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() != int64(x.pack.record.end)*pageSize {
		t.Fatalf("pack of %d bytes ends at page %d", info.Size(), x.pack.record.end)
	}
	here := make([]bool, len(x.last))
	for i, b := range x.last {
		switch got, err := s.Get(t.Context(), b.CID()); {
		case err == nil:
			here[i] = bytes.Equal(got.Data(), b.Data())
		case !errors.Is(err, blockstore.ErrNotFound):
			t.Fatal(err)
		}
	}
	return here
}

// Torn at every byte, the last batch has the blocks that are whole, and no other.
func TestTornTail(t *testing.T) {
	x := newTorn(t)
	start := int(x.before.end) * pageSize
	entries := x.table.entries()
	for cut := start; cut <= len(x.whole); cut++ {
		for i, here := range x.settle(t, x.whole[:cut]) {
			end := int(entries[i].at.offset()) + int(entries[i].at.size)
			if want := cut >= end; here != want {
				t.Fatalf("torn at %d of %d: block %d is here: %v", cut-start, len(x.whole)-start, i, here)
			}
		}
		if cut == start+2*pageSize+100 {
			// What comes next must not disturb what was saved.
			if err := x.store.Put(t.Context(), x.last[2], testBlock(t, "next", 100)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// The disk may write pages in any order: one that is missing costs what is in it.
func TestTornMiddle(t *testing.T) {
	x := newTorn(t)
	entries := x.table.entries()
	for page := x.before.end; page < x.table.end(); page++ {
		data := bytes.Clone(x.whole)
		clear(data[page*pageSize:][:pageSize])
		for i, here := range x.settle(t, data) {
			at := entries[i].at
			if want := page != x.table.page && (page < at.page || page >= at.end()); here != want {
				t.Errorf("page %d lost: block %d is here: %v", page-x.before.end, i, here)
			}
		}
	}
}

// A damaged table hides its own blocks from an index that is made anew, and no other's; a table that
// somebody put into a block is no table.
func TestDamagedTable(t *testing.T) {
	dir := t.TempDir()
	s := testOpen(t, Config{Dir: dir})
	hidden := testBlock(t, "hidden", 300)
	forged := table{pack: 1, page: 3, blocks: []descriptor{{cid: hidden.CID(), size: hidden.Size(), sums: sums(hidden.Data())}}}
	poison := append(forged.encode(), hidden.Data()...)
	first, err := blockstore.NewBlock(append(make([]byte, pageSize), poison...))
	if err != nil {
		t.Fatal(err)
	}
	second := testBlock(t, "second", 70_000)
	for _, b := range []blockstore.Block{first, second} {
		if err := s.Put(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	s.Close()
	damage := func(off int64) {
		t.Helper()
		f, err := os.OpenFile(packPath(dir, 1), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteAt([]byte{0xa5}, off); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(filepath.Join(dir, "index")); err != nil {
			t.Fatal(err)
		}
	}
	has := func(s *Store, c blockstore.CID) bool {
		t.Helper()
		ok, err := s.Has(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		return ok
	}
	damage(20) // the header: its salt is in the first table, too
	s = testOpen(t, Config{Dir: dir})
	if !has(s, first.CID()) || !has(s, second.CID()) {
		t.Error("a damaged header hides blocks")
	}
	s.Close()
	f, err := os.OpenFile(packPath(dir, 1), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	tab := make([]byte, pageSize)
	if _, err := f.ReadAt(tab, pageSize); err != nil {
		t.Fatal(err)
	}
	decoded, err := decodeTable(tab)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(header(1, decoded.salt), 0); err != nil {
		t.Fatal(err)
	}
	f.Close()
	damage(pageSize + 50) // the first table
	s = testOpen(t, Config{Dir: dir})
	defer s.Close()
	if has(s, first.CID()) || has(s, hidden.CID()) || !has(s, second.CID()) {
		t.Errorf("behind a damaged table: first %v, hidden %v, second %v; want only the second",
			has(s, first.CID()), has(s, hidden.CID()), has(s, second.CID()))
	}
}

func TestOldFormat(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "packs"), 0o700); err != nil {
		t.Fatal(err)
	}
	name := packPath(dir, 1)
	if err := os.WriteFile(name, []byte("RBLK\x00\x00\x00\x05and so on"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := Open(t.Context(), Config{Dir: dir})
	if !errors.Is(err, ErrFormat) {
		t.Fatalf("open: %v, %v", s, err)
	}
	if !strings.Contains(err.Error(), dir) {
		t.Errorf("%v does not say where", err)
	}
	if _, err := os.Stat(name); err != nil {
		t.Errorf("the old pack is gone: %v", err)
	}
}
