package exchange_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ipfs/boxo/bitswap"
	"github.com/ipfs/boxo/bitswap/network/bsnet"
	boxo "github.com/ipfs/boxo/blockstore"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	"github.com/ipfs/go-datastore"
	dssync "github.com/ipfs/go-datastore/sync"
	"github.com/multiformats/go-multihash"

	"rialto/blockstore"
	"rialto/blockstore/exchange"
	"rialto/blockstore/storetest"
	"rialto/p2p"
	"rialto/p2p/p2ptest"
)

type node struct {
	host  *p2p.Host
	store blockstore.Store
	*exchange.Exchange
}

func (n node) peer() exchange.Peer {
	return exchange.Peer{ID: string(n.host.ID()), Addrs: n.host.Addrs()}
}

func start(tb testing.TB, cfg exchange.Config) node {
	tb.Helper()
	h := p2ptest.New(tb, p2p.Config{})
	cfg.Host = h.Libp2p()
	return startOn(tb, h, cfg)
}

func startOn(tb testing.TB, h *p2p.Host, cfg exchange.Config) node {
	tb.Helper()
	if cfg.Store == nil {
		cfg.Store = new(blockstore.Memory)
	}
	x, err := exchange.New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- x.Run(ctx) }()
	tb.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			tb.Error(err)
		}
	})
	return node{h, cfg.Store, x}
}

func put(tb testing.TB, s blockstore.Store, n, size int) []blockstore.Ref {
	tb.Helper()
	var refs []blockstore.Ref
	for i := range n {
		b := storetest.Block(tb, fmt.Sprint("served", i), size)
		if err := s.Put(tb.Context(), b); err != nil {
			tb.Fatal(err)
		}
		refs = append(refs, b.Ref())
	}
	return refs
}

func into(s blockstore.Store) func(blockstore.Block) error {
	return func(b blockstore.Block) error { return s.Put(context.Background(), b) }
}

// both runs a test over each protocol.
func both(t *testing.T, test func(t *testing.T, cfg exchange.Config)) {
	t.Helper()
	t.Run("fast", func(t *testing.T) { test(t, exchange.Config{}) })
	t.Run("bitswap", func(t *testing.T) { test(t, exchange.Config{BitswapOnly: true}) })
}

func TestFetch(t *testing.T) { both(t, testFetch) }

func testFetch(t *testing.T, cfg exchange.Config) {
	t.Helper()
	a, b := start(t, cfg), start(t, cfg)
	// More than the 1024 wants at which Bitswap would stall.
	refs := put(t, a.store, 1500, 5000)
	got, err := b.Fetch(t.Context(), slices.Values(refs), []exchange.Peer{a.peer()}, into(b.store))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range refs {
		if _, err := b.store.Get(t.Context(), r.CID); err != nil {
			t.Error(err)
		}
	}
	if want := int64(1500 * 5000); got.Bytes != want || got.Peers[string(a.host.ID())] != want {
		t.Errorf("fetched %+v, want %d bytes from %v", got, want, a.host.ID())
	}
	if served := a.Stats(); served.ServedBytes < got.Bytes {
		t.Errorf("served %d bytes of %d", served.ServedBytes, got.Bytes)
	}
}

func TestTwoSeedsShareTheWork(t *testing.T) { both(t, testTwoSeeds) }

func testTwoSeeds(t *testing.T, cfg exchange.Config) {
	t.Helper()
	a, b, c := start(t, cfg), start(t, cfg), start(t, cfg)
	refs := put(t, a.store, 200, 20_000)
	put(t, b.store, 100, 20_000) // the first half only
	got, err := c.Fetch(t.Context(), slices.Values(refs), []exchange.Peer{a.peer(), b.peer()}, into(c.store))
	if err != nil {
		t.Fatal(err)
	}
	if got.Bytes != 200*20_000 {
		t.Errorf("fetched %+v", got)
	}
}

func TestFetchEnds(t *testing.T) { both(t, testFetchEnds) }

func testFetchEnds(t *testing.T, cfg exchange.Config) {
	t.Helper()
	absent := storetest.Block(t, "absent", 10).Ref()
	tests := []struct {
		name string
		peer func(t *testing.T) exchange.Peer
		want error
	}{
		{"nobody there", func(t *testing.T) exchange.Peer {
			t.Helper()
			return exchange.Peer{ID: string(p2ptest.New(t, p2p.Config{}).ID()), Addrs: []string{"/ip4/127.0.0.1/tcp/1"}}
		}, exchange.ErrNoPeers},
		{"bad peer id", func(*testing.T) exchange.Peer { return exchange.Peer{ID: "x"} }, exchange.ErrNoPeers},
		{"not held", func(t *testing.T) exchange.Peer {
			t.Helper()
			return start(t, cfg).peer()
		}, exchange.ErrNotHeld},
		{"says nothing", func(t *testing.T) exchange.Peer {
			t.Helper()
			h := p2ptest.New(t, p2p.Config{})
			return exchange.Peer{ID: string(h.ID()), Addrs: h.Addrs()}
		}, exchange.ErrStalled},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			if errors.Is(tc.want, exchange.ErrStalled) {
				cfg.Patience = time.Second // all others end by themselves, however busy the machine is
			}
			x := start(t, cfg)
			_, err := x.Fetch(t.Context(), slices.Values([]blockstore.Ref{absent}), []exchange.Peer{tc.peer(t)}, into(x.store))
			if !errors.Is(err, tc.want) {
				t.Errorf("error = %v, want %v", err, tc.want)
			}
		})
	}
}

