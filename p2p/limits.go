package p2p

import (
	"fmt"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/protocol"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	"github.com/libp2p/go-libp2p/x/rate"
)

// Limits bounds what peers can use up. libp2p's own defaults are made for open networks: they take 8 connections
// from an IPv4 address and one new one in 5 s, so that a farm behind one address is shut out, and 64 inbound
// connections for each GiB, so that a broker stops at a few hundred providers. Loopback is exempt from the
// limits per address.
type Limits struct {
	Conns          int     // connections in all, and open files for them
	Handshakes     int     // connections that have not proved who they are
	ConnsPerPeer   int     // connections with one peer
	ConnsPerIP     int     // connections from one IPv4 address or IPv6 /56
	ConnsPerSubnet int     // connections from one IPv4 /24 or IPv6 /48
	NewPerIP       float64 // new connections a second from one IPv4 address or IPv6 /56
	BurstPerIP     int     // new connections at once from there

	Streams         int // streams in all
	StreamsPerPeer  int // streams with one peer
	RequestsPerPeer int // requests of one peer served at the same time
	RootsStreams    int // streams on which others ask our part of the DHT, of which one peer may have four

	Memory        int64  // bytes of receive windows in all
	MemoryPerPeer int64  // bytes of receive windows for one peer
	StreamWindow  uint32 // bytes that a peer may send on a new TCP stream before we read any
}

// BrokerLimits returns the limits of a host to which 100,000 strangers keep one connection each.
func BrokerLimits() Limits {
	return Limits{
		// 92 KiB each were measured for an idle provider, so 11 GB when full.
		Conns: 120_000,
		// A broker's restart brings all providers back at once; a handshake takes 1.7 ms of CPU time, so
		// these are 7 s of work, which is below the time that clients wait.
		Handshakes: 4096,
		// A new connection replaces one that has not been found dead yet, over either transport.
		ConnsPerPeer: 4,
		// A data centre or a university behind one address.
		ConnsPerIP: 512,
		// A block of addresses of one operator; twice its hosts, eight times over.
		ConnsPerSubnet: 4096,
		// A farm of 200 hosts returns at once; after that 20 × 1.7 ms is 3 % of a core for each address.
		NewPerIP:   20,
		BurstPerIP: 200,
		// Four per connection: an offer, a report and the exchange of names, with one to spare.
		Streams: 500_000,
		// A host of 16 leases that reports on all of them at once after a reconnection.
		StreamsPerPeer: 64,
		// As many reports; each may wait for the journal.
		RequestsPerPeer: 32,
		// A stream ends after a minute without questions, and may hold a message of 4 MiB until then.
		RootsStreams: 4096,
		Memory:       16 << 30,
		// yamux sets 256 KiB aside for each stream: 64 of them.
		MemoryPerPeer: 16 << 20,
		// The least that yamux allows: messages are small, peers many.
		StreamWindow: 256 << 10,
	}
}

// ProviderLimits returns the limits of a host that speaks with a few brokers and exchanges blocks with peers.
func ProviderLimits() Limits {
	return Limits{
		// More peers than a provider trades blocks with; a few hundred MB when full.
		Conns:      2048,
		Handshakes: 256,
		// Both sides may dial at the same moment over both transports.
		ConnsPerPeer: 8,
		// A farm behind one address fetches an image from this host.
		ConnsPerIP:     64,
		ConnsPerSubnet: 512,
		// A farm of 64 comes at once, and an address costs at most 1 % of a core after that.
		NewPerIP:   5,
		BurstPerIP: 64,
		Streams:    16_384,
		// Bitswap opens a stream for each burst of messages.
		StreamsPerPeer: 256,
		// A broker asks for as many holds as the host has GPUs.
		RequestsPerPeer: 16,
		// Twice the hosts that have this one in their routing tables, if all ask in the same minute.
		RootsStreams: 512,
		Memory:       2 << 30,
		// QUIC grows its window by this: below 16 MiB for a connection, 6 MB/s instead of 33 were measured
		// at 80 ms round trip.
		MemoryPerPeer: 128 << 20,
		// Bulk over 50 ms: one stream took 87 to 91 MB/s from the stock 256 KiB, 113 to 193 from 4 MiB.
		StreamWindow: 4 << 20,
	}
}

