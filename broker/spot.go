package broker

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"rialto/pricing"
)

// Interruptible jobs
//
// An offer may name the least bid that its owner takes ([Offer].MinBid), a job the most that it pays ([JobSpec].Bid): it is
// interruptible then. It takes only offers whose least bid it reaches, and waits otherwise. Of those that wait, the highest
// bid is served first, after all that are on-demand.
//
// What it pays is not its bid but the price that clears its cell: the least bid of the offer, or the highest bid that
// loses plus a tick, if that is more. A bid loses if it waits for as many GPUs, would take the offer too, and gets none of
// those that are free. So all that are served at a time pay the same, and who bids more than he must pays no more for it.
// The price is agreed when the lease begins and never changes: the provider grants it, and signs its meter under it.
//
// Who comes later and bids more may displace a job, see [turn.displace].

// limit is the most that the job pays per GPU-hour; zero: what the offer asks.
func (s *JobSpec) limit() pricing.Rate { return cmp.Or(s.Bid, s.MaxRate) }

// checkBid refuses bids together with what they cannot promise.
func (s *JobSpec) checkBid(c *checker) {
	c.that(s.Bid >= 0 && s.Bid <= maxRate, "bid", "%v: want $0.00/h, which is none, to %v", s.Bid, maxRate)
	if s.Bid == 0 {
		return
	}
	c.that(s.MaxRate == 0, "max_rate", "%v: the bid of %v is the limit of an interruptible job", s.MaxRate, s.Bid)
	c.that(s.Firm == 0, "firm", "an interruptible job has no firm quote")
	c.that(s.Reserve == 0, "reserve", "an interruptible job commits to no term")
	c.that(s.Nodes <= 1, "nodes", "a gang is not interruptible: one bid would end all its nodes")
}

// tooDear reports whether an offer asks more than a job pays.
func (s *JobSpec) tooDear(o *Offer) bool {
	if s.Bid > 0 {
		return o.MinBid == 0 || o.MinBid > s.Bid
	}
	rate := o.RateFor(s.Reserve)
	if s.MaxRate == 0 || rate > s.MaxRate || o.Tariff == (Tariff{}) {
		return s.MaxRate > 0 && rate > s.MaxRate
	}
	c, err := s.Charge(rate, o.Tariff)
	return err != nil || !s.Affords(rate, c)
}

// rateOf is what a query's job pays per GPU-hour on an offer, as far as the offer says.
func (q *Query) rateOf(o *Offer) pricing.Rate {
	if q.Bid > 0 {
		return o.MinBid
	}
	return o.RateFor(q.Reserve)
}

// rateFor is what a job would pay per GPU-hour on an offer now.
func (t *turn) rateFor(j *Job, o *Offer) pricing.Rate {
	if j.Spec.Bid == 0 {
		return o.RateFor(j.Spec.Reserve)
	}
	price := max(o.MinBid, t.losing(j, o)+pricing.Tick)
	if j.Claim.on(o) {
		price = max(price, j.Claim.Over+pricing.Tick)
	}
	return min(price, j.Spec.Bid)
}

// losing is the highest bid that loses if a job takes an offer; zero, less a tick: none does.
func (t *turn) losing(j *Job, o *Offer) pricing.Rate {
	bidders := t.queue.bidders(o)
	q := j.Spec.query()
	free := places{finder: t.finder(&q, j.Tried, true), most: len(bidders) + 1}
	if free.most > 1 {
		t.index.Walk(&free.want, &free)
	}
	served := max(1, free.n) - 1 // beside the job itself
	for _, w := range bidders {
		if w.ID == j.ID || w.Spec.GPU.Count != j.Spec.GPU.Count {
			continue
		}
		if f := t.asks(w); !f.takes(o) {
			continue
		}
		if served == 0 {
			return w.Spec.Bid
		}
		served--
	}
	return -pricing.Tick
}

// places is the goal of counting how many jobs like the query's have room now, as far as it matters.
type places struct {
	finder
	n, most int
}

func (p *places) Wanted(pricing.Rate) bool { return p.n < p.most }

func (p *places) Most(pricing.Rate) Tariff { return unbounded() }

func (p *places) Visit(l *Listed) {
	if p.fits(l) {
		p.n += l.Free / p.q.GPU.Count
	}
}

// Spot is an interruptible lease that is not over, as far as prices are concerned.
type Spot struct {
	Model     string
	Region    string
	Level     Level
	Simulated bool
	Rate      pricing.Rate // per GPU-hour
	Granted   time.Time
}

// Spots returns the interruptible leases that were granted and are not over, in the order in which they were granted.
func (m *Market) Spots() []Spot {
	out := make([]Spot, 0, len(m.spots))
	for _, id := range sortedKeys(m.spots) {
		l := m.leases[id]
		out = append(out, Spot{Model: l.Model, Region: l.Region, Level: l.Level, Simulated: l.Simulated, Rate: l.Rate, Granted: l.Granted})
	}
	slices.SortStableFunc(out, func(a, b Spot) int { return a.Granted.Compare(b.Granted) })
	return out
}

// auditSpots asserts that the interruptible leases are known, and that no on-demand one is displaced.
func (m *Market) auditSpots() error {
	n := 0
	for id, l := range m.leases {
		live := l.State != LeaseEnded && l.State != LeaseHolding && len(l.GPUs) > 0
		j := m.jobs[l.Job]
		serves := m.billing(l) // one that is over had the bid of its time, also if its job waited and ended after that
		switch {
		case (l.Bid > 0) != (j.Spec.Bid > 0) || l.Bid != j.Spec.Bid && serves:
			return &InvariantError{Rule: fmt.Sprintf("lease %s: bids %v, its job %v", id, l.Bid, j.Spec.Bid)}
		case l.Bid > 0 && l.Rate > l.Bid:
			return &InvariantError{Rule: fmt.Sprintf("lease %s: pays %v, its bid is %v", id, l.Rate, l.Bid)}
		case l.Bid == 0 && l.Displacement != Displacement{}:
			return &InvariantError{Rule: fmt.Sprintf("lease %s: on-demand, and displaced", id)}
		case l.Bid > 0 && live != mapHas(m.spots, id):
			return &InvariantError{Rule: fmt.Sprintf("lease %s: not known as interruptible", id)}
		case l.Bid > 0 && live:
			n++
		}
	}
	if n != len(m.spots) {
		return &InvariantError{Rule: "leases: more are known as interruptible than are"}
	}
	return nil
}
