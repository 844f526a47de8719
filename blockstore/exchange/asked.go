package exchange

import (
	"context"
	"maps"
	"slices"
	"sync"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/connmgr"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

// peeringTag is the tag under which Bitswap looks for peers that it tells its wants in any case.
const peeringTag = "ipfs-peering"

// asked counts the fetches that ask each peer. To Bitswap it is a connection manager that protects those
// peers and manages nothing: so wants go to the peers of a fetch and not to everybody far away that is connected.
type asked struct {
	connmgr.NullConnMgr

	mu      sync.Mutex
	fetches map[peer.ID]int
}

func (a *asked) add(p peer.ID, n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.fetches[p] += n; a.fetches[p] == 0 {
		delete(a.fetches, p)
	}
}

// IsProtected reports whether a fetch asks the peer.
func (a *asked) IsProtected(p peer.ID, tag string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return tag == peeringTag && a.fetches[p] > 0
}

// askingHost is a host with that connection manager.
type askingHost struct {
	host.Host
	asked *asked
}

func (h askingHost) ConnManager() connmgr.ConnManager { return h.asked }

// finder answers Bitswap's search for providers with the connected peers of the fetch. Bitswap then asks
// them for the block itself, to which, other than to a broadcast, they have to answer that they lack it.
type finder struct{ x *Exchange }

// FindProvidersAsync yields the peers of the downloads that want c.
func (f finder) FindProvidersAsync(_ context.Context, c cid.Cid, _ int) <-chan peer.AddrInfo {
	f.x.mu.Lock()
	downloads := slices.Collect(maps.Keys(f.x.downloads))
	f.x.mu.Unlock()
	var found []peer.AddrInfo
	for _, d := range downloads {
		if !d.wants(c) {
			continue
		}
		d.mu.Lock()
		if d.swap != nil {
			for p := range d.swap.peers {
				found = append(found, peer.AddrInfo{ID: p})
			}
		}
		d.mu.Unlock()
	}
	out := make(chan peer.AddrInfo, len(found))
	defer close(out)
	for _, p := range found {
		if f.x.cfg.Host.Network().Connectedness(p.ID) == network.Connected {
			out <- p
		}
	}
	return out
}
