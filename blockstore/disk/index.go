package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"

	badger "github.com/dgraph-io/badger/v4"

	"rialto/blockstore"
)

// Keys of the index: one letter, then the block's hash or the pack's number.
const (
	keyBlock = 'b'
	keyPack  = 'p'
)

// txnEntries bounds a transaction far below what Badger accepts with a memtable of 16 MiB.
const txnEntries = 4096

// index is Badger under rules that keep it harmless: values inline, so that there is no value log to
// collect, and every commit synced.
type index struct{ db *badger.DB }

type entry struct {
	cid blockstore.CID
	at  location
}

// openIndex opens the index. One that cannot be opened is made anew: the packs hold all it said.
func openIndex(dir string, log *slog.Logger) (index, error) {
	opts := badger.DefaultOptions(dir).
		WithLogger(nil).
		WithSyncWrites(true).
		WithMemTableSize(16 << 20).
		WithNumMemtables(2).
		WithValueLogFileSize(16 << 20).
		WithBlockCacheSize(8 << 20).
		WithIndexCacheSize(8 << 20).
		WithNumCompactors(2).
		WithDetectConflicts(false). // the store has one writer
		WithMetricsEnabled(false)
	db, err := badger.Open(opts)
	if err != nil && strings.Contains(err.Error(), "Create a new file") {
		// A kill while a file was made leaves it empty. The failed Open has mended it.
		db, err = badger.Open(opts)
	}
	if err != nil && !errors.Is(err, os.ErrPermission) && !strings.Contains(err.Error(), "directory lock") {
		log.Warn("index of blocks is made anew from the packs", "dir", dir, "err", err)
		if err := os.RemoveAll(dir); err != nil {
			return index{}, err
		}
		db, err = badger.Open(opts)
	}
	return index{db}, err
}

func (x index) close() error {
	if x.db == nil {
		return nil
	}
	return x.db.Close()
}

func blockKey(c blockstore.CID) []byte { return append([]byte{keyBlock}, c[:]...) }

func packKey(id uint32) []byte { return binary.BigEndian.AppendUint32([]byte{keyPack}, id) }

func encodeLocation(at location) []byte {
	b := binary.BigEndian.AppendUint32(make([]byte, 0, 16), at.pack)
	b = binary.BigEndian.AppendUint64(b, uint64(at.offset)) //nolint:gosec // never negative
	return binary.BigEndian.AppendUint32(b, at.size)
}

func decodeLocation(b []byte) (location, error) {
	if len(b) != 16 {
		return location{}, fmt.Errorf("index value of %d bytes", len(b))
	}
	at := location{
		pack:   binary.BigEndian.Uint32(b),
		offset: int64(binary.BigEndian.Uint64(b[4:])), //nolint:gosec // checked below
		size:   binary.BigEndian.Uint32(b[12:]),
	}
	if at.offset < recordHeader || at.size == 0 || at.size > blockstore.MaxBlock {
		return location{}, errors.New("index value out of range")
	}
	return at, nil
}

func (x index) find(c blockstore.CID) (at location, found bool, err error) {
	err = x.db.View(func(txn *badger.Txn) error {
		item, err := txn.Get(blockKey(c))
		if errors.Is(err, badger.ErrKeyNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		found = true
		return item.Value(func(v []byte) (err error) {
			at, err = decodeLocation(v)
			return err
		})
	})
	if err != nil {
		return location{}, false, &blockstore.BlockError{Op: "find", CID: c, Err: err}
	}
	return at, found, nil
}

// add commits entries together with the lengths of the packs that they are in. Their data is on disk.
func (x index) add(entries []entry, ends map[uint32]int64) error {
	for first := true; first || len(entries) > 0; first = false {
		n := min(len(entries), txnEntries)
		err := x.db.Update(func(txn *badger.Txn) error {
			for id, end := range ends {
				//nolint:gosec // never negative
				if err := txn.Set(packKey(id), binary.BigEndian.AppendUint64(nil, uint64(end))); err != nil {
					return err
				}
			}
			for _, e := range entries[:n] {
				if err := txn.Set(blockKey(e.cid), encodeLocation(e.at)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		entries = entries[n:]
	}
	return nil
}

// drop removes the entries of blocks and of packs.
func (x index) drop(cids []blockstore.CID, packs ...uint32) error {
	keys := make([][]byte, 0, len(cids)+len(packs))
	for _, c := range cids {
		keys = append(keys, blockKey(c))
	}
	for _, id := range packs {
		keys = append(keys, packKey(id))
	}
	for len(keys) > 0 {
		n := min(len(keys), txnEntries)
		err := x.db.Update(func(txn *badger.Txn) error {
			for _, k := range keys[:n] {
				if err := txn.Delete(k); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		keys = keys[n:]
	}
	return nil
}

// ends returns the committed length of each pack.
func (x index) ends() (map[uint32]int64, error) {
	ends := make(map[uint32]int64)
	err := x.each(keyPack, func(k, v []byte) error {
		if len(k) != 4 || len(v) != 8 {
			return errors.New("bad pack entry in the index")
		}
		ends[binary.BigEndian.Uint32(k)] = int64(binary.BigEndian.Uint64(v)) //nolint:gosec // as it was written
		return nil
	})
	return ends, err
}

// blocks calls fn for each block; an entry that cannot be read has a zero location.
func (x index) blocks(fn func(blockstore.CID, location)) error {
	return x.each(keyBlock, func(k, v []byte) error {
		var c blockstore.CID
		if len(k) != len(c) {
			return errors.New("bad block entry in the index")
		}
		copy(c[:], k)
		at, err := decodeLocation(v)
		if err != nil {
			at = location{}
		}
		fn(c, at)
		return nil
	})
}

func (x index) each(kind byte, fn func(k, v []byte) error) error {
	return x.db.View(func(txn *badger.Txn) error {
		opts := badger.DefaultIteratorOptions
		opts.Prefix = []byte{kind}
		it := txn.NewIterator(opts)
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			item := it.Item()
			err := item.Value(func(v []byte) error { return fn(item.Key()[1:], v) })
			if err != nil {
				return err
			}
		}
		return nil
	})
}
