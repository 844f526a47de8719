package broker

import (
	"cmp"
	"slices"
)

// Bounds on near misses.
const (
	maxNearest       = 8
	maxNearestOfSame = 3 // that fail the same predicate
)

// explain says what each predicate does by itself, and which offers fail exactly one. It asks every predicate of every
// offer that fails fewer than two.
func (m *Market) explain(q *Query, f *found) {
	ps := append(m.predicates(q), q.freeNow())
	alone := make([][]*Offer, len(ps)) // offers that fail this predicate and no other
	for _, o := range m.offers {
		l := m.listing(q, o)
		failed := -1
		for i, p := range ps {
			if p.keeps(l) {
				continue
			}
			if failed >= 0 {
				failed = -1
				break
			}
			failed = i
		}
		if failed >= 0 {
			alone[failed] = append(alone[failed], o)
		}
	}
	for i, p := range ps {
		a := Alone{Predicate: p.String(), Without: len(f.free) + len(alone[i])}
		near := m.rank(q, alone[i])
		if len(near) > 0 {
			a.Cheapest = &m.nearMisses(q, p, near[:1])[0]
		}
		f.Alone = append(f.Alone, a)
		if i == len(ps)-1 {
			break // those that lack only free GPUs are Busy
		}
		far := p.gauge()
		slices.SortStableFunc(near, func(a, b candidate) int {
			return cmp.Compare(far(m.listing(q, a.offer)), far(m.listing(q, b.offer)))
		})
		f.Nearest = append(f.Nearest, m.nearMisses(q, p, near[:min(maxNearestOfSame, len(near))])...)
	}
	slices.SortStableFunc(f.Nearest, func(a, b NearMiss) int { return cmp.Compare(a.Rate, b.Rate) })
	f.Nearest = f.Nearest[:min(maxNearest, len(f.Nearest))]
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