// resourceManager holds libp2p to l. What l does not name is bounded by what contains it.
func (l Limits) resourceManager() (network.ResourceManager, error) {
	concrete := rcmgr.PartialLimitConfig{
		System: rcmgr.ResourceLimits{
			Conns: rcmgr.LimitVal(l.Conns), ConnsInbound: rcmgr.LimitVal(l.Conns), ConnsOutbound: rcmgr.LimitVal(l.Conns),
			Streams: rcmgr.LimitVal(l.Streams), StreamsInbound: rcmgr.LimitVal(l.Streams),
			StreamsOutbound: rcmgr.LimitVal(l.Streams), FD: rcmgr.LimitVal(l.Conns), Memory: rcmgr.LimitVal64(l.Memory),
		},
		Transient: rcmgr.ResourceLimits{
			Conns: rcmgr.LimitVal(l.Handshakes), ConnsInbound: rcmgr.LimitVal(l.Handshakes),
			ConnsOutbound: rcmgr.LimitVal(l.Handshakes), FD: rcmgr.LimitVal(l.Handshakes),
			// A stream is transient until its protocol is agreed.
			Streams: rcmgr.LimitVal(l.Handshakes), StreamsInbound: rcmgr.LimitVal(l.Handshakes),
			StreamsOutbound: rcmgr.LimitVal(l.Handshakes), Memory: rcmgr.LimitVal64(l.Memory),
		},
		PeerDefault: rcmgr.ResourceLimits{
			Conns: rcmgr.LimitVal(l.ConnsPerPeer), ConnsInbound: rcmgr.LimitVal(l.ConnsPerPeer),
			ConnsOutbound: rcmgr.LimitVal(l.ConnsPerPeer), FD: rcmgr.LimitVal(l.ConnsPerPeer),
			Streams: rcmgr.LimitVal(l.StreamsPerPeer), StreamsInbound: rcmgr.LimitVal(l.StreamsPerPeer),
			StreamsOutbound: rcmgr.LimitVal(l.StreamsPerPeer), Memory: rcmgr.LimitVal64(l.MemoryPerPeer),
		},
		Protocol: map[protocol.ID]rcmgr.ResourceLimits{
			ProtocolRoots: {Streams: rcmgr.Unlimited, StreamsInbound: rcmgr.LimitVal(l.RootsStreams), StreamsOutbound: rcmgr.Unlimited},
		},
		ProtocolPeer: map[protocol.ID]rcmgr.ResourceLimits{
			ProtocolRoots: {Streams: rcmgr.Unlimited, StreamsInbound: 4, StreamsOutbound: rcmgr.Unlimited},
		},
	}.Build(rcmgr.InfiniteLimits)
	manager, err := rcmgr.NewResourceManager(rcmgr.NewFixedLimiter(concrete),
		rcmgr.WithLimitPerSubnet(
			[]rcmgr.ConnLimitPerSubnet{
				{PrefixLength: 32, ConnCount: l.ConnsPerIP},
				{PrefixLength: 24, ConnCount: l.ConnsPerSubnet},
			},
			[]rcmgr.ConnLimitPerSubnet{
				{PrefixLength: 56, ConnCount: l.ConnsPerIP},
				{PrefixLength: 48, ConnCount: l.ConnsPerSubnet},
			},
		),
		rcmgr.WithConnRateLimiters(l.connRate()),
		rcmgr.WithMetricsDisabled(),
	)
	if err != nil {
		return nil, fmt.Errorf("resource limits: %w", err)
	}
	return manager, nil
}

func (l Limits) connRate() *rate.Limiter {
	perIP := rate.Limit{RPS: l.NewPerIP, Burst: l.BurstPerIP}
	free := make([]rate.PrefixLimit, 0, 2)
	for _, p := range append(rcmgr.DefaultNetworkPrefixLimitV4, rcmgr.DefaultNetworkPrefixLimitV6...) {
		free = append(free, rate.PrefixLimit{Prefix: p.Network})
	}
	return &rate.Limiter{
		NetworkPrefixLimits: free, // loopback
		SubnetRateLimiter: rate.SubnetLimiter{
			IPv4SubnetLimits: []rate.SubnetLimit{{PrefixLength: 32, Limit: perIP}},
			IPv6SubnetLimits: []rate.SubnetLimit{{PrefixLength: 56, Limit: perIP}},
		},
	}
}
