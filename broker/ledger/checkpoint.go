package ledger

import (
	"encoding/binary"
	"slices"
	"sync"

	"github.com/dgraph-io/badger/v4"
	"github.com/google/btree"
)

// beginCheckpoint waits for the checkpoint under way and begins the next. It needs s.mu.
func (s *Badger) beginCheckpoint() error {
	if err := s.endCheckpoint(); err != nil {
		return err
	}
	if err := s.journal.rotate(); err != nil {
		return err
	}
	s.before.open(s.db)
	frozen := s.overlay.freeze()
	head := slices.Concat(binary.BigEndian.AppendUint64(nil, s.seq), s.sum[:])
	s.checkpoint = make(chan error, 1)
	go func(ended chan<- error) { // Close waits for it
		err := s.save(frozen, head)
		s.before.close()
		if err == nil {
			s.overlay.thawed()
		}
		ended <- err
	}(s.checkpoint)
	return nil
}

// endCheckpoint waits for the checkpoint under way and returns its outcome. It needs s.mu.
func (s *Badger) endCheckpoint() error {
	if s.checkpoint == nil {
		return nil
	}
	err := <-s.checkpoint
	s.checkpoint = nil
	return err
}

// snapshot is the database as it was before the checkpoint under way, for who reads a key that is not in the overlay: a
// transaction that begins meanwhile waits until what is being committed is, and the writer reads for each batch. It ends
// before the overlay lets go of what was frozen.
type snapshot struct {
	mu  sync.RWMutex
	txn *badger.Txn // for reading, which several may do at once; nil: no checkpoint is under way
}

func (b *snapshot) open(db *badger.DB) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.txn = db.NewTransaction(false)
}

func (b *snapshot) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.txn.Discard()
	b.txn = nil
}

// saveBytes bounds a transaction of a checkpoint: scans that begin wait for one that is being committed, some milliseconds.
const saveBytes = 1 << 20

// save writes what was frozen to the database, and last the head up to which the database then has everything.
func (s *Badger) save(frozen *btree.BTreeG[Entry], head []byte) (err error) {
	txn := s.db.NewTransaction(true)
	defer func() { txn.Discard() }()
	size := 0
	frozen.Ascend(func(e Entry) bool {
		if size += len(e.Key) + len(e.Value); size > saveBytes {
			if err = txn.Commit(); err != nil {
				return false
			}
			txn, size = s.db.NewTransaction(true), 0
		}
		err = txn.Set([]byte(e.Key), e.Value)
		return err == nil
	})
	if err != nil {
		return err
	}
	if err := txn.Commit(); err != nil {
		return err
	}
	return s.db.Update(func(txn *badger.Txn) error { return txn.Set([]byte(headKey), head) })
}
