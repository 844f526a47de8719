package book

import (
	"fmt"
	"slices"

	"rialto/pricing"
)

// PredicateKind is what a predicate is about.
type PredicateKind uint8

// Kinds of predicates, in the order in which an explanation applies them.
const (
	ByModel   PredicateKind = iota
	ByGPUs                  // GPU count
	ByRegion                //
	ByWith                  // a flag of With
	ByWithout               // a flag of Without
	ByBound                 // one of Bounds
	ByPrice                 // MaxPrice
	ByHost                  // NotHosts
	ByRented                // not on offer now
)

// Predicate is one condition of a query.
type Predicate struct {
	Kind PredicateKind
	At   int // with ByWith and ByWithout the flag's bit, with ByBound the index in Bounds
}

// Step says what a predicate did.
type Step struct {
	Predicate  Predicate
	Eliminated int // offers that all earlier predicates left and this one did not
	Alone      int // offers that fail this predicate and no other: so many more would match without it
}

// Miss is an offer that fails one predicate and no other.
type Miss struct {
	Slot  Slot
	Price pricing.Rate
	Fails Predicate
}

// Explanation says what became of all offers under a query. Offers is Matching and all that were eliminated.
type Explanation struct {
	Offers   int // known, rented or not
	Steps    []Step
	Matching int
	Nearest  []Miss // cheapest first
}

// Explain applies a query's predicates to every offer and counts, exactly; it returns at most nearest misses, of
// at most [MaxK]. It reads all records, milliseconds for a million, and lets writers in between pages: an offer that
// changes meanwhile is counted as it is when its page is read. Neither q.K nor q.Job is read. It fails with [ErrQuery].
func (x *Index) Explain(q *Query, nearest int) (Explanation, error) {
	plain := *q
	plain.K, plain.Job = 1, nil
	if err := plain.check(); err != nil {
		return Explanation{}, err
	}
	if nearest < 0 || nearest > MaxK {
		return Explanation{}, fmt.Errorf("%w: %d nearest misses, not 0…%d", ErrQuery, nearest, MaxK)
	}
	e := Explanation{Steps: predicates(q)}
	for i := 0; x.explainPage(i, q, &e, nearest); i++ {
	}
	return e, nil
}

// predicates returns the steps of a query, in order.
func predicates(q *Query) (steps []Step) {
	add := func(k PredicateKind, at int, wanted bool) {
		if wanted {
			steps = append(steps, Step{Predicate: Predicate{Kind: k, At: at}})
		}
	}
	add(ByModel, 0, len(q.Models) > 0)
	add(ByGPUs, 0, q.GPUs != (Set{}))
	add(ByRegion, 0, q.Regions != (Set{}))
	for f := range flagCount {
		add(ByWith, f, q.With>>f&1 != 0)
	}
	for f := range flagCount {
		add(ByWithout, f, q.Without>>f&1 != 0)
	}
	for i := range q.Bounds {
		add(ByBound, i, true)
	}
	add(ByPrice, 0, q.MaxPrice > 0)
	add(ByHost, 0, len(q.NotHosts) > 0)
	add(ByRented, 0, true)
	return steps
}

// explainPage counts the offers of a page and reports whether there was one.
func (x *Index) explainPage(i int, q *Query, e *Explanation, nearest int) bool {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if i >= len(x.pages.list) {
		return false
	}
	pg := x.pages.list[i]
	for j := range uint32(pageSize) {
		st := pg.status[j]
		if st == vacant {
			continue
		}
		e.Offers++
		r := &pg.records[j]
		first, more := -1, false
		for n := range e.Steps {
			if !e.Steps[n].Predicate.holds(q, r, st) {
				if more = first >= 0; more {
					break
				}
				first = n
			}
		}
		switch {
		case first < 0:
			e.Matching++
			continue
		case !more:
			e.Steps[first].Alone++
			e.near(Miss{
				Slot: x.pages.slot(uint32(i)<<pageBits | j), Price: r.Price, Fails: e.Steps[first].Predicate,
			}, nearest)
		}
		e.Steps[first].Eliminated++
	}
	return true
}

func (p *Predicate) holds(q *Query, r *Record, st status) bool {
	switch p.Kind {
	case ByModel:
		return slices.Contains(q.Models, r.Model)
	case ByGPUs:
		return q.GPUs.Has(r.GPUs)
	case ByRegion:
		return q.Regions.Has(r.Region)
	case ByWith:
		return r.Flags>>p.At&1 != 0
	case ByWithout:
		return r.Flags>>p.At&1 == 0
	case ByBound:
		b := &q.Bounds[p.At]
		v := r.Value(b.Attribute)
		return v >= b.Min && v <= b.Max
	case ByPrice:
		return r.Price <= q.MaxPrice
	case ByHost:
		return !slices.Contains(q.NotHosts, r.Host)
	case ByRented:
		return st == live
	}
	return true
}

// near keeps a miss if it is among the cheapest.
func (e *Explanation) near(m Miss, most int) {
	k := key{m.Price, m.Slot}
	i := len(e.Nearest)
	for i > 0 && k.less(key{e.Nearest[i-1].Price, e.Nearest[i-1].Slot}) {
		i--
	}
	if i == most {
		return
	}
	if len(e.Nearest) == most {
		e.Nearest = e.Nearest[:most-1]
	}
	e.Nearest = slices.Insert(e.Nearest, i, m)
}
