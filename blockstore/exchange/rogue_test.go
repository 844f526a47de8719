package exchange_test

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"

	"rialto/blockstore"
	"rialto/blockstore/exchange"
	"rialto/blockstore/exchange/internal/wire"
	"rialto/p2p"
	"rialto/p2p/p2ptest"
)

const fastPath = "/rialto/blocks/1"

// rogue is a peer that speaks the fast path and answers wants as it likes. It has everything, if it is asked.
func rogue(tb testing.TB, answer func(blockstore.CID) []byte) exchange.Peer {
	tb.Helper()
	return liar(tb, func(int) int { return wire.MaxAsked }, answer)
}

// liar is a rogue that, asked for the n-th time what it has, has the first so many of it.
func liar(tb testing.TB, has func(n int) int, answer func(blockstore.CID) []byte) exchange.Peer {
	tb.Helper()
	h := p2ptest.New(tb, p2p.Config{})
	h.Libp2p().SetStreamHandler(fastPath, func(s network.Stream) {
		defer s.Reset()
		for n := 0; ; {
			a, err := wire.ReadAsk(s, func() error { return nil })
			if err != nil {
				return
			}
			var out []byte
			switch a.Type {
			case wire.Have:
				out = wire.AppendAnswer(out, wire.Answer{Type: wire.Map, Value: len(a.CIDs)})
				bits := wire.NewBits(len(a.CIDs))
				n++
				for i := range min(len(a.CIDs), has(n)) {
					bits.Set(i)
				}
				out = append(out, bits...)
			case wire.Want, wire.Move:
				for _, c := range a.CIDs {
					p := answer(c)
					if p == nil {
						s.Write(out)
						s.CloseWrite()
						io.Copy(io.Discard, s) // a reset now could overtake what was written
						return
					}
					out = append(out, p...)
				}
			case wire.Cancel:
			}
			if _, err := s.Write(out); err != nil {
				return
			}
		}
	})
	return exchange.Peer{ID: string(h.ID()), Addrs: h.Addrs()}
}

func silence(blockstore.CID) []byte { return []byte{} }

func data(p []byte) []byte {
	return append(wire.AppendAnswer(nil, wire.Answer{Type: wire.Data, Value: len(p)}), p...)
}

func wrong(c blockstore.CID) []byte {
	return data(fmt.Appendf(nil, "%v %30000s", c, "poison"))
}

// checked is a sink that holds blocks to being those that were asked for, each once.
type checked struct {
	mu   sync.Mutex
	seen map[blockstore.CID]int
}

func (c *checked) sink(b blockstore.Block) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.seen == nil {
		c.seen = make(map[blockstore.CID]int)
	}
	c.seen[b.CID()]++
	return nil
}

func (c *checked) has(name blockstore.CID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.seen[name] > 0
}

func (c *checked) want(t *testing.T, refs []blockstore.Ref) {
	t.Helper()
	for _, r := range refs {
		if c.seen[r.CID] != 1 {
			t.Errorf("sink got %v %d times", r.CID, c.seen[r.CID])
		}
	}
	if len(c.seen) != len(refs) {
		t.Errorf("sink got %d blocks of %d", len(c.seen), len(refs))
	}
}

