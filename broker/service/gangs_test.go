package service_test

import (
	"testing"
	"time"

	"rialto/broker"
)

// A gang's hosts are asked with the rank of their node, confirmed when both have granted, and still a gang after a restart.
func TestGangIsConfirmedTogether(t *testing.T) {
	store := memory()
	w := newWorld(t, store)
	agents := []*agent{newAgent(t, w), newAgent(t, w)}
	for _, a := range agents {
		a.offer()
	}
	spec := w.spec()
	spec.Nodes, spec.MaxCost = 2, 0
	j, err := w.Submit(t.Context(), w.account, "gang", w.seal(spec))
	if err != nil || j.Member.Gang != j.ID {
		t.Fatalf("%+v: %v", j, err)
	}
	ranks := 0
	for _, a := range agents {
		hold := next(t, "hold", a.holds)
		ranks += 1 + hold.Rank
		if hold.TTL < 40*time.Second || hold.Job != broker.MemberID(j.ID, hold.Rank) {
			t.Errorf("hold %+v", hold)
		}
	}
	if ranks != 3 {
		t.Errorf("ranks and ones add up to %d, want 3", ranks)
	}
	for _, a := range agents {
		next(t, "confirmation", a.confirms)
	}
	w.until(j.ID, broker.JobLeased)

	w.stop()
	w.start()
	var nodes []broker.Job
	for rank := range 2 {
		n, err := w.Job(t.Context(), w.account, broker.MemberID(j.ID, rank))
		if err != nil || n.Member.Rank != rank || n.State != broker.JobLeased || n.Member.Started.IsZero() {
			t.Errorf("node %d after the restart: %+v: %v", rank, n, err)
		}
		nodes = append(nodes, n)
	}
	if !nodes[0].Member.Started.Equal(nodes[1].Member.Started) {
		t.Errorf("started at %v and %v", nodes[0].Member.Started, nodes[1].Member.Started)
	}
}

// One host refuses: the other is let go and nothing is charged.
func TestGangIsLetGo(t *testing.T) {
	w := newWorld(t, memory())
	agents := []*agent{newAgent(t, w), newAgent(t, w)}
	agents[1].refuse = "the owner plays"
	for _, a := range agents {
		a.offer()
	}
	spec := w.spec()
	spec.Nodes, spec.MaxCost = 2, 0
	j, err := w.Submit(t.Context(), w.account, "gang", w.seal(spec))
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range agents {
		next(t, "hold", a.holds)
	}
	next(t, "release", agents[0].releases)
	if len(agents[0].confirms) > 0 {
		t.Error("a host was confirmed that is alone")
	}
	if _, err := w.Cancel(t.Context(), w.account, broker.MemberID(j.ID, 1), "enough"); err != nil {
		t.Fatal(err)
	}
	w.until(j.ID, broker.JobCancelled)
	if a, err := w.Account(t.Context(), w.account); err != nil || a.Held != 0 || a.Spent != 0 {
		t.Errorf("%+v: %v", a, err)
	}
}
