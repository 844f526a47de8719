package broker

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"time"

	"rialto/pricing"
)

// Query says which offers are wanted. Zero fields other than GPU match everything.
type Query struct {
	GPU       GPURequest
	MemoryMiB uint64       // host memory for the whole job
	CPUs      int          // for the whole job
	MaxRate   pricing.Rate // per GPU-hour
	Region    string
	Provider  PeerID
	Image     string   // digest of the image: hosts that hold it win ties
	Root      string   // CID of the image's root: likewise
	Weights   []string // CIDs of weight roots: likewise
}

// Match is an offer that satisfies a query.
type Match struct {
	Offer    Offer
	Free     int          // GPUs that can be leased now
	HasImage bool         // the host holds every block of the image
	Weights  int          // how many of the query's weights the host holds
	Rate     pricing.Rate // for all GPUs of the job, per hour
}

// Elimination says how many offers a predicate removed that all predicates before it had left.
type Elimination struct {
	Predicate string // such as "max rate $0.30/h"
	Count     int
	Nearest   string // the nearest miss, such as "$0.40/h on alpha"; empty: none is nearer than another
}

// Search is an explained answer to a query.
type Search struct {
	Offers     int      // live offers before any predicate
	Applied    []string // predicates in order
	Eliminated []Elimination
	Matches    []Match // cheapest expected cost first
	Busy       []Match // what would match if enough of its GPUs were free, likewise
}

// QuoteRequest asks what a job would cost.
type QuoteRequest struct {
	Query
	MaxCost  pricing.Money // zero: rate × duration
	Duration time.Duration
}

// Quote is the price of a job on the best offer of the moment. It holds nothing.
type Quote struct {
	Best   Match
	Cost   pricing.Money // for the whole duration
	Hold   pricing.Money // what would be kept aside
	Search Search
}

// Offers returns all live offers, ordered by provider and id. Free leaves out what is leased here.
func (m *Market) Offers() []Offer {
	out := make([]Offer, len(m.offers))
	for i, o := range m.offers {
		out[i] = *o
		out[i].Free = m.free(o)
	}
	return out
}

// Search explains which offers match a query, cheapest expected cost first. The cost that is expected is
// the rate for all GPUs; hosts that need to fetch less win ties, because waiting costs nothing yet.
// The error is a [*FieldError].
func (m *Market) Search(q Query) (Search, error) {
	var c checker
	q.GPU.check(&c)
	c.region("region", q.Region)
	c.that(q.CPUs >= 0 && q.MaxRate >= 0, "query", "below zero")
	if c.err != nil {
		return Search{}, c.err
	}
	if err := m.knows(q.GPU.Model); err != nil {
		return Search{}, err
	}
	f := m.search(q, nil)
	f.Matches, f.Busy = m.matches(f.free), m.matches(f.busy)
	return f.Search, nil
}

// matches writes candidates out.
func (m *Market) matches(all []candidate) []Match {
	var out []Match
	for _, c := range all {
		x := Match{Offer: *c.offer, Free: m.available(c.offer), HasImage: c.image, Weights: c.weights, Rate: c.rate}
		x.Offer.Free = m.free(c.offer)
		out = append(out, x)
	}
	return out
}

// Quote prices a job on the offer that it would get now. The error is a [*NoOfferError] if none matches
// and a [*FieldError] if the request makes no sense.
func (m *Market) Quote(r QuoteRequest) (Quote, error) {
	var c checker
	c.that(r.Duration >= time.Second && r.Duration <= maxDuration, "duration", "%v: want 1s to %v", r.Duration, maxDuration)
	c.that(r.MaxCost >= 0 && r.MaxCost <= maxMoney, "max_cost", "%v: want $0.00 to %v", r.MaxCost, maxMoney)
	if c.err != nil {
		return Quote{}, c.err
	}
	found, err := m.Search(r.Query)
	if err != nil {
		return Quote{}, err
	}
	if len(found.Matches) == 0 {
		return Quote{}, &NoOfferError{Search: found}
	}
	best := found.Matches[0]
	cost, err := best.Rate.Cost(r.Duration)
	if err != nil {
		return Quote{}, fmt.Errorf("quote: %w", err)
	}
	spec := JobSpec{GPU: r.GPU, MaxRate: r.MaxRate, MaxCost: r.MaxCost, MaxDuration: r.Duration}
	hold, err := spec.holdAt(best.Offer.Rate)
	if err != nil {
		return Quote{}, fmt.Errorf("quote: %w", err)
	}
	return Quote{Best: best, Cost: min(cost, hold), Hold: hold, Search: found}, nil
}

