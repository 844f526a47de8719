package broker

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"rialto/pricing"
)

// Match is an offer that satisfies a query.
type Match struct {
	Offer    Offer
	Free     int          // GPUs that can be leased now
	HasImage bool         // the host holds every block of the image
	Weights  int          // how many of the query's weights the host holds
	Rate     pricing.Rate // for all GPUs of the job, per hour
	AllIn    pricing.Rate // for one, with disk and traffic: what a limit on the price is compared with
	Cost     Cost         // expected, of the whole job
	Record   Record       // what was seen of the host
	Reserved bool         // the rate is the reserved one
}

// Elimination says how many offers a predicate removed that all predicates before it had left.
type Elimination struct {
	Predicate string // such as "price<=0.30/h"
	Count     int
	Nearest   string // the nearest miss, such as "$0.40/h on alpha"; empty: none is nearer than another
}

// NearMiss is an offer that fails exactly one predicate.
type NearMiss struct {
	Match
	Predicate string // that it fails
	Has       string // what it has instead, for people
	Admit     string // the predicate nearest to it that would admit the offer; empty: it would have to go
}

// Alone says what one predicate does by itself.
type Alone struct {
	Predicate string
	Without   int       // offers that match if it alone is dropped
	Cheapest  *NearMiss // of those that fail it alone; nil: none
}

