package p2p

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"rialto/p2p/identity"
)

// Addrs returns the multiaddrs, ending in /p2p/ and the host's ID, at which others can dial this host. Loopback is
// among them only when there is nothing else.
func (h *Host) Addrs() []string {
	all, err := h.host.Network().InterfaceListenAddresses()
	if err != nil {
		// Only what listens on all interfaces cannot be resolved; the rest is better than nothing.
		h.config.Logger.Warn("cannot list the addresses of interfaces", "err", err)
		all = h.host.Network().ListenAddresses()
	}
	addrs := h.told(all)
	out := make([]string, 0, len(addrs))
	for _, a := range addrs {
		out = append(out, a.String()+"/p2p/"+string(h.ID()))
	}
	return out
}

// told returns the addresses at which others can dial this host, given those of the interfaces.
func (h *Host) told(all []multiaddr.Multiaddr) []multiaddr.Multiaddr {
	if len(h.announce) > 0 {
		return h.announce
	}
	var loopback, routed []multiaddr.Multiaddr
	for _, a := range all {
		switch {
		case manet.IsIPUnspecified(a), manet.IsIP6LinkLocal(a): // nobody can dial these
		case manet.IsIPLoopback(a):
			loopback = append(loopback, a)
		default:
			routed = append(routed, a)
		}
	}
	if len(routed) > 0 {
		return routed
	}
	return loopback
}

// parseAddr reads a multiaddr that ends in /p2p/ and the peer's ID.
func parseAddr(addr string) (peer.AddrInfo, identity.ID, error) {
	info, err := peer.AddrInfoFromString(addr)
	if err != nil {
		return peer.AddrInfo{}, "", fmt.Errorf("address %q: %w", addr, err)
	}
	id, err := identity.ParseID(info.ID.String())
	if err != nil {
		return peer.AddrInfo{}, "", fmt.Errorf("address %q: %w", addr, err)
	}
	return *info, id, nil
}

// Connect connects to the peer at addr, a multiaddr that ends in /p2p/ and the peer's ID, unless there is a
// connection already.
func (h *Host) Connect(ctx context.Context, addr string) (identity.ID, error) {
	info, id, err := parseAddr(addr)
	if err != nil {
		return "", fmt.Errorf("connect: %w", err)
	}
	// libp2p remembers failures and would refuse to dial for a while. When to try again is our caller's choice.
	if s, ok := h.host.Network().(*swarm.Swarm); ok {
		s.Backoff().Clear(info.ID)
	}
	if err := h.host.Connect(ctx, info); err != nil {
		return "", fmt.Errorf("connect to %s: %w", addr, dialError(err))
	}
	return id, nil
}

// dialError returns what kept the first address from answering: libp2p's own error takes several lines.
func dialError(err error) error {
	de, ok := errors.AsType[*swarm.DialError](err)
	switch {
	case !ok || len(de.DialErrors) == 0:
		return err
	case len(de.DialErrors) == 1:
		return de.DialErrors[0].Cause
	default:
		return fmt.Errorf("%w (and %d more addresses)", de.DialErrors[0].Cause, len(de.DialErrors)-1)
	}
}

// RemoteIP returns the address from which the peer's oldest connection comes.
func (h *Host) RemoteIP(id identity.ID) (netip.Addr, bool) {
	p, err := peer.Decode(string(id))
	if err != nil {
		return netip.Addr{}, false
	}
	for _, c := range h.host.Network().ConnsToPeer(p) {
		if ip, err := manet.ToIP(c.RemoteMultiaddr()); err == nil && !c.IsClosed() {
			if a, ok := netip.AddrFromSlice(ip); ok {
				return a.Unmap(), true
			}
		}
	}
	return netip.Addr{}, false
}

// Keep keeps a connection to the peer at addr until ctx ends; it then returns nil, and an error only when addr is
// malformed. After each time that the connection comes to be, it calls up, with a context that ends with the
// connection or with ctx; up may return at once or work for as long as the context lives. Between attempts it
// waits for a random part of a time that doubles from RetryMin to RetryMax and starts over when a connection
// has lasted RetryMax: one that the peer closes at once must not be retried at once for ever.
func (h *Host) Keep(ctx context.Context, addr string, up func(ctx context.Context, id identity.ID)) error {
	info, id, err := parseAddr(addr)
	if err != nil {
		return fmt.Errorf("keep: %w", err)
	}
	log := h.config.Logger.With("peer", string(id), "addr", addr)
	failing := false // logged once for each spell of failures
	wait := h.config.RetryMin
	for ctx.Err() == nil {
		began := time.Now()
		if _, err := h.Connect(ctx, addr); err != nil {
			if !failing && !errors.Is(err, context.Canceled) {
				log.Warn("cannot connect, will retry", "err", err)
			}
			failing = true
		} else {
			failing = false
			log.Debug("connected")
			h.whileConnected(ctx, info.ID, func(ctx context.Context) { up(ctx, id) })
			if ctx.Err() == nil {
				log.Debug("disconnected, will retry")
			}
			if time.Since(began) >= h.config.RetryMax {
				wait = h.config.RetryMin
			}
		}
		// At least a tenth, so that a run of small numbers is no busy loop.
		sleep(ctx, wait/10+rand.N(wait))
		wait = min(2*wait, h.config.RetryMax)
	}
	return nil
}

// whileConnected calls f with a context that ends with the connection to p, and returns when both f and the
// connection have ended, or f and ctx.
func (h *Host) whileConnected(ctx context.Context, p peer.ID, f func(context.Context)) {
	gone := h.goneChannel(p)
	ctx, cancel := context.WithCancel(ctx)
	stop := make(chan struct{})
	go func() { // until the connection, ctx or this function ends
		defer close(stop)
		defer cancel()
		h.probe(ctx, p, gone)
	}()
	f(ctx)
	<-stop
}

// probe asks p whether it is there until the connection or ctx ends, and ends the connection to a peer that is not:
// libp2p would notice only when QUIC's or TCP's own patience is over.
func (h *Host) probe(ctx context.Context, p peer.ID, gone <-chan struct{}) {
	tick := time.NewTicker(h.config.Probe)
	defer tick.Stop()
	for {
		select {
		case <-gone:
			return
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		asked, cancel := context.WithTimeout(ctx, h.config.Probe)
		_, err := h.Request(asked, identity.ID(p.String()), ProtocolProbe, nil)
		cancel()
		if _, answered := errors.AsType[*RemoteError](err); err == nil || answered || ctx.Err() != nil {
			continue
		}
		h.config.Logger.Debug("peer does not answer, disconnecting", "peer", p.String(), "err", err)
		if err := h.host.Network().ClosePeer(p); err != nil {
			h.config.Logger.Debug("cannot close connection", "peer", p.String(), "err", err)
		}
	}
}

// goneChannel returns a channel that is closed when no connection to p is left.
func (h *Host) goneChannel(p peer.ID) <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	if gone := h.gone[p]; gone != nil {
		return gone
	}
	gone := make(chan struct{})
	// The event of a connection that ended before this test may already have been handled; that of one
	// which ends after it will find the channel.
	if h.host.Network().Connectedness(p) != network.Connected {
		close(gone)
		return gone
	}
	h.gone[p] = gone
	return gone
}

// keeps reports whether Keep holds a connection to p.
func (h *Host) keeps(p peer.ID) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.gone[p] != nil
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
