package broker

import (
	"cmp"
	"iter"
	"slices"
	"strings"
	"time"

	"rialto/pricing"
)

const (
	fewBest = 4 // offers that are looked for at first: most jobs take the first of them
	// maxBest is how many are looked for through the index; who needs more of them looks at all.
	maxBest = 1024
)

// best yields the offers for a query in the order of [Market.search], found through the index: those that have enough
// free GPUs, or those that lack nothing else. Providers in tried are passed over. The first fewBest are known if somebody
// has looked for them already.
func (m *Market) best(q *Query, tried []PeerID, free bool, known []candidate) iter.Seq[candidate] {
	return func(yield func(candidate) bool) {
		done := 0
		for n := fewBest; n <= maxBest; n *= 4 {
			found := known
			if n > fewBest || len(known) == 0 {
				found = m.first(q, tried, free, n)
			}
			for _, c := range found[min(done, len(found)):] {
				if !yield(c) {
					return
				}
			}
			if len(found) < n {
				return
			}
			done = n
		}
		f := m.search(*q, tried)
		all := f.free
		if !free {
			all = f.busy
		}
		for _, c := range all[min(done, len(all)):] {
			if !yield(c) {
				return
			}
		}
	}
}

// first returns the first n offers of best, fewer if there are no more.
func (m *Market) first(q *Query, tried []PeerID, free bool, n int) []candidate {
	f := m.finder(q, tried, free)
	if q.lottery == "" {
		return f.top(n)
	}
	best := f.top(1)
	if len(best) == 0 {
		return nil
	}
	// Those as good as the best come first, by lot. What is behind them keeps its order.
	as := f.draw(&best[0], n)
	if len(as) == n {
		return as
	}
	out := as
	for _, c := range f.top(n + len(as)) {
		if len(out) < n && !slices.ContainsFunc(as, func(a candidate) bool { return a.offer == c.offer }) {
			out = append(out, c)
		}
	}
	return out
}

// fitting returns the first of the offers for a job, or, if there is none and it may wait for one, the best that is busy.
func (m *Market) fitting(q *Query, waits bool) (found []candidate, busy *candidate) {
	if found = m.first(q, nil, true, fewBest); len(found) > 0 || !waits {
		return found, nil
	}
	if all := m.first(q, nil, false, 1); len(all) > 0 {
		busy = &all[0]
	}
	return nil, busy
}

// finder looks for offers through the index.
type finder struct {
	m      *Market
	q      *Query
	tried  []PeerID
	free   bool
	wanted []Predicate
	want   Want
	floor  floor
}

func (m *Market) finder(q *Query, tried []PeerID, free bool) finder {
	q.needs = m.needsOf(q)
	f := finder{m: m, q: q, tried: tried, free: free, wanted: m.predicates(q), floor: m.floorOf(q)}
	f.want = wantOf(q, f.wanted, free)
	return f
}

// fits asks all predicates of an offer.
func (f *finder) fits(l *Listed) bool {
	return (l.Free >= f.q.GPU.Count) == f.free && f.takes(l.Offer)
}

// takes is fits, however many GPUs are free.
func (f *finder) takes(o *Offer) bool {
	if slices.Contains(f.tried, o.Provider) {
		return false
	}
	of := f.m.listing(f.q, o)
	for i := range f.wanted {
		if !f.wanted[i].keeps(of) {
			return false
		}
	}
	return true
}

// walk shows the goal the offers that may fit, each at the rate that the query's job has there: reserved ones first, because
// they are cheap.
func (f *finder) walk(g Goal) {
	g = standsAt{g, f.q.Reserve}
	if f.q.Reserve > 0 {
		f.m.reserved.Walk(&f.want, g)
	}
	f.m.index.Walk(&f.want, g)
}

// standsAt passes over listings at another rate than that of a job which commits to a term.
type standsAt struct {
	Goal
	term time.Duration
}

func (s standsAt) Visit(l *Listed) {
	if l.Rate == l.Offer.RateFor(s.term) {
		s.Goal.Visit(l)
	}
}

// top returns the n best, before they are spread.
func (f *finder) top(n int) []candidate {
	t := top{finder: f, n: n}
	f.walk(&t)
	return t.all
}

