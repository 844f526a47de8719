package service

import (
	"iter"
	"maps"
	"slices"
	"sync"
	"time"

	"rialto/blockstore"
	"rialto/broker"
	"rialto/broker/wire"
)

const (
	// adviceTTL is how long advice holds. Agents ask for it again three times as often.
	adviceTTL = 30 * time.Minute
	// keepersPerRegion is how many providers of a region keep a root longest: one may be away.
	keepersPerRegion = 2
)

// holders knows which connected providers hold which roots, of images and weights. It is as old as their last offers.
// Methods are safe for concurrent use.
type holders struct {
	mu    sync.Mutex
	roots map[string]map[broker.PeerID]string // by root: who holds it, and in which region
	of    map[broker.PeerID][]string          // by holder, each root once
}

func newHolders() *holders {
	return &holders{roots: map[string]map[broker.PeerID]string{}, of: map[broker.PeerID][]string{}}
}

// set replaces what a provider holds. A host is in one place: the region of its first offer counts, and those that name
// none are in one together.
func (h *holders) set(p broker.PeerID, set broker.OfferSet) {
	seen := map[string]struct{}{}
	region := ""
	for i, o := range set.Offers {
		if i == 0 {
			region = o.Region
		}
		for _, held := range o.Images {
			seen[held.Root] = struct{}{}
		}
		for _, root := range o.Weights {
			seen[root] = struct{}{}
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.forget(p)
	if len(seen) == 0 {
		return
	}
	h.of[p] = slices.Sorted(maps.Keys(seen))
	for root := range seen {
		if h.roots[root] == nil {
			h.roots[root] = map[broker.PeerID]string{}
		}
		h.roots[root][p] = region
	}
}

func (h *holders) remove(p broker.PeerID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.forget(p)
}

// forget needs mu.
func (h *holders) forget(p broker.PeerID) {
	for _, root := range h.of[p] {
		if delete(h.roots[root], p); len(h.roots[root]) == 0 {
			delete(h.roots, root)
		}
	}
	delete(h.of, p)
}

// advise says of each root that a provider holds who else does. Those that are distrusted are no help to anybody.
func (h *holders) advise(p broker.PeerID, distrusted []broker.PeerID) []broker.RootAdvice {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []broker.RootAdvice
	for _, root := range h.of[p][:min(len(h.of[p]), wire.MaxAdvised)] {
		c, err := blockstore.ParseCID(root)
		if err != nil {
			continue
		}
		a, region := broker.RootAdvice{Root: root, LastInRegion: true}, h.roots[root][p]
		others := func(yield func(broker.PeerID, string) bool) {
			for other, where := range h.roots[root] {
				if _, bad := slices.BinarySearch(distrusted, other); other != p && !bad && !yield(other, where) {
					return
				}
			}
		}
		for _, where := range others {
			a.Replicas++
			a.LastInRegion = a.LastInRegion && where != region
		}
		a.Keeper = blockstore.Keeper(c, string(p), within(region, others), keepersPerRegion)
		out = append(out, a)
	}
	return out
}

// within yields the holders of one region.
func within(region string, holders iter.Seq2[broker.PeerID, string]) iter.Seq[string] {
	return func(yield func(string) bool) {
		for p, where := range holders {
			if where == region && !yield(string(p)) {
				return
			}
		}
	}
}

// advice answers a set of offers.
func (s *Service) advice(p broker.PeerID, set broker.OfferSet, now time.Time) ([]byte, error) {
	a := broker.Advice{Boot: set.Boot, Seq: set.Seq, TTL: adviceTTL, Roots: s.holders.advise(p, s.poisons.distrusted(now))}
	accusers, until := s.poisons.standing(p, now)
	a.Accusers = accusers
	if !until.IsZero() {
		a.Distrusted = until.Sub(now)
	}
	return wire.SealAdvice(s.c.Key, a)
}
