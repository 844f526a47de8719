// Package p2p is a libp2p host for a private market: authenticated connections between parties that know each
// other's addresses, and typed, bounded requests over them. It carries bytes and knows no market words.
//
// # Connections
//
// A [Host] speaks QUIC and TCP (TLS 1.3, yamux). A peer is its Ed25519 key; others are refused. There is no mDNS, no
// relay and no NAT traversal, and unless [Config].Tell is set identify tells peers no addresses: who may know where a
// host is, learns it from a signed message. What strangers can use up is bounded by [Limits], what they may do by
// [Config].Gate.
//
// # Roots
//
// [Roots] is a DHT of the market's own that says who holds which image or weights. Hosts that take part in it tell
// each other where they are.
//
// # Requests
//
// A request is one stream of its own, on a protocol that begins with "/rialto/":
//
//	request    LEN(4)  BYTES(LEN)            from the peer that opened the stream
//	answer     STATUS(1)  LEN(4)  BYTES(LEN)
//
// LEN is big-endian. STATUS 0 is followed by the answer of at most [MaxAnswer] bytes, STATUS 1 by an error in
// UTF-8 of at most 1 KiB, which the requester gets as a [RemoteError]. A request over the limit that its protocol
// was registered with, and one too many at the same time, is answered by an error before it is read. A stream
// whose bytes do not arrive in time is reset.
//
// Every host answers [ProtocolProbe], empty, with nothing: that is how [Host.Keep] learns that a peer has crashed.
package p2p

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
	"github.com/prometheus/client_golang/prometheus"

	"rialto/p2p/identity"
)

// ErrNotConnected reports a request to a peer without a connection. Requests do not dial: see [Host.Connect].
var ErrNotConnected = errors.New("not connected")

// Config is what a host is made of. Only Key is required.
type Config struct {
	Key identity.Key
	// Listen lists the multiaddrs to listen on; empty: the host only dials.
	Listen []string
	// Announce lists the multiaddrs that others can dial, without /p2p/; empty: those of the interfaces.
	Announce []string
	// Tell has identify tell every peer the addresses at which others can dial this host, as [Roots] needs.
	Tell bool
	// Gate says who may connect to this host; nil: all. It is called concurrently and must not block.
	Gate func(identity.ID) bool
	// Limits bounds what peers can use up; zero: ProviderLimits.
	Limits Limits
	// IOTimeout is the longest that reading a request or writing an answer may take. The default, 10 s, moves
	// the largest message over a link of 1 Mbit/s.
	IOTimeout time.Duration
	// HandlerTimeout is the longest that a handler may take, and the longest that a request waits whose context
	// says nothing. The default, 60 s, is several times what a provider needs to answer a hold.
	HandlerTimeout time.Duration
	// RetryMin and RetryMax bound the back-off of Keep: 500 ms by default, so that a broker's restart is
	// hardly noticed, and 30 s, so that 100,000 providers of a dead broker ask 3,333 times a second.
	RetryMin, RetryMax time.Duration
	// Probe is how often Keep asks the peer whether it is there, and how long it waits for the answer. By default
	// 10 s: a peer that crashed and restarted is connected again in that time, where QUIC alone takes 30 s to give up.
	Probe time.Duration
	// Metrics takes the host's metrics; nil: none.
	Metrics prometheus.Registerer
	// Logger takes what an operator acts on; nil: discard.
	Logger *slog.Logger
}