// poisoner serves other bytes under every name.
type poisoner struct{ boxo.Blockstore }

func (p poisoner) Has(context.Context, cid.Cid) (bool, error)    { return true, nil }
func (p poisoner) GetSize(context.Context, cid.Cid) (int, error) { return 2000, nil }
func (p poisoner) Get(_ context.Context, c cid.Cid) (blocks.Block, error) {
	return blocks.NewBlockWithCid(fmt.Appendf(nil, "%v %2000s", c, "poison"), c)
}

func stock(tb testing.TB, store boxo.Blockstore) (*bitswap.Bitswap, exchange.Peer, *p2p.Host) {
	tb.Helper()
	h := p2ptest.New(tb, p2p.Config{})
	bs := bitswap.New(context.Background(), bsnet.NewFromIpfsHost(h.Libp2p()), nil, store)
	tb.Cleanup(func() { bs.Close() })
	return bs, exchange.Peer{ID: string(h.ID()), Addrs: h.Addrs()}, h
}

func memory() boxo.Blockstore {
	return boxo.NewBlockstore(dssync.MutexWrap(datastore.NewMapDatastore()))
}

// That one peer lacks a block is final once it is known that the other one is gone.
func TestNotHeldAndTheOtherIsGone(t *testing.T) { both(t, testNotHeldAndTheOtherIsGone) }

func testNotHeldAndTheOtherIsGone(t *testing.T, cfg exchange.Config) {
	t.Helper()
	absent := storetest.Block(t, "absent", 10).Ref()
	cfg.Patience = time.Minute
	holder, x := start(t, cfg), start(t, cfg)
	silent, err := net.Listen("tcp", "127.0.0.1:0") // takes a connection and says nothing, until it is closed
	if err != nil {
		t.Fatal(err)
	}
	gone := exchange.Peer{
		ID:    string(p2ptest.New(t, p2p.Config{}).ID()),
		Addrs: []string{fmt.Sprintf("/ip4/127.0.0.1/tcp/%d", silent.Addr().(*net.TCPAddr).Port)},
	}
	go func() {
		c, err := silent.Accept()
		if err == nil {
			c.Read(make([]byte, 1)) // the dialer is there: by now or soon the other peer answers
			time.AfterFunc(200*time.Millisecond, func() { c.Close(); silent.Close() })
		}
	}()
	_, err = x.Fetch(t.Context(), slices.Values([]blockstore.Ref{absent}), []exchange.Peer{holder.peer(), gone}, into(x.store))
	if !errors.Is(err, exchange.ErrNotHeld) {
		t.Errorf("error = %v, want %v", err, exchange.ErrNotHeld)
	}
}

func TestPoison(t *testing.T) {
	_, bad, _ := stock(t, poisoner{memory()})
	good, x := start(t, exchange.Config{}), start(t, exchange.Config{Patience: 30 * time.Second})
	refs := put(t, good.store, 20, 2000)

	t.Run("alone", func(t *testing.T) {
		got, err := x.Fetch(t.Context(), slices.Values(refs), []exchange.Peer{bad}, func(b blockstore.Block) error {
			t.Errorf("sink got %v", b.CID())
			return nil
		})
		if !errors.Is(err, exchange.ErrPoisoned) || !slices.Contains(got.Poisoned, bad.ID) {
			t.Errorf("error = %v, fetched %+v", err, got)
		}
	})
	t.Run("beside a good peer", func(t *testing.T) {
		var mu sync.Mutex
		seen := 0
		got, err := x.Fetch(t.Context(), slices.Values(refs), []exchange.Peer{bad, good.peer()}, func(blockstore.Block) error {
			mu.Lock()
			defer mu.Unlock()
			seen++
			return nil
		})
		if err != nil || seen != len(refs) || got.Peers[bad.ID] != 0 {
			t.Errorf("error = %v, %d blocks, fetched %+v", err, seen, got)
		}
	})
}

// Nothing of ours is needed to read from us.
func TestStockClientFetchesFromUs(t *testing.T) {
	a := start(t, exchange.Config{})
	refs := put(t, a.store, 3, 1<<20)
	client, _, h := stock(t, memory())
	if _, err := h.Connect(t.Context(), a.host.Addrs()[0]); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for _, r := range refs {
		mh, err := multihash.Encode(r.CID[:], multihash.SHA2_256)
		if err != nil {
			t.Fatal(err)
		}
		b, err := client.GetBlock(ctx, cid.NewCidV1(cid.Raw, mh))
		if err != nil {
			t.Fatal(err)
		}
		if b.Cid().String() != r.CID.String() || len(b.RawData()) != r.Size {
			t.Errorf("got %v of %d bytes", b.Cid(), len(b.RawData()))
		}
	}
}

func TestStockServerServesUs(t *testing.T) {
	store := memory()
	_, peer, _ := stock(t, store)
	want := storetest.Block(t, "stock", 70_000)
	mh, err := multihash.Sum(want.Data(), multihash.SHA2_256, -1)
	if err != nil {
		t.Fatal(err)
	}
	b, err := blocks.NewBlockWithCid(want.Data(), cid.NewCidV1(cid.Raw, mh))
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Put(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	x := start(t, exchange.Config{})
	refs := slices.Values([]blockstore.Ref{want.Ref()})
	if _, err := x.Fetch(t.Context(), refs, []exchange.Peer{peer}, into(x.store)); err != nil {
		t.Fatal(err)
	}
}
