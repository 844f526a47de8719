package broker

import (
	"cmp"
	"maps"
	"slices"
)

// MaxTopPeers is how many peers a [Fetched] names: as many as a hold does, twice. The rest served the least.
const MaxTopPeers = 16

// PeerBytes is what one peer served.
type PeerBytes struct {
	Peer  PeerID
	Bytes int64 // more than zero
}

// Compare orders who served most first.
func (p PeerBytes) Compare(other PeerBytes) int {
	return cmp.Or(cmp.Compare(other.Bytes, p.Bytes), cmp.Compare(p.Peer, other.Peer))
}

// TopPeers lists those that served most, the most first, at most MaxTopPeers. Whoever served nothing is not listed.
func TopPeers(bytes map[PeerID]int64) []PeerBytes {
	var all []PeerBytes
	for _, p := range slices.Sorted(maps.Keys(bytes)) {
		if p != "" && bytes[p] > 0 {
			all = append(all, PeerBytes{Peer: p, Bytes: bytes[p]})
		}
	}
	slices.SortFunc(all, PeerBytes.Compare)
	return slices.Clip(all[:min(len(all), MaxTopPeers)])
}

// sources returns up to eight other providers that say they hold the image's root or weights that a job's spec names.
// It is a hint: every block is verified by its hash. Those that are distrusted are left out.
func (t *turn) sources(spec *JobSpec, self PeerID) []BlockSource {
	const most = 8
	var helpful []*Offer
	add := func(root string) {
		n := len(helpful)
		for _, o := range t.holders[root] { // by provider
			if o.Provider == self || t.now.Before(t.distrusted[o.Provider]) || len(helpful) > n && helpful[len(helpful)-1].Provider == o.Provider {
				continue
			}
			if len(helpful) == n+most {
				break
			}
			helpful = append(helpful, o)
		}
	}
	if spec.Root != "" {
		add(spec.Root)
	}
	for _, w := range spec.Weights {
		add(w.Root)
	}
	slices.SortFunc(helpful, compareOffers)
	helpful = slices.CompactFunc(helpful, func(a, b *Offer) bool { return a.Provider == b.Provider })
	var sources []BlockSource
	for _, o := range helpful[:min(most, len(helpful))] {
		sources = append(sources, BlockSource{Peer: o.Provider, Addrs: o.Addrs})
	}
	return sources
}
