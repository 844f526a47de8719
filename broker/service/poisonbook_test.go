package service

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"rialto/broker"
)

// TestStandingEnds when fewer than two are left that count, and no one of them makes it longer.
func TestStandingEnds(t *testing.T) {
	b, start := new(poisonBook), time.Unix(1_000_000, 0).UTC()
	put := func(at time.Duration, by broker.PeerID, counts bool) {
		t.Helper()
		if _, err := b.put(&accusation{Accused: "x", Accusation: broker.Accusation{Accuser: by, At: start.Add(at), Counts: counts, Times: 1}}); err != nil {
			t.Fatal(err)
		}
	}
	want := func(at time.Duration, accusers int, until time.Duration) {
		t.Helper()
		n, end := b.standing("x", start.Add(at))
		if n != accusers || until < 0 && !end.IsZero() || until >= 0 && !end.Equal(start.Add(until)) {
			t.Errorf("after %v: %d accusers, until %v; want %d, %v", at, n, end, accusers, start.Add(until))
		}
		if listed := len(b.distrusted(start.Add(at))); (listed == 1) != (until >= 0) {
			t.Errorf("after %v: %d distrusted", at, listed)
		}
	}
	put(0, "a", true)
	put(time.Hour, "c", false)
	want(time.Hour, 1, -1)
	put(2*time.Hour, "b", true)
	want(2*time.Hour, 2, accuseWindow)
	put(3*time.Hour, "b", true) // b alone makes it no longer
	want(3*time.Hour, 2, accuseWindow)
	put(3*time.Hour, "b", false) // nor does b take it back by a word that proves nothing
	want(3*time.Hour, 2, accuseWindow)
	put(4*time.Hour, "a", true)
	want(4*time.Hour, 2, accuseWindow+3*time.Hour)
	want(accuseWindow+3*time.Hour, 1, -1)
	want(accuseWindow+4*time.Hour, 0, -1)
}

// TestBookIsBounded, and what counts is forgotten last.
func TestBookIsBounded(t *testing.T) {
	b, start := new(poisonBook), time.Unix(1_000_000, 0).UTC()
	put := func(i int, accused broker.PeerID, counts bool) int {
		t.Helper()
		slot, err := b.put(&accusation{Accused: accused, Accusation: broker.Accusation{
			Accuser: broker.PeerID(fmt.Sprint(i)), At: start.Add(time.Duration(i) * time.Millisecond), Counts: counts,
		}})
		if err != nil || slot < 0 || slot >= maxAccusations {
			t.Fatalf("slot %d, %v", slot, err)
		}
		return slot
	}
	put(0, "x", true)
	put(1, "x", true)
	for i := range 2 * maxAccusations {
		put(2+i, "y", false)
	}
	if n, _ := b.standing("x", start.Add(time.Minute)); n != 2 {
		t.Errorf("%d accusers left of those that count", n)
	}
	if n := len(b.list(start)); n != 2 {
		t.Errorf("%d accused", n)
	}
	// What is kept is found again.
	hints := map[string][]byte{"poison/junk": []byte("{}"), poisonKey(maxAccusations): []byte("{}"), poisonKey(3): []byte("no")}
	for slot, a := range b.slots[:3] {
		value, err := json.Marshal(a)
		if err != nil {
			t.Fatal(err)
		}
		hints[poisonKey(slot)] = value
	}
	again := new(poisonBook)
	again.restore(hints)
	if n, until := again.standing("x", start.Add(time.Minute)); n != 2 || until.IsZero() {
		t.Errorf("restored: %d accusers, until %v", n, until)
	}
}
