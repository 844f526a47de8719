package broker

import (
	"cmp"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"rialto/pricing"
)

// ranked is the order of offers for a query.
func ranked(m *Market, q *Query, offers []*Offer) []candidate {
	var all []candidate
	for _, o := range offers {
		if c, ok := m.candidate(q, o); ok {
			all = append(all, c)
		}
	}
	return m.ordered(q, all)
}

// slowSearch answers a complete query by asking one predicate after the other, and then each of all offers again.
func slowSearch(t *rapid.T, m *Market, q Query) Search {
	q.needs = m.needsOf(&q)
	f := found{Search: Search{Offers: len(m.offers), AsOf: m.clock}}
	ps := append(m.predicates(&q), q.freeNow())
	keeps := func(p Predicate) func(*Offer) bool {
		return func(o *Offer) bool { return p.keeps(m.listing(&q, o)) }
	}
	far := func(p Predicate) func(*Offer) int64 { return func(o *Offer) int64 { return p.far(m.listing(&q, o)) } }
	left := m.offers
	for i, p := range ps {
		missed := slices.DeleteFunc(slices.Clone(left), keeps(p))
		nearest := ""
		if len(missed) > 0 {
			o := slices.MinFunc(missed, func(a, b *Offer) int { return cmp.Compare(far(p)(a), far(p)(b)) })
			if far(p)(o) < 1<<62 {
				nearest = p.shown(m.listing(&q, o)) + " on " + o.Host
			}
		}
		f.note(p.String(), len(missed), nearest)
		if i == len(ps)-1 {
			f.busy = ranked(m, &q, missed)
		}
		left = slices.DeleteFunc(slices.Clone(left), func(o *Offer) bool { return !keeps(p)(o) })
	}
	f.free = ranked(m, &q, left)
	for i, p := range ps {
		others := slices.Delete(slices.Clone(ps), i, i+1)
		alone := slices.DeleteFunc(slices.Clone(m.offers), func(o *Offer) bool {
			return keeps(p)(o) || slices.ContainsFunc(others, func(p Predicate) bool { return !keeps(p)(o) })
		})
		near := ranked(m, &q, alone)
		a := Alone{Predicate: p.String(), Without: len(f.free) + len(alone)}
		if len(near) > 0 {
			a.Cheapest = &m.nearMisses(&q, p, near[:1])[0]
		}
		f.Alone = append(f.Alone, a)
		if i == len(ps)-1 {
			break
		}
		slices.SortStableFunc(near, func(a, b candidate) int { return cmp.Compare(far(p)(a.offer), far(p)(b.offer)) })
		f.Nearest = append(f.Nearest, m.nearMisses(&q, p, near[:min(maxNearestOfSame, len(near))])...)
	}
	slices.SortStableFunc(f.Nearest, func(a, b NearMiss) int { return cmp.Compare(a.Rate, b.Rate) })
	f.Nearest = f.Nearest[:min(maxNearest, len(f.Nearest))]
	if err := m.page(&q, &f); err != nil {
		t.Fatal(err)
	}
	return f.Search
}

// surveyed searches in parts of any size and holds the answer to the slow search's.
func surveyed(t *rapid.T, m *Market, q Query) {
	q.lottery = ""
	s, err := m.Survey(q)
	if err != nil {
		t.Fatal(err)
	}
	for !s.Look(rapid.IntRange(1, 5).Draw(t, "part")) {
	}
	got, err := s.Search()
	if err != nil {
		t.Fatal(err)
	}
	if want := slowSearch(t, m, q); !reflect.DeepEqual(got, want) {
		t.Fatalf("query %q %+v: surveyed\n%+v\nwant\n%+v", q.Where, q.GPU, got, want)
	}
}

// TestSurveyWhileOffersChange: a search in parts asks those that stay once each, though others come and go in between.
func TestSurveyWhileOffersChange(t *testing.T) {
	m, err := NewMarket(MarketConfig{Self: "broker"})
	if err != nil {
		t.Fatal(err)
	}
	put := func(p PeerID, rate pricing.Rate) {
		gpu := GPU{UUID: "GPU-" + string(p), Model: "H200", MemoryMiB: 141 << 10}
		m.stock(p, &shop{offers: []*Offer{{ID: "o", Provider: p, Host: string(p), Rate: rate, GPUs: []GPU{gpu}, Free: []string{gpu.UUID}}}})
	}
	for _, p := range []PeerID{"b", "c", "d", "f", "g", "h"} {
		put(p, 1000)
	}
	s, err := m.Survey(Query{})
	if err != nil {
		t.Fatal(err)
	}
	if s.Look(3) { // b, c, d
		t.Fatal("all were asked at once")
	}
	m.stock("b", nil)
	m.stock("d", nil) // the last that was asked
	m.stock("g", nil)
	put("a", 900)
	put("e", 900)
	put("h", 800)
	for !s.Look(1) {
	}
	got, err := s.Search()
	if err != nil {
		t.Fatal(err)
	}
	var hosts []string
	for _, x := range got.Matches {
		hosts = append(hosts, x.Offer.Host)
	}
	if want := []string{"h", "e", "b", "c", "d", "f"}; !slices.Equal(hosts, want) {
		t.Errorf("matches %v, want %v", hosts, want)
	}
}
