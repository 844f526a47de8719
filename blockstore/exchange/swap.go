package exchange

import (
	"context"
	"slices"
	"time"

	"github.com/ipfs/boxo/bitswap/client/traceability"
	boxo "github.com/ipfs/boxo/exchange"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"rialto/blockstore"
)

// swap is the source that is all Bitswap peers of a download: Bitswap itself decides which of them it asks for what.
// The download's mu guards it.
type swap struct {
	d       *Download
	s       *source
	peers   map[peer.ID]struct{}
	lack    map[blockstore.CID]map[peer.ID]struct{} // who said that it does not have it
	pending []*item                                 // to be asked for
	useless []blocks.Block                          // that came from elsewhere
	asking  *asking
	filling bool // the window is being filled, which is done in batches
	got     int64
	last    int64 // got when idle was 0
	idle    time.Duration
	retry   time.Duration // after this long idle, all is asked for anew
	anew    bool          // which is happening
}

// asking is one Bitswap session. Sessions are given up, because they can die silently: Bitswap drops a
// message that a server could not send, and asks nobody for that block again for 30 s; and a session whose last
// peer was struck off asks nobody for anything, ever.
type asking struct {
	session  boxo.Fetcher
	end      context.CancelFunc
	over     chan struct{} // closed before end is called
	replaced chan struct{} // closed once there is another one
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

// attendSwap adds a connected peer that is asked by Bitswap.
func (d *Download) attendSwap(ctx context.Context, info peer.AddrInfo) {
	d.x.asked.add(info.ID, 1)
	d.x.bitswap.PeerConnected(info.ID) // which it may have been told is over: see poison
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cause() != nil {
		d.x.asked.add(info.ID, -1)
		return
	}
	if w := d.swap; w != nil {
		w.peers[info.ID] = struct{}{}
		for _, it := range d.items { // it may have what the others lack
			w.s.forget(it)
		}
		d.schedule()
		return
	}
	w := &swap{
		d: d, peers: map[peer.ID]struct{}{info.ID: {}}, lack: make(map[blockstore.CID]map[peer.ID]struct{}),
		asking: d.x.ask(ctx), retry: d.x.cfg.Retry,
	}
	w.s = &source{swap: w, lanes: []*lane{newLane(nil)}, end: func(error) {}}
	w.s.meter.fixed = true
	d.swap = w
	d.admit(w.s)
}

// room reports whether the window may be filled further. It is refilled when half of it came, so that
// Bitswap is asked for many blocks at a time.
func (w *swap) room() bool {
	if 2*w.s.out <= w.s.meter.window {
		w.filling = true
	} else if w.s.out >= w.s.meter.window || w.s.wants >= maxWants {
		w.filling = false
	}
	return w.filling && w.s.wants < maxWants
}

func (w *swap) want(it *item) { w.pending = append(w.pending, it) }

// cancel ends the wait for a block that came from elsewhere.
func (w *swap) cancel(it *item, data []byte) {
	if b, err := blocks.NewBlockWithCid(data, toCID(it.cid)); err == nil {
		w.useless = append(w.useless, b)
	}
}

// flush tells Bitswap what was decided. The caller holds mu, which Bitswap does not need.
func (w *swap) flush() {
	d := w.d
	if useless := w.useless; len(useless) > 0 {
		w.useless = nil
		// Bitswap ends a wait for a block when it is told that the block is here.
		d.spawn(func(ctx context.Context) { _ = d.x.bitswap.NotifyNewBlocks(ctx, useless...) })
	}
	for batch := range slices.Chunk(w.pending, batchWants) {
		names := make([]cid.Cid, len(batch))
		for i, it := range batch {
			names[i] = toCID(it.cid)
		}
		d.spawn(func(ctx context.Context) { w.bring(ctx, names) })
	}
	w.pending = nil
}

// bring brings some blocks, in as many sessions as it takes.
func (w *swap) bring(ctx context.Context, names []cid.Cid) {
	for {
		w.d.mu.Lock()
		a := w.asking
		w.d.mu.Unlock()
		arrived, err := a.session.GetBlocks(ctx, names)
		if err == nil {
			for b := range arrived {
				w.arrived(b)
			}
		}
		if names = w.missing(names); len(names) == 0 {
			return
		}
		select {
		case <-a.replaced:
		case <-ctx.Done():
			return
		}
	}
}

// missing returns the names that are still asked for.
func (w *swap) missing(names []cid.Cid) []cid.Cid {
	w.d.mu.Lock()
	defer w.d.mu.Unlock()
	return slices.DeleteFunc(names, func(c cid.Cid) bool {
		ours, _ := fromCID(c)
		f := w.s.lanes[0].flights[ours]
		if f != nil && f.cancelled {
			w.d.land(f)
		}
		return f == nil || f.cancelled
	})
}

func (w *swap) arrived(b blocks.Block) {
	ours, ok := fromCID(b.Cid())
	if !ok {
		return
	}
	d, now, n := w.d, time.Now(), int64(len(b.RawData()))
	var from peer.ID
	if t, ok := b.(traceability.Block); ok {
		from = t.From
	}
	d.mu.Lock()
	f := w.s.lanes[0].flights[ours]
	if f == nil {
		d.mu.Unlock()
		return
	}
	d.land(f)
	delete(w.lack, ours)
	if from != "" {
		w.got += n
		w.s.meter.took.add(now.Sub(f.at))
		w.s.meter.got(now, n)
		// Each block that is right is a reason to ask for two.
		w.s.meter.window = min(w.s.meter.window+n, windowBytes)
	}
	hand := d.receive(f.item)
	d.schedule()
	d.mu.Unlock()
	if hand {
		d.arrive(arrival{source: w.s, from: from, item: f.item, data: b.RawData()})
	}
}

// connected counts the peers that are there.
func (w *swap) connected() int {
	n := 0
	for p := range w.peers {
		if w.d.x.cfg.Host.Network().Connectedness(p) == network.Connected {
			n++
		}
	}
	return n
}

// dontHave notes that a peer lacks blocks.
func (w *swap) dontHave(p peer.ID, cids []cid.Cid) {
	if _, ok := w.peers[p]; !ok {
		return
	}
	d, here := w.d, w.connected()
	for _, c := range cids {
		ours, _ := fromCID(c)
		f := w.s.lanes[0].flights[ours]
		if f == nil || f.cancelled {
			continue
		}
		if w.lack[ours] == nil {
			w.lack[ours] = make(map[peer.ID]struct{})
		}
		w.lack[ours][p] = struct{}{}
		if len(w.lack[ours]) < here {
			continue
		}
		delete(w.lack, ours)
		d.land(f)
		w.s.learn(f.item, false)
		d.requeue(f.item)
		d.judge(f.item)
	}
	d.schedule()
}

// poison drops a peer for good: Bitswap is told that it is gone, and asks others for what it was asked for.
func (w *swap) poison(p peer.ID, got blockstore.CID, size int) {
	if _, ok := w.peers[p]; !ok {
		return
	}
	d := w.d
	d.wasted += int64(size)
	d.poison(Poison{Peer: p.String(), Got: got, Size: size})
	delete(w.peers, p)
	d.x.asked.add(p, -1)
	d.spawn(func(context.Context) { d.x.bitswap.PeerDisconnected(p) })
	if len(w.peers) == 0 {
		w.leave()
	}
}

// leave ends the source.
func (w *swap) leave() {
	for p := range w.peers {
		w.d.x.asked.add(p, -1)
	}
	clear(w.peers)
	w.asking.end()
	if w.d.swap == w {
		w.d.swap = nil
	}
	w.d.dismiss(w.s)
}

// tick asks again when nothing comes.
func (w *swap) tick(since time.Duration) {
	if w.connected() == 0 {
		w.leave()
		return
	}
	if w.s.out == 0 || w.got != w.last {
		w.last, w.idle, w.retry = w.got, 0, w.d.x.cfg.Retry
		return
	}
	if w.idle += since; w.idle < w.retry || w.anew {
		return
	}
	w.d.x.cfg.Logger.Debug("bitswap peers are silent and asked again", "received", w.got, "after", w.idle)
	w.idle, w.retry, w.anew = 0, 2*w.retry, true // a large block on a slow line is not silence
	w.d.spawn(w.askAgain)
}

// askAgain replaces the session, which all is asked for then that is missing.
func (w *swap) askAgain(ctx context.Context) {
	w.d.mu.Lock()
	old := w.asking
	w.d.mu.Unlock()
	close(old.over)
	old.end()
	w.awaitCancels(ctx)
	w.d.mu.Lock()
	w.asking, w.anew = w.d.x.ask(ctx), false
	w.d.mu.Unlock()
	close(old.replaced)
}

// awaitCancels returns when Bitswap has taken back what the last session wanted, which it does in the
// background: a want that it still knows is not sent again. Another download may want the same for longer.
func (w *swap) awaitCancels(ctx context.Context) {
	const every, most = 10 * time.Millisecond, 100
	tick := time.NewTicker(every)
	defer tick.Stop()
	for range most {
		if !slices.ContainsFunc(w.d.x.bitswap.GetWantlist(), w.d.wants) {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// wants reports whether the block was asked for by this download.
func (d *Download) wants(c cid.Cid) bool {
	ours, ok := fromCID(c)
	d.mu.Lock()
	defer d.mu.Unlock()
	return ok && d.items[ours] != nil
}