// Seven of eight peers send wrong bytes.
func TestPoisoners(t *testing.T) {
	const n, size = 300, 30_000
	stockPoisoner := func(tb testing.TB) exchange.Peer {
		tb.Helper()
		_, p, _ := stock(tb, bigPoisoner{poisoner{memory()}})
		return p
	}
	fastPoisoner := func(tb testing.TB) exchange.Peer {
		tb.Helper()
		return rogue(tb, wrong)
	}
	tests := []struct {
		name string
		only bool
		bad  func(testing.TB) exchange.Peer
	}{
		{"fast", false, fastPoisoner},
		{"bitswap", true, stockPoisoner},
		{"good fast, bad bitswap", false, stockPoisoner},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			var mu sync.Mutex
			var told []exchange.Poison
			good, x := start(t, exchange.Config{BitswapOnly: tc.only}), start(t, exchange.Config{Patience: time.Minute, Poisoned: func(p exchange.Poison) {
				mu.Lock()
				defer mu.Unlock()
				told = append(told, p)
			}})
			refs := put(t, good.store, n, size)
			var peers []exchange.Peer
			for range 7 {
				peers = append(peers, tc.bad(t))
			}
			peers = append(peers, good.peer())
			var c checked
			got, err := x.Fetch(t.Context(), slices.Values(refs), peers, c.sink)
			if err != nil {
				t.Fatal(err)
			}
			c.want(t, refs)
			t.Logf("wasted %d of %d bytes, %d poisoners", got.Wasted, got.Bytes, len(got.Poisoned))
			if got.Peers[peers[7].ID] != n*size || got.Wasted > 3*n*size/10 {
				t.Errorf("fetched %+v", got)
			}
			for _, p := range got.Poisons {
				known := slices.ContainsFunc(refs, func(r blockstore.Ref) bool { return r.CID == p.Want })
				if !tc.only && tc.name == "fast" && !known || p.Got == p.Want || p.Size == 0 || p.Peer == peers[7].ID {
					t.Errorf("poison %+v", p)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			if !slices.Equal(told, got.Poisons) {
				t.Errorf("told of %+v, got %+v", told, got.Poisons)
			}
			if len(got.Poisons) != len(got.Poisoned) {
				t.Errorf("%d poisons of %d peers", len(got.Poisons), len(got.Poisoned))
			}
		})
	}
}

type bigPoisoner struct{ poisoner }

func (p bigPoisoner) GetSize(context.Context, cid.Cid) (int, error) { return 30_000, nil }
func (p bigPoisoner) Get(_ context.Context, c cid.Cid) (blocks.Block, error) {
	return blocks.NewBlockWithCid(fmt.Appendf(nil, "%v %30000s", c, "poison"), c)
}

func TestFetchDespiteOthers(t *testing.T) {
	t.Parallel()
	const n, size = 200, 50_000
	tests := []struct {
		name  string
		other func(t *testing.T, refs []blockstore.Ref) exchange.Peer
		most  int64 // bytes that may come from it
	}{
		{"silent", func(t *testing.T, _ []blockstore.Ref) exchange.Peer {
			t.Helper()
			return rogue(t, silence)
		}, 0},
		{"deaf", func(t *testing.T, _ []blockstore.Ref) exchange.Peer {
			t.Helper()
			h := p2ptest.New(t, p2p.Config{})
			h.Libp2p().SetStreamHandler(fastPath, func(network.Stream) {})
			return exchange.Peer{ID: string(h.ID()), Addrs: h.Addrs()}
		}, 0},
		{"breaks the protocol", func(t *testing.T, _ []blockstore.Ref) exchange.Peer {
			t.Helper()
			return rogue(t, func(blockstore.CID) []byte { return []byte{77, 0, 0, 0, 0} })
		}, 0},
		{"has nothing after all", func(t *testing.T, _ []blockstore.Ref) exchange.Peer {
			t.Helper()
			return rogue(t, func(blockstore.CID) []byte { return wire.AppendAnswer(nil, wire.Answer{Type: wire.Absent}) })
		}, 0},
		{"has half", func(t *testing.T, refs []blockstore.Ref) exchange.Peer {
			t.Helper()
			half := start(t, exchange.Config{})
			put(t, half.store, n/2, size)
			return half.peer()
		}, n / 2 * size},
		{"at a fiftieth of the speed", func(t *testing.T, _ []blockstore.Ref) exchange.Peer {
			t.Helper()
			slow := start(t, exchange.Config{Upload: 400_000})
			put(t, slow.store, n, size)
			return slow.peer()
		}, n * size / 10},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			good, x := start(t, exchange.Config{Upload: 20e6}), start(t, exchange.Config{})
			refs := put(t, good.store, n, size)
			other := tc.other(t, refs)
			var c checked
			got, err := x.Fetch(t.Context(), slices.Values(refs), []exchange.Peer{other, good.peer()}, c.sink)
			if err != nil {
				t.Fatal(err)
			}
			c.want(t, refs)
			if got.Peers[other.ID] > tc.most || got.Bytes != n*size || got.Wasted > n*size/10 {
				t.Errorf("fetched %+v", got)
			}
		})
	}
}

