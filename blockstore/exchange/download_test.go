package exchange_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"rialto/blockstore"
	"rialto/blockstore/exchange"
	"rialto/blockstore/storetest"
)

func open(t *testing.T, x node, sink func(blockstore.Block) error, peers ...exchange.Peer) *exchange.Download {
	t.Helper()
	d, err := x.Open(t.Context(), peers, sink)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// An urgent block overtakes bulk that was asked for long before.
func TestGetIsUrgent(t *testing.T) {
	const n, size = 100, 100_000
	a, x := start(t, exchange.Config{Upload: 3e6}), start(t, exchange.Config{})
	refs := put(t, a.store, n, size)
	var c checked
	d := open(t, x, c.sink, a.peer())
	done := make(chan error, 1)
	began := make(chan struct{})
	go func() {
		done <- d.Fetch(t.Context(), func(yield func(blockstore.Ref) bool) {
			for i, r := range refs {
				if i == n-1 {
					close(began)
				}
				if !yield(r) {
					return
				}
			}
		})
	}()
	<-began
	b, err := d.Get(t.Context(), refs[n-1])
	if err != nil || b.CID() != refs[n-1].CID {
		t.Fatalf("got %v, %v", b.CID(), err)
	}
	if got := d.Fetched().Blocks[string(a.host.ID())]; got > n/2 {
		t.Errorf("it came after %d blocks of %d", got, n)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	c.want(t, refs) // the urgent one included
}

// A page fault does not wait for a sink that takes nothing.
func TestGetDespiteSink(t *testing.T) {
	a, x := start(t, exchange.Config{}), start(t, exchange.Config{})
	refs := put(t, a.store, 100, 1000)
	free := make(chan struct{})
	d := open(t, x, func(blockstore.Block) error { <-free; return nil }, a.peer())
	done := make(chan error, 1)
	go func() { done <- d.Fetch(t.Context(), slices.Values(refs)) }()
	for _, r := range refs {
		if _, err := d.Get(t.Context(), r); err != nil {
			t.Error(err)
		}
	}
	close(free)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestGet(t *testing.T) {
	a, x := start(t, exchange.Config{}), start(t, exchange.Config{})
	refs := put(t, a.store, 3, 1000)
	var c checked
	d := open(t, x, c.sink, a.peer())
	for _, r := range []blockstore.Ref{refs[0], refs[0], {CID: refs[1].CID}} {
		if b, err := d.Get(t.Context(), r); err != nil || b.CID() != r.CID {
			t.Errorf("got %v, %v", b.CID(), err)
		}
	}
	if len(c.seen) > 0 {
		t.Error("sink got what Fetch did not ask for")
	}
	absent := storetest.Block(t, "absent", 10)
	if _, err := d.Get(t.Context(), absent.Ref()); !errors.Is(err, exchange.ErrNotHeld) {
		t.Errorf("error = %v, want %v", err, exchange.ErrNotHeld)
	}
	// That was not the end, not even for this block.
	if err := a.store.Put(t.Context(), absent); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Get(t.Context(), absent.Ref()); err != nil {
		t.Error(err)
	}
	if err := d.Fetch(t.Context(), slices.Values(refs)); err != nil {
		t.Fatal(err)
	}
	if err := d.Fetch(t.Context(), slices.Values(refs)); err != nil { // sink has them
		t.Fatal(err)
	}
	c.want(t, refs)
	if b, err := d.Get(t.Context(), refs[2]); err != nil || b.CID() != refs[2].CID {
		t.Errorf("after sink had it: %v", err)
	}
	d.Close()
	if _, err := d.Get(t.Context(), refs[2]); !errors.Is(err, exchange.ErrClosed) {
		t.Errorf("error = %v, want %v", err, exchange.ErrClosed)
	}
	if err := d.Fetch(t.Context(), slices.Values(refs)); !errors.Is(err, exchange.ErrClosed) {
		t.Errorf("error = %v, want %v", err, exchange.ErrClosed)
	}
}

// A page fault does not wait for a peer that promised the block and does not send it.
func TestGetIsHedged(t *testing.T) {
	a, x := start(t, exchange.Config{}), start(t, exchange.Config{Patience: time.Minute})
	refs := put(t, a.store, 8, 1000)
	d := open(t, x, nil, rogue(t, silence), rogue(t, silence), a.peer())
	for _, r := range refs {
		if _, err := d.Get(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
}

// Several calls run at once, share blocks, and fail alone.
func TestFetchesShare(t *testing.T) {
	const n = 200
	a, x := start(t, exchange.Config{Upload: 20e6}), start(t, exchange.Config{})
	refs := put(t, a.store, n, 20_000)
	var c checked
	d := open(t, x, c.sink, a.peer())
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			if err := d.Fetch(t.Context(), slices.Values(refs[i*20:n-i*20])); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Go(func() {
		absent := storetest.Block(t, "absent", 10)
		if err := d.Fetch(t.Context(), slices.Values([]blockstore.Ref{refs[0], absent.Ref()})); !errors.Is(err, exchange.ErrNotHeld) {
			t.Errorf("error = %v, want %v", err, exchange.ErrNotHeld)
		}
	})
	wg.Go(func() {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := d.Fetch(ctx, slices.Values(refs)); !errors.Is(err, context.Canceled) {
			t.Errorf("error = %v, want %v", err, context.Canceled)
		}
	})
	wg.Wait()
	c.want(t, refs)
}

// A peer that is learnt of later has what the first one lacks.
func TestAdd(t *testing.T) {
	a, b, x := start(t, exchange.Config{}), start(t, exchange.Config{}), start(t, exchange.Config{})
	refs := put(t, b.store, 50, 1000)
	d := open(t, x, into(x.store), a.peer())
	if err := d.Fetch(t.Context(), slices.Values(refs)); !errors.Is(err, exchange.ErrNotHeld) {
		t.Fatalf("error = %v, want %v", err, exchange.ErrNotHeld)
	}
	d.Add(b.peer(), a.peer(), exchange.Peer{ID: "x"})
	if err := d.Fetch(t.Context(), slices.Values(refs)); err != nil {
		t.Fatal(err)
	}
	if got := d.Fetched().Peers[string(b.host.ID())]; got != 50*1000 {
		t.Errorf("fetched %d bytes from it", got)
	}
}

func TestSinkFails(t *testing.T) {
	full := errors.New("full")
	a, x := start(t, exchange.Config{}), start(t, exchange.Config{})
	refs := put(t, a.store, 100, 1000)
	_, err := x.Fetch(t.Context(), slices.Values(refs), []exchange.Peer{a.peer()}, func(blockstore.Block) error { return full })
	if !errors.Is(err, full) {
		t.Errorf("error = %v, want %v", err, full)
	}
}

// Peers do as much of the work as they are fast. Both are much slower than a busy machine.
func TestSplitByRate(t *testing.T) {
	const n, size = 200, 20_000
	a, b, x := start(t, exchange.Config{UploadPeer: 3e6}), start(t, exchange.Config{Upload: 1e6}), start(t, exchange.Config{})
	refs := put(t, a.store, n, size)
	put(t, b.store, n, size)
	got, err := x.Fetch(t.Context(), slices.Values(refs), []exchange.Peer{a.peer(), b.peer()}, into(x.store))
	if err != nil {
		t.Fatal(err)
	}
	if share := float64(got.Peers[string(b.host.ID())]) / (n * size); share < 0.05 || share > 0.45 {
		t.Errorf("a quarter of the speed did %.2f of the work", share)
	}
	served := a.Stats().Peers[string(x.host.ID())]
	if served.Bytes < got.Peers[string(a.host.ID())] || served.Blocks == 0 {
		t.Errorf("served %+v, fetched %+v", served, got)
	}
	wantFetched(t, x, got)
}

// wantFetched checks that an exchange counted what all its downloads brought.
func wantFetched(t *testing.T, x node, all ...exchange.Fetched) {
	t.Helper()
	want := make(map[string]exchange.Served)
	for _, got := range all {
		for p, n := range got.Peers {
			want[p] = exchange.Served{Blocks: want[p].Blocks + got.Blocks[p], Bytes: want[p].Bytes + n}
		}
	}
	if got := x.Stats().Fetched; !maps.Equal(got, want) || len(got) == 0 {
		t.Errorf("counted %+v, want %+v", got, want)
	}
}

// Bytes are counted while a download goes on, and once, however often it is closed.
func TestStatsOfADownloadUnderWay(t *testing.T) {
	a, x := start(t, exchange.Config{}), start(t, exchange.Config{})
	refs := put(t, a.store, 4, 20_000)
	d, err := x.Open(t.Context(), []exchange.Peer{a.peer()}, into(x.store))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range refs[:2] {
		if _, err := d.Get(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	wantFetched(t, x, d.Fetched())
	for range 2 {
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
	wantFetched(t, x, d.Fetched())
	again, err := x.Fetch(t.Context(), slices.Values(refs[2:]), []exchange.Peer{a.peer()}, into(x.store))
	if err != nil {
		t.Fatal(err)
	}
	wantFetched(t, x, d.Fetched(), again)
}

// generated is a store of blocks that are made when they are read: more than memory should hold.
type generated struct {
	blockstore.Memory
	seeds map[blockstore.CID]uint64
}

func generate(seed uint64) blockstore.Block {
	p := make([]byte, blockstore.MaxBlock)
	rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(p)
	b, _ := blockstore.NewBlock(p)
	return b
}

func (g *generated) Has(_ context.Context, c blockstore.CID) (bool, error) {
	_, ok := g.seeds[c]
	return ok, nil
}

func (g *generated) Size(_ context.Context, c blockstore.CID) (int, error) {
	if _, ok := g.seeds[c]; !ok {
		return 0, fmt.Errorf("%v: %w", c, blockstore.ErrNotFound)
	}
	return blockstore.MaxBlock, nil
}

func (g *generated) Get(_ context.Context, c blockstore.CID) (blockstore.Block, error) {
	seed, ok := g.seeds[c]
	if !ok {
		return blockstore.Block{}, fmt.Errorf("%v: %w", c, blockstore.ErrNotFound)
	}
	return generate(seed), nil
}

// A fast peer and a sink that cannot keep up: both ends in this process hold little, whatever the transfer's size.
func TestMemoryIsBounded(t *testing.T) {
	if testing.Short() {
		t.Skip("moves 400 MiB")
	}
	const n = 400
	store := &generated{seeds: make(map[blockstore.CID]uint64, n)}
	refs := make([]blockstore.Ref, n)
	for i := range refs {
		refs[i] = generate(uint64(i)).Ref()
		store.seeds[refs[i].CID] = uint64(i)
	}
	a, x := start(t, exchange.Config{Store: store}), start(t, exchange.Config{})
	runtime.GC()
	var before runtime.MemStats
	runtime.ReadMemStats(&before)
	var peak atomic.Uint64
	var came atomic.Int64
	var slow sync.Mutex
	_, err := x.Fetch(t.Context(), slices.Values(refs), []exchange.Peer{a.peer()}, func(b blockstore.Block) error {
		slow.Lock()
		defer slow.Unlock()
		for range 4 {
			blockstore.Sum(b.Data())
		}
		if came.Add(1)%16 == 0 {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			peak.Store(max(peak.Load(), m.HeapInuse-min(m.HeapInuse, before.HeapInuse)))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("heap grew by %d MiB", peak.Load()>>20)
	if peak.Load() > 256<<20 {
		t.Errorf("heap grew by %d MiB", peak.Load()>>20)
	}
}

// What is not public is not served to strangers, but to those who speak the fast path.
func TestPublic(t *testing.T) {
	var secret blockstore.CID
	a := start(t, exchange.Config{Public: func(c blockstore.CID) bool { return c != secret }})
	refs := put(t, a.store, 2, 1000)
	secret = refs[1].CID
	bitswap, x := start(t, exchange.Config{BitswapOnly: true}), start(t, exchange.Config{})
	if _, err := bitswap.Fetch(t.Context(), slices.Values(refs[:1]), []exchange.Peer{a.peer()}, into(bitswap.store)); err != nil {
		t.Error(err)
	}
	if _, err := bitswap.Fetch(t.Context(), slices.Values(refs), []exchange.Peer{a.peer()}, into(bitswap.store)); !errors.Is(err, exchange.ErrNotHeld) {
		t.Errorf("error = %v, want %v", err, exchange.ErrNotHeld)
	}
	if _, err := x.Fetch(t.Context(), slices.Values(refs), []exchange.Peer{a.peer()}, into(x.store)); err != nil {
		t.Error(err)
	}
}

// The peers of a swarm get from each other what only one of them had, and all in the end.
func TestSwarm(t *testing.T) {
	const n, size, peers = 100, 20_000, 5
	origin := start(t, exchange.Config{Upload: 2e6})
	refs := put(t, origin.store, n, size)
	all := []exchange.Peer{origin.peer()}
	nodes := make([]node, peers)
	for i := range nodes {
		nodes[i] = start(t, exchange.Config{})
		all = append(all, nodes[i].peer())
	}
	var wg sync.WaitGroup
	for _, x := range nodes {
		wg.Go(func() {
			if _, err := x.Fetch(t.Context(), slices.Values(refs), all, into(x.store)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	sent := origin.Stats()
	t.Logf("the origin sent %.2f of the size", float64(sent.ServedBytes)/(n*size))
	if sent.ServedBytes > 2*n*size {
		t.Errorf("the origin sent %d bytes for %d", sent.ServedBytes, n*size)
	}
}
