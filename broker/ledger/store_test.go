package ledger_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"rialto/broker/ledger"
	"rialto/broker/ledger/ledgertest"
)

// plenty is a disk with room, whatever the machine has.
func plenty(string) (uint64, error) { return 1 << 40, nil }

func openBadger(t *testing.T, dir string) *ledger.Badger {
	t.Helper()
	return openConfigured(t, ledger.Config{Dir: dir, Free: plenty})
}

func openConfigured(t *testing.T, c ledger.Config) *ledger.Badger {
	t.Helper()
	s, err := ledger.Open(t.Context(), c)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

func TestMemory(t *testing.T) {
	ledgertest.Run(t, func(*testing.T) ledger.Store { return new(ledger.Memory) })
}

func TestBadger(t *testing.T) {
	ledgertest.Run(t, func(t *testing.T) ledger.Store {
		t.Helper()
		return openBadger(t, t.TempDir())
	})
}

// TestBadgerCheckpoints begins a checkpoint with each batch.
func TestBadgerCheckpoints(t *testing.T) {
	ledgertest.Run(t, func(t *testing.T) ledger.Store {
		t.Helper()
		return openConfigured(t, ledger.Config{Dir: t.TempDir(), Free: plenty, Checkpoint: 1})
	})
}

// TestHistories applies random batches to a store in memory and to one on disk, which is closed and opened now and then
// and has each key in its journal, on its way to the database, or there.
func TestHistories(t *testing.T) {
	seed := rand.Uint64()
	t.Log("seed", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	want := new(ledger.Memory)
	c := ledger.Config{Dir: t.TempDir(), Free: plenty, Checkpoint: 2000}
	var got *ledger.Badger
	var epoch uint64
	for i := range 300 {
		if i == 0 || rng.IntN(40) == 0 {
			if got != nil {
				if err := got.Close(); err != nil {
					t.Fatal(err)
				}
			}
			got = openConfigured(t, c)
			for _, s := range []ledger.Store{got, want} {
				var err error
				if epoch, err = s.Campaign(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
		}
		var batch []ledger.Mutation
		for _, k := range rng.Perm(40)[:1+rng.IntN(5)] {
			batch = append(batch, ledger.Mutation{Key: fmt.Sprint("key/", k), Value: fmt.Append(nil, i, rng.Uint64())})
		}
		batch = append(batch, ledger.Mutation{Key: fmt.Sprint("once/", rng.IntN(200)), New: true, Value: fmt.Append(nil, i)})
		id := fmt.Sprint(rng.IntN(290))
		seq, err := got.Apply(t.Context(), epoch, id, batch)
		wantSeq, wantErr := want.Apply(t.Context(), epoch, id, batch)
		if seq != wantSeq || errors.Is(err, ledger.ErrConflict) != errors.Is(wantErr, ledger.ErrConflict) || (err == nil) != (wantErr == nil) {
			t.Fatalf("batch %s: %d, %v; want %d, %v", id, seq, err, wantSeq, wantErr)
		}
		if i%10 == 0 {
			sameContent(t, got, want)
		}
	}
}

func sameContent(t *testing.T, got, want ledger.Store) {
	t.Helper()
	for _, prefix := range []string{"", "key/1", "once/"} {
		if got, want := content(t, got, prefix), content(t, want, prefix); got != want {
			t.Fatalf("state %q:\n%s\nwant\n%s", prefix, got, want)
		}
	}
	if got, want := digest(t, got), digest(t, want); got != want {
		t.Fatalf("history %s, want %s", got, want)
	}
}

func content(t *testing.T, s ledger.Store, prefix string) string {
	t.Helper()
	var b strings.Builder
	for e, err := range s.Scan(t.Context(), prefix, "") {
		if err != nil {
			t.Fatal(err)
		}
		v, err := s.Get(t.Context(), e.Key)
		if err != nil || !bytes.Equal(v, e.Value) {
			t.Fatalf("get %s: %q, %v; a scan has %q", e.Key, v, err, e.Value)
		}
		fmt.Fprintf(&b, "%s=%s\n", e.Key, e.Value)
	}
	return b.String()
}
