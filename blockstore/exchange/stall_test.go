package exchange_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"

	"rialto/blockstore"
	"rialto/blockstore/exchange"
	"rialto/p2p"
	"rialto/p2p/p2ptest"
)

// lossyHost cannot open some of its streams, so that Bitswap drops the messages that were to go there.
type lossyHost struct {
	host.Host
	streams *atomic.Int64
	lost    func(n int64) bool
}

func (h lossyHost) NewStream(ctx context.Context, p peer.ID, protocols ...protocol.ID) (network.Stream, error) {
	if h.lost(h.streams.Add(1)) {
		return nil, errors.New("lost")
	}
	return h.Host.NewStream(ctx, p, protocols...)
}

// A server's messages get lost: Bitswap itself would ask again after 30 s. When many of them are lost, and
// the client took its peer for one that has nothing, it would not even do that.
func TestLostMessagesAreAskedForAgain(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		lost func(n int64) bool
	}{
		{"one", func(n int64) bool { return n == 5 }},
		{"a third", func(n int64) bool { return n%3 == 0 }},
		{"all for a while", func(n int64) bool { return n > 5 && n < 80 }},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			h := p2ptest.New(t, p2p.Config{})
			streams := new(atomic.Int64)
			a := startOn(t, h, exchange.Config{BitswapOnly: true, Host: lossyHost{h.Libp2p(), streams, tc.lost}})
			b := start(t, exchange.Config{Patience: 4 * time.Second, MinProgress: 1, Retry: 200 * time.Millisecond})
			refs := put(t, a.store, 150, 20_000)
			got, err := b.Fetch(t.Context(), slices.Values(refs), []exchange.Peer{a.peer()}, into(b.store))
			if err != nil || got.Bytes < 150*20_000 {
				t.Errorf("fetched %d bytes, %v", got.Bytes, err)
			}
		})
	}
}

// A disk that is busy for longer than anybody's patience is not the peers' fault, and all comes when it is not
// busy any more.
func TestBlockedSink(t *testing.T) { both(t, testBlockedSink) }

func testBlockedSink(t *testing.T, cfg exchange.Config) {
	t.Helper()
	const patience = time.Second
	cfg.Patience, cfg.Retry, cfg.MinProgress = patience, patience/2, 1
	a, b := start(t, cfg), start(t, cfg)
	refs := put(t, a.store, 300, 300_000) // more than the window of bytes
	free := make(chan struct{})
	var once sync.Once
	got, err := b.Fetch(t.Context(), slices.Values(refs), []exchange.Peer{a.peer()}, func(blockstore.Block) error {
		once.Do(func() {
			time.AfterFunc(2*patience, func() {
				// What memory must hold: the window, and what was being sent.
				if sent := a.Stats().ServedBytes; sent > 64<<20+2<<20 {
					t.Errorf("%d bytes were sent to a sink that takes none", sent)
				}
				close(free)
			})
		})
		<-free
		return nil
	})
	if err != nil || got.Bytes != 300*300_000 {
		t.Errorf("fetched %d bytes, %v", got.Bytes, err)
	}
}
