package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"

	badger "github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"

	"rialto/blockstore"
)

// Keys of the index: one letter, then the block's hash or the pack's number.
const (
	keyBlock = 'b'
	keyPack  = 'p'
)

// txnEntries bounds a transaction far below what Badger accepts with a memtable of 16 MiB.
const txnEntries = 2048

// errIndex says that the index is not what was written, so that it must be made anew.
var errIndex = errors.New("damaged index")

// index is Badger under rules that keep it harmless: values inline, so that there is no value log to
// collect, and no commit synced, because packs and records show what is missing.
type index struct{ db *badger.DB }

// location says where a block's data is. Packs, pages and tables are counted from the file's start.
type location struct {
	pack  uint32
	page  uint32
	size  uint32
	table uint32 // page of the segment's table
}

func (l location) offset() int64 { return int64(l.page) * pageSize }

// end returns the page behind the block.
func (l location) end() uint32 { return l.page + pages(int(l.size)) }

type entry struct {
	cid  blockstore.CID
	at   location
	sums []byte
}

// record is what the index says about a pack as a whole, in the transactions that change its blocks.
// It is wrong if the index lost some of them.
type record struct {
	end    uint32 // page behind the last segment that was committed
	blocks uint32
	sum    uint64 // of mark over the blocks, modulo 2^64
}

// mark is one block's part in a record's sum. Where the block is counts, too.
func mark(c blockstore.CID, at location) uint64 {
	return binary.BigEndian.Uint64(c[:]) * (2*uint64(at.page) + 1)
}

func (r record) with(c blockstore.CID, at location) record {
	r.blocks++
	r.sum += mark(c, at)
	return r
}

func (r record) without(c blockstore.CID, at location) record {
	r.blocks--
	r.sum -= mark(c, at)
	return r
}

// openIndex opens the index, or makes one. It is errIndex if the index is damaged.
func openIndex(dir string) (index, error) {
	db, err := openBadger(dir)
	if err != nil && strings.Contains(err.Error(), "Create a new file") {
		// A kill while a file was made leaves it empty. The failed Open has mended it.
		db, err = openBadger(dir)
	}
	if err != nil {
		return index{}, damaged(err)
	}
	return index{db}, nil
}

// foreign reports whether an error is the system's, so that a new index would fare no better.
func foreign(err error) bool {
	for _, e := range []error{syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS, syscall.EIO, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM} {
		if errors.Is(err, e) || strings.Contains(err.Error(), e.Error()) {
			return true
		}
	}
	return errors.Is(err, fs.ErrPermission) || strings.Contains(err.Error(), "directory lock")
}

func openBadger(dir string) (db *badger.DB, err error) {
	defer func() {
		// Badger asserts what a damaged file may break.
		if r := recover(); r != nil {
			db, err = nil, fmt.Errorf("%w: %v", errIndex, r)
		}
	}()
	return badger.Open(badger.DefaultOptions(dir).
		WithLogger(nil).
		WithSyncWrites(false).
		WithChecksumVerificationMode(options.OnTableAndBlockRead).
		WithMemTableSize(16 << 20).
		WithNumMemtables(2).
		WithValueLogFileSize(16 << 20).
		WithBlockCacheSize(8 << 20).
		WithIndexCacheSize(8 << 20).
		WithNumCompactors(2).
		WithDetectConflicts(false). // the store has one writer
		WithMetricsEnabled(false))
}

func (x index) close() error {
	if x.db == nil {
		return nil
	}
	return x.db.Close()
}

// sync makes what was committed durable.
func (x index) sync() error { return x.db.Sync() }

func blockKey(c blockstore.CID) []byte { return append([]byte{keyBlock}, c[:]...) }

func packKey(id uint32) []byte { return binary.BigEndian.AppendUint32([]byte{keyPack}, id) }

const locationSize = 16

func (e entry) encode() []byte {
	b := binary.BigEndian.AppendUint32(make([]byte, 0, locationSize+len(e.sums)), e.at.pack)
	b = binary.BigEndian.AppendUint32(b, e.at.page)
	b = binary.BigEndian.AppendUint32(b, e.at.size)
	b = binary.BigEndian.AppendUint32(b, e.at.table)
	return append(b, e.sums...)
}

