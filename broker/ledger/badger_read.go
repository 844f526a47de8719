package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"strings"

	"github.com/dgraph-io/badger/v4"
)

const (
	statePrefix = "s"
	batchPrefix = "b"
	headKey     = "m/head"
	epochKey    = "m/epoch"
)

func read(txn *badger.Txn, key string) ([]byte, error) {
	item, err := txn.Get([]byte(key))
	if errors.Is(err, badger.ErrKeyNotFound) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	return item.ValueCopy(nil)
}

// value returns what a key of the database is set to, also when no checkpoint wrote it yet.
func (s *Badger) value(key string) (v []byte, err error) {
	if v, ok := s.overlay.get(key); ok {
		return bytes.Clone(v), nil
	}
	s.before.mu.RLock()
	defer s.before.mu.RUnlock()
	if s.before.txn != nil {
		return read(s.before.txn, key)
	}
	err = s.db.View(func(txn *badger.Txn) error {
		v, err = read(txn, key)
		return err
	})
	return v, err
}

// Get implements Store.
func (s *Badger) Get(ctx context.Context, key string) ([]byte, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.users.Done()
	v, err := s.value(statePrefix + key)
	if err != nil {
		return nil, fail("get", key, err)
	}
	return v, nil
}

// Scan implements Store.
func (s *Badger) Scan(ctx context.Context, prefix, after string) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		if err := s.enter(ctx); err != nil {
			yield(Entry{}, err)
			return
		}
		defer s.users.Done()
		start := prefix
		if after >= prefix {
			start = after + "\x00"
		}
		var txn *badger.Txn
		newer := s.overlay.moment(statePrefix+prefix, statePrefix+start, func() { txn = s.db.NewTransaction(false) })
		defer txn.Discard()
		give := func(e Entry) bool {
			if err := ctx.Err(); err != nil {
				yield(Entry{}, fail("scan", prefix, err))
				return false
			}
			return yield(Entry{strings.TrimPrefix(e.Key, statePrefix), e.Value}, nil)
		}
		for e, err := range iterate(txn, statePrefix+prefix, statePrefix+start) {
			if err != nil {
				yield(Entry{}, fail("scan", prefix, err))
				return
			}
			for len(newer) > 0 && newer[0].Key < e.Key {
				if !give(newer[0].clone()) {
					return
				}
				newer = newer[1:]
			}
			if len(newer) > 0 && newer[0].Key == e.Key {
				continue // it follows
			}
			if !give(e) {
				return
			}
		}
		for _, e := range newer {
			if !give(e.clone()) {
				return
			}
		}
	}
}

func (e Entry) clone() Entry { return Entry{e.Key, bytes.Clone(e.Value)} }

// Tail implements Store. It ends with an error unless it arrives at the head of the moment it began.
func (s *Badger) Tail(ctx context.Context, from uint64) iter.Seq2[Batch, error] {
	return func(yield func(Batch, error) bool) {
		if err := s.enter(ctx); err != nil {
			yield(Batch{}, err)
			return
		}
		defer s.users.Done()
		s.mu.Lock()
		last, lastSum := s.seq, s.sum
		s.mu.Unlock()
		from := max(from, 1)
		if from > last {
			return
		}
		seq := from - 1
		for b, err := range s.journal.read(ctx, from) {
			if err == nil && b.Seq == last && b.Hash != lastSum {
				err = fmt.Errorf("batch %d is not the head: %w", b.Seq, ErrCorrupt)
			}
			if err != nil {
				yield(Batch{}, fail("tail", fmt.Sprint("batch ", seq+1), err))
				return
			}
			if b.Seq < from {
				continue
			}
			if seq = b.Seq; !yield(b.Batch, nil) || seq == last {
				return
			}
		}
		yield(Batch{}, fail("tail", fmt.Sprint("batch ", seq+1), fmt.Errorf("journal ends at batch %d of %d: %w", seq, last, ErrCorrupt)))
	}
}

// iterate yields the keys with a prefix, in order.
// iterate yields the entries whose key begins with prefix, from start on.
func iterate(txn *badger.Txn, prefix, start string) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		o := badger.DefaultIteratorOptions
		o.Prefix = []byte(prefix)
		it := txn.NewIterator(o)
		defer it.Close()
		for it.Seek([]byte(start)); it.Valid(); it.Next() {
			v, err := it.Item().ValueCopy(nil)
			if !yield(Entry{string(it.Item().Key()), v}, err) || err != nil {
				return
			}
		}
	}
}

// badgerLog passes Badger's warnings and errors on; its news is of no use to an operator.
type badgerLog struct{ l *slog.Logger }

func (b badgerLog) Errorf(f string, a ...any)   { b.log(slog.LevelError, f, a) }
func (b badgerLog) Warningf(f string, a ...any) { b.log(slog.LevelWarn, f, a) }
func (b badgerLog) Infof(f string, a ...any)    { b.log(slog.LevelDebug, f, a) }
func (b badgerLog) Debugf(f string, a ...any)   { b.log(slog.LevelDebug, f, a) }

func (b badgerLog) log(level slog.Level, format string, args []any) {
	b.l.Log(context.Background(), level, "store", "text", strings.TrimSpace(fmt.Sprintf(format, args...)))
}