// top is the goal of the n best.
type top struct {
	*finder
	n      int
	behind *rank // a place in the market's own order; nil: from the first
	all    []candidate
}

func (t *top) Wanted(r pricing.Rate) bool {
	return len(t.all) < t.n || t.floor.cost(r) <= t.all[t.n-1].cost.Total
}

func (t *top) Most(r pricing.Rate) Tariff {
	if len(t.all) < t.n {
		return unbounded()
	}
	return t.floor.most(t.all[t.n-1].cost.Total - t.floor.cost(r))
}

func (t *top) Visit(l *Listed) {
	full := len(t.all) == t.n
	if full && t.floor.of(l) > t.all[t.n-1].cost.Total || !t.fits(l) {
		return
	}
	c, ok := t.m.candidate(t.q, l.Offer)
	if !ok || t.behind != nil && !c.isBehind(t.behind) {
		return
	}
	at, _ := slices.BinarySearchFunc(t.all, c, candidate.compare)
	if at == t.n {
		return
	}
	if full {
		t.all = t.all[:t.n-1]
	}
	t.all = slices.Insert(t.all, at, c)
}

// draw returns the n with the least lots of those that are as good as the best.
func (f *finder) draw(best *candidate, n int) []candidate {
	d := draw{finder: f, n: n, best: best, limit: asGood(best.cost.Total), seed: seedOf(f.q.lottery)}
	f.walk(&d)
	out := make([]candidate, len(d.all))
	for i := range d.all {
		out[i] = d.all[i].candidate
	}
	return out
}

// draw is the goal of the n least lots. Most offers need not be looked at: their lots are no good.
type draw struct {
	*finder
	n     int
	best  *candidate
	limit pricing.Money
	seed  uint64
	all   []drawn
}

type drawn struct {
	lot uint64
	candidate
}

func (d *draw) Wanted(r pricing.Rate) bool { return d.floor.cost(r) <= d.limit }

func (d *draw) Most(r pricing.Rate) Tariff { return d.floor.most(d.limit - d.floor.cost(r)) }

func (d *draw) Visit(l *Listed) {
	x := drawn{lot: lot(d.seed, l.name, l.Free/d.q.GPU.Count)}
	if len(d.all) == d.n && x.lot > d.all[d.n-1].lot || d.floor.of(l) > d.limit || !d.fits(l) {
		return
	}
	var ok bool
	if x.candidate, ok = d.m.candidate(d.q, l.Offer); !ok || !x.asGoodAs(d.best, d.limit) {
		return
	}
	at, _ := slices.BinarySearchFunc(d.all, x, func(a, b drawn) int {
		return cmp.Or(cmp.Compare(a.lot, b.lot), a.compare(b.candidate))
	})
	if at == d.n {
		return
	}
	if len(d.all) == d.n {
		d.all = d.all[:d.n-1]
	}
	d.all = slices.Insert(d.all, at, x)
}

// candidate prices an offer for a query.
func (m *Market) candidate(q *Query, o *Offer) (candidate, bool) {
	charge, err := q.charge(o)
	if err != nil {
		return candidate{}, false // not with the bounds on offers and requests
	}
	c := candidate{offer: o, rate: charge.GPUs, cost: m.cost(q, o, charge), image: q.imageOn(o)}
	for _, w := range q.Weights {
		if slices.Contains(o.Weights, w) {
			c.weights++
		}
	}
	return c, true
}

// compare orders by expected cost, then by rate, then by what hosts hold already, then by provider and id.
func (c candidate) compare(d candidate) int {
	a := standing{total: c.cost.Total, rate: c.rate, image: c.image, weights: c.weights}
	b := standing{total: d.cost.Total, rate: d.rate, image: d.image, weights: d.weights}
	return cmp.Or(a.compare(b), compareOffers(c.offer, d.offer))
}

func (c candidate) isBehind(place *rank) bool {
	r := Order{}.rank(c, listing{})
	return Order{}.compare(&r, place) > 0
}

func compareOffers(a, b *Offer) int {
	return cmp.Or(strings.Compare(string(a.Provider), string(b.Provider)), strings.Compare(string(a.ID), string(b.ID)))
}
