//go:build linux

package images_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"rialto/blockstore"
	"rialto/blockstore/exchange"
	"rialto/broker"
	"rialto/p2p"
	"rialto/p2p/p2ptest"
	"rialto/provider"
	"rialto/provider/images"
)

// finder knows some hosts for every root, and counts the questions.
type finder struct {
	peers []exchange.Peer
	asked atomic.Int64
	hangs bool // until the asker has had enough
}

func (f *finder) Find(ctx context.Context, _ blockstore.CID) []exchange.Peer {
	f.asked.Add(1)
	if f.hangs {
		<-ctx.Done()
	}
	return f.peers
}

func (f *finder) use(c *images.Config) { c.Finder = f }

func (n *hostNode) peer() exchange.Peer {
	return exchange.Peer{ID: string(n.host.ID()), Addrs: n.host.Addrs()}
}

// A host that nobody named is found, whether the lease names nobody or somebody who fails.
func TestFinder(t *testing.T) {
	s := openShop(t)
	w := s.push(t, "app", someLayers(1)...)
	a, poor := newHost(t, nil), newHost(t, nil)
	w.Root = ensure(t, a, w).Root
	a.awaitHeld(t, 1)
	silent := p2ptest.New(t, p2p.Config{})
	s.down.Store(true)
	for _, tc := range []struct {
		name    string
		sources []broker.BlockSource
	}{
		{"nobody was named", nil},
		{"who was named is gone", []broker.BlockSource{{Peer: broker.PeerID(silent.ID()), Addrs: []string{"/ip4/127.0.0.1/tcp/1"}}}},
		{"who was named has nothing", []broker.BlockSource{poor.source()}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := &finder{peers: []exchange.Peer{a.peer()}}
			b := newHost(t, f.use)
			w := w
			w.Sources = tc.sources
			img := ensure(t, b, w)
			b.wantTree(t, img, 1)
			b.awaitHeld(t, 1)
			if got := f.asked.Load(); got != 1 {
				t.Errorf("asked %d times, want once", got)
			}
		})
	}
}

// dht asks the market's DHT, which is joined after the host was made.
type dht struct{ roots *p2p.Roots }

func (d *dht) Find(ctx context.Context, root blockstore.CID) []exchange.Peer {
	var peers []exchange.Peer
	for _, p := range d.roots.Find(ctx, p2p.Root(root), 8) {
		peers = append(peers, exchange.Peer{ID: string(p.ID), Addrs: p.Addrs})
	}
	return peers
}

// joinDHT has a host take part in the DHT until the test ends.
func joinDHT(t *testing.T, h *p2p.Host, passive bool) *p2p.Roots {
	t.Helper()
	r, err := p2p.NewRoots(p2p.RootsConfig{Host: h, Passive: passive})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return r
}

// An image comes from a host that only the DHT knows, with no registry, and no broker any more that had joined the two.
func TestDHT(t *testing.T) {
	s := openShop(t)
	w := s.push(t, "app", someLayers(1)...)
	a := newHost(t, nil)
	finder := new(dht)
	b := newHost(t, func(c *images.Config) { c.Finder = finder })
	broker := p2ptest.New(t, p2p.Config{Tell: true})
	joinDHT(t, broker, true)
	provides := joinDHT(t, a.host, false)
	finder.roots = joinDHT(t, b.host, false)
	p2ptest.Connect(t, a.host, broker)
	p2ptest.Connect(t, b.host, broker)

	w.Root = ensure(t, a, w).Root
	a.awaitHeld(t, 1)
	s.down.Store(true)
	provides.Provide([]p2p.Root{p2p.Root(cid(t, w.Root))})
	for len(finder.roots.Find(t.Context(), p2p.Root(cid(t, w.Root)), 1)) == 0 {
		time.Sleep(10 * time.Millisecond)
	}
	if err := broker.Close(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	img := ensure(t, b, w)
	t.Logf("shown after %v", time.Since(began))
	b.wantTree(t, img, 1)
	b.awaitHeld(t, 1)
}

// A host that lost blocks while an image comes from it is joined by one that was found.
func TestFinderWhilePeersFail(t *testing.T) {
	s := openShop(t)
	w := s.push(t, "app", someLayers(8)...)
	a, c := newHost(t, nil), newHost(t, nil)
	w.Root = ensure(t, a, w).Root
	a.awaitHeld(t, 1)
	ensure(t, c, w)
	c.awaitHeld(t, 1)
	blocks := treeOf(t, a, w.Root).Blocks
	lose(t, a, blocks[len(blocks)-1].CID)
	s.down.Store(true)
	f := &finder{peers: []exchange.Peer{c.peer()}}
	b := newHost(t, f.use)
	w.Sources = []broker.BlockSource{a.source()}
	b.wantTree(t, ensure(t, b, w), 8)
	b.awaitHeld(t, 1)
	if got := f.asked.Load(); got != 1 {
		t.Errorf("asked %d times, want once", got)
	}
}

// Nobody is asked when it is of no use, and who does not answer holds up nothing for long.
func TestFinderIsNotAsked(t *testing.T) {
	s := openShop(t)
	w := s.push(t, "app", someLayers(1)...)
	a := newHost(t, nil)
	unnamed := w
	w.Root = ensure(t, a, w).Root
	a.awaitHeld(t, 1)

	f := &finder{peers: []exchange.Peer{a.peer()}}
	b := newHost(t, f.use)
	if img := ensure(t, b, unnamed); img.Fetched.Registry == 0 {
		t.Errorf("an image that nobody vouches for: %+v, want it from the registry", img.Fetched)
	}
	b.awaitHeld(t, 1)
	ensure(t, b, w) // which is here
	c := newHost(t, f.use)
	w.Sources = []broker.BlockSource{a.source()}
	ensure(t, c, w)
	c.awaitHeld(t, 1)
	if got := f.asked.Load(); got != 0 {
		t.Errorf("asked %d times, want never", got)
	}

	w.Sources = nil
	f = &finder{hangs: true}
	d := newHost(t, f.use)
	began := time.Now()
	if img := ensure(t, d, w); img.Fetched.Registry == 0 || f.asked.Load() != 1 {
		t.Errorf("nobody found: %+v after %d questions, want it from the registry after one", img.Fetched, f.asked.Load())
	}
	t.Logf("with a finder that says nothing: %v", time.Since(began))

	// Weights have no registry.
	f = &finder{}
	e := newHost(t, f.use)
	if _, err := e.Ensure(t.Context(), provider.Want{Root: blockstore.Sum([]byte("x")).String()}, nil); !errors.Is(err, images.ErrUnavailable) || f.asked.Load() != 1 {
		t.Errorf("weights that nobody has: %v after %d questions", err, f.asked.Load())
	}
}
