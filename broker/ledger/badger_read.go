package ledger

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"math"
	"strings"

	"github.com/dgraph-io/badger/v4"
)

const (
	statePrefix   = "s"
	journalPrefix = "j"
	batchPrefix   = "b"
	headKey       = "m/head"
	epochKey      = "m/epoch"
)

func journalKey(seq uint64, i uint32) string {
	k := binary.BigEndian.AppendUint64([]byte(journalPrefix), seq)
	return string(binary.BigEndian.AppendUint32(k, i))
}

func encodeHeader(b *Batch) []byte {
	v := binary.BigEndian.AppendUint64(nil, b.Epoch)
	v = append(v, b.Prev[:]...)
	v = append(v, b.Hash[:]...)
	v = binary.BigEndian.AppendUint32(v, uint32(len(b.Mutations)))
	return append(v, b.ID...)
}

// decodeHeader reads a journal entry's head; the mutations are still missing, count says how many.
func decodeHeader(seq uint64, v []byte) (b Batch, count int, err error) {
	const fixed = 8 + 32 + 32 + 4
	if len(v) < fixed || len(v) > fixed+MaxID {
		return Batch{}, 0, fmt.Errorf("batch %d: head of %d bytes: %w", seq, len(v), ErrCorrupt)
	}
	n := binary.BigEndian.Uint32(v[72:])
	if n == 0 || n > MaxMutations {
		return Batch{}, 0, fmt.Errorf("batch %d: %d mutations: %w", seq, n, ErrCorrupt)
	}
	return Batch{
		Seq: seq, Epoch: binary.BigEndian.Uint64(v), Prev: Hash(v[8:40]), Hash: Hash(v[40:72]), ID: string(v[fixed:]),
	}, int(n), nil
}

func encodeMutation(m Mutation) []byte {
	v := make([]byte, 3, 3+len(m.Key)+len(m.Value))
	if m.New {
		v[0] = 1
	}
	binary.BigEndian.PutUint16(v[1:], uint16(len(m.Key)))
	return append(append(v, m.Key...), m.Value...)
}

func decodeMutation(v []byte) (Mutation, error) {
	if len(v) < 3 || v[0] > 1 {
		return Mutation{}, fmt.Errorf("mutation of %d bytes: %w", len(v), ErrCorrupt)
	}
	n := 3 + int(binary.BigEndian.Uint16(v[1:]))
	if n > len(v) || n > 3+MaxKey || len(v)-n > MaxValue {
		return Mutation{}, fmt.Errorf("mutation of %d bytes: %w", len(v), ErrCorrupt)
	}
	return Mutation{Key: string(v[3:n]), Value: v[n:], New: v[0] == 1}, nil
}

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

// Get implements Store.
func (s *Badger) Get(ctx context.Context, key string) ([]byte, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.users.Done()
	var v []byte
	err := s.db.View(func(txn *badger.Txn) (err error) {
		v, err = read(txn, statePrefix+key)
		return err
	})
	if err != nil {
		return nil, fail("get", key, err)
	}
	return v, nil
}

// Scan implements Store.
func (s *Badger) Scan(ctx context.Context, prefix string) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		stopped := false
		err := s.iterate(ctx, []byte(statePrefix+prefix), []byte(statePrefix+prefix), func(e Entry) (bool, error) {
			e.Key = strings.TrimPrefix(e.Key, statePrefix)
			stopped = !yield(e, nil)
			return !stopped, nil
		})
		if err != nil && !stopped {
			yield(Entry{}, fail("scan", prefix, err))
		}
	}
}

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
		r := tailReader{seq: from - 1, first: true}
		stopped := false
		err := s.iterate(ctx, []byte(journalPrefix), []byte(journalKey(from, 0)), func(e Entry) (bool, error) {
			b, whole, err := r.add(e)
			if err != nil || !whole {
				return true, err
			}
			if b.Seq == last && b.Hash != lastSum {
				return false, fmt.Errorf("batch %d is not the head: %w", b.Seq, ErrCorrupt)
			}
			stopped = !yield(b, nil)
			return !stopped && b.Seq < last, nil
		})
		if err == nil && !stopped && (r.seq != last || r.want != 0) {
			err = fmt.Errorf("journal ends at batch %d of %d: %w", r.seq, last, ErrCorrupt)
		}
		if err != nil && !stopped {
			yield(Batch{}, fail("tail", fmt.Sprint("batch ", r.seq+1), err))
		}
	}
}

