package p2p

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p-kad-dht/pb"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multihash"
	"golang.org/x/time/rate"
)

// Bounds of what one peer may ask of the DHT, and of what is kept for all. A record takes about 300 bytes.
const (
	// asksPerSecond and asksAtOnce are many times what a refresh of a routing table needs.
	asksPerSecond = 20
	asksAtOnce    = 200
	// rootsPerPeer is more images than a host has room for.
	rootsPerPeer = 1024
	// maxRecords is 10 images on each of 10,000 hosts, and 40 MB.
	maxRecords = 128 << 10
	// maxKey is longer than any peer's id in binary.
	maxKey = 64
)

// guard decides which requests the DHT sees. A record is counted for a while longer than the DHT keeps it.
type guard struct {
	mu      sync.Mutex
	peers   map[peer.ID]*quota
	records int
}

// quota is what a peer has used up.
type quota struct {
	asks  *rate.Limiter
	roots map[string]time.Time // that it provides -> until when the record counts
}

func newGuard() *guard { return &guard{peers: make(map[peer.ID]*quota)} }

// admit is called with each request before it is handled. One that is refused is emptied, and its stream reset.
func (g *guard) admit(_ context.Context, s network.Stream, req *dht_pb.Message) {
	if g.allow(s.Conn().RemotePeer(), req, time.Now()) {
		return
	}
	req.Key, req.ProviderPeers = nil, nil // which the DHT refuses
	_ = s.Reset()
}

// allow reports whether a request may be handled, and trims what it may not hold.
func (g *guard) allow(from peer.ID, req *dht_pb.Message, now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	q := g.peers[from]
	if q == nil {
		q = &quota{asks: rate.NewLimiter(asksPerSecond, asksAtOnce), roots: make(map[string]time.Time)}
		g.peers[from] = q
	}
	if !q.asks.AllowN(now, 1) {
		return false
	}
	switch req.GetType() {
	case dht_pb.Message_PING:
		return true
	case dht_pb.Message_FIND_NODE:
		return len(req.GetKey()) <= maxKey
	case dht_pb.Message_GET_PROVIDERS:
		return isRoot(req.GetKey())
	case dht_pb.Message_ADD_PROVIDER:
		return isRoot(req.GetKey()) && own(from, req) && g.record(q, string(req.GetKey()), now)
	default: // values
		return false
	}
}

// record counts a record, unless there are too many.
func (g *guard) record(q *quota, key string, now time.Time) bool {
	if _, known := q.roots[key]; !known {
		if len(q.roots) >= rootsPerPeer || g.records >= maxRecords {
			return false
		}
		g.records++
	}
	q.roots[key] = now.Add(recordLife + recordLife/3) // the DHT looks for old ones each sixth
	return true
}

// isRoot reports whether a key is a sha256, as all roots are.
func isRoot(key []byte) bool {
	return len(key) == 2+len(Root{}) && key[0] == multihash.SHA2_256 && int(key[1]) == len(Root{})
}

// own leaves in an announcement what a peer may say: that it itself is a provider, and at a few addresses.
func own(from peer.ID, req *dht_pb.Message) bool {
	i := slices.IndexFunc(req.GetProviderPeers(), func(p *dht_pb.Message_Peer) bool { return string(p.GetId()) == string(from) })
	if i < 0 {
		return false
	}
	p := req.GetProviderPeers()[i]
	p.Addrs = p.Addrs[:min(len(p.Addrs), maxAddrs)]
	req.ProviderPeers = []*dht_pb.Message_Peer{p}
	return true
}

// run forgets what does not count any more, until ctx ends.
func (g *guard) run(ctx context.Context) {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			g.sweep(now)
		case <-ctx.Done():
			return
		}
	}
}

func (g *guard) sweep(now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for p, q := range g.peers {
		for key, until := range q.roots {
			if now.After(until) {
				delete(q.roots, key)
				g.records--
			}
		}
		if len(q.roots) == 0 && q.asks.TokensAt(now) >= asksAtOnce {
			delete(g.peers, p)
		}
	}
}
