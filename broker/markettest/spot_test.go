package markettest_test

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"rialto/broker"
	"rialto/broker/markettest"
	"rialto/pricing"
)

// TestSpotHistories plays markets in which interruptible jobs outbid each other, and wants that some are displaced.
func TestSpotHistories(t *testing.T) {
	displaced, preempted := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		h := begin(t)
		for range rapid.IntRange(12, 32).Draw(t, "steps") {
			if rapid.Bool().Draw(t, "submits") {
				h.bid(t)
			}
			h.flow(t)
			h.live(t)
			h.wait(time.Duration(rapid.IntRange(1, 15).Draw(t, "seconds")) * time.Second)
			h.check(t)
		}
		h.drain()
		h.playAgain()
		displaced += h.displaced
		for _, j := range h.world.Jobs {
			if j.State == broker.JobPreempted {
				preempted++
			}
		}
	})
	if displaced == 0 || preempted == 0 {
		t.Errorf("%d leases were displaced, %d jobs preempted: the histories show nothing", displaced, preempted)
	}
}

// bid submits a job that runs for long: one of a few bids, or on-demand.
func (h *history) bid(t *rapid.T) {
	customer := rapid.SampledFrom([]string{"ann", "bob"}).Draw(t, "customer")
	id := broker.JobID(fmt.Sprintf("j%d", len(h.jobs)))
	spec := markettest.Spec(customer, string(id))
	spec.GPU.Count = rapid.IntRange(1, 2).Draw(t, "gpus")
	spec.MaxDuration, spec.MaxCost = time.Hour, 100_000_000
	writes(t, &spec)
	spec.Bid = pricing.Rate(rapid.Int64Range(0, 8).Draw(t, "bid") * 75_000_000)
	if spec.Bid == 0 || rapid.Bool().Draw(t, "stands") {
		spec.GoodUntil = spec.Created.Add(10 * time.Minute)
	}
	if spec.Bid == 0 {
		spec.MaxRate = 600_000_000
	}
	h.jobs = append(h.jobs, id)
	h.step(broker.Submitted{Job: id, Account: broker.AccountID(customer), Spec: spec, Envelope: []byte("spec")})
}

// live has every workload report, and start if it has not; few end by themselves.
func (h *history) live(t *rapid.T) {
	work, of := h.workloads()
	for i, w := range work {
		if w.phase == broker.PhasePreparing || rapid.IntRange(0, 19).Draw(t, "ends") == 0 {
			h.move(w, false)
		}
		w.carry(t)
		if renewal, ok := h.step(of[i].report(h.world.Now, w)); ok {
			of[i].renewed(h.world.Now, renewal)
		}
		if !w.running() {
			h.step(of[i].offers())
		}
	}
}

// checkDisplaced wants each displacement of a step to be worth more than what it ends: the bids that are served, times their
// GPUs, grow by it, so that no sequence of displacements comes back to where it began. Nobody is displaced who is
// on-demand, before he has run for a while, twice, or for less than a tenth more.
func (h *history) checkDisplaced(before map[broker.LeaseID]broker.Lease) {
	h.Helper()
	won, lost := map[broker.JobID]pricing.Rate{}, map[broker.JobID]pricing.Rate{}
	for id, l := range h.world.Leases {
		d, was := l.Displacement, before[id].Displacement
		switch j := h.world.Jobs[l.Job]; {
		case l.Bid > 0 && l.Rate > l.Bid:
			h.Fatalf("lease %s pays %v, its job bids %v", id, l.Rate, l.Bid)
		case was.For != "" && (was.For != d.For || !was.Ends.IsZero() && !was.Ends.Equal(d.Ends)):
			h.Fatalf("lease %s: displaced anew: %+v, before %+v", id, d, was)
		case j.State == broker.JobPreempted && j.Lease == id && d.Ends.IsZero():
			h.Fatalf("job %s is preempted, and had no notice: %+v", j.ID, l)
		}
		if d.For == "" || was.For != "" {
			continue
		}
		h.displaced++
		by := h.world.Jobs[d.For]
		won[by.ID] = d.Rate * pricing.Rate(by.Spec.GPU.Count)
		lost[by.ID] += l.Bid * pricing.Rate(len(l.GPUs))
		switch ran := h.world.Now.Sub(l.Ready); {
		case l.Bid == 0 || l.Ready.IsZero() || ran < h.world.Config.MinRun:
			h.Fatalf("lease %s is displaced after %v: %+v", id, ran, l)
		case l.Bid*11 > d.Rate*10:
			h.Fatalf("lease %s bids %v and is displaced for %v", id, l.Bid, d.Rate)
		case by.Spec.Bid > 0 && by.Spec.Bid != d.Rate:
			h.Fatalf("lease %s is displaced for %v, the bid is %v", id, d.Rate, by.Spec.Bid)
		case by.State != broker.JobQueued:
			h.Fatalf("lease %s is displaced for %s, which is %v", id, by.ID, by.State)
		}
	}
	for id, lost := range lost {
		if won[id] <= lost {
			h.Fatalf("job %s bids %v in all, and displaces %v", id, won[id], lost)
		}
	}
}
