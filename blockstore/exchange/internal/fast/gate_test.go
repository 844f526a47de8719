package fast

import (
	"context"
	"errors"
	"math"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

const mib = 1 << 20

func newGate(rate, peerRate int64) *gate {
	return &gate{rate: rate, peerRate: peerRate, memory: memory, peerMemory: peerMemory, peers: make(map[peer.ID]*line)}
}

// upload sends blocks of n bytes through some streams for a minute, and returns the bytes of each peer.
func upload(g *gate, streams map[peer.ID]int, n map[peer.ID]int64) map[peer.ID]int64 {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var mu sync.Mutex
	sent := make(map[peer.ID]int64)
	var wg sync.WaitGroup
	for p, k := range streams {
		for range k {
			wg.Go(func() {
				for g.enter(ctx, p, n[p], time.Hour) == nil {
					mu.Lock()
					sent[p] += n[p]
					mu.Unlock()
					g.leave(p, n[p])
				}
			})
		}
	}
	wg.Wait()
	return sent
}

func near(got int64, want float64) bool { return math.Abs(float64(got)-want) < 0.05*want }

// Peers get the same number of bytes, however many streams they open and however large their blocks are.
func TestGateIsFair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(30*mib, 0)
		defer g.close()
		sent := upload(g, map[peer.ID]int{"a": 1, "b": 8, "c": 2}, map[peer.ID]int64{"a": mib, "b": mib, "c": 100_000})
		for p, n := range sent {
			if !near(n, 600*mib) {
				t.Errorf("%s sent %d MiB in a minute of 30 MiB/s, want a third", p, n/mib)
			}
		}
	})
}

func TestGateHoldsRates(t *testing.T) {
	tests := []struct {
		name           string
		rate, peerRate int64
		a, b           float64
	}{
		{"all", 10 * mib, 0, 300 * mib, 300 * mib},
		{"each", 0, 2 * mib, 120 * mib, 120 * mib},
		{"both", 3 * mib, 2 * mib, 90 * mib, 90 * mib},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newGate(tc.rate, tc.peerRate)
				defer g.close()
				sent := upload(g, map[peer.ID]int{"a": 2, "b": 3}, map[peer.ID]int64{"a": mib, "b": mib})
				if !near(sent["a"], tc.a) || !near(sent["b"], tc.b) {
					t.Errorf("sent %d and %d MiB, want %v and %v", sent["a"]/mib, sent["b"]/mib, tc.a/mib, tc.b/mib)
				}
			})
		})
	}
}

// One peer that takes nothing cannot hold all memory, and all of them not more than there is.
func TestGateHoldsMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(0, 0)
		defer g.close()
		took := make(map[peer.ID]int)
		for _, p := range []peer.ID{"a", "b", "c", "d", "e"} {
			for {
				if err := g.enter(t.Context(), p, mib, time.Second); err != nil {
					if !errors.Is(err, errBusy) {
						t.Fatal(err)
					}
					break
				}
				took[p]++
			}
		}
		for p, want := range map[peer.ID]int{"a": 16, "b": 16, "c": 16, "d": 16, "e": 0} {
			if took[p] != want {
				t.Errorf("%s holds %d MiB, want %d", p, took[p], want)
			}
		}
		g.leave("a", mib)
		if err := g.enter(t.Context(), "e", mib, time.Second); err != nil {
			t.Error(err)
		}
	})
}

// Peers that come and go leave nothing behind.
func TestGateForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(0, mib)
		defer g.close()
		for i := range 100 {
			p := peer.ID(rune('a' + i))
			if err := g.enter(t.Context(), p, mib, time.Second); err != nil {
				t.Fatal(err)
			}
			g.leave(p, mib)
		}
		time.Sleep(2 * time.Second)
		if err := g.enter(t.Context(), "z", 1, time.Second); err != nil {
			t.Fatal(err)
		}
		g.leave("z", 1)
		if len(g.peers) > 1 {
			t.Errorf("%d peers are remembered", len(g.peers))
		}
	})
}
