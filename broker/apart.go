package broker

import (
	"iter"
	"slices"

	"rialto/pricing"
)

// apart chooses one offer on each of as many hosts as a gang wants, of those that are free or, where these are too few, of
// them and then of those that are busy: the best ones, or those of the region where they cost least together. Nil: there
// are too few.
func (m *Market) apart(s *JobSpec, q *Query, tried []PeerID, busy bool) []candidate {
	a := apart{nodes: s.Nodes, sameRegion: s.SameRegion, regions: map[string]*region{}}
	a.choose(m.best(q, tried, true, nil))
	if busy && a.cheapest == nil {
		a.choose(m.best(q, tried, false, nil))
	}
	if a.cheapest == nil {
		return nil
	}
	return a.cheapest.nodes
}

// apart is the choice of a gang's hosts from candidates that come best first.
type apart struct {
	nodes      int
	sameRegion bool
	regions    map[string]*region
	cheapest   *region       // of those that are full
	floor      pricing.Money // what is left costs no less
}

// region is the best offers of hosts in one region, or of all hosts.
type region struct {
	nodes []candidate
	total pricing.Money
}

// choose goes on until what is left cannot change the choice.
func (a *apart) choose(best iter.Seq[candidate]) {
	least := pricing.Money(-1)
	for c := range best {
		if least < 0 || c.cost.Total < least {
			least = c.cost.Total
		}
		// Those as good as the best come in any order, the others in that of their costs: see Market.spread.
		if a.floor = least; c.cost.Total > asGood(least) {
			a.floor = c.cost.Total
		}
		if a.settled() {
			return
		}
		a.add(c)
		if a.cheapest != nil && !a.sameRegion {
			return
		}
	}
}

// add takes an offer if its host is not among those of its region yet.
func (a *apart) add(c candidate) {
	name, ok := groupOf(c.offer.Region, a.sameRegion)
	if !ok {
		return
	}
	r := a.regions[name]
	if r == nil {
		r = new(region)
		a.regions[name] = r
	}
	if len(r.nodes) == a.nodes || slices.ContainsFunc(r.nodes, func(o candidate) bool { return o.offer.Provider == c.offer.Provider }) {
		return
	}
	r.nodes, r.total = append(r.nodes, c), r.total+c.cost.Total
	if len(r.nodes) == a.nodes && (a.cheapest == nil || r.total < a.cheapest.total) {
		a.cheapest = r
	}
}

// settled reports whether no region can become cheaper than the cheapest that is full.
func (a *apart) settled() bool {
	if a.cheapest == nil || pricing.Money(a.nodes)*a.floor < a.cheapest.total {
		return false
	}
	for _, r := range a.regions { // any one
		if left := a.nodes - len(r.nodes); left > 0 && r.total+pricing.Money(left)*a.floor < a.cheapest.total {
			return false
		}
	}
	return true
}

// groupOf names what a host is chosen with: all, or those of its region. Hosts that do not say where they are share none.
func groupOf(region string, sameRegion bool) (name string, ok bool) {
	if !sameRegion {
		return "", true
	}
	return region, region != ""
}

// Apart chooses, of offers that come best first, the best one of each of n hosts: once, or once for each region that has so
// many, the one that is full first coming first.
func Apart[T any](among []T, n int, sameRegion bool, place func(T) (host PeerID, region string)) [][]T {
	groups := map[string][]T{}
	var full [][]T
	for _, o := range among {
		host, region := place(o)
		name, ok := groupOf(region, sameRegion)
		if !ok {
			continue
		}
		g := groups[name]
		if len(g) == n || slices.ContainsFunc(g, func(other T) bool { p, _ := place(other); return p == host }) {
			continue
		}
		g = append(g, o)
		if groups[name] = g; len(g) == n {
			full = append(full, g)
		}
	}
	return full
}
