package blockstore

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"iter"
)

// Keeper reports whether a host is one of the k that should keep a root longest, among itself and others that hold it.
// All hosts that know of the same holders agree on who they are, without a word between them; each host is a keeper
// of its share of the roots; and when a holder comes or goes, only its own share moves.
//
// This is rendezvous hashing: each host has a score for each root, and the k highest keep it. Source: D. Thaler and
// C. Ravishankar, "Using Name-Based Mappings to Increase Hit Rates", IEEE/ACM Transactions on Networking 6(1), 1998. The
// score is SHA-256 over the root's CID and the host's name. A host can choose a name with high scores; it then keeps
// more than its share, on its own disk.
func Keeper(root CID, self string, others iter.Seq[string], k int) bool {
	own, above := score(root, self), 0
	for other := range others {
		if other == self {
			continue
		}
		s := score(root, other)
		if cmp.Or(bytes.Compare(s[:], own[:]), cmp.Compare(other, self)) > 0 {
			above++
		}
		if above >= k {
			return false
		}
	}
	return k > 0
}

// score is a host's claim to a root.
func score(root CID, host string) [sha256.Size]byte {
	return sha256.Sum256(append(root[:], host...))
}
