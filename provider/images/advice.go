//go:build linux

package images

import (
	"maps"
	"time"

	"rialto/blockstore"
	"rialto/broker"
)

// advice is what one broker knows of what is here.
type advice struct {
	until time.Time
	roots map[blockstore.CID]broker.RootAdvice
}

// Advise takes what a broker knows of what is here, in place of what it said before. It decides what goes when room is
// needed, until then.
func (m *Images) Advise(from broker.PeerID, roots []broker.RootAdvice, until time.Time) {
	a := advice{until: until, roots: make(map[blockstore.CID]broker.RootAdvice, len(roots))}
	for _, r := range roots {
		if c, err := blockstore.ParseCID(r.Root); err == nil {
			a.roots[c] = r
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.advice[from] = a
}

// advised adds to each root what brokers know of it. Each sees its own hosts alone: of several the one counts that knows
// of more replicas, a root is the last in its region only if all say so that know of it, and a keeper if one does.
func (m *Images) advised(now time.Time, roots []blockstore.Root) {
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.DeleteFunc(m.advice, func(_ broker.PeerID, a advice) bool { return !now.Before(a.until) })
	for i := range roots {
		r, known := &roots[i], false
		for _, a := range m.advice {
			said, ok := a.roots[r.CID]
			if !ok {
				continue
			}
			r.LastInRegion = said.LastInRegion && (r.LastInRegion || !known)
			r.Replicas = max(r.Replicas, said.Replicas)
			r.Keeper = r.Keeper || said.Keeper
			known = true
		}
	}
}
