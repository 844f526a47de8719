package broker

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"rialto/pricing"
)

// Displacement says that an interruptible lease ends because somebody pays more for its GPUs; zero: nobody does.
type Displacement struct {
	For  JobID        // that displaces it
	Rate pricing.Rate // its bid per GPU-hour, or the price that it pays on-demand
	Paid bool         `json:",omitzero"` // it pays on-demand
	At   time.Time    // when that was decided
	Ends time.Time    // when the workload must have ended; zero: its host has not heard yet
}

// Claim is what a job displaced others for.
type Claim struct {
	Provider PeerID
	Offer    OfferID
	Over     pricing.Rate // the highest bid of those: it pays more
}

func (c Claim) on(o *Offer) bool { return c.Provider == o.Provider && c.Offer == o.ID }

// preemptSlack is how much longer than its notice the market waits for a workload's end before it releases the lease.
const preemptSlack = 5 * time.Second

// displace makes room for a job that finds none free, if somebody holds what it wants who pays less, and reports whether
// it has done so, now or before.
//
// An on-demand job counts as bidding the price of the offer. It displaces interruptible leases of one offer that have been
// ready for [MarketConfig].MinRun, each of which bids at most 1/1.1 of it, and which bid less together, times their GPUs,
// than it does times its own: the sum of the bids that are served strictly grows, so that no sequence of displacements
// comes back to where it began. A bid may change meanwhile, and the sum with it: but only upwards while it is served, see
// [turn.rebid], and one that waits is in no sum. Of those it takes the lowest surplus of bid over price first, then who ran least.
// Jobs that are on-demand are never displaced, and nobody is for fairness.
//
// The host of a lease hears with the answer to its next report; from then on the workload has [MarketConfig].Notice. Who
// displaced it is served first when its GPUs are free, unless it has found others meanwhile.
func (t *turn) displace(j *Job, q *Query, avoid []PeerID) bool {
	if j.Member.Gang != "" || j.Spec.Firm > 0 || len(t.spots) == 0 {
		return false
	}
	if t.displacing(j) {
		t.waitFor(j, "GPUs are being freed for it")
		return true
	}
	for _, r := range t.rooms(j, q, avoid) {
		if t.covers(j, candidate{offer: r.offer}) {
			t.clear(j, r)
			return true
		}
	}
	return false
}

// displacing reports whether leases are ending for a job.
func (t *turn) displacing(j *Job) bool {
	if j.Claim == (Claim{}) {
		return false
	}
	for id := range t.spots {
		if t.leases[id].Displacement.For == j.ID {
			return true
		}
	}
	return false
}

// room is an offer on which a job fits once some leases have ended.
type room struct {
	offer   *Offer
	rate    pricing.Rate // that the job bids there
	victims []*Lease
}

// rooms lists where a job could displace others, the best first.
func (t *turn) rooms(j *Job, q *Query, avoid []PeerID) []room {
	held := map[offerKey][]*Lease{}
	for _, id := range sortedKeys(t.spots) {
		if l := t.leases[id]; t.displaceable(l) && pricing.Displaces(cmp.Or(j.Spec.Bid, maxRate), l.Bid) {
			held[offerKey{l.Provider, l.Offer}] = append(held[offerKey{l.Provider, l.Offer}], l)
		}
	}
	var out []room
	f := t.finder(q, avoid, false)
	for key, leases := range held { // they are sorted below
		s := t.shops[key.provider]
		if s == nil {
			continue
		}
		i := slices.IndexFunc(s.offers, func(o *Offer) bool { return o.ID == key.offer })
		if i < 0 || !f.fits(s.listed[i]) {
			continue
		}
		r := room{offer: s.offers[i], rate: cmp.Or(j.Spec.Bid, s.offers[i].RateFor(j.Spec.Reserve))}
		if r.choose(t.now, leases, j.Spec.GPU.Count, s.listed[i].Free) {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b room) int {
		return cmp.Or(surplus(t.now, a.victims[0], b.victims[0]), compareOffers(a.offer, b.offer))
	})
	return out
}

// displaceable reports whether a lease may be displaced by who bids enough.
func (t *turn) displaceable(l *Lease) bool {
	return t.ripe(l) && l.State == LeaseActive && l.Displacement.For == "" && t.jobs[l.Job].Stopping == 0
}