// A peer dies in the middle.
func TestPeerDies(t *testing.T) {
	const n, size = 300, 50_000
	a, b, x := start(t, exchange.Config{Upload: 10e6}), start(t, exchange.Config{Upload: 10e6}), start(t, exchange.Config{})
	refs := put(t, a.store, n, size)
	put(t, b.store, n, size)
	var c checked
	var got atomic.Int64
	var once sync.Once
	f, err := x.Fetch(t.Context(), slices.Values(refs), []exchange.Peer{a.peer(), b.peer()}, func(blk blockstore.Block) error {
		if got.Add(1) > n/3 {
			once.Do(func() { a.host.Close() })
		}
		return c.sink(blk)
	})
	if err != nil {
		t.Fatal(err)
	}
	c.want(t, refs)
	if f.Peers[string(b.host.ID())] <= n*size/3 {
		t.Errorf("fetched %+v", f)
	}
}

// A peer's streams end again and again, and it says that it is busy: it is asked again as long as blocks come.
func TestPeerRecovers(t *testing.T) {
	const n = 30
	store := new(blockstore.Memory)
	refs := put(t, store, n, 1000)
	var mu sync.Mutex
	asked := make(map[blockstore.CID]int)
	answered := 0
	p := rogue(t, func(c blockstore.CID) []byte {
		mu.Lock()
		defer mu.Unlock()
		if asked[c]++; asked[c] == 1 {
			return wire.AppendAnswer(nil, wire.Answer{Type: wire.Busy, Value: 10})
		}
		if answered++; answered%11 == 0 {
			return nil
		}
		b, err := store.Get(context.Background(), c)
		if err != nil {
			t.Error(err)
		}
		return data(b.Data())
	})
	x := start(t, exchange.Config{})
	var c checked
	if _, err := x.Fetch(t.Context(), slices.Values(refs), []exchange.Peer{p}, c.sink); err != nil {
		t.Fatal(err)
	}
	c.want(t, refs)
}

// Peers that promise more and more blocks and send none do not keep a download from who has them.
func TestPromises(t *testing.T) {
	const n, size = 200, 20_000
	tests := []struct {
		name   string
		answer func(blockstore.CID) []byte
	}{
		{"silent", silence},
		{"absent", func(blockstore.CID) []byte { return wire.AppendAnswer(nil, wire.Answer{Type: wire.Absent}) }},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			good, x := start(t, exchange.Config{}), start(t, exchange.Config{})
			refs := put(t, good.store, n, size)
			peers := []exchange.Peer{good.peer()}
			var asked atomic.Int64
			for i := range 4 {
				peers = append(peers, liar(t, func(n int) int { return i + 10*n }, func(c blockstore.CID) []byte {
					asked.Add(1)
					return tc.answer(c)
				}))
			}
			var c checked
			got, err := x.Fetch(t.Context(), slices.Values(refs), peers, c.sink)
			if err != nil {
				t.Fatal(err)
			}
			c.want(t, refs)
			if got.Wasted > 0 || got.Peers[peers[0].ID] != n*size || asked.Load() > n/2 {
				t.Errorf("fetched %+v, asked liars %d times", got, asked.Load())
			}
		})
	}
}

// goroutines returns how many run code of downloads.
func goroutines() int {
	buf := make([]byte, 4<<20)
	all := string(buf[:runtime.Stack(buf, true)])
	n := 0
	for g := range strings.SplitSeq(all, "\n\n") {
		if strings.Contains(g, "exchange.(*Download)") || strings.Contains(g, "fast.(*Lane)") || strings.Contains(g, "exchange.(*swap)") {
			n++
		}
	}
	return n
}

// Whatever ends a download, nothing of it is left.
func TestCancelLeavesNothing(t *testing.T) {
	tests := []struct {
		name string
		only bool
	}{{"fast", false}, {"bitswap", true}}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			a, b, x := start(t, exchange.Config{BitswapOnly: tc.only}), start(t, exchange.Config{BitswapOnly: tc.only}), start(t, exchange.Config{})
			refs := put(t, a.store, 300, 100_000)
			put(t, b.store, 300, 100_000)
			before := goroutines()
			ctx, cancel := context.WithCancel(t.Context())
			_, err := x.Fetch(ctx, slices.Values(refs), []exchange.Peer{a.peer(), b.peer(), rogue(t, silence)}, func(blockstore.Block) error {
				cancel()
				return nil
			})
			if err == nil {
				t.Error("a cancelled fetch ended well")
			}
			if after := goroutines(); after > before {
				t.Errorf("%d goroutines of downloads, %d before", after, before)
			}
		})
	}
}
