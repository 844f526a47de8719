package broker

import (
	"testing"
	"time"
)

// What a customer is told of the place of his job is the place that it is served in.
func TestAheadIsTheOrderOfService(t *testing.T) {
	m, err := NewMarket(MarketConfig{Self: "b"})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 1, 10, 0, 0, 0, 0, time.UTC)
	m.clock = now
	ids := func(n int, s string) string { return s + string(rune('a'+n)) }
	for i := range 4 {
		a := &Account{ID: AccountID(ids(i, "acc-"))}
		if i > 1 { // the first two are equals
			a.spend(1000, now.Add(-time.Duration(i)*24*time.Hour))
		}
		m.accounts[a.ID] = a
	}
	for i := range 24 {
		j := &Job{
			ID: JobID(ids(23-i, "j-")), Account: AccountID(ids(i%4, "acc-")), State: JobQueued, Accepted: now.Add(time.Duration(i/3) * time.Second),
			Spec: JobSpec{GPU: GPURequest{Model: AnyModel, Count: 1}},
		}
		m.jobs[j.ID] = j
		m.queued[j.ID] = struct{}{}
	}
	for i, j := range (&turn{Market: m, now: now}).inLine() {
		if got := m.Ahead(j.ID); got != i {
			t.Errorf("%s of %s is number %d in line and has %d before it", j.ID, j.Account, i, got)
		}
	}
	if got := m.Ahead("j-unknown"); got != 0 {
		t.Errorf("a job that does not wait has %d before it", got)
	}
}