// ripe reports whether a lease has been ready for as long as it may not be displaced.
func (t *turn) ripe(l *Lease) bool { return !l.Ready.IsZero() && t.now.Sub(l.Ready) >= t.cfg.MinRun }

// choose picks the leases that have to go so that so many GPUs are free, and reports whether those may be displaced.
func (r *room) choose(now time.Time, leases []*Lease, want, free int) bool {
	slices.SortFunc(leases, func(a, b *Lease) int { return surplus(now, a, b) })
	for _, l := range leases {
		if free < want && pricing.Displaces(r.rate, l.Bid) {
			r.victims = append(r.victims, l)
			free += len(l.GPUs)
		}
	}
	r.victims = slices.DeleteFunc(r.victims, func(l *Lease) bool { // the later ones may be enough
		spare := free-len(l.GPUs) >= want
		if spare {
			free -= len(l.GPUs)
		}
		return spare
	})
	var lost pricing.Rate
	for _, l := range r.victims {
		lost += l.Bid * pricing.Rate(len(l.GPUs))
	}
	return free >= want && len(r.victims) > 0 && lost < r.rate*pricing.Rate(want)
}

// surplus orders leases by how much more than the price their bids are, then by how long they ran, the least first.
func surplus(now time.Time, a, b *Lease) int {
	return cmp.Or(cmp.Compare(a.Bid-a.Rate, b.Bid-b.Rate), cmp.Compare(now.Sub(a.Ready), now.Sub(b.Ready)), cmp.Compare(a.ID, b.ID))
}

// clear displaces the leases of a room.
func (t *turn) clear(j *Job, r room) {
	t.touchJob(j)
	j.Claim = Claim{Provider: r.offer.Provider, Offer: r.offer.ID}
	gpus := 0
	for _, l := range r.victims {
		t.touchLease(l)
		l.Displacement = Displacement{For: j.ID, Rate: r.rate, Paid: j.Spec.Bid == 0, At: t.now}
		j.Claim.Over = max(j.Claim.Over, l.Bid)
		gpus += len(l.GPUs)
		t.log(t.jobs[l.Job], "%s: it may run for %v from when %s hears of it", l.displacedBy(), t.cfg.Notice, l.Host)
	}
	t.log(j, "displaces %d × %s on %s, where bids are %v or less: they are free within about %v",
		gpus, r.offer.GPUs[0].Model, r.offer.Host, j.Claim.Over, t.cfg.Notice+t.cfg.LeaseTTL/3)
}

// displacedBy says for people who displaces a lease.
func (l *Lease) displacedBy() string {
	if l.Displacement.Paid {
		return fmt.Sprintf("displaced by an on-demand job at %v", l.Displacement.Rate)
	}
	return fmt.Sprintf("displaced by a bid of %v", l.Displacement.Rate)
}

// notify begins the notice of a lease that is displaced: the answer to a report takes it to its host.
func (t *turn) notify(l *Lease) {
	if d := &l.Displacement; d.For != "" && d.Ends.IsZero() && l.State == LeaseActive && t.jobs[l.Job].Stopping == 0 {
		t.touchLease(l)
		d.Ends = t.now.Add(t.cfg.Notice)
	}
}

// notice is how long a lease that is displaced may still run; zero: it is not, or its host has not heard.
func (t *turn) notice(l *Lease) time.Duration {
	if l.Displacement.Ends.IsZero() {
		return 0
	}
	return max(time.Millisecond, l.Displacement.Ends.Sub(t.now))
}

// overdue reports whether a lease that is displaced is still there after its notice.
func (t *turn) overdue(l *Lease) bool {
	ends := l.Displacement.Ends
	return !ends.IsZero() && t.now.Sub(ends) >= preemptSlack
}

// ripen has those that wait look again when a lease may be displaced from now on.
func (t *turn) ripen(l *Lease) {
	if seen, spot := t.spots[l.ID]; !spot || seen || !t.ripe(l) {
		return
	}
	t.spots[l.ID] = true
	for id, w := range t.queue.jobs {
		if bid := w.Spec.Bid; bid == 0 || pricing.Displaces(bid, l.Bid) {
			t.stale[id] = struct{}{}
			t.changed = true
		}
	}
}

// inherit notes that a lease has ended which was displaced: who displaced it is served first.
func (t *turn) inherit(l *Lease) {
	delete(t.spots, l.ID)
	if l.Displacement.For != "" {
		t.heirs = append(t.heirs, l.Displacement.For)
	}
}
