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

// Load returns what was saved of what is open.
func (b Books) Load(ctx context.Context) (broker.State, error) { return State(ctx, b.Store) }

// Save makes effects, notes and hints durable in one batch. Of several saves of one record the last counts. Other
// effects than saves and posts are refused.
func (b Books) Save(ctx context.Context, epoch uint64, id string, effects []broker.Effect, notes, hints map[string][]byte) error {
	keys := make([]string, len(effects))
	last := make(map[string]int, len(effects))
	for i, e := range effects {
		keys[i] = effectKey(e)
		last[keys[i]] = i
	}
	batch := make([]Mutation, 0, len(effects)+len(notes)+len(hints))
	for i, e := range effects {
		var m Mutation
		if _, posted := e.(broker.Post); posted || last[keys[i]] == i { // a number that comes twice is an error
			var err error
			if m, err = effectRecord(keys[i], e); err != nil {
				return err
			}
			batch = append(batch, m)
		}
		batch = append(batch, newRecords(e, m)...)
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

// Note returns a note, or an error that matches [broker.ErrNotFound].
func (b Books) Note(ctx context.Context, key string) ([]byte, error) {
	v, err := b.Store.Get(ctx, notePrefix+key)
	return v, unknown(err)
}

// unknown says in the market's words that there is no such key.
func unknown(err error) error {
	if errors.Is(err, ErrNotFound) {
		return fmt.Errorf("%w: %w", broker.ErrNotFound, err)
	}
	return err
}

// Notes returns the notes whose key begins with prefix, by key.
func (b Books) Notes(ctx context.Context, prefix string) (map[string][]byte, error) {
	return b.values(ctx, notePrefix, prefix)
}

// Hints returns the hints whose key begins with prefix, by key.
func (b Books) Hints(ctx context.Context, prefix string) (map[string][]byte, error) {
	return b.values(ctx, hintPrefix, prefix)
}

// Hint returns a hint; nothing if there is none.
func (b Books) Hint(ctx context.Context, key string) ([]byte, error) {
	v, err := b.Store.Get(ctx, hintPrefix+key)
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	return v, err
}

func (b Books) values(ctx context.Context, kind, prefix string) (map[string][]byte, error) {
	out := map[string][]byte{}
	for e, err := range b.Store.Scan(ctx, kind+prefix, "") {
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
