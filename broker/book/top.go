package book

import (
	"math"
	"math/bits"
	"slices"

	"rialto/pricing"
)

// top is the goal of the k cheapest.
type top struct {
	walk *walker
	job  *Job
	k    int
	hits []Hit
}

func (t *top) beaten(bound float64, s Slot) bool {
	if len(t.hits) < t.k {
		return false
	}
	last := &t.hits[t.k-1]
	return last.Cost < bound || last.Cost == bound && last.Slot < s
}

// first returns what an offer needs to cost less than the k-th best.
func (t *top) first(c *cursor, e *entry) (p *program, maybe bool) {
	if t.job == nil || len(t.hits) < t.k {
		return nil, true
	}
	w := t.walk
	upTo := math.Inf(1)
	if c.i < len(c.dir) { // already at the next leaf
		upTo = float64(c.dir[c.i].first.price)
	}
	if !t.job.limit(&w.limits, &c.plan, e.zone, float64(e.first.price), upTo, t.hits[t.k-1].Cost, &w.x.census) {
		return nil, false
	}
	return &w.limits, true
}

func (t *top) visit(c *cursor, e *entry, m mask) bool {
	w := t.walk
	slots := w.slots(c, e)
	ahead := t.k + 2 - len(t.hits) // nearly all match
	if t.job != nil {
		ahead = 64
	}
	w.fetch(slots, m, ahead)
	for i, word := range m {
		for ; word != 0; word &= word - 1 {
			s := slots[i<<6+bits.TrailingZeros64(word)]
			r := w.x.pages.record(s)
			w.records++
			first := s
			if t.job != nil {
				first = 0
			}
			price := float64(r.Price)
			if w.q.MaxPrice > 0 && r.Price > w.q.MaxPrice || t.beaten(price*c.plan.slope+c.plan.base, first) {
				return true
			}
			switch {
			case !w.q.Matches(r):
			case t.job == nil:
				t.add(Hit{Slot: s, Price: r.Price, Cost: price})
			case t.job.first():
				if _, held := t.job.Held[s]; !held { // else it is known already
					t.add(Hit{Slot: s, Price: r.Price, Cost: t.job.cost(&c.plan, r, 0)})
				}
			default:
				t.add(Hit{Slot: s, Price: r.Price, Cost: t.job.cost(&c.plan, r, t.job.Held[s])})
			}
		}
	}
	return false
}

// fetch reads the first n records of a leaf that are about to be looked at, so that the processor waits for all of them
// at once and not for one after the other.
func (w *walker) fetch(slots []Slot, m mask, n int) {
	var sum pricing.Rate
	for i, word := range m {
		for ; word != 0 && n > 0; word &= word - 1 {
			sum += w.x.pages.record(slots[i<<6+bits.TrailingZeros64(word)]).Price
			n--
		}
	}
	w.sink += uint64(sum)
}

// holders looks at the offers that hold some of the job's bytes, before the walk, which then may assume that nobody does.
func (t *top) holders() {
	if t.job == nil || !t.job.first() {
		return
	}
	x, q := t.walk.x, t.walk.q
	for s, share := range t.job.Held {
		if s.index() >= x.pages.used {
			continue
		}
		t.walk.records++
		if r := x.pages.record(s); q.inCell(r.Model, r.GPUs) && q.Matches(r) && x.pages.status(s) == live {
			p := t.job.plan(r.Model, r.GPUs)
			t.add(Hit{Slot: s, Price: r.Price, Cost: t.job.cost(&p, r, share)})
		}
	}
}

// add keeps a hit if it is among the k cheapest.
func (t *top) add(h Hit) {
	if t.beaten(h.Cost, h.Slot) {
		return
	}
	if len(t.hits) == t.k {
		t.hits = t.hits[:t.k-1]
	}
	i := len(t.hits)
	for i > 0 && (t.hits[i-1].Cost > h.Cost || t.hits[i-1].Cost == h.Cost && t.hits[i-1].Slot > h.Slot) {
		i--
	}
	t.hits = slices.Insert(t.hits, i, h)
}
