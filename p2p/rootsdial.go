package p2p

import (
	"context"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"rialto/p2p/identity"
)

// dialTimeout ends a dial for a question. libp2p's own 5 s, which a host that is gone costs over QUIC, hold up an
// announcement, and others are there to ask.
const dialTimeout = 2 * time.Second

// dialer is the host as the DHT sees it: it notes whom the DHT dials.
type dialer struct {
	host.Host

	roots *Roots
}

// Connect connects to a peer, unless this host is passive.
func (d dialer) Connect(ctx context.Context, info peer.AddrInfo) error {
	if d.Network().Connectedness(info.ID) == network.Connected {
		return nil
	}
	if d.roots.cfg.Passive {
		return ErrNotConnected
	}
	d.roots.dials(info.ID)
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	return d.Host.Connect(ctx, info)
}

// NewStream opens a stream, if need be on a new connection.
func (d dialer) NewStream(ctx context.Context, p peer.ID, protocols ...protocol.ID) (network.Stream, error) {
	if d.Network().Connectedness(p) != network.Connected {
		if d.roots.cfg.Passive {
			return nil, ErrNotConnected
		}
		d.roots.dials(p)
	}
	return d.Host.NewStream(ctx, p, protocols...)
}

func (r *Roots) dials(p peer.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dialed[p] = false
}

// closeIdle closes connections that were made for a question and serve nothing any more, until ctx ends. Without it a
// host would end up connected to all others.
func (r *Roots) closeIdle(ctx context.Context) {
	tick := time.NewTicker(time.Minute) // after which the DHT ends a stream without questions
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			r.closeIdleNow()
		case <-ctx.Done():
			return
		}
	}
}

// closeIdleNow closes what is idle and was so at the call before.
func (r *Roots) closeIdleNow() {
	network := r.cfg.Host.host.Network()
	var idle []peer.ID
	r.mu.Lock()
	for p, wasIdle := range r.dialed {
		conns := network.ConnsToPeer(p)
		streams := 0
		for _, c := range conns {
			streams += len(c.GetStreams())
		}
		switch {
		case len(conns) == 0, r.cfg.Host.keeps(p):
			delete(r.dialed, p)
		case streams == 0 && wasIdle:
			delete(r.dialed, p)
			idle = append(idle, p)
		default:
			r.dialed[p] = streams == 0
		}
	}
	r.mu.Unlock()
	for _, p := range idle {
		if err := network.ClosePeer(p); err != nil {
			r.cfg.Logger.Debug("cannot close an idle connection", "peer", p.String(), "err", err)
		}
	}
}

// forget takes a peer whose last connection has ended out of the answers.
func (r *Roots) forget(id identity.ID) {
	if d := r.dht.Load(); d != nil {
		if p, err := peer.Decode(string(id)); err == nil {
			d.RoutingTable().RemovePeer(p)
		}
	}
}

// reachable reports whether others can dial a connected peer, as far as this can be seen from here: we dialed it, or its
// connection comes from where it says that it is.
func reachable(h host.Host, p peer.ID) bool {
	return slices.ContainsFunc(h.Network().ConnsToPeer(p), func(c network.Conn) bool {
		return c.Stat().Direction == network.DirOutbound || isAt(c.RemoteMultiaddr(), h.Peerstore().Addrs(p))
	})
}

// plausible leaves out addresses at which no host of the market is: a stranger's word must not have this host knock at
// its own machine, at whatever is on its link, or where a name leads. Loopback counts where this host is on nothing
// else itself.
func (r *Roots) plausible(addrs []multiaddr.Multiaddr) []multiaddr.Multiaddr {
	local := slices.ContainsFunc(r.cfg.Host.host.Addrs(), manet.IsIPLoopback)
	kept := make([]multiaddr.Multiaddr, 0, len(addrs))
	for _, a := range addrs {
		ip, err := manet.ToIP(a)
		if err != nil || ip.IsUnspecified() || ip.IsMulticast() || ip.IsLinkLocalUnicast() || ip.IsLoopback() && !local {
			continue
		}
		kept = append(kept, a)
	}
	return kept
}

// isAt reports whether a connection comes from one of the addresses that its peer tells, or from this machine.
func isAt(from multiaddr.Multiaddr, told []multiaddr.Multiaddr) bool {
	ip, err := manet.ToIP(from)
	if err != nil {
		return false
	}
	return ip.IsLoopback() || slices.ContainsFunc(told, func(a multiaddr.Multiaddr) bool {
		at, err := manet.ToIP(a)
		return err == nil && at.Equal(ip)
	})
}
