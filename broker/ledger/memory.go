package ledger

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
)

// Memory is a Store for tests: everything but durable. Its zero value is empty and ready.
type Memory struct {
	mu      sync.Mutex
	closed  bool
	epoch   uint64
	values  map[string][]byte
	batches []Batch
	ids     map[string]uint64
}

var _ Store = (*Memory)(nil)

// Campaign implements Store.
func (s *Memory) Campaign(context.Context) (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, ErrClosed
	}
	s.epoch++
	return s.epoch, nil
}

// Apply implements Store.
func (s *Memory) Apply(_ context.Context, epoch uint64, id string, batch []Mutation) (uint64, error) {
	if err := checkBatch(id, batch); err != nil {
		return 0, fail("apply", id, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return 0, ErrClosed
	case epoch != s.epoch:
		return 0, fail("apply", id, ErrFenced)
	}
	if seq, ok := s.ids[id]; ok {
		if contentHash(batch) != contentHash(s.batches[seq-1].Mutations) {
			return 0, fail("apply", id, ErrConflict)
		}
		return seq, nil
	}
	for _, m := range batch {
		if _, exists := s.values[m.Key]; exists && m.New {
			return 0, fail("apply", id, fmt.Errorf("key %q exists: %w", m.Key, ErrConflict))
		}
	}
	b := Batch{Seq: uint64(len(s.batches)) + 1, Epoch: epoch, ID: id, Mutations: cloneMutations(batch)}
	if n := len(s.batches); n > 0 {
		b.Prev = s.batches[n-1].Hash
	}
	b.Hash = b.sum(contentHash(batch))
	if s.values == nil {
		s.values, s.ids = map[string][]byte{}, map[string]uint64{}
	}
	for _, m := range b.Mutations {
		s.values[m.Key] = m.Value
	}
	s.batches = append(s.batches, b)
	s.ids[id] = b.Seq
	return b.Seq, nil
}

// Get implements Store.
func (s *Memory) Get(_ context.Context, key string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrClosed
	}
	v, ok := s.values[key]
	if !ok {
		return nil, fail("get", key, ErrNotFound)
	}
	return bytes.Clone(v), nil
}

// Scan implements Store.
func (s *Memory) Scan(ctx context.Context, prefix, after string) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		var found []Entry
		s.mu.Lock()
		closed := s.closed
		for key, value := range s.values {
			if strings.HasPrefix(key, prefix) && (after == "" || key > after) {
				found = append(found, Entry{Key: key, Value: value})
			}
		}
		s.mu.Unlock()
		if closed {
			yield(Entry{}, ErrClosed)
			return
		}
		slices.SortFunc(found, func(a, b Entry) int { return strings.Compare(a.Key, b.Key) })
		for _, e := range found {
			if err := ctx.Err(); err != nil {
				yield(Entry{}, err)
				return
			}
			e.Value = bytes.Clone(e.Value)
			if !yield(e, nil) {
				return
			}
		}
	}
}

// Tail implements Store.
func (s *Memory) Tail(ctx context.Context, from uint64) iter.Seq2[Batch, error] {
	return func(yield func(Batch, error) bool) {
		s.mu.Lock()
		closed, batches := s.closed, slices.Clone(s.batches)
		s.mu.Unlock()
		if closed {
			yield(Batch{}, ErrClosed)
			return
		}
		for _, b := range batches[min(uint64(len(batches)), max(from, 1)-1):] {
			if err := ctx.Err(); err != nil {
				yield(Batch{}, err)
				return
			}
			b.Mutations = cloneMutations(b.Mutations)
			if !yield(b, nil) {
				return
			}
		}
	}
}

// Room implements Store: memory is never full.
func (s *Memory) Room() error { return nil }

// Close implements Store.
func (s *Memory) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return nil
}

func cloneMutations(batch []Mutation) []Mutation {
	out := slices.Clone(batch)
	for i := range out {
		out[i].Value = bytes.Clone(out[i].Value)
	}
	return out
}
