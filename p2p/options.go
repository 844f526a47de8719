package p2p

import (
	"errors"
	"fmt"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/connmgr"
	"github.com/libp2p/go-libp2p/core/control"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
	quic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	"github.com/multiformats/go-multiaddr"

	"rialto/p2p/identity"
)

// newLibp2p opens a libp2p host that is ours. Identify tells peers what tell makes of the addresses of the interfaces.
func newLibp2p(c Config, tell func([]multiaddr.Multiaddr) []multiaddr.Multiaddr) (host.Host, error) {
	manager, err := c.Limits.resourceManager()
	if err != nil {
		return nil, err
	}
	opts, err := options(c, manager, tell)
	if err != nil {
		return nil, errors.Join(err, manager.Close())
	}
	h, err := libp2p.New(opts...)
	if err != nil {
		return nil, errors.Join(err, manager.Close()) // libp2p owns it only if it succeeds
	}
	return h, nil
}

// options says all that makes a libp2p host ours. libp2p fills in a default for what is left out, so
// what we do not want is switched off by name.
func options(c Config, manager network.ResourceManager, tell func([]multiaddr.Multiaddr) []multiaddr.Multiaddr) ([]libp2p.Option, error) {
	key, err := crypto.UnmarshalEd25519PrivateKey(c.Key.Private())
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	mux := *yamux.DefaultTransport
	mux.InitialStreamWindowSize = c.Limits.StreamWindow
	listen := libp2p.ListenAddrStrings(c.Listen...)
	if len(c.Listen) == 0 {
		listen = libp2p.NoListenAddrs
	}
	return []libp2p.Option{
		libp2p.Identity(key),
		listen,
		libp2p.Transport(tcp.NewTCPTransport),
		libp2p.Transport(quic.NewTransport),
		// Every peer is ours and speaks TLS, which is faster here than Noise (709 to 603 MB/s measured).
		libp2p.Security(libp2ptls.ID, newSecure),
		libp2p.Muxer(yamux.ID, &mux),
		libp2p.SwarmOpts(swarm.WithDialRanker(tcpFirst)),
		libp2p.ResourceManager(manager),
		// It would close connections that look idle; ours are offers. Limits bounds them instead.
		libp2p.ConnectionManager(connmgr.NullConnMgr{}),
		libp2p.ConnectionGater(gater{c.Gate}),
		libp2p.DisableRelay(),
		// We know where we are and tell peers ourselves, so libp2p neither asks others nor guesses.
		libp2p.ForceReachabilityPublic(),
		libp2p.DisableIdentifyAddressDiscovery(),
		libp2p.AddrsFactory(tell),
		libp2p.Ping(false),
		libp2p.UserAgent("rialto"),
		libp2p.ProtocolVersion("rialto/1"),
		libp2p.DisableMetrics(),
	}, nil
}

// quicDelay is how much later QUIC is tried than TCP: a round trip that is long for a continent.
const quicDelay = 200 * time.Millisecond

// tcpFirst prefers TCP, because bulk over TLS and yamux costs 2 s of CPU time a gigabyte and over QUIC 5.
// libp2p's own ranking stays within each of both.
func tcpFirst(addrs []multiaddr.Multiaddr) []network.AddrDelay {
	var first, second []multiaddr.Multiaddr
	for _, a := range addrs {
		if _, err := a.ValueForProtocol(multiaddr.P_TCP); err == nil {
			first = append(first, a)
		} else {
			second = append(second, a)
		}
	}
	ranked := swarm.DefaultDialRanker(first)
	for _, r := range swarm.DefaultDialRanker(second) {
		if len(first) > 0 {
			r.Delay += quicDelay
		}
		ranked = append(ranked, r)
	}
	return ranked
}

// gater refuses peers that are not named by an Ed25519 key and, of those that connect to us, the ones that
// allow refuses.
type gater struct {
	allow func(identity.ID) bool // nil: all
}

var _ connmgr.ConnectionGater = gater{}

func (gater) InterceptPeerDial(p peer.ID) bool {
	_, err := identity.ParseID(p.String())
	return err == nil
}

func (gater) InterceptAddrDial(peer.ID, multiaddr.Multiaddr) bool { return true }

func (gater) InterceptAccept(network.ConnMultiaddrs) bool { return true }

func (g gater) InterceptSecured(d network.Direction, p peer.ID, _ network.ConnMultiaddrs) bool {
	id, err := identity.ParseID(p.String())
	return err == nil && (d == network.DirOutbound || g.allow == nil || g.allow(id))
}

func (gater) InterceptUpgraded(network.Conn) (bool, control.DisconnectReason) { return true, 0 }
