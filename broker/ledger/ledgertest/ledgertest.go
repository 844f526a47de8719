// Package ledgertest holds what every [ledger.Store] must do, as tests.
package ledgertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"

	"rialto/broker/ledger"
)

// Run tests the stores that open makes; each call of open makes an empty one.
func Run(t *testing.T, open func(t *testing.T) ledger.Store) {
	t.Helper()
	tests := map[string]func(t *testing.T, s ledger.Store){
		"apply is atomic and visible":   testApply,
		"an id happens once":            testOnce,
		"an old epoch is fenced":        testFenced,
		"a new key must be new":         testNew,
		"limits are refused":            testLimits,
		"scan is ordered and a moment":  testScan,
		"tail is gapless and chained":   testTail,
		"values are copies":             testCopies,
		"concurrent writers serialise":  testConcurrent,
		"a closed store says so":        testClosed,
		"a cancelled context ends scan": testCancelled,
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			t.Cleanup(func() {
				if err := s.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
			})
			test(t, s)
		})
	}
}

func campaign(t *testing.T, s ledger.Store) uint64 {
	t.Helper()
	epoch, err := s.Campaign(t.Context())
	if err != nil {
		t.Fatalf("campaign: %v", err)
	}
	return epoch
}

func apply(t *testing.T, s ledger.Store, epoch uint64, id string, batch ...ledger.Mutation) uint64 {
	t.Helper()
	seq, err := s.Apply(t.Context(), epoch, id, batch)
	if err != nil {
		t.Fatalf("apply %s: %v", id, err)
	}
	return seq
}

func set(key, value string) ledger.Mutation {
	return ledger.Mutation{Key: key, Value: []byte(value)}
}

// dump renders the state for comparison.
func dump(t *testing.T, s ledger.Store, prefix string) string {
	t.Helper()
	var b strings.Builder
	for e, err := range s.Scan(t.Context(), prefix, "") {
		if err != nil {
			t.Fatalf("scan: %v", err)
		}
		fmt.Fprintf(&b, "%s=%s ", e.Key, e.Value)
	}
	return strings.TrimSpace(b.String())
}

func testApply(t *testing.T, s ledger.Store) {
	t.Helper()
	epoch := campaign(t, s)
	if got := apply(t, s, epoch, "one", set("a", "1"), set("b", "2")); got != 1 {
		t.Errorf("first batch has number %d, want 1", got)
	}
	if got := apply(t, s, epoch, "two", set("b", "3"), set("c", "")); got != 2 {
		t.Errorf("second batch has number %d, want 2", got)
	}
	if got, want := dump(t, s, ""), "a=1 b=3 c="; got != want {
		t.Errorf("state %q, want %q", got, want)
	}
	v, err := s.Get(t.Context(), "b")
	if err != nil || string(v) != "3" {
		t.Errorf("get b: %q, %v; want 3", v, err)
	}
	if _, err := s.Get(t.Context(), "nothing"); !errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("get of a missing key: %v, want ErrNotFound", err)
	}
}

func testOnce(t *testing.T, s ledger.Store) {
	t.Helper()
	epoch := campaign(t, s)
	first := apply(t, s, epoch, "id", set("a", "1"))
	apply(t, s, epoch, "other", set("a", "2"))
	if again := apply(t, s, epoch, "id", set("a", "1")); again != first {
		t.Errorf("applied again: number %d, want %d", again, first)
	}
	if got := dump(t, s, ""); got != "a=2" {
		t.Errorf("state %q, want the second application to change nothing", got)
	}
	if _, err := s.Apply(t.Context(), epoch, "id", []ledger.Mutation{set("a", "9")}); !errors.Is(err, ledger.ErrConflict) {
		t.Errorf("same id, other content: %v, want ErrConflict", err)
	}
}

func testFenced(t *testing.T, s ledger.Store) {
	t.Helper()
	old := campaign(t, s)
	apply(t, s, old, "one", set("a", "old"))
	next := campaign(t, s)
	if next <= old {
		t.Fatalf("epoch %d after %d", next, old)
	}
	for _, epoch := range []uint64{old, 0, next + 1} {
		if _, err := s.Apply(t.Context(), epoch, "two", []ledger.Mutation{set("a", "bad")}); !errors.Is(err, ledger.ErrFenced) {
			t.Errorf("apply in epoch %d of %d: %v, want ErrFenced", epoch, next, err)
		}
	}
	apply(t, s, next, "two", set("b", "new"))
	if got := dump(t, s, ""); got != "a=old b=new" {
		t.Errorf("state %q", got)
	}
}

