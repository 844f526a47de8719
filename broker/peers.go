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
