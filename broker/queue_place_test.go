package broker

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"rialto/pricing"
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
		m.enqueue(j)
	}
	for i, j := range (&turn{Market: m, now: now}).inLine() {
		if got := m.Ahead(j.ID); got[0] != i {
			t.Errorf("%s of %s is number %d in line and has %d before it", j.ID, j.Account, i, got[0])
		}
	}
	if got := m.Ahead("j-unknown"); got[0] != 0 {
		t.Errorf("a job that does not wait has %d before it", got[0])
	}
}

// Of many that wait, an offer's news has those looked at that pay what it asks, and time those that may give up.
func TestNewsIsOfFew(t *testing.T) {
	m, err := NewMarket(MarketConfig{Self: "b"})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 1, 10, 0, 0, 0, 0, time.UTC)
	m.accounts["a"] = &Account{ID: "a"}
	for i := range 1000 {
		j := &Job{ID: JobID(fmt.Sprintf("j-%03d", i)), Account: "a", State: JobQueued, Accepted: now.Add(time.Duration(i) * time.Second)}
		j.Spec = JobSpec{GPU: GPURequest{Model: []string{AnyModel, "RTX 4090", "H200"}[i%3], Count: 1 + i%2}, MaxRate: pricing.Rate(i + 1)}
		m.jobs[j.ID] = j
		m.enqueue(j)
	}
	l := &Listed{Offer: &Offer{Rate: 991, GPUs: []GPU{{Model: "RTX 4090"}}}, Free: 1}
	var got []JobID
	for _, w := range m.queue.served([]*Listed{l}) {
		got = append(got, w.ID)
	}
	slices.Sort(got)
	if want := []JobID{"j-990", "j-994", "j-996"}; !slices.Equal(got, want) {
		t.Errorf("an offer of one RTX 4090 has %v looked at, want %v", got, want)
	}
	if got := m.queue.over(now.Add(m.cfg.QueueTimeout + 2*time.Second)); len(got) != 3 || got[2].ID != "j-002" {
		t.Errorf("time has %d looked at, want the first 3", len(got))
	}
	if err := m.auditQueue(); err != nil {
		t.Error(err)
	}
}
