package exchange

import (
	"context"
	"fmt"
	"slices"
	"time"

	boxo "github.com/ipfs/boxo/exchange"
	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

// asking is one Bitswap session of a fetch. Sessions are given up, because they can die silently: Bitswap
// drops a message that a server could not send, and asks nobody for that block again for 30 s; and a session
// whose last peer was struck off asks nobody for anything, ever.
type asking struct {
	session  boxo.Fetcher
	end      context.CancelFunc
	over     chan struct{} // closed before end is called
	replaced chan struct{} // closed once the fetch has another one
}

func (x *Exchange) ask(ctx context.Context) *asking {
	ctx, end := context.WithCancel(ctx)
	return &asking{
		session:  x.bitswap.NewSession(ctx),
		end:      end,
		over:     make(chan struct{}),
		replaced: make(chan struct{}),
	}
}

// askAgain replaces the session. Every batch asks the new one for what it misses.
func (f *fetch) askAgain(ctx context.Context) {
	f.mu.Lock()
	old := f.asking
	f.mu.Unlock()
	close(old.over)
	old.end()
	f.awaitCancels(ctx)
	f.mu.Lock()
	f.asking = f.x.ask(ctx)
	f.mu.Unlock()
	close(old.replaced)
}

// awaitCancels returns when Bitswap has taken back what the last session wanted, which it does in the
// background: a want that it still knows is not sent again. Another fetch may want the same for longer.
func (f *fetch) awaitCancels(ctx context.Context) {
	const every, most = 10 * time.Millisecond, 100
	tick := time.NewTicker(every)
	defer tick.Stop()
	for range most {
		if !slices.ContainsFunc(f.x.bitswap.GetWantlist(), f.wants) {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// watch asks again when nothing comes, and ends a fetch that nobody will complete. Time in which sink does
// not take what has come is not the peers'.
func (f *fetch) watch(ctx context.Context) {
	const every = 100 * time.Millisecond
	tick := time.NewTicker(every)
	defer tick.Stop()
	var before, last int64
	var waited, idle time.Duration
	retry := f.x.cfg.Retry
	dialed := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if f.dialing.Load() == 0 && f.connected() == 0 {
			f.cancel(ErrNoPeers)
			return
		}
		if !dialed && f.dialing.Load() == 0 {
			dialed = true
			f.judgeAll()
		}
		if f.sinking.Load() > 0 {
			continue
		}
		now := f.received.Load()
		if idle += every; now != last {
			last, idle, retry = now, 0, f.x.cfg.Retry
		}
		if waited += every; waited >= f.x.cfg.Patience {
			if now-before < f.x.cfg.MinProgress {
				f.cancel(fmt.Errorf("%w: %d bytes in %v", ErrStalled, now-before, waited))
				return
			}
			before, waited = now, 0
		}
		if idle >= retry {
			f.x.cfg.Logger.DebugContext(ctx, "peers are silent and asked again", "received", now, "after", idle)
			f.askAgain(ctx)
			idle, retry = 0, 2*retry // a large block on a slow line is not silence
		}
	}
}

func (f *fetch) connected() int {
	n := 0
	for _, p := range f.peers {
		if f.x.cfg.Host.Network().Connectedness(p.ID) == network.Connected {
			n++
		}
	}
	return n
}

// dontHave notes that a peer lacks wanted blocks, and ends the fetch when nobody is left to ask for one.
func (f *fetch) dontHave(p peer.ID, cids []cid.Cid) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range cids {
		w, ok := f.wanted[c]
		if !ok || w.arrived || !f.asks(p) {
			continue
		}
		w.lack[p] = struct{}{}
		f.judge(c, w)
	}
}

// judge ends the fetch if nobody is left to ask for a block. The caller holds mu.
func (f *fetch) judge(c cid.Cid, w *want) {
	if !w.arrived && len(w.lack) > 0 && f.dialing.Load() == 0 && len(w.lack) >= f.connected() {
		f.cancel(fmt.Errorf("%w: %v", ErrNotHeld, c))
	}
}

// judgeAll does so when all dialing is over: answers that came before could not be final.
func (f *fetch) judgeAll() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for c, w := range f.wanted {
		f.judge(c, w)
	}
}
