package broker

import (
	"cmp"
	"math"
	"slices"
)

// Bounds on near misses.
const (
	maxNearest       = 8
	maxNearestOfSame = 3 // that fail the same predicate
)

// Survey is a search that asks every offer, in parts, so that the market can go on in between. It belongs to the market that
// made it, which must stand still during a call. An offer is judged once, when it is looked at; what came meanwhile behind
// that place is missing, and what has gone is still there.
type Survey struct {
	market   *Market
	query    Query
	tried    []PeerID // whose offers are passed over
	explains bool     // who fails a predicate and nothing else is asked, too

	asked  []inquiry // by predicate, in order; the last is that enough GPUs are free
	last   *Offer    // up to which offers were looked at
	passed int
	free   []candidate
	busy   []candidate
	brief  *Search // the answer, if no offer needs to be asked
}

// inquiry is what one predicate did to the offers so far.
type inquiry struct {
	Predicate
	gauge func(listing) int64

	missed  int    // offers that all predicates before had left
	least   int64  // how far the nearest of them is
	nearest string // and what it has

	alone    int         // offers that fail it and nothing else
	cheapest *candidate  // of them
	near     []distanced // the nearest of them, the cheapest first among equals
}

type distanced struct {
	candidate
	far int64
}

// Survey begins a search, see [Market.Search]. The error is a [*FieldError].
func (m *Market) Survey(q Query) (*Survey, error) {
	q, err := m.complete(q)
	if err != nil {
		return nil, err
	}
	s, ok, err := m.brief(&q)
	if err != nil {
		return nil, err
	}
	if ok {
		return &Survey{brief: &s}, nil
	}
	return m.survey(q, nil, true), nil
}

// survey begins a search of a query that is complete.
func (m *Market) survey(q Query, tried []PeerID, explains bool) *Survey {
	q.needs = m.needsOf(&q)
	s := &Survey{market: m, query: q, tried: tried, explains: explains}
	for _, p := range append(m.predicates(&q), q.freeNow()) {
		s.asked = append(s.asked, inquiry{Predicate: p, gauge: p.gauge(), least: math.MaxInt64})
	}
	return s
}

// Look asks up to so many offers more, and reports whether all were asked.
func (s *Survey) Look(most int) bool {
	if s.brief != nil {
		return true
	}
	offers := s.market.offers
	if s.last != nil {
		i, there := slices.BinarySearchFunc(offers, s.last, compareOffers)
		if there {
			i++
		}
		offers = offers[i:]
	}
	part := offers[:min(most, len(offers))]
	for _, o := range part {
		if s.last = o; slices.Contains(s.tried, o.Provider) {
			s.passed++
			continue
		}
		s.look(o)
	}
	return len(part) == len(offers)
}

func (s *Survey) look(o *Offer) {
	l := s.market.listing(&s.query, o)
	first, last := -1, len(s.asked)-1
	for i := range s.asked {
		switch {
		case s.asked[i].keeps(l):
			continue
		case first >= 0: // it fails two: who is nearest to matching need not know which
			s.asked[first].miss(l)
			return
		}
		first = i
		if !s.explains && i < last {
			s.asked[first].miss(l)
			return
		}
	}
	c, ok := s.market.candidate(&s.query, o)
	switch {
	case ok && first < 0:
		s.free = append(s.free, c)
	case ok && first == last:
		s.busy = append(s.busy, c)
	}
	if first < 0 {
		return
	}
	far := s.asked[first].miss(l)
	if ok && s.explains {
		s.asked[first].fail(distanced{c, far})
	}
}

// miss counts an offer that is the first to fail on the predicate, and returns how far it is from satisfying it.
func (q *inquiry) miss(l listing) int64 {
	q.missed++
	far := q.gauge(l)
	if far < q.least {
		q.least, q.nearest = far, q.shown(l)+" on "+l.Host
	}
	return far
}

// fail counts an offer that satisfies all other predicates.
func (q *inquiry) fail(d distanced) {
	q.alone++
	if q.cheapest == nil || d.compare(*q.cheapest) < 0 {
		q.cheapest = &d.candidate
	}
	at, _ := slices.BinarySearchFunc(q.near, d, func(a, b distanced) int {
		return cmp.Or(cmp.Compare(a.far, b.far), a.compare(b.candidate))
	})
	if at < maxNearestOfSame {
		q.near = slices.Insert(q.near, at, d)
		q.near = q.near[:min(maxNearestOfSame, len(q.near))]
	}
}

// found puts what matches in order and says what eliminated the rest.
func (s *Survey) found() found {
	f := found{Search: Search{Offers: len(s.market.offers)}}
	if len(s.tried) > 0 {
		f.note("provider not tried yet", s.passed, "")
	}
	for i := range s.asked {
		q := &s.asked[i]
		f.note(q.String(), q.missed, q.nearest)
	}
	f.free, f.busy = s.market.ordered(&s.query, s.free), s.market.ordered(&s.query, s.busy)
	return f
}

// explain says what each predicate does by itself, and which offers fail exactly one.
func (s *Survey) explain(f *found) {
	m := s.market
	for i := range s.asked {
		q := &s.asked[i]
		a := Alone{Predicate: q.String(), Without: len(f.free) + q.alone}
		if q.cheapest != nil {
			a.Cheapest = &m.nearMisses(&s.query, q.Predicate, []candidate{*q.cheapest})[0]
		}
		f.Alone = append(f.Alone, a)
		if i == len(s.asked)-1 {
			break // those that lack only free GPUs are Busy
		}
		near := make([]candidate, len(q.near))
		for i, d := range q.near {
			near[i] = d.candidate
		}
		f.Nearest = append(f.Nearest, m.nearMisses(&s.query, q.Predicate, near)...)
	}
	slices.SortStableFunc(f.Nearest, func(a, b NearMiss) int { return cmp.Compare(a.Rate, b.Rate) })
	f.Nearest = f.Nearest[:min(maxNearest, len(f.Nearest))]
}

// Search returns the answer. All offers must have been asked.
func (s *Survey) Search() (Search, error) {
	if s.brief != nil {
		return *s.brief, nil
	}
	f := s.found()
	f.AsOf = s.market.clock
	s.explain(&f)
	if err := s.market.page(&s.query, &f); err != nil {
		return Search{}, err
	}
	return f.Search, nil
}

func (m *Market) nearMisses(q *Query, p Predicate, all []candidate) []NearMiss {
	var out []NearMiss
	for i, x := range m.matches(q, all) {
		l := m.listing(q, all[i].offer)
		n := NearMiss{Match: x, Predicate: p.String(), Has: p.shown(l)}
		if admit, ok := p.admitting(l); ok {
			n.Admit = admit.String()
		}
		out = append(out, n)
	}
	return out
}
