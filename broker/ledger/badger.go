package ledger

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
)

// Config says where and how a store lives. Only Dir is required.
type Config struct {
	Dir    string
	Logger *slog.Logger // nil: discard
	// MinFree is the free disk space below which Room reports ErrNoSpace; below half of it Apply does too,
	// and below a sixteenth Open refuses. Badger writes through memory maps, so a full disk would kill the
	// process with SIGBUS. Zero means 2 GiB: room for several memtables (64 MiB each) and for compactions
	// to finish.
	MinFree uint64
	// Ballast is the size of a file that takes up room, to be given up when the disk is full: then there is
	// enough left to open the store and to look at it. Zero makes none, but gives up one that is there.
	Ballast uint64
	// Free returns the free bytes at Dir; nil asks the file system. Tests set it.
	Free func(dir string) (uint64, error)
	// VerifyTail is how many of the newest batches Open verifies; zero means 1000. VerifyBytes is about how many bytes of
	// them at most; zero means 64 MiB, under a second however large the batches are.
	VerifyTail  uint64
	VerifyBytes int64
}

func (c Config) withDefaults() (Config, error) {
	if c.Dir == "" {
		return c, errors.New("no directory")
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.MinFree == 0 {
		c.MinFree = 2 << 30
	}
	if c.Free == nil {
		c.Free = freeSpace
	}
	if c.VerifyTail == 0 {
		c.VerifyTail = 1000
	}
	if c.VerifyBytes == 0 {
		c.VerifyBytes = 64 << 20
	}
	return c, nil
}

// Badger is a Store on a local disk.
//
// Layout of its keys: "s" key is the state; "j" seq[8] 0[4] the head of a journal entry (epoch[8] prev[32]
// hash[32] count[4] id) and "j" seq[8] i[4] its i-th mutation (flag[1] keylen[2] key value); "b" id finds a
// batch (seq[8] content[32]); "m/head" (seq[8] hash[32]) and "m/epoch" (epoch[8]).
//
// Rules that it keeps: every commit is synced, one transaction per batch; values are inline, so the value
// log stays empty and is never collected; after any error from a commit the store takes nothing more,
// because the log may hold a part of the batch until the next Open settles it.
type Badger struct {
	c    Config
	db   *badger.DB
	head *headFile

	mu       sync.Mutex // the writer's, held across a commit: there is one writer
	epoch    uint64
	seq      uint64
	sum      Hash
	poisoned error // set by the first failed commit, or by Open on a disk that is too full to write

	life   sync.Mutex
	closed bool           // guarded by life
	users  sync.WaitGroup // methods that use db; grows only under life while open
}

var _ Store = (*Badger)(nil)

// Open opens or makes the store in c.Dir and verifies the newest part of its journal.
func Open(ctx context.Context, c Config) (*Badger, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, fail("open", c.Dir, err)
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, fail("open", c.Dir, err)
	}
	s := &Badger{c: c}
	if err := s.makeRoom(); err != nil {
		return nil, fail("open", c.Dir, err)
	}
	if s.db, err = openBadger(c, s.poisoned != nil); err != nil {
		return nil, fail("open", c.Dir, err)
	}
	if s.head, err = openHead(c.Dir); err != nil {
		return nil, fail("open", c.Dir, errors.Join(err, s.db.Close()))
	}
	if err := s.load(ctx); err != nil {
		return nil, fail("open", c.Dir, errors.Join(err, s.Close()))
	}
	s.keepBallast()
	return s, nil
}

// openBadger opens the database. A still one compacts nothing: that takes room before it gives any back.
func openBadger(c Config, still bool) (*badger.DB, error) {
	o := badger.DefaultOptions(c.Dir).
		WithLogger(badgerLog{c.Logger}).
		WithSyncWrites(true).
		WithValueThreshold(1 << 20). // far above MaxValue: every value is inline
		WithValueLogFileSize(64 << 20).
		WithDetectConflicts(false). // one writer
		WithBlockCacheSize(32 << 20).
		WithMetricsEnabled(false). // expvar metrics are global
		WithChecksumVerificationMode(options.OnTableAndBlockRead).
		WithNumCompactors(2)
	if still {
		o = o.WithNumCompactors(0)
	}
	db, err := badger.Open(o)
	if err != nil && strings.Contains(err.Error(), "Create a new file") {
		// A process killed between creating and sizing a log file leaves it empty; the failed Open has
		// sized it, so that one more succeeds. Any other error is final.
		c.Logger.Warn("retrying open after an empty log file", "dir", c.Dir, "err", err)
		db, err = badger.Open(o)
	}
	return db, err
}

// load reads the head and epoch and verifies the newest batches.
func (s *Badger) load(ctx context.Context) error {
	err := s.db.View(func(txn *badger.Txn) error {
		epoch, err := read(txn, epochKey)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		head, err := read(txn, headKey)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		if len(epoch) != 0 && len(epoch) != 8 || len(head) != 0 && len(head) != 40 {
			return fmt.Errorf("head of the journal: %w", ErrCorrupt)
		}
		if len(epoch) > 0 {
			s.epoch = binary.BigEndian.Uint64(epoch)
		}
		if len(head) > 0 {
			s.seq, s.sum = binary.BigEndian.Uint64(head), Hash(head[8:])
		}
		return nil
	})
	if err != nil {
		return err
	}
	seq, sum, err := s.head.read()
	if err != nil {
		return err
	}
	if seq > s.seq || seq == s.seq && sum != s.sum {
		return fmt.Errorf("journal ends at batch %d, acknowledged was %d: %w", s.seq, seq, ErrCorrupt)
	}
	for _, err := range s.Tail(ctx, s.newest()) {
		if err != nil {
			return err
		}
	}
	return nil
}

