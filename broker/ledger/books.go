package ledger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"rialto/broker"
)

const (
	notePrefix = "note/"
	hintPrefix = "hint/"
)

// Books keeps a market's records in a [Store]: it takes the effects that [broker.Market.Step] wants saved.
// Notes are small values beside them, written once, such as which token belongs to whom. Hints are others that may be
// overwritten; an empty one is none.
type Books struct{ Store Store }

// Campaign makes the caller the only writer.
func (b Books) Campaign(ctx context.Context) (uint64, error) { return b.Store.Campaign(ctx) }

// Load returns everything that was saved.
func (b Books) Load(ctx context.Context) (broker.State, error) { return State(ctx, b.Store) }

// Save makes effects, notes and hints durable in one batch. Of several saves of one record the last counts. Other
// effects than saves and posts are refused.
func (b Books) Save(ctx context.Context, epoch uint64, id string, effects []broker.Effect, notes, hints map[string][]byte) error {
	last := map[string]int{} // key → index in batch
	var batch []Mutation
	add := func(m Mutation, err error) error {
		if err != nil {
			return err
		}
		if i, ok := last[m.Key]; ok && !m.New {
			batch[i] = m
			return nil
		}
		last[m.Key] = len(batch)
		batch = append(batch, m)
		return nil
	}
	for _, e := range effects {
		if err := encode(e, add); err != nil {
			return err
		}
	}
	records := len(batch)
	for key, value := range notes {
		batch = append(batch, Mutation{Key: notePrefix + key, Value: value, New: true})
	}
	for key, value := range hints {
		batch = append(batch, Mutation{Key: hintPrefix + key, Value: value})
	}
	slices.SortFunc(batch[records:], func(x, y Mutation) int { return strings.Compare(x.Key, y.Key) })
	_, err := b.Store.Apply(ctx, epoch, id, batch)
	return err
}

func encode(e broker.Effect, add func(Mutation, error) error) error {
	switch e := e.(type) {
	case broker.SaveAccount:
		return add(Account(e.Account))
	case broker.SaveLease:
		return add(Lease(e.Lease))
	case broker.Post:
		return add(Transfer(e.Transfer))
	case broker.SaveJob:
		if e.New {
			if err := add(Spec(e.Job), nil); err != nil {
				return err
			}
		}
		return add(Job(e.Job))
	case broker.SendHold, broker.SendConfirm, broker.SendRelease, broker.SendRenewal, broker.SignReceipt:
	}
	return fmt.Errorf("ledger: %T is nothing to save", e)
}

// Note returns a note, or an error that matches [broker.ErrNotFound].
func (b Books) Note(ctx context.Context, key string) ([]byte, error) {
	v, err := b.Store.Get(ctx, notePrefix+key)
	if errors.Is(err, ErrNotFound) {
		return nil, fmt.Errorf("%w: %w", broker.ErrNotFound, err)
	}
	return v, err
}

// Notes returns the notes whose key begins with prefix, by key.
func (b Books) Notes(ctx context.Context, prefix string) (map[string][]byte, error) {
	return b.values(ctx, notePrefix, prefix)
}

// Hints returns the hints whose key begins with prefix, by key.
func (b Books) Hints(ctx context.Context, prefix string) (map[string][]byte, error) {
	return b.values(ctx, hintPrefix, prefix)
}

func (b Books) values(ctx context.Context, kind, prefix string) (map[string][]byte, error) {
	out := map[string][]byte{}
	for e, err := range b.Store.Scan(ctx, kind+prefix) {
		if err != nil {
			return nil, err
		}
		if len(e.Value) > 0 {
			out[strings.TrimPrefix(e.Key, kind)] = e.Value
		}
	}
	return out, nil
}

// Room returns an error when no new work should be accepted.
func (b Books) Room() error { return b.Store.Room() }