func testNew(t *testing.T, s ledger.Store) {
	t.Helper()
	epoch := campaign(t, s)
	apply(t, s, epoch, "one", ledger.Mutation{Key: "a", Value: []byte("1"), New: true})
	batch := []ledger.Mutation{set("b", "1"), {Key: "a", Value: []byte("2"), New: true}}
	if _, err := s.Apply(t.Context(), epoch, "two", batch); !errors.Is(err, ledger.ErrConflict) {
		t.Errorf("new key that exists: %v, want ErrConflict", err)
	}
	if got := dump(t, s, ""); got != "a=1" {
		t.Errorf("state %q: a refused batch left something", got)
	}
	if got := apply(t, s, epoch, "two", set("b", "1")); got != 2 {
		t.Errorf("number %d after a refused batch, want 2", got)
	}
}

func testLimits(t *testing.T, s ledger.Store) {
	t.Helper()
	epoch := campaign(t, s)
	many := make([]ledger.Mutation, ledger.MaxMutations+1)
	for i := range many {
		many[i] = set(strconv.Itoa(i), "")
	}
	var heavy []ledger.Mutation
	for i := range ledger.MaxBatchBytes/ledger.MaxValue + 1 {
		heavy = append(heavy, ledger.Mutation{Key: strconv.Itoa(i), Value: make([]byte, ledger.MaxValue)})
	}
	cases := map[string]struct {
		id    string
		batch []ledger.Mutation
		want  error
	}{
		"no id":       {"", []ledger.Mutation{set("a", "")}, ledger.ErrTooLarge},
		"long id":     {strings.Repeat("i", ledger.MaxID+1), []ledger.Mutation{set("a", "")}, ledger.ErrTooLarge},
		"empty":       {"x", nil, ledger.ErrConflict},
		"no key":      {"x", []ledger.Mutation{set("", "v")}, ledger.ErrTooLarge},
		"long key":    {"x", []ledger.Mutation{set(strings.Repeat("k", ledger.MaxKey+1), "v")}, ledger.ErrTooLarge},
		"large value": {"x", []ledger.Mutation{{Key: "k", Value: make([]byte, ledger.MaxValue+1)}}, ledger.ErrTooLarge},
		"key twice":   {"x", []ledger.Mutation{set("k", "1"), set("k", "2")}, ledger.ErrConflict},
		"many":        {"x", many, ledger.ErrTooLarge},
		"heavy":       {"x", heavy, ledger.ErrTooLarge},
	}
	for name, c := range cases {
		if _, err := s.Apply(t.Context(), epoch, c.id, c.batch); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	apply(t, s, epoch, "largest value", ledger.Mutation{Key: "k", Value: make([]byte, ledger.MaxValue)})
	apply(t, s, epoch, "most mutations", many[:ledger.MaxMutations]...)
	apply(t, s, epoch, "heaviest", heavy[:len(heavy)-2]...)
}

func testScan(t *testing.T, s ledger.Store) {
	t.Helper()
	epoch := campaign(t, s)
	apply(t, s, epoch, "one", set("job/2", "b"), set("job/1", "a"), set("jobs", "x"), set("lease/1", "l"), set("job/10", "c"))
	if got, want := dump(t, s, "job/"), "job/1=a job/10=c job/2=b"; got != want {
		t.Errorf("scan job/: %q, want %q", got, want)
	}
	for after, want := range map[string]int{"": 3, "a": 3, "job/": 3, "job/1": 2, "job/11": 1, "job/2": 0, "jobs": 0} {
		n := 0
		for _, err := range s.Scan(t.Context(), "job/", after) {
			if err != nil {
				t.Fatal(err)
			}
			n++
		}
		if n != want {
			t.Errorf("%d entries of job/ after %q, want %d", n, after, want)
		}
	}
	n := 0
	for _, err := range s.Scan(t.Context(), "job/", "") {
		if err != nil {
			t.Fatal(err)
		}
		if n++; n == 1 {
			apply(t, s, epoch, "meanwhile", set("job/3", "new"))
		}
	}
	if n != 3 {
		t.Errorf("a scan saw %d entries, want the 3 of its beginning", n)
	}
}

func testTail(t *testing.T, s ledger.Store) {
	t.Helper()
	epoch := campaign(t, s)
	for i := range 20 {
		apply(t, s, epoch, fmt.Sprint("batch ", i), set("k", strconv.Itoa(i)), set(fmt.Sprint("only ", i), "v"))
	}
	for _, from := range []uint64{0, 1, 7, 20, 21, 99} {
		seq := max(from, 1) - 1
		var prev ledger.Hash
		for b, err := range s.Tail(t.Context(), from) {
			if err != nil {
				t.Fatalf("tail from %d: %v", from, err)
			}
			if seq == from-1 {
				prev = b.Prev
			}
			if err := b.Verify(seq, prev); err != nil {
				t.Fatalf("tail from %d: %v", from, err)
			}
			if got, want := string(b.Mutations[0].Value), strconv.FormatUint(seq, 10); got != want || len(b.Mutations) != 2 || b.Epoch != epoch {
				t.Fatalf("batch %d: %+v", b.Seq, b)
			}
			seq, prev = b.Seq, b.Hash
		}
		if want := max(20, max(from, 1)-1); seq != want {
			t.Errorf("tail from %d ended at %d, want %d", from, seq, want)
		}
	}
}

func testCopies(t *testing.T, s ledger.Store) {
	t.Helper()
	epoch := campaign(t, s)
	given := []byte("value")
	apply(t, s, epoch, "one", ledger.Mutation{Key: "a", Value: given})
	given[0] = 'X'
	got, err := s.Get(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	got[1] = 'X'
	for e, err := range s.Scan(t.Context(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		e.Value[2] = 'X'
	}
	for b, err := range s.Tail(t.Context(), 1) {
		if err != nil {
			t.Fatal(err)
		}
		b.Mutations[0].Value[3] = 'X'
	}
	if v, _ := s.Get(t.Context(), "a"); !bytes.Equal(v, []byte("value")) {
		t.Errorf("stored value became %q", v)
	}
}

func testConcurrent(t *testing.T, s ledger.Store) {
	t.Helper()
	epoch := campaign(t, s)
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 10 {
				id := fmt.Sprint(w, "-", i)
				if _, err := s.Apply(t.Context(), epoch, id, []ledger.Mutation{set(id, id)}); err != nil {
					t.Errorf("apply: %v", err)
				}
			}
		})
	}
	wg.Wait()
	n := uint64(0)
	for b, err := range s.Tail(t.Context(), 1) {
		if n++; err != nil || b.Seq != n {
			t.Fatalf("batch %d: %d, %v", n, b.Seq, err)
		}
	}
	if n != 40 {
		t.Errorf("%d batches, want 40", n)
	}
}

func testClosed(t *testing.T, s ledger.Store) {
	t.Helper()
	epoch := campaign(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	_, applied := s.Apply(t.Context(), epoch, "x", []ledger.Mutation{set("a", "")})
	_, got := s.Get(t.Context(), "a")
	_, campaigned := s.Campaign(t.Context())
	var scanned, tailed error
	for _, err := range s.Scan(t.Context(), "", "") {
		scanned = err
	}
	for _, err := range s.Tail(t.Context(), 1) {
		tailed = err
	}
	for i, err := range []error{applied, got, campaigned, scanned, tailed} {
		if !errors.Is(err, ledger.ErrClosed) {
			t.Errorf("call %d on a closed store: %v, want ErrClosed", i, err)
		}
	}
}

func testCancelled(t *testing.T, s ledger.Store) {
	t.Helper()
	apply(t, s, campaign(t, s), "one", set("a", ""), set("b", ""))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var last error
	n := 0
	for _, err := range s.Scan(ctx, "", "") {
		n++
		last = err
		cancel()
	}
	if n != 2 || last == nil {
		t.Errorf("%d entries, last error %v; want 1 and the context's error", n, last)
	}
}
