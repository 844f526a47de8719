package broker

import (
	"time"

	"rialto/pricing"
)

// A reservation is a lease whose customer committed to a term and pays less for it. A host may publish a second price,
// [Offer.ReservedRate], and the least term that earns it. A job that commits to so much ([JobSpec.Reserve]) has that price
// there for all of its lease, the time after the term included. On an offer that it does not earn a reserved rate of, the
// job runs on demand and owes nothing but its seconds: who commits to a term gives nothing away where nobody pays for it.
//
// The term begins at ready, and the job's hold covers it up front. If the workload exits by itself or its customer stops it
// before the term is over, the rest of the term is owed, too, as a part of its own of the bill. It is not owed where the
// fault may be another's: of a lease that never became ready, that its provider lost or ended or fell silent in, also if
// the customer wanted it stopped by then. The provider's signed report of the exit is what the rest is billed upon. What is billed
// so is the customer's to use: see [JobSpec.takesRest].

// MaxTerm is the longest that a job may run, and so the longest term that a host may ask for.
const MaxTerm = maxDuration

// RateFor returns the rate per GPU-hour for a job that commits to a term; zero: to none.
func (o *Offer) RateFor(term time.Duration) pricing.Rate {
	if o.reserves(term) {
		return o.ReservedRate
	}
	return o.Rate
}

// reserves reports whether a commitment to a term earns the reserved rate.
func (o *Offer) reserves(term time.Duration) bool {
	return o.ReservedRate > 0 && term > 0 && term >= o.ReservedMin
}

// termOn is what the job commits to on an offer; zero: nothing.
func (s *JobSpec) termOn(o *Offer) time.Duration {
	if o.reserves(s.Reserve) {
		return s.Reserve
	}
	return 0
}

// Pays reports whether the job's signed budget pays a term on a host that charges so much.
func (s *JobSpec) Pays(term time.Duration, c Charge) bool {
	if s.MaxCost == 0 || term == 0 {
		return true // the offer says, and no term is longer than the job
	}
	cost, err := c.Cost(term)
	return err == nil && cost <= s.budget()
}

func (o *Offer) checkReserved(c *checker) {
	if o.ReservedRate == 0 && o.ReservedMin == 0 {
		return
	}
	c.that(o.ReservedRate > 0 && o.ReservedRate < o.Rate, "offer.reserved_rate", "%v: want more than $0.00/h and less than the %v on demand", o.ReservedRate, o.Rate)
	c.that(o.ReservedMin >= time.Second && o.ReservedMin <= maxDuration, "offer.reserved_min", "%v: want 1s to %v", o.ReservedMin, maxDuration)
}

func (s *JobSpec) checkReserve(c *checker) {
	c.that(s.Reserve == 0 || s.Reserve >= time.Second && s.Reserve <= s.MaxDuration, "reserve",
		"%v: want 1s to the %v that the job may run", s.Reserve, s.MaxDuration)
	c.that(s.Reserve == 0 || s.Nodes == 0, "reserve", "a job of several hosts cannot be reserved: one that ends ends the others")
}

// Until returns the end of a reservation's term; zero for a lease that has none, or whose term has not begun.
func (l *Lease) Until() time.Time {
	if l.Term == 0 || l.Ready.IsZero() {
		return time.Time{}
	}
	return l.Ready.Add(l.Term)
}

// reservation says until when a lease that is ready is reserved, for people.
func (l *Lease) reservation() string {
	if end := l.Until(); !end.IsZero() {
		return ", reserved until " + end.Format(time.RFC3339)
	}
	return ""
}

// owe adds the rest of a reservation's term to the bill of a workload that its provider reports to have exited, by itself
// or because its customer stopped the job. Both together are at most the term, which the hold covers.
func (t *turn) owe(l *Lease) {
	end := l.Until()
	if end.IsZero() {
		return
	}
	l.Unused = max(0, end.Sub(t.until(l)))
	used := l.Cost
	t.bill(l)
	l.UnusedCost = l.Cost - used
}
