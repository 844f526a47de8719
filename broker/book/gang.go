package book

import (
	"cmp"
	"fmt"
	"math"
	"math/bits"
	"slices"

	"rialto/pricing"
)

// Gang is slots of one site that together cost least.
type Gang struct {
	Slots   []Slot       // cheapest first
	Total   pricing.Rate // of all their GPUs, in nanodollars per hour
	Leaves  int
	Records int
	Partial bool // as in [Result]
}

// Gang returns the n slots on one site that match and whose price for all their GPUs together is least; no slots mean
// that no site has n. Slots of unknown site never match. Neither q.K nor q.Job is read. It fails with [ErrQuery].
//
// The walk is in order of price. When it meets a site's first slot it reads the whole site; when n times the price that
// it has come to is no better than the best gang found, no site left can be better.
func (x *Index) Gang(n int, q *Query) (Gang, error) {
	if n < 2 || n > MaxGang {
		return Gang{}, fmt.Errorf("%w: a gang of %d, not of 2…%d", ErrQuery, n, MaxGang)
	}
	plain := *q
	plain.K, plain.Job = 1, nil
	if err := plain.check(); err != nil {
		return Gang{}, err
	}
	x.mu.RLock()
	defer x.mu.RUnlock()
	w := x.walker(&plain)
	defer x.walkers.Put(w)
	g := &gang{walk: w, n: n, total: math.MaxInt64, seen: make(map[uint32]struct{})}
	w.start(n, rankTotal)
	w.run(g)
	out := Gang{Slots: g.slots, Leaves: w.leaves, Records: w.records, Partial: w.partial}
	if len(g.slots) > 0 {
		out.Total = pricing.Rate(g.total)
	}
	return out, nil
}

// gang is the goal of n slots on one site.
type gang struct {
	walk  *walker
	n     int
	total int64
	slots []Slot
	seen  map[uint32]struct{}
	found []member
}

type member struct {
	total int64 // the price of its GPUs
	slot  Slot
}

func (g *gang) beaten(bound float64, _ Slot) bool {
	return int64(g.n)*int64(bound) >= g.total // bounds are whole, and below 2^51
}

func (*gang) first(*cursor, *entry) (*program, bool) { return nil, true }

func (g *gang) visit(c *cursor, e *entry, m mask) bool {
	w := g.walk
	slots := w.slots(c, e)
	for i, word := range m {
		for ; word != 0; word &= word - 1 {
			r := w.x.pages.record(slots[i<<6+bits.TrailingZeros64(word)])
			w.records++
			if w.q.MaxPrice > 0 && r.Price > w.q.MaxPrice || g.beaten(float64(r.Price)*c.plan.slope, 0) {
				return true
			}
			if _, ok := g.seen[r.Site]; ok || r.Site == 0 || !w.q.Matches(r) {
				continue
			}
			g.seen[r.Site] = struct{}{}
			if g.site(&w.x.sites[r.Site]); w.partial {
				return true
			}
		}
	}
	return false
}

// site finds the best gang of a site.
func (g *gang) site(st *site) {
	if int(st.live) < g.n {
		return
	}
	w := g.walk
	g.found = g.found[:0]
	for i := st.first; i != 0; {
		if w.partial = w.records >= w.x.maxRecords; w.partial {
			return
		}
		pg, j := w.x.pages.at(i)
		if r := &pg.records[j]; w.q.Matches(r) {
			g.found = append(g.found, member{int64(r.Price) * int64(r.GPUs), w.x.pages.slot(i)})
		}
		w.records++
		i = pg.next[j]
	}
	if len(g.found) < g.n {
		return
	}
	slices.SortFunc(g.found, func(a, b member) int {
		return cmp.Or(cmp.Compare(a.total, b.total), cmp.Compare(a.slot, b.slot))
	})
	var sum int64
	for _, m := range g.found[:g.n] {
		sum += m.total
	}
	if sum < g.total {
		g.total = sum
		g.slots = g.slots[:0]
		for _, m := range g.found[:g.n] {
			g.slots = append(g.slots, m.slot)
		}
	}
}
