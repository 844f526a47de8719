package p2p

import (
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ipfs/go-cid"
	dht "github.com/libp2p/go-libp2p-kad-dht"
	"github.com/libp2p/go-libp2p-kad-dht/records"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multihash"

	"rialto/p2p/identity"
)

// ProtocolRoots is the DHT's protocol: Kademlia as libp2p speaks it, in a network of its own.
const ProtocolRoots = Prefix + "kad/1"

const (
	// recordLife is how long a record counts that is not renewed: hosts come and go within hours.
	recordLife = time.Hour
	// again is the longest time between two announcements of a root, so that a record is renewed twice before it ends.
	again = 20 * time.Minute
	// soon is the time until the first repetition, which doubles until it is again: the hosts that are close to a root
	// are not known in the first minutes.
	soon = time.Minute
	// between is the least time between two announcements. Each asks a host twice, which may be asked asksPerSecond.
	between = 250 * time.Millisecond
	// alone is how long an announcement waits that nobody was there for.
	alone = time.Second
	// announceTimeout ends one announcement.
	announceTimeout = 30 * time.Second
	// grace is how long a search goes on when it has found somebody: answers come together.
	grace = 25 * time.Millisecond
	// maxAddrs is how many addresses of a provider count.
	maxAddrs = 8
)

// Root names an image or weights as a whole: the sha256 of its first block.
type Root [sha256.Size]byte

func (r Root) cid() cid.Cid {
	mh, err := multihash.Encode(r[:], multihash.SHA2_256)
	if err != nil {
		return cid.Undef // impossible: the length is right
	}
	return cid.NewCidV1(cid.Raw, mh)
}

// Provider is a host that says it holds a root whole.
type Provider struct {
	ID    identity.ID
	Addrs []string // multiaddrs, without /p2p/
}

// RootsConfig is what Roots is made of. Only Host is required.
type RootsConfig struct {
	// Host must have been made with Tell, or nobody learns where it is.
	Host *Host
	// Passive is for a host that all others are connected to, such as a broker: it answers for those that are
	// connected, and dials nobody itself.
	Passive bool
	// Logger takes what an operator acts on; nil: discard.
	Logger *slog.Logger
}

// Roots is a DHT of the market's own, which says who holds which root: what a host asks when the broker named nobody,
// or is gone. It has no other records: no offers, no single blocks. What it says is a hint, for whoever is asked for a
// block must send the bytes that the block's name says.
//
// It finds other hosts through those that its host is connected to; a broker is enough. A host answers others if they
// can reach it: one whose connection comes from another address than it tells, which is what a NAT does, is never
// passed on. A connection that was made for a question is closed when it has been idle for a minute.
//
// Methods are safe for concurrent use.
type Roots struct {
	cfg     RootsConfig
	dht     atomic.Pointer[dht.IpfsDHT] // while Run runs
	changed chan struct{}               // holds one token when roots has changed

	mu     sync.Mutex
	roots  map[Root]announcement // that this host provides
	dialed map[peer.ID]bool      // connected for a question; true: was idle a minute ago
}

// announcement is when a root is announced next, and the pause before the time after that.
type announcement struct {
	due   time.Time
	pause time.Duration
}