// knows refuses a model that is neither on the list nor offered.
func (m *Market) knows(model string) error {
	if model == AnyModel || slices.ContainsFunc(Models(), func(k Model) bool { return k.Name == model }) {
		return nil
	}
	var offered []string
	for _, o := range m.offers {
		if o.GPUs[0].Model == model {
			return nil
		}
		offered = append(offered, o.GPUs[0].Model)
	}
	return unknownModel(model, offered)
}

// query is what the market looks for on behalf of a job.
func (s *JobSpec) query() Query {
	q := Query{
		GPU: s.GPU, MemoryMiB: s.MemoryMiB, CPUs: s.CPUs, MaxRate: s.MaxRate,
		Region: s.Region, Provider: s.Provider, Image: s.Digest, Root: s.Root,
	}
	for _, w := range s.Weights {
		q.Weights = append(q.Weights, w.Root)
	}
	return q
}

// holdAt returns the money to keep aside for the job on an offer with this rate per GPU.
func (s *JobSpec) holdAt(offered pricing.Rate) (pricing.Money, error) {
	if s.MaxCost > 0 {
		return s.MaxCost, nil
	}
	rate, err := cmp.Or(s.MaxRate, offered).MulInt(int64(s.GPU.Count))
	if err != nil {
		return 0, err
	}
	return rate.Cost(s.MaxDuration)
}

// predicate is one condition on offers. If misses can be near or far, far measures how far one is and
// show what it has instead.
type predicate struct {
	name string
	keep func(*Offer) bool
	far  func(*Offer) int64
	show func(*Offer) string
}

// found is a search before its matches are written out.
type found struct {
	Search
	free []candidate // offers that match, best first
	busy []candidate // offers that lack nothing but free GPUs, best first
}

type candidate struct {
	offer   *Offer
	rate    pricing.Rate // for all GPUs of the job
	image   bool
	weights int
}

// search applies the predicates one after the other, so that each offer is eliminated by exactly one.
// Offers of the providers in tried are passed over.
func (m *Market) search(q Query, tried []PeerID) found {
	f := found{Search: Search{Offers: len(m.offers)}}
	left := m.offers
	for _, p := range q.predicates(tried) {
		var missed []*Offer
		left, missed = split(left, p.keep)
		f.note(p, missed)
	}
	free, busy := split(left, func(o *Offer) bool { return m.available(o) >= q.GPU.Count })
	f.note(predicate{
		name: fmt.Sprintf("%d × GPU free now", q.GPU.Count),
		far:  func(o *Offer) int64 { return -int64(m.available(o)) },
		show: func(o *Offer) string { return fmt.Sprintf("%d of %d free", m.available(o), len(o.GPUs)) },
	}, busy)
	f.free, f.busy = q.rank(free), q.rank(busy)
	return f
}

func (s *Search) note(p predicate, missed []*Offer) {
	s.Applied = append(s.Applied, p.name)
	if len(missed) == 0 {
		return
	}
	e := Elimination{Predicate: p.name, Count: len(missed)}
	if p.far != nil {
		nearest := slices.MinFunc(missed, func(a, b *Offer) int { return cmp.Compare(p.far(a), p.far(b)) })
		e.Nearest = p.show(nearest) + " on " + nearest.Host
	}
	s.Eliminated = append(s.Eliminated, e)
}