// Search is an explained answer to a query.
type Search struct {
	Brief      bool      // these are the first matches and nothing else was looked at: Matched counts them, and nothing is explained
	AsOf       time.Time // by the market's clock
	Offers     int       // live offers before any predicate
	Applied    []string  // predicates in order, in canonical form
	Eliminated []Elimination
	Alone      []Alone    // by predicate, in order
	Nearest    []NearMiss // the nearest of each predicate, cheapest first; those that lack only free GPUs are in Busy
	Matched    int        // offers that match
	Matches    []Match    // in the query's order: by default cheapest expected cost first
	Waiting    int        // offers that would match if enough of their GPUs were free
	Busy       []Match    // likewise ordered; with the first matches only
	Next       string     // cursor of the next matches; empty: there are no more
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
	Cost   pricing.Money // for the whole duration, with disk and all the traffic that is paid for
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

// Search explains which offers match a query, cheapest expected cost first unless it says otherwise; see [Cost]. Among
// equals the lower rate wins, then who holds the image, then who holds more weights. The error is a [*FieldError].
func (m *Market) Search(q Query) (Search, error) {
	s, err := m.Survey(q)
	if err != nil {
		return Search{}, err
	}
	s.Look(len(m.offers))
	return s.Search()
}

// page cuts the matches that a query asks for out of all.
func (m *Market) page(q *Query, f *found) error {
	all := q.Order.sorted(m, q, f.free)
	f.Matched, f.Waiting = len(all), len(f.busy)
	if q.After == "" {
		busy := q.Order.sorted(m, q, f.busy)
		if q.Limit > 0 {
			busy = busy[:min(q.Limit, len(busy))]
		}
		f.Busy = m.matches(q, busy)
	} else {
		place, err := q.Order.placeOf(q.After)
		if err != nil {
			return err
		}
		all = q.Order.behind(m, q, all, place)
	}
	if q.Limit > 0 && q.Limit < len(all) {
		all = all[:q.Limit]
		last := q.Order.rank(all[q.Limit-1], m.listing(q, all[q.Limit-1].offer))
		f.Next = q.Order.cursorAt(&last)
	}
	f.Matches = m.matches(q, all)
	return nil
}

// matches writes candidates out.
func (m *Market) matches(q *Query, all []candidate) []Match {
	out := make([]Match, 0, len(all))
	for _, c := range all {
		x := Match{Offer: *c.offer, Free: m.available(c.offer), HasImage: c.image, Weights: c.weights, Rate: c.rate, Cost: c.cost, Record: m.RecordOf(c.offer.Provider), Reserved: c.offer.reserves(q.Reserve)}
		x.Offer.Free = m.free(c.offer)
		x.AllIn, _ = q.allIn(c.offer) // the largest rate if it is more than can be said
		out = append(out, x)
	}
	return out
}

// Quote prices a job on the offer that it would get now. The error is a [*NoOfferError] if none matches
// and a [*FieldError] if the request makes no sense.
func (m *Market) Quote(r QuoteRequest) (Quote, error) {
	var c checker
	c.that(r.Duration >= time.Second && r.Duration <= maxDuration, "duration", "%v: want 1s to %v", r.Duration, maxDuration)
	c.that(r.Reserve <= r.Duration, "reserve", "%v: want at most the %v that the job may run", r.Reserve, r.Duration)
	c.that(r.MaxCost >= 0 && r.MaxCost <= maxMoney, "max_cost", "%v: want $0.00 to %v", r.MaxCost, maxMoney)
	if c.err != nil {
		return Quote{}, c.err
	}
	r.Order, r.Limit, r.After, r.Brief, r.Run = Order{}, 0, "", false, r.Duration
	query, err := m.complete(r.Query)
	if err != nil {
		return Quote{}, err
	}
	found, err := m.Search(query)
	if err != nil {
		return Quote{}, err
	}
	if len(found.Matches) == 0 {
		return Quote{}, &NoOfferError{Search: found}
	}
	best := found.Matches[0]
	charge, err := query.charge(&best.Offer)
	if err != nil {
		return Quote{}, fmt.Errorf("quote: %w", err)
	}
	cost, err := charge.Cost(r.Duration)
	if err != nil {
		return Quote{}, fmt.Errorf("quote: %w", err)
	}
	spec := JobSpec{GPU: query.GPU, MaxRate: r.MaxRate, Bid: r.Bid, MaxCost: r.MaxCost, MaxDuration: r.Duration}
	hold, err := spec.holdAt(charge)
	if err != nil {
		return Quote{}, fmt.Errorf("quote: %w", err)
	}
	return Quote{Best: best, Cost: min(cost, hold), Hold: hold, Search: found}, nil
}

// budget is the most that the job, or each of a gang, may cost; zero: what the offer says.
func (s *JobSpec) budget() pricing.Money { return s.MaxCost / pricing.Money(s.members()) }

// holdAt returns the money to keep aside for the job, or for each of a gang, on a host that charges so much.
func (s *JobSpec) holdAt(c Charge) (pricing.Money, error) {
	if s.MaxCost > 0 {
		return s.budget(), nil
	}
	if s.limit() == 0 {
		return c.Cost(s.MaxDuration)
	}
	most, err := s.limit().MulInt(int64(s.GPU.Count))
	if err != nil {
		return 0, err
	}
	if s.Bid == 0 {
		return most.Cost(s.MaxDuration) // disk and traffic are in the limit
	}
	c.GPUs = most
	return c.Cost(s.MaxDuration)
}

// MostTime returns how long the job may be ready on a host that charges so much by its customer's own word: its duration,
// or what its budget, or a gang's node's part of it, buys if that is less. Whoever runs it looks there, and not only at what
// a broker says.
func (s *JobSpec) MostTime(c Charge) (time.Duration, error) {
	if s.MaxCost == 0 {
		return s.MaxDuration, nil
	}
	buys, err := c.Buys(s.budget())
	return min(s.MaxDuration, buys), err
}

// Affords reports whether a host that charges so much keeps to the job's limit on the price, if it has one.
func (s *JobSpec) Affords(perGPU pricing.Rate, c Charge) bool {
	return s.MaxRate == 0 || s.AllIn(perGPU, c) <= s.MaxRate
}

// checkHold returns the money to keep aside for one host, and refuses less than what a second costs.
func (s *JobSpec) checkHold(c Charge) (pricing.Money, error) {
	hold, err := s.holdAt(c)
	if err != nil {
		return 0, err
	}
	if buys, err := c.Buys(hold); err != nil || buys < time.Second {
		traffic := ""
		if c.Traffic > 0 {
			traffic = fmt.Sprintf(" and %v for traffic", c.Traffic)
		}
		return 0, &FieldError{Field: "max_cost", Problem: fmt.Sprintf("%v buys %v at %v%s: want at least 1s", hold, buys, c.Hourly(), traffic)}
	}
	return hold, nil
}

// atLimit is what the job pays at most for its GPUs, by its own limit.
func (s *JobSpec) atLimit() (Charge, error) {
	all, err := s.limit().MulInt(int64(s.GPU.Count))
	return Charge{GPUs: all}, err
}

// checkHoldOn is checkHold on an offer, on demand.
func (s *JobSpec) checkHoldOn(o *Offer) (pricing.Money, error) {
	c, err := s.Charge(o.Rate, o.Tariff)
	if err != nil {
		return 0, err
	}
	return s.checkHold(c)
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
	cost    Cost
	image   bool
	weights int
}

func (m *Market) listing(q *Query, o *Offer) listing { return listing{Offer: o, market: m, query: q} }

// search asks all offers. Those of the providers in tried are passed over.
func (m *Market) search(q Query, tried []PeerID) found {
	s := m.survey(q, tried, false)
	s.Look(len(m.offers))
	return s.found()
}

// noOffer explains why no offer matches.
func (m *Market) noOffer(q Query) error {
	s := m.survey(q, nil, true)
	s.Look(len(m.offers))
	f := s.found()
	s.explain(&f)
	return &NoOfferError{Search: f.Search}
}

func (s *Search) note(predicate string, missed int, nearest string) {
	s.Applied = append(s.Applied, predicate)
	if missed > 0 {
		s.Eliminated = append(s.Eliminated, Elimination{Predicate: predicate, Count: missed, Nearest: nearest})
	}
}

// ordered orders candidates, which come by provider and id, by expected cost, then by rate, then by what they hold already;
// a job's are spread.
func (m *Market) ordered(q *Query, out []candidate) []candidate {
	// What is sorted is small and has no pointers: a market of many offers sorts them for each job.
	places := make([]standing, len(out))
	for i := range out {
		c := &out[i]
		places[i] = standing{total: c.cost.Total, rate: c.rate, image: c.image, weights: c.weights, at: i}
	}
	slices.SortFunc(places, standing.compare)
	m.spread(q, out, places)
	sorted := make([]candidate, len(out))
	for i, p := range places {
		sorted[i] = out[p.at]
	}
	return sorted
}

// standing is what a candidate is ranked by.
type standing struct {
	total   pricing.Money
	rate    pricing.Rate
	image   bool
	weights int
	lot     uint64 // see Market.spread
	at      int    // among the candidates, which come by provider and id
}

func (a standing) compare(b standing) int {
	switch {
	case a.total != b.total:
		return cmp.Compare(a.total, b.total)
	case a.rate != b.rate:
		return cmp.Compare(a.rate, b.rate)
	case a.image != b.image:
		return prefer(a.image)
	}
	return cmp.Or(cmp.Compare(b.weights, a.weights), cmp.Compare(a.at, b.at))
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

// available counts the free GPUs of an offer that no unanswered hold asks for and no rest of a reservation keeps.
func (m *Market) available(o *Offer) int {
	n := -m.asked[keyOf(o)] - m.kept[keyOf(o)]
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
