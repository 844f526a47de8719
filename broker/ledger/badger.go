package ledger

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
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
	// Checkpoint is how many bytes of new state are gathered in memory before they are written to the database. It bounds
	// what Open reads of the journal to about three times as much. Zero means 32 MiB: most records of a job's way
	// overwrite each other in it, and Open reads it in a fraction of a second.
	Checkpoint int
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
	if c.Checkpoint == 0 {
		c.Checkpoint = 32 << 20
	}
	return c, nil
}

// Badger is a Store on a local disk: a journal in files of its own, and a database with the state that it adds up to.
//
// A batch is durable when its record in the journal is synced; nothing else is written for it. Its mutations are kept in
// memory beside the database, and written to it all together when there are enough: that is a checkpoint. A record that is
// overwritten many times in a minute so costs the database one write, and the journal none of its compactions. A
// checkpoint also ends a journal's file. Open reads the journal from the file on in which the last checkpoint ended, and
// has in memory again what came after it; setting a key again to what it is does no harm, so a checkpoint need not be
// atomic, only its head must come last.
//
// Layout of the database's keys: "s" key is the state; "b" id finds a batch (seq[8] content[32]); "m/head" is the last
// batch of the checkpoint (seq[8] hash[32]) and "m/epoch" the newest epoch (epoch[8]).
//
// Rules that it keeps: every commit is synced; values are inline, so the value log stays empty and is never collected;
// after any error from a write the store takes nothing more, because the files may hold a part of it until the next Open
// settles it.
type Badger struct {
	c       Config
	db      *badger.DB
	head    *headFile
	journal *journal
	overlay *overlay
	before  snapshot

	mu         sync.Mutex // the writer's, held across a commit: there is one writer
	epoch      uint64
	seq        uint64
	sum        Hash
	poisoned   error      // set by the first failed write, or by Open on a disk that is too full to write
	checkpoint chan error // the outcome of the one under way; nil: none is

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
	s := &Badger{c: c, overlay: newOverlay()}
	if err := s.makeRoom(); err != nil {
		return nil, fail("open", c.Dir, err)
	}
	if s.db, err = openBadger(c, s.poisoned != nil); err != nil {
		return nil, fail("open", c.Dir, err)
	}
	if s.head, err = openHead(c.Dir); err != nil {
		return nil, fail("open", c.Dir, errors.Join(err, s.db.Close()))
	}
	if s.journal, err = openJournal(c.Dir); err != nil {
		return nil, fail("open", c.Dir, errors.Join(err, s.head.close(), s.db.Close()))
	}
	if err := s.load(ctx); err != nil {
		s.poisoned = err // closing writes nothing
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
		WithMetricsEnabled(false).                         // expvar metrics are global
		WithChecksumVerificationMode(options.OnBlockRead). // not of all tables at each start: that reads the whole database
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

// load reads the last checkpoint and what the journal has after it.
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
			return fmt.Errorf("head of the database: %w", ErrCorrupt)
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
	if err := s.replay(ctx); err != nil {
		return err
	}
	seq, sum, err := s.head.read()
	if err != nil {
		return err
	}
	if seq > s.seq || seq == s.seq && sum != s.sum {
		return fmt.Errorf("journal ends at batch %d, acknowledged was %d: %w", s.seq, seq, ErrCorrupt)
	}
	return nil
}

// replay reads the journal from the file of the last checkpoint on.
func (s *Badger) replay(ctx context.Context) error {
	if s.seq == 0 && s.journal.empty() {
		return nil
	}
	saved, savedSum := s.seq, s.sum
	var last placed
	for b, err := range s.journal.read(ctx, max(saved, 1)) {
		if errors.Is(err, errCut) {
			break
		}
		if err != nil {
			return err
		}
		last = b
		switch {
		case b.Seq == saved && b.Hash != savedSum:
			return fmt.Errorf("batch %d is not the one of the checkpoint: %w", b.Seq, ErrCorrupt)
		case b.Seq > saved:
			s.overlay.put(stage(&b.Batch, b.content))
			s.seq, s.sum = b.Seq, b.Hash
		}
	}
	if last.Seq < saved {
		return fmt.Errorf("journal ends at batch %d, the checkpoint at %d: %w", last.Seq, saved, ErrCorrupt)
	}
	if s.poisoned != nil {
		return nil
	}
	return s.journal.reopen(last)
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
	if s.overlay.size() >= s.c.Checkpoint {
		if err := s.beginCheckpoint(); err != nil {
			return 0, s.poison("checkpoint", s.c.Dir, err)
		}
	}
	encoded, kept := encodeMutations(batch)
	content := Hash(sha256.Sum256(encoded))
	if seq, done, err := s.applied(id, content); done || err != nil {
		if err != nil {
			return 0, fail("apply", id, err)
		}
		return seq, nil
	}
	if err := s.checkNew(batch); err != nil {
		return 0, fail("apply", id, err)
	}
	b := Batch{Seq: s.seq + 1, Epoch: epoch, ID: id, Prev: s.sum, Mutations: kept}
	b.Hash = b.sum(content)
	if err := s.journal.append(b.Seq, encodeRecord(&b, encoded)); err != nil {
		return 0, s.poison("apply", id, err)
	}
	if err := s.head.write(b.Seq, b.Hash); err != nil {
		return 0, s.poison("apply", id, err)
	}
	s.seq, s.sum = b.Seq, b.Hash
	s.overlay.put(stage(&b, content))
	return b.Seq, nil
}

// applied reports whether a batch with this id is in the journal already.
func (s *Badger) applied(id string, content Hash) (seq uint64, done bool, err error) {
	v, err := s.value(batchPrefix + id)
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

// checkNew refuses keys that should not exist yet.
func (s *Badger) checkNew(batch []Mutation) error {
	for _, m := range batch {
		if !m.New {
			continue
		}
		_, err := s.value(statePrefix + m.Key)
		if err == nil {
			return fmt.Errorf("key %q exists: %w", m.Key, ErrConflict)
		}
		if !errors.Is(err, ErrNotFound) {
			return err
		}
	}
	return nil
}

// stage returns what a batch sets in the database.
func stage(b *Batch, content Hash) []Entry {
	sets := make([]Entry, 0, len(b.Mutations)+1)
	for _, m := range b.Mutations {
		sets = append(sets, Entry{statePrefix + m.Key, m.Value})
	}
	return append(sets, Entry{batchPrefix + b.ID, slices.Concat(binary.BigEndian.AppendUint64(nil, b.Seq), content[:])})
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
	var begun error
	if s.poisoned == nil && s.overlay.size() > 0 {
		begun = s.beginCheckpoint()
	}
	if err := errors.Join(begun, s.endCheckpoint(), s.db.Close(), s.head.close(), s.journal.close()); err != nil {
		return fail("close", s.c.Dir, err)
	}
	return nil
}