// decodeEntry reads an entry, which keeps b.
func decodeEntry(key, b []byte) (entry, error) {
	var e entry
	if len(key) != 1+len(e.cid) || len(b) < locationSize {
		return entry{}, errIndex
	}
	copy(e.cid[:], key[1:])
	e.at = location{
		pack:  binary.BigEndian.Uint32(b),
		page:  binary.BigEndian.Uint32(b[4:]),
		size:  binary.BigEndian.Uint32(b[8:]),
		table: binary.BigEndian.Uint32(b[12:]),
	}
	e.sums = b[locationSize:]
	at := e.at
	if at.size == 0 || at.size > blockstore.MaxBlock || at.table == 0 || at.page <= at.table || len(e.sums) != 4*chunks(int(at.size)) {
		return entry{}, errIndex
	}
	return e, nil
}

func (r record) encode() []byte {
	b := binary.BigEndian.AppendUint32(make([]byte, 0, 16), r.end)
	b = binary.BigEndian.AppendUint32(b, r.blocks)
	return binary.BigEndian.AppendUint64(b, r.sum)
}

// find returns what the index says about a block.
func (x index) find(c blockstore.CID) (e entry, found bool, err error) {
	err = x.db.View(func(txn *badger.Txn) error {
		key := blockKey(c)
		item, err := txn.Get(key)
		if errors.Is(err, badger.ErrKeyNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		found = true
		v, err := item.ValueCopy(nil)
		if err != nil {
			return err
		}
		e, err = decodeEntry(key, v)
		return err
	})
	if err != nil {
		return entry{}, false, &blockstore.BlockError{Op: "find", CID: c, Err: damaged(err)}
	}
	return e, found, nil
}

// commit adds and drops blocks, at most txnEntries of them, and writes the records of packs as they
// are then, in one transaction. A record without end is removed.
func (x index) commit(add []entry, drop []blockstore.CID, records map[uint32]record) error {
	return x.db.Update(func(txn *badger.Txn) error {
		for _, e := range add {
			if err := txn.Set(blockKey(e.cid), e.encode()); err != nil {
				return err
			}
		}
		for _, c := range drop {
			if err := txn.Delete(blockKey(c)); err != nil {
				return err
			}
		}
		for id, r := range records {
			if r.end == 0 {
				if err := txn.Delete(packKey(id)); err != nil {
					return err
				}
				continue
			}
			if err := txn.Set(packKey(id), r.encode()); err != nil {
				return err
			}
		}
		return nil
	})
}

// records returns the record of each pack.
func (x index) records() (map[uint32]record, error) {
	records := make(map[uint32]record)
	err := x.scan([]byte{keyPack}, func(k, v []byte) (bool, error) {
		if len(k) != 5 || len(v) != 16 {
			return false, errIndex
		}
		records[binary.BigEndian.Uint32(k[1:])] = record{
			end: binary.BigEndian.Uint32(v), blocks: binary.BigEndian.Uint32(v[4:]), sum: binary.BigEndian.Uint64(v[8:]),
		}
		return true, nil
	})
	return records, err
}

// after returns up to n entries behind a block in the order of their names, from the first on if it is zero.
func (x index) after(c blockstore.CID, n int) ([]entry, error) {
	entries := make([]entry, 0, n)
	from := blockKey(c)
	err := x.scan(from, func(k, v []byte) (bool, error) {
		e, err := decodeEntry(k, append([]byte(nil), v...))
		if err == nil && e.cid != c {
			entries = append(entries, e)
		}
		return len(entries) < n, err
	})
	return entries, err
}

// scan calls fn for the keys of one kind from a key on until it says no. Key and value are fn's only
// until it returns.
func (x index) scan(from []byte, fn func(k, v []byte) (more bool, err error)) error {
	err := x.db.View(func(txn *badger.Txn) error {
		opts := badger.DefaultIteratorOptions
		opts.Prefix = from[:1]
		it := txn.NewIterator(opts)
		defer it.Close()
		for it.Seek(from); it.Valid(); it.Next() {
			more := false
			item := it.Item()
			err := item.Value(func(v []byte) (err error) {
				more, err = fn(item.Key(), v)
				return err
			})
			if err != nil || !more {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return damaged(err)
	}
	return nil
}

// damaged says of what Badger cannot read that it is damage, unless the system is to blame.
func damaged(err error) error {
	if errors.Is(err, errIndex) || foreign(err) {
		return err
	}
	return fmt.Errorf("%w: %w", errIndex, err)
}