// Campaign implements Store. The directory is locked, so other writers can only be in this process.
func (s *Badger) Campaign(ctx context.Context) (uint64, error) {
	if err := s.enter(ctx); err != nil {
		return 0, err
	}
	defer s.users.Done()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.poisoned != nil {
		return 0, s.poisoned
	}
	next := s.epoch + 1
	err := s.db.Update(func(txn *badger.Txn) error {
		return txn.Set([]byte(epochKey), binary.BigEndian.AppendUint64(nil, next))
	})
	if err != nil {
		return 0, s.poison("campaign", fmt.Sprint("epoch ", next), err)
	}
	s.epoch = next
	return next, nil
}

// Apply implements Store.
func (s *Badger) Apply(ctx context.Context, epoch uint64, id string, batch []Mutation) (uint64, error) {
	if err := checkBatch(id, batch); err != nil {
		return 0, fail("apply", id, err)
	}
	if err := s.enter(ctx); err != nil {
		return 0, err
	}
	defer s.users.Done()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.poisoned != nil {
		return 0, s.poisoned
	}
	if epoch != s.epoch {
		return 0, fail("apply", id, fmt.Errorf("epoch %d, newest %d: %w", epoch, s.epoch, ErrFenced))
	}
	if err := s.checkFree(s.c.MinFree / 2); err != nil {
		return 0, fail("apply", id, err)
	}
	txn := s.db.NewTransaction(true)
	defer txn.Discard()
	content := contentHash(batch)
	if seq, done, err := applied(txn, id, content); done || err != nil {
		if err != nil {
			return 0, fail("apply", id, err)
		}
		return seq, nil
	}
	b := Batch{Seq: s.seq + 1, Epoch: epoch, ID: id, Prev: s.sum, Mutations: batch}
	b.Hash = b.sum(content)
	if err := stage(txn, &b, content); err != nil {
		return 0, fail("apply", id, err)
	}
	if err := txn.Commit(); err != nil {
		return 0, s.poison("apply", id, err)
	}
	s.seq, s.sum = b.Seq, b.Hash
	if err := s.head.write(b.Seq, b.Hash); err != nil {
		return 0, s.poison("apply", id, err)
	}
	return b.Seq, nil
}

// applied reports whether a batch with this id is in the journal already.
func applied(txn *badger.Txn, id string, content Hash) (seq uint64, done bool, err error) {
	v, err := read(txn, batchPrefix+id)
	if errors.Is(err, ErrNotFound) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	if len(v) != 40 {
		return 0, false, fmt.Errorf("index of batch %q: %w", id, ErrCorrupt)
	}
	if !bytes.Equal(v[8:], content[:]) {
		return 0, false, fmt.Errorf("other content under this id: %w", ErrConflict)
	}
	return binary.BigEndian.Uint64(v), true, nil
}

// stage writes a batch and its journal entry into a transaction.
func stage(txn *badger.Txn, b *Batch, content Hash) error {
	sets := make([]Entry, 0, 2*len(b.Mutations)+3)
	for i, m := range b.Mutations {
		if m.New {
			_, err := txn.Get([]byte(statePrefix + m.Key))
			if err == nil {
				return fmt.Errorf("key %q exists: %w", m.Key, ErrConflict)
			}
			if !errors.Is(err, badger.ErrKeyNotFound) {
				return err
			}
		}
		sets = append(sets,
			Entry{statePrefix + m.Key, bytes.Clone(m.Value)},
			Entry{journalKey(b.Seq, uint32(i)+1), encodeMutation(m)})
	}
	seq := binary.BigEndian.AppendUint64(nil, b.Seq)
	sets = append(sets,
		Entry{journalKey(b.Seq, 0), encodeHeader(b)},
		Entry{batchPrefix + b.ID, bytes.Join([][]byte{seq, content[:]}, nil)},
		Entry{headKey, bytes.Join([][]byte{seq, b.Hash[:]}, nil)})
	for _, e := range sets {
		if err := txn.Set([]byte(e.Key), e.Value); err != nil {
			return err
		}
	}
	return nil
}

// poison makes the first failed commit final.
func (s *Badger) poison(op, on string, err error) error {
	s.poisoned = fail(op, on, fmt.Errorf("%w: %w", ErrUnknownOutcome, err))
	return s.poisoned
}

// enter keeps the store open until the caller is done with s.users.
func (s *Badger) enter(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.life.Lock()
	defer s.life.Unlock()
	if s.closed {
		return ErrClosed
	}
	s.users.Add(1)
	return nil
}

// Close implements Store. It waits for calls under way, so it must not be called while ranging over a
// scan or tail.
func (s *Badger) Close() error {
	s.life.Lock()
	closed := s.closed
	s.closed = true
	s.life.Unlock()
	if closed {
		return nil
	}
	s.users.Wait()
	s.dropBallast() // closing writes what is in memory
	if err := errors.Join(s.db.Close(), s.head.close()); err != nil {
		return fail("close", s.c.Dir, err)
	}
	return nil
}