// NewRoots returns a Roots that does nothing yet.
func NewRoots(c RootsConfig) (*Roots, error) {
	if c.Host == nil {
		return nil, errors.New("p2p: roots without a host")
	}
	if !c.Host.config.Tell {
		return nil, errors.New("p2p: roots on a host that tells nobody where it is")
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	r := &Roots{
		cfg: c, changed: make(chan struct{}, 1), roots: make(map[Root]announcement), dialed: make(map[peer.ID]bool),
	}
	if c.Passive {
		c.Host.OnDisconnect(r.forget)
	}
	return r, nil
}

// Run takes part in the DHT until ctx ends. It runs once.
func (r *Roots) Run(ctx context.Context) error {
	h := r.cfg.Host.Libp2p()
	g := newGuard()
	mode := dht.ModeServer
	if len(r.cfg.Host.config.Listen) == 0 {
		mode = dht.ModeClient
	}
	options := []dht.Option{
		dht.ProtocolPrefix("/rialto"), dht.V1ProtocolOverride(ProtocolRoots),
		dht.Mode(mode),
		dht.DisableValues(),
		dht.ProviderManagerOpts(
			records.ProvideValidity(recordLife), records.ProviderAddrTTL(recordLife), records.CleanupInterval(recordLife/6),
		),
		dht.RoutingTableFilter(func(_ any, p peer.ID) bool { return reachable(h, p) }),
		// Half a bucket may come from one network, so that nobody owns a host's view; a market in one data centre
		// must work as well.
		dht.RoutingTablePeerDiversityFilter(dht.NewRTPeerDiversityFilter(h, 10, 100)),
		dht.AddressFilter(r.plausible),
		dht.OnRequestHook(g.admit),
	}
	if r.cfg.Passive {
		options = append(options, dht.DisableAutoRefresh())
	}
	d, err := dht.New(dialer{h, r}, options...)
	if err != nil {
		return err
	}
	r.dht.Store(d)
	var parts sync.WaitGroup
	parts.Go(func() { g.run(ctx) })
	parts.Go(func() { r.announce(ctx, d) })
	parts.Go(func() { r.closeIdle(ctx) })
	parts.Wait()
	r.dht.Store(nil)
	return d.Close()
}

// Provide says which roots are whole on this host, in place of those that it said before. They are announced in the
// background, one after the other, and again for as long as they are provided.
func (r *Roots) Provide(roots []Root) {
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.roots
	r.roots = make(map[Root]announcement, len(roots))
	for _, root := range roots {
		r.roots[root] = old[root] // the zero value is due
	}
	select {
	case r.changed <- struct{}{}:
	default: // it is there already
	}
}

// Find returns up to most hosts that say they hold a root, other than this one. It ends with ctx, or sooner: when all
// who could know were asked, or soon after the first was found. What it has found by then it returns.
func (r *Roots) Find(ctx context.Context, root Root, most int) []Provider {
	d := r.dht.Load()
	if d == nil || most < 1 {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var found []Provider
	var enough <-chan time.Time
	answers := d.FindProvidersAsync(ctx, root.cid(), most+1) // one of them may be this host
	for {
		select {
		case info, ok := <-answers:
			if !ok {
				return found
			}
			if p, ok := r.provider(info); ok {
				found = append(found, p)
			}
			if len(found) == most {
				return found
			}
			if enough == nil && len(found) > 0 {
				enough = time.After(grace)
			}
		case <-enough:
			return found
		case <-ctx.Done():
			return found
		}
	}
}

// provider puts an answer in our words; it is false for what cannot be dialed.
func (r *Roots) provider(info peer.AddrInfo) (Provider, bool) {
	h := r.cfg.Host
	id, err := identity.ParseID(info.ID.String())
	if err != nil || id == h.ID() {
		return Provider{}, false
	}
	addrs := r.plausible(info.Addrs)
	if len(addrs) == 0 {
		addrs = r.plausible(h.host.Peerstore().Addrs(info.ID))
	}
	p := Provider{ID: id}
	for _, a := range addrs[:min(len(addrs), maxAddrs)] {
		p.Addrs = append(p.Addrs, a.String())
	}
	return p, len(p.Addrs) > 0
}

// announce tells the DHT of the roots of this host until ctx ends.
func (r *Roots) announce(ctx context.Context, d *dht.IpfsDHT) {
	for ctx.Err() == nil {
		root, wait, any := r.next(time.Now())
		if !any {
			wait = again // or until there are some
		}
		if wait > 0 {
			select {
			case <-r.changed:
			case <-time.After(wait):
			case <-ctx.Done():
			}
			continue
		}
		if d.RoutingTable().Size() == 0 {
			sleep(ctx, alone)
			continue
		}
		call, cancel := context.WithTimeout(ctx, announceTimeout)
		err := d.Provide(call, root.cid(), true)
		cancel()
		if err != nil && ctx.Err() == nil {
			r.cfg.Logger.Debug("root was not announced to all", "root", root.cid().String(), "err", err)
		}
		r.announced(root, time.Now())
		sleep(ctx, between)
	}
}

// next returns the root that is due first, and in how long.
func (r *Roots) next(now time.Time) (root Root, wait time.Duration, any bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for one, a := range r.roots {
		if in := a.due.Sub(now); !any || in < wait {
			root, wait, any = one, in, true
		}
	}
	return root, wait, any
}

func (r *Roots) announced(root Root, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	a, ok := r.roots[root]
	if !ok {
		return // provided no more
	}
	a.pause = min(max(2*a.pause, soon), again)
	// Hosts that started together do not go on together.
	a.due = now.Add(a.pause - rand.N(a.pause/10))
	r.roots[root] = a
}
