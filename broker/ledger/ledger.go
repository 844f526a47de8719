// Package ledger keeps the broker's state: a key-value map that changes only in batches, and the journal
// of those batches. A batch is atomic and durable when [Store.Apply] returns, is written only by the
// holder of the newest epoch, and happens once however often its id is applied.
//
// # Journal
//
// Batches are numbered 1, 2, 3, … without gaps and chained: the hash of batch n is
//
//	SHA-256("rialto/ledger/2" 0 prev[32] seq[8] epoch[8] str(id) content[32])
//	content = SHA-256(count[4] { flag[1] str(key) str(value) }…)
//
// with big-endian integers, str(x) = length[4] x, flag 1 for a mutation that insisted on a new key, and a
// zero prev for batch 1. Changing, dropping or reordering anything that was written changes every later
// hash. Opening a store verifies the newest batches, [Audit] all of them, and that the state equals what
// the journal says, and that every balance equals what its transfers add up to.
//
// # No deletes
//
// Nothing is ever deleted and nothing expires: what has ended says so in its value. Correctness must not
// rest on a delete, because stores of this kind have brought deleted keys back.
//
// # Keys
//
// [AccountKey] and its siblings name the records of package broker. An account, job or lease is JSON and is
// overwritten as it changes; a transfer is JSON, a spec is the envelope as the customer signed it, and both
// are written once, as are the notes of [Books]. Its hints are overwritten.
//
// Beside them are records that let a restart read what is open, and a reader what is over, without all of the rest:
//
//	totals                             the newest broker.Totals, JSON
//	slot/<number>                      the job that is open in it, or nothing; see broker.Slot
//	order/<account>/<time>/<job>/<n>   the account's jobs, the newest first: <time> and <n> count down
//	signed/<hash>                      the job of a spec, by its customer and nonce
//	deposit/<ref>                      a deposit's transfer, JSON
//	epoch/…, answers/…, runs/…, content/…   broker.Epoch and its siblings, JSON, the newest of each
//	ending/<time>/<lease>              broker.Ending, JSON
//	wait/<time>/<job>/<change>         broker.Wait, JSON
package ledger

import (
	"context"
	"errors"
	"fmt"
	"iter"
)

// Errors that a caller decides on.
var (
	// ErrFenced: a newer epoch exists, this writer must stop.
	ErrFenced = errors.New("fenced by a newer epoch")
	// ErrConflict: a key that had to be new exists, or a batch id was used for another batch. Nothing changed.
	ErrConflict = errors.New("conflict")
	// ErrUnknownOutcome: the batch may or may not be durable, and the store takes no more. The process
	// must end; after a restart the batch is there whole or not at all.
	ErrUnknownOutcome = errors.New("unknown outcome")
	// ErrNoSpace: the disk is too full to write safely. Nothing changed.
	ErrNoSpace = errors.New("too little free disk space")
	// ErrNotFound: no such key.
	ErrNotFound = errors.New("not found")
	// ErrTooLarge: a key, value or batch is over its limit. Nothing changed.
	ErrTooLarge = errors.New("too large")
	// ErrCorrupt: what was read is not what was written.
	ErrCorrupt = errors.New("corrupt")
	// ErrClosed: the store was closed.
	ErrClosed = errors.New("store is closed")
)

// Limits of what a store takes. Values stay far below the size at which Badger would move them out of its tree.
const (
	MaxKey        = 512
	MaxValue      = 256 << 10
	MaxID         = 128
	MaxMutations  = 4096
	MaxBatchBytes = 4 << 20 // keys and values of one batch
)

// Mutation sets a key to a value.
type Mutation struct {
	Key   string
	Value []byte
	New   bool // the key must not exist yet
}

// Entry is a key with its present value.
type Entry struct {
	Key   string
	Value []byte
}

// Store is durable state with a journal. Methods are safe for concurrent use; a store keeps no slice
// that it was given and hands out copies.
type Store interface {
	// Campaign makes the caller the only writer: it returns a new epoch and fences all earlier ones.
	Campaign(ctx context.Context) (epoch uint64, err error)
	// Apply makes a batch durable, whole or not at all, and returns its number. Applying an id again with
	// the same mutations changes nothing and returns the first number. Keys within a batch are distinct.
	Apply(ctx context.Context, epoch uint64, id string, batch []Mutation) (seq uint64, err error)
	// Get returns the value of a key, or ErrNotFound.
	Get(ctx context.Context, key string) ([]byte, error)
	// Scan yields the entries whose key begins with prefix and comes after another, in byte order of their keys, as of one
	// moment.
	Scan(ctx context.Context, prefix, after string) iter.Seq2[Entry, error]
	// Tail yields the batches from number from (1 is the first) to the newest, verifying the chain.
	Tail(ctx context.Context, from uint64) iter.Seq2[Batch, error]
	// Room returns ErrNoSpace when no new work should be accepted; Apply still works for a while, so
	// that work under way can end properly.
	Room() error
	// Close releases the store. Later calls return ErrClosed.
	Close() error
}

// Error says which operation failed on what.
type Error struct {
	Op  string // "open", "apply", …
	On  string // directory, batch or key
	Err error
}

func (e *Error) Error() string { return fmt.Sprintf("ledger %s %s: %v", e.Op, e.On, e.Err) }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

func fail(op, on string, err error) error { return &Error{Op: op, On: on, Err: err} }

// checkBatch refuses what no store takes.
func checkBatch(id string, batch []Mutation) error {
	if id == "" || len(id) > MaxID {
		return fmt.Errorf("batch id of %d bytes: %w", len(id), ErrTooLarge)
	}
	if len(batch) == 0 {
		return fmt.Errorf("empty batch: %w", ErrConflict)
	}
	if len(batch) > MaxMutations {
		return fmt.Errorf("%d mutations: %w", len(batch), ErrTooLarge)
	}
	size := 0
	seen := make(map[string]bool, len(batch))
	for _, m := range batch {
		if err := checkKey(m.Key); err != nil {
			return err
		}
		if len(m.Value) > MaxValue {
			return fmt.Errorf("value of %q has %d bytes: %w", m.Key, len(m.Value), ErrTooLarge)
		}
		if seen[m.Key] {
			return fmt.Errorf("key %q twice in a batch: %w", m.Key, ErrConflict)
		}
		seen[m.Key] = true
		size += len(m.Key) + len(m.Value)
	}
	if size > MaxBatchBytes {
		return fmt.Errorf("batch of %d bytes: %w", size, ErrTooLarge)
	}
	return nil
}

func checkKey(key string) error {
	if key == "" || len(key) > MaxKey {
		return fmt.Errorf("key of %d bytes: %w", len(key), ErrTooLarge)
	}
	return nil
}