func (q *Query) predicates(tried []PeerID) []predicate {
	n := q.GPU.Count
	var ps []predicate
	add := func(wanted bool, p predicate) {
		if wanted {
			ps = append(ps, p)
		}
	}
	add(len(tried) > 0, predicate{
		name: "provider not tried yet",
		keep: func(o *Offer) bool { return !slices.Contains(tried, o.Provider) },
	})
	add(q.Provider != "", predicate{
		name: "provider " + string(q.Provider),
		keep: func(o *Offer) bool { return o.Provider == q.Provider },
	})
	add(q.Region != "", predicate{
		name: "region " + q.Region,
		keep: func(o *Offer) bool { return o.Region == q.Region },
	})
	add(q.GPU.Model != AnyModel, predicate{
		name: "model " + q.GPU.Model,
		keep: func(o *Offer) bool { return o.GPUs[0].Model == q.GPU.Model },
		far:  func(o *Offer) int64 { return int64(edits(foldModel(q.GPU.Model), foldModel(o.GPUs[0].Model))) },
		show: func(o *Offer) string { return o.GPUs[0].Model },
	})
	add(q.GPU.MinMemoryMiB > 0, predicate{
		name: "at least " + mib(q.GPU.MinMemoryMiB) + " per GPU",
		keep: func(o *Offer) bool { return gpuMemory(o) >= q.GPU.MinMemoryMiB },
		far:  func(o *Offer) int64 { return -int64(gpuMemory(o)) },
		show: func(o *Offer) string { return mib(gpuMemory(o)) },
	})
	add(n > 1, predicate{
		name: fmt.Sprintf("%d GPUs on one host", n),
		keep: func(o *Offer) bool { return len(o.GPUs) >= n },
		far:  func(o *Offer) int64 { return -int64(len(o.GPUs)) },
		show: func(o *Offer) string { return strconv.Itoa(len(o.GPUs)) },
	})
	add(q.CPUs > 0, predicate{
		name: fmt.Sprintf("%d CPUs", q.CPUs),
		keep: func(o *Offer) bool { return o.CPUs*n >= q.CPUs },
		far:  func(o *Offer) int64 { return -int64(o.CPUs) },
		show: func(o *Offer) string { return strconv.Itoa(o.CPUs * n) },
	})
	add(q.MemoryMiB > 0, predicate{
		name: mib(q.MemoryMiB) + " of host memory",
		keep: func(o *Offer) bool { return o.MemoryMiB*uint64(n) >= q.MemoryMiB },
		far:  func(o *Offer) int64 { return -int64(o.MemoryMiB) },
		show: func(o *Offer) string { return mib(o.MemoryMiB * uint64(n)) },
	})
	add(q.MaxRate > 0, predicate{
		name: "max rate " + q.MaxRate.String(),
		keep: func(o *Offer) bool { return o.Rate <= q.MaxRate },
		far:  func(o *Offer) int64 { return int64(o.Rate) },
		show: func(o *Offer) string { return o.Rate.String() },
	})
	return ps
}

// rank orders offers by expected cost, then by what they hold already, then by provider and id.
func (q *Query) rank(offers []*Offer) []candidate {
	out := make([]candidate, 0, len(offers))
	for _, o := range offers {
		rate, err := o.Rate.MulInt(int64(q.GPU.Count))
		if err != nil {
			continue // not with the bounds on offers and requests
		}
		c := candidate{offer: o, rate: rate}
		// A host that imported the image by itself may have another root for it, and one that was asked for an OCI index
		// says the digest of its own platform's manifest.
		c.image = slices.ContainsFunc(o.Images, func(i ImageHeld) bool {
			return q.Image != "" && i.Digest == q.Image || q.Root != "" && i.Root == q.Root
		})
		for _, w := range q.Weights {
			if slices.Contains(o.Weights, w) {
				c.weights++
			}
		}
		out = append(out, c)
	}
	slices.SortStableFunc(out, func(a, b candidate) int {
		switch {
		case a.rate != b.rate:
			return cmp.Compare(a.rate, b.rate)
		case a.image != b.image && a.image:
			return -1
		case a.image != b.image:
			return 1
		}
		return cmp.Compare(b.weights, a.weights)
	})
	return out
}

// free returns the GPUs of an offer that the provider calls free and usable and nobody leases here.
func (m *Market) free(o *Offer) []string {
	var out []string
	for i := range o.GPUs {
		if m.isFree(o, &o.GPUs[i]) {
			out = append(out, o.GPUs[i].UUID)
		}
	}
	return out
}

func (m *Market) isFree(o *Offer, g *GPU) bool {
	_, leased := m.leased[g.UUID]
	return !leased && !g.Busy && g.UnusableCause == "" && slices.Contains(o.Free, g.UUID)
}

// available counts the free GPUs of an offer that no unanswered hold asks for.
func (m *Market) available(o *Offer) int {
	n := -m.asked[keyOf(o)]
	for i := range o.GPUs {
		if m.isFree(o, &o.GPUs[i]) {
			n++
		}
	}
	return max(0, n)
}

func keyOf(o *Offer) offerKey { return offerKey{o.Provider, o.ID} }

func gpuMemory(o *Offer) uint64 {
	least := o.GPUs[0].MemoryMiB
	for _, g := range o.GPUs {
		least = min(least, g.MemoryMiB)
	}
	return least
}

func mib(n uint64) string {
	if n%1024 == 0 {
		return fmt.Sprintf("%d GiB", n/1024)
	}
	return fmt.Sprintf("%d MiB", n)
}

// split parts offers by a condition and keeps their order.
func split(offers []*Offer, keep func(*Offer) bool) (kept, missed []*Offer) {
	for _, o := range offers {
		if keep(o) {
			kept = append(kept, o)
		} else {
			missed = append(missed, o)
		}
	}
	return kept, missed
}
