package book

import (
	"cmp"
	"math"
	"slices"

	"rialto/pricing"
)

// naive is the index as a list that is read from end to end.
type naive struct {
	offers map[Slot]*naiveOffer
}

type naiveOffer struct {
	Record
	rented  bool
	expires int64
}

func (n *naive) search(q *Query) (hits []Hit) {
	for s, o := range n.offers {
		if o.rented || len(misses(q, &o.Record)) > 0 {
			continue
		}
		h := Hit{Slot: s, Price: o.Price, Cost: float64(o.Price)}
		if q.Job != nil {
			h.Cost = q.Job.Cost(s, &o.Record)
		}
		hits = append(hits, h)
	}
	slices.SortFunc(hits, func(a, b Hit) int { return cmp.Or(cmp.Compare(a.Cost, b.Cost), cmp.Compare(a.Slot, b.Slot)) })
	return hits[:min(len(hits), q.K)]
}

// gang returns the least total price of n slots on a site, or zero.
func (n *naive) gang(size int, q *Query) pricing.Rate {
	sites := make(map[uint32][]int64)
	for _, o := range n.offers {
		if !o.rented && o.Site != 0 && len(misses(q, &o.Record)) == 0 {
			sites[o.Site] = append(sites[o.Site], int64(o.Price)*int64(o.GPUs))
		}
	}
	best := int64(math.MaxInt64)
	for _, totals := range sites {
		if len(totals) < size {
			continue
		}
		slices.Sort(totals)
		var sum int64
		for _, t := range totals[:size] {
			sum += t
		}
		best = min(best, sum)
	}
	if best == math.MaxInt64 {
		return 0
	}
	return pricing.Rate(best)
}

// misses returns which predicates of a query a record fails, in the order of an explanation.
func misses(q *Query, r *Record) (out []Predicate) {
	miss := func(is Predicate, fails bool) {
		if fails {
			out = append(out, is)
		}
	}
	miss(Predicate{Kind: ByModel}, len(q.Models) > 0 && !slices.Contains(q.Models, r.Model))
	miss(Predicate{Kind: ByGPUs}, q.GPUs.Len() > 0 && !q.GPUs.Has(r.GPUs))
	miss(Predicate{Kind: ByRegion}, q.Regions.Len() > 0 && !q.Regions.Has(r.Region))
	for f := range flagCount {
		miss(Predicate{Kind: ByWith, At: f}, q.With>>f&1 != 0 && r.Flags>>f&1 == 0)
	}
	for f := range flagCount {
		miss(Predicate{Kind: ByWithout, At: f}, q.Without>>f&1 != 0 && r.Flags>>f&1 != 0)
	}
	for i, b := range q.Bounds {
		miss(Predicate{Kind: ByBound, At: i}, r.Value(b.Attribute) < b.Min || r.Value(b.Attribute) > b.Max)
	}
	miss(Predicate{Kind: ByPrice}, q.MaxPrice > 0 && r.Price > q.MaxPrice)
	miss(Predicate{Kind: ByHost}, slices.Contains(q.NotHosts, r.Host))
	return out
}

// explain does what [Index.Explain] does.
func (n *naive) explain(q *Query, nearest int) Explanation {
	var e Explanation
	e.Steps = predicates(q)
	for s, o := range n.offers {
		e.Offers++
		failed := misses(q, &o.Record)
		if o.rented {
			failed = append(failed, Predicate{Kind: ByRented})
		}
		if len(failed) == 0 {
			e.Matching++
			continue
		}
		at := slices.IndexFunc(e.Steps, func(s Step) bool { return s.Predicate == failed[0] })
		e.Steps[at].Eliminated++
		if len(failed) == 1 {
			e.Steps[at].Alone++
			e.Nearest = append(e.Nearest, Miss{Slot: s, Price: o.Price, Fails: failed[0]})
		}
	}
	slices.SortFunc(e.Nearest, func(a, b Miss) int {
		return cmp.Or(cmp.Compare(a.Price, b.Price), cmp.Compare(a.Slot, b.Slot))
	})
	e.Nearest = e.Nearest[:min(len(e.Nearest), nearest)]
	return e
}
