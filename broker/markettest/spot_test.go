package markettest_test

import (
	"fmt"
	"reflect"
	"testing"
	"time"

	"pgregory.net/rapid"

	"rialto/broker"
	"rialto/broker/markettest"
	"rialto/pricing"
)

// TestSpotHistories plays markets in which interruptible jobs outbid each other, and wants that some are displaced.
func TestSpotHistories(t *testing.T) {
	displaced, preempted, raised, lowered := 0, 0, 0, 0
	rapid.Check(t, func(t *rapid.T) {
		h := begin(t)
		for range rapid.IntRange(12, 32).Draw(t, "steps") {
			if rapid.Bool().Draw(t, "submits") {
				h.bid(t)
			}
			if rapid.Bool().Draw(t, "changes a bid") {
				h.rebid(t)
			}
			h.flow(t)
			h.live(t)
			h.wait(time.Duration(rapid.IntRange(1, 15).Draw(t, "seconds")) * time.Second)
			h.check(t)
		}
		h.drain()
		h.checkWaits()
		h.playAgain()
		displaced += h.displaced
		raised += h.raised
		lowered += h.lowered
		for _, j := range h.world.Jobs {
			if j.State == broker.JobPreempted {
				preempted++
			}
		}
	})
	if displaced == 0 || preempted == 0 || raised == 0 || lowered == 0 {
		t.Errorf("%d leases were displaced, %d jobs preempted, %d bids raised, %d lowered: the histories show nothing", displaced, preempted, raised, lowered)
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

// rebid has a job bid something else, and wants that it does or that nothing changes. With a lease it bids no less, and pays
// what it paid; what is held is what its spec says, which its account has and allows.
func (h *history) rebid(t *rapid.T) {
	if len(h.jobs) == 0 {
		return
	}
	before := h.world.Jobs[rapid.SampledFrom(h.jobs).Draw(t, "job")]
	if before.ID == "" {
		return // it was refused
	}
	c := broker.BidChange{
		Customer: before.Spec.Customer, Broker: before.Spec.Broker, Nonce: before.Spec.Nonce, MaxCost: before.Spec.MaxCost,
		Bid: pricing.Rate(rapid.Int64Range(1, 10).Draw(t, "bid") * 75_000_000), Created: h.world.Now,
	}
	if rapid.IntRange(0, 3).Draw(t, "other budget") == 0 {
		c.MaxCost = pricing.Money(rapid.SampledFrom([]int64{0, 50_000_000, 200_000_000, 9_000_000_000}).Draw(t, "budget"))
	}
	h.step(broker.BidChanged{Job: before.ID, Change: c, Envelope: []byte("change")})
	after := h.world.Jobs[before.ID]
	if after.Rebid.Created.Equal(before.Rebid.Created) {
		if !reflect.DeepEqual(after.Spec, before.Spec) || after.Hold != before.Hold {
			t.Fatalf("job %s: refused %+v, and it is %+v, before %+v", before.ID, c, after, before)
		}
		return
	}
	want := atMost(h, &after.Spec)
	if before.Spec.MaxCost == 0 && after.Spec.MaxCost == 0 {
		want += before.Hold - atMost(h, &before.Spec) // what is held for more than the GPUs stays
	}
	l := h.world.Leases[after.Lease]
	least := want
	switch { // it may have found a host at once, which charges for more, or one to wait for
	case before.State == broker.JobQueued && after.State == broker.JobHolding:
		want = max(want, need(&after.Spec, l.Rate, l.Tariff))
	case after.Claim.Provider != "":
		want = max(want, need(&after.Spec, 0, h.posted[after.Claim.Provider]))
	}
	switch held := after.State != broker.JobQueued || before.State != broker.JobQueued; {
	case after.Spec.Bid != c.Bid || after.Spec.MaxCost != c.MaxCost || before.Spec.Bid == 0 || before.State.Terminal():
		t.Fatalf("job %s: took %+v, and it is %+v, before %+v", before.ID, c, after, before)
	case after.Hold != want && after.Hold != least:
		t.Fatalf("job %s: holds %v, want %v: %+v", before.ID, after.Hold, want, after)
	case held && l.Bid != c.Bid:
		t.Fatalf("job %s bids %v, its lease %v", before.ID, c.Bid, l.Bid)
	case c.Bid > before.Spec.Bid:
		h.raised++
	case c.Bid < before.Spec.Bid:
		h.lowered++
	}
}

// atMost is what a job's GPUs cost by its customer's word.
func atMost(h *history, s *broker.JobSpec) pricing.Money {
	if s.MaxCost > 0 {
		return s.MaxCost
	}
	all, err := s.Bid.MulInt(int64(s.GPU.Count))
	if err != nil {
		h.Fatal(err)
	}
	cost, err := all.Cost(s.MaxDuration)
	if err != nil {
		h.Fatal(err)
	}
	return cost
}

// live has every workload report, and start if it has not; few end by themselves.
func (h *history) live(t *rapid.T) {
	work, of := h.workloads()
	for i, w := range work {
		if w.phase == broker.PhasePreparing || rapid.IntRange(0, 19).Draw(t, "ends") == 0 {
			h.move(w, false)
		}
		w.carry(even(t, "in", int64(0), 1, 700_000_000), even(t, "out", int64(0), 123_456_789, 5_000_000_000))
		if renewal, ok := h.step(of[i].report(h.world.Now, w)); ok {
			of[i].renewed(h.world.Now, renewal)
		}
		if !w.running() {
			h.step(of[i].offers())
		}
	}
}

// checkWaits wants the waits of each job that bid, one for each bid, to follow each other from when it was accepted until it
// first got GPUs or ended without.
func (h *history) checkWaits() {
	waits := map[broker.JobID][]broker.Wait{}
	for _, w := range h.world.Waits {
		waits[w.Job] = append(waits[w.Job], w)
	}
	granted := map[broker.JobID]time.Time{}
	for _, l := range h.world.Leases {
		if at, ok := granted[l.Job]; !l.Granted.IsZero() && (!ok || l.Granted.Before(at)) {
			granted[l.Job] = l.Granted
		}
	}
	for id, j := range h.world.Jobs {
		if j.Spec.Bid == 0 {
			if len(waits[id]) > 0 {
				h.Fatalf("job %s does not bid, and has waited: %+v", id, waits[id])
			}
			continue
		}
		began, served := j.Accepted, false
		for _, w := range waits[id] {
			if served || !w.Began.Equal(began) || w.At.Before(began) || w.Bid.Term != pricing.Interruptible || w.Bid.Rate == 0 {
				h.Fatalf("job %s waited %+v", id, waits[id])
			}
			began, served = w.At, w.Served
		}
		end, got := granted[id]
		if !got {
			end = j.Ended
		}
		if len(waits[id]) == 0 || served != got || !began.Equal(end) || !j.Bidding.IsZero() {
			h.Fatalf("job %s was accepted at %v, served %v at %v, and waited %+v", id, j.Accepted, got, end, waits[id])
		}
	}
}

// checkDisplaced wants each displacement of a step to be worth more than what it ends: the bids that are served, times their
// GPUs, grow by it, and no bid falls while it is served, so that no sequence of displacements comes back to where it began. Nobody is displaced who is
// on-demand, before he has run for a while, twice, or for less than a tenth more.
func (h *history) checkDisplaced(before map[broker.LeaseID]broker.Lease) {
	h.Helper()
	won, lost := map[broker.JobID]pricing.Rate{}, map[broker.JobID]pricing.Rate{}
	for id, l := range h.world.Leases {
		d, was := l.Displacement, before[id].Displacement
		switch j := h.world.Jobs[l.Job]; {
		case l.Bid < before[id].Bid:
			h.Fatalf("lease %s bids %v, and bid %v before", id, l.Bid, before[id].Bid)
		case before[id].ID != "" && l.Rate != before[id].Rate:
			h.Fatalf("lease %s pays %v, and paid %v before", id, l.Rate, before[id].Rate)
		case was.For != "" && l.Bid != before[id].Bid:
			h.Fatalf("lease %s is displaced, and bids %v instead of %v", id, l.Bid, before[id].Bid)
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
