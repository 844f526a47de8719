package ledger_test

import (
	"errors"
	"testing"

	"rialto/broker/ledger"
)

// TestCopy copies a store that had several writers: the copy has the same history and goes on from there.
func TestCopy(t *testing.T) {
	dir := t.TempDir()
	fill(t, dir, 5)
	fill(t, dir, 6) // the sixth is the second writer's
	from := openBadger(t, dir)
	to := openBadger(t, t.TempDir())
	if err := ledger.Copy(t.Context(), to, from); err != nil {
		t.Fatal(err)
	}
	want, err := ledger.Audit(t.Context(), from)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ledger.Audit(t.Context(), to); err != nil || got != want || got.Batches != 6 {
		t.Errorf("copy: %+v, %v; want %+v", got, err, want)
	}
	epoch, err := to.Campaign(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if seq, err := to.Apply(t.Context(), epoch, "next", []ledger.Mutation{{Key: "k", Value: []byte("w")}}); err != nil || seq != 7 {
		t.Errorf("the copy goes on with batch %d, %v; want 7", seq, err)
	}
	if err := ledger.Copy(t.Context(), to, from); err == nil {
		t.Error("a copy into a store that is not empty")
	}
}

func TestCopyOfDamage(t *testing.T) {
	dir := t.TempDir()
	fillConfigured(t, ledger.Config{Dir: dir, Free: plenty, Checkpoint: 1}, 20)
	editJournal(t, dir, func(r [][]byte) [][]byte { r[0][len(r[0])-1] ^= 1; return r }) // too old for Open to look at
	from, err := ledger.Open(t.Context(), ledger.Config{Dir: dir, Free: plenty})
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	if err := ledger.Copy(t.Context(), new(ledger.Memory), from); !errors.Is(err, ledger.ErrCorrupt) {
		t.Errorf("copy of a damaged journal: %v, want ErrCorrupt", err)
	}
}