func (c Config) withDefaults() (Config, error) {
	if c.Key.IsZero() {
		return c, errors.New("p2p: no key")
	}
	if c.Limits == (Limits{}) {
		c.Limits = ProviderLimits()
	}
	if c.IOTimeout == 0 {
		c.IOTimeout = 10 * time.Second
	}
	if c.HandlerTimeout == 0 {
		c.HandlerTimeout = time.Minute
	}
	if c.RetryMin == 0 {
		c.RetryMin = 500 * time.Millisecond
	}
	if c.RetryMax == 0 {
		c.RetryMax = 30 * time.Second
	}
	if c.Probe == 0 {
		c.Probe = 10 * time.Second
	}
	if c.RetryMax < c.RetryMin {
		return c, fmt.Errorf("p2p: longest retry %v below shortest %v", c.RetryMax, c.RetryMin)
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, nil
}

// Host is a party on the network. Its methods are safe for concurrent use.
type Host struct {
	config   Config
	announce []multiaddr.Multiaddr
	host     host.Host
	metrics  *metrics
	events   event.Subscription
	lifetime func() context.Context // ends when Close begins
	end      context.CancelFunc
	running  sync.WaitGroup // the event loop and all request handlers

	mu           sync.Mutex
	closed       bool                      // no handler starts any more
	serving      map[peer.ID]int           // requests being served
	gone         map[peer.ID]chan struct{} // closed when the last connection ends
	onDisconnect []func(identity.ID)
}

// New opens a host that listens and answers from now on, until Close.
func New(c Config) (*Host, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	h := &Host{config: c, serving: map[peer.ID]int{}, gone: map[peer.ID]chan struct{}{}}
	for _, s := range c.Announce {
		a, err := multiaddr.NewMultiaddr(s)
		if err != nil {
			return nil, fmt.Errorf("p2p: announce %q: %w", s, err)
		}
		h.announce = append(h.announce, a)
	}
	tell := func([]multiaddr.Multiaddr) []multiaddr.Multiaddr { return nil }
	if c.Tell {
		tell = h.told
	}
	if h.metrics, err = newMetrics(c.Metrics); err != nil {
		return nil, fmt.Errorf("p2p: metrics: %w", err)
	}
	if h.host, err = newLibp2p(c, tell); err != nil {
		return nil, fmt.Errorf("p2p: %w", err)
	}
	h.events, err = h.host.EventBus().Subscribe(new(event.EvtPeerConnectednessChanged))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("p2p: %w", err), h.host.Close())
	}
	ctx, end := context.WithCancel(context.Background())
	h.lifetime, h.end = func() context.Context { return ctx }, end
	h.running.Go(h.watch) // until Close closes h.events
	h.Handle(ProtocolProbe, 0, func(context.Context, identity.ID, []byte) ([]byte, error) { return nil, nil })
	return h, nil
}

// ID returns the host's name.
func (h *Host) ID() identity.ID { return h.config.Key.ID() }

// Libp2p returns the host below, for block exchange only.
func (h *Host) Libp2p() host.Host { return h.host }

// Close ends all connections, waits for all handlers and returns.
func (h *Host) Close() error {
	h.mu.Lock()
	again := h.closed
	h.closed = true
	h.mu.Unlock()
	if again {
		return nil
	}
	h.end()
	err := h.host.Close()
	if e := h.events.Close(); err == nil {
		err = e
	}
	h.running.Wait()
	if err != nil {
		return fmt.Errorf("p2p: close: %w", err)
	}
	return nil
}

// OnDisconnect has f called whenever the last connection to a peer ends. Calls come one after another
// and hold up the host's news of connections, so f must not block.
func (h *Host) OnDisconnect(f func(identity.ID)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.onDisconnect = append(h.onDisconnect, f)
}

// watch turns libp2p's events into ours.
func (h *Host) watch() {
	for e := range h.events.Out() {
		change, ok := e.(event.EvtPeerConnectednessChanged)
		if !ok {
			continue
		}
		switch change.Connectedness {
		case network.Connected:
			h.metrics.peers.Inc()
		case network.NotConnected:
			h.metrics.peers.Dec()
			h.disconnected(change.Peer)
		default: // Limited is of relayed connections, which we do not make
		}
	}
}

func (h *Host) disconnected(p peer.ID) {
	h.mu.Lock()
	if gone := h.gone[p]; gone != nil {
		close(gone)
		delete(h.gone, p)
	}
	// Appended to and never changed, so the slice may be read without the lock.
	callbacks := h.onDisconnect
	h.mu.Unlock()
	for _, f := range callbacks {
		f(identity.ID(p.String()))
	}
}
