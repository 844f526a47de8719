package markettest_test

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"pgregory.net/rapid"

	"rialto/broker"
	"rialto/broker/markettest"
	"rialto/pricing"
)

func (h *history) submit(t *rapid.T) {
	customer := rapid.SampledFrom([]string{"ann", "bob"}).Draw(t, "customer")
	id := broker.JobID(fmt.Sprintf("j%d", len(h.jobs)))
	spec := markettest.Spec(customer, string(id))
	spec.GPU.Count = rapid.IntRange(1, 3).Draw(t, "gpus")
	spec.MaxDuration = time.Duration(even(t, "seconds", 1, 7, 60, 600)) * time.Second
	writes(t, &spec)
	if rapid.Bool().Draw(t, "budget") {
		spec.MaxCost = even(t, "most", pricing.Money(1_000_000), 50_000_000, 500_000_000) + pricing.Money(rapid.Int64Range(0, 1_000_000).Draw(t, "cost"))
	}
	if rapid.Bool().Draw(t, "capped") {
		spec.MaxRate = even(t, "about", pricing.Rate(300_000_000), 450_000_000, 600_000_000, 2_000_000_000) + pricing.Rate(rapid.Int64Range(0, 100_000_000).Draw(t, "rate"))
	}
	if even(t, "quote", false, false, true) {
		spec.Firm = time.Duration(rapid.IntRange(1, 60).Draw(t, "firm")) * time.Second
	}
	if even(t, "stands", false, false, true) {
		spec.GoodUntil = spec.Created.Add(time.Duration(rapid.IntRange(1, 600).Draw(t, "until")) * time.Second)
	}
	if even(t, "reserve", false, false, true) {
		spec.Reserve = time.Duration(rapid.Int64Range(int64(time.Second), int64(spec.MaxDuration)).Draw(t, "term"))
	}
	if even(t, "gang", false, false, true) && spec.Reserve == 0 {
		spec.Nodes, spec.Firm = rapid.IntRange(2, 3).Draw(t, "nodes"), 0
	}
	if even(t, "bids", false, false, true) {
		spec.Bid = even(t, "a bid of", pricing.Rate(50_000_000), 150_000_000, 400_000_000) + pricing.Rate(rapid.Int64Range(0, 50_000_000).Draw(t, "bid"))
		spec.MaxRate, spec.Firm, spec.Nodes, spec.Reserve = 0, 0, 0, 0
	}
	if even(t, "commits", true, false, false) { // to enough for a reserved rate, with nothing in its way
		spec.MaxCost, spec.MaxRate, spec.Firm, spec.GoodUntil, spec.Nodes, spec.Bid = 0, 0, 0, time.Time{}, 0, 0
		spec.Provider = broker.PeerID(rapid.SampledFrom([]string{"beta", "gamma"}).Draw(t, "host"))
		spec.MaxDuration = time.Duration(even(t, "committed", 60, 600, 61)) * time.Second
		spec.Reserve = spec.MaxDuration
	}
	for rank := range max(1, spec.Nodes) {
		h.jobs = append(h.jobs, broker.MemberID(id, rank))
	}
	h.step(broker.Submitted{Job: id, Account: broker.AccountID(customer), Spec: spec, Envelope: []byte("spec")})
}

// writes draws what a job may write and carry.
func writes(t *rapid.T, spec *broker.JobSpec) {
	spec.DiskMiB = even(t, "disk", uint64(0), 0, 17, 50<<10)
	spec.Traffic = even(t, "traffic", int64(0), 0, 1, 333_333_333, 4_000_000_000)
}

// use sends a job to where its account has reserved.
func (h *history) use(t *rapid.T) {
	var rests []broker.Lease
	for _, id := range slices.Sorted(maps.Keys(h.world.Leases)) {
		if l := h.world.Leases[id]; l.Unused > 0 {
			rests = append(rests, l)
		}
	}
	if len(rests) == 0 {
		return
	}
	r := rapid.SampledFrom(rests).Draw(t, "rest")
	id := broker.JobID(fmt.Sprintf("j%d", len(h.jobs)))
	spec := markettest.Spec(string(r.Account), string(id))
	spec.Provider, spec.GPU.Count = r.Provider, rapid.IntRange(1, len(r.GPUs)).Draw(t, "gpus")
	spec.MaxDuration = time.Duration(even(t, "seconds", 7, 60, 600)) * time.Second
	writes(t, &spec)
	h.jobs = append(h.jobs, id)
	h.step(broker.Submitted{Job: id, Account: r.Account, Spec: spec, Envelope: []byte("spec")})
}

// limit sets what a customer may spend. What is held and charged may be more already, but not become more.
func (h *history) limit(t *rapid.T) {
	limit := rapid.Custom(func(t *rapid.T) pricing.Money {
		return pricing.Money(rapid.SampledFrom([]int64{0, 0, 1_000_000, 50_000_000, 500_000_000}).Draw(t, "limit"))
	})
	h.step(broker.LimitsSet{
		Account: broker.AccountID(rapid.SampledFrom([]string{"ann", "bob", "nobody"}).Draw(t, "customer")),
		Limits:  broker.Limits{Job: limit.Draw(t, "job"), Day: limit.Draw(t, "day"), Total: limit.Draw(t, "total")},
	})
}