// newest returns the first of the batches that Open verifies. It looks at keys and sizes alone.
func (s *Badger) newest() uint64 {
	txn := s.db.NewTransaction(false)
	defer txn.Discard()
	o := badger.DefaultIteratorOptions
	o.Prefix, o.Reverse, o.PrefetchValues = []byte(journalPrefix), true, false
	it := txn.NewIterator(o)
	defer it.Close()
	from, size := s.seq, int64(0)
	for it.Seek([]byte(journalKey(math.MaxUint64, math.MaxUint32))); it.Valid() && size < s.c.VerifyBytes; it.Next() {
		k := it.Item().Key()
		if len(k) < len(journalPrefix)+8 {
			break // Tail says what is wrong with it
		}
		seq := binary.BigEndian.Uint64(k[len(journalPrefix):])
		if s.seq-seq >= s.c.VerifyTail { // also of one behind the head
			break
		}
		from = seq
		size += it.Item().EstimatedSize()
	}
	return from
}

// tailReader puts batches together from the journal's keys in order.
type tailReader struct {
	seq   uint64 // last whole batch
	sum   Hash
	first bool // sum is not known yet: take the first batch's word
	b     Batch
	want  int // mutations still missing of b
}

func (r *tailReader) add(e Entry) (b Batch, whole bool, err error) {
	if len(e.Key) != len(journalPrefix)+12 {
		return Batch{}, false, fmt.Errorf("journal key of %d bytes: %w", len(e.Key), ErrCorrupt)
	}
	k := []byte(e.Key[len(journalPrefix):])
	seq, i := binary.BigEndian.Uint64(k), binary.BigEndian.Uint32(k[8:])
	if r.want == 0 {
		if seq != r.seq+1 || i != 0 {
			return Batch{}, false, fmt.Errorf("batch %d part %d follows batch %d: %w", seq, i, r.seq, ErrCorrupt)
		}
		r.b, r.want, err = decodeHeader(seq, e.Value)
		return Batch{}, false, err
	}
	if seq != r.b.Seq || int(i) != len(r.b.Mutations)+1 {
		return Batch{}, false, fmt.Errorf("batch %d part %d out of place: %w", seq, i, ErrCorrupt)
	}
	m, err := decodeMutation(e.Value)
	if err != nil {
		return Batch{}, false, fmt.Errorf("batch %d: %w", seq, err)
	}
	r.b.Mutations = append(r.b.Mutations, m)
	if r.want--; r.want > 0 {
		return Batch{}, false, nil
	}
	if r.first && r.b.Seq > 1 {
		r.sum = r.b.Prev
	}
	if err := r.b.Verify(r.seq, r.sum); err != nil {
		return Batch{}, false, err
	}
	r.first, r.seq, r.sum = false, r.b.Seq, r.b.Hash
	return r.b, true, nil
}

// iterate calls fn for the keys with prefix from start on, until it returns false.
func (s *Badger) iterate(ctx context.Context, prefix, start []byte, fn func(Entry) (bool, error)) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.users.Done()
	return s.db.View(func(txn *badger.Txn) error {
		o := badger.DefaultIteratorOptions
		o.Prefix = prefix
		it := txn.NewIterator(o)
		defer it.Close()
		for it.Seek(start); it.Valid(); it.Next() {
			if err := ctx.Err(); err != nil {
				return err
			}
			item := it.Item()
			v, err := item.ValueCopy(nil)
			if err != nil {
				return err
			}
			if more, err := fn(Entry{Key: string(item.Key()), Value: v}); err != nil || !more {
				return err
			}
		}
		return nil
	})
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
