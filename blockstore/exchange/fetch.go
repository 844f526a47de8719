package exchange

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ipfs/boxo/bitswap/client/traceability"
	boxo "github.com/ipfs/boxo/exchange"
	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"rialto/blockstore"
)

// Peer is somebody who may have the blocks.
type Peer struct {
	ID    string   // libp2p peer id
	Addrs []string // multiaddrs, with or without /p2p/ID
}

// Fetched says what a fetch brought.
type Fetched struct {
	Bytes    int64
	Peers    map[string]int64 // bytes by peer id
	Poisoned []string         // peers that sent wrong bytes
}

// fetch is one call of Fetch.
type fetch struct {
	x        *Exchange
	peers    []peer.AddrInfo
	cancel   context.CancelCauseFunc
	received atomic.Int64
	dialing  atomic.Int32

	mu       sync.Mutex
	wanted   map[cid.Cid]*want // all that was asked for
	from     map[peer.ID]int64
	poisoned map[peer.ID]struct{}
}

// want is one block that was asked for.
type want struct {
	arrived bool
	lack    map[peer.ID]struct{} // who said that it does not have it
}

// Fetch asks peers for blocks, in about the order in which refs yields them, and hands each to sink, which
// is called from several goroutines. A ref's size may be 0 when it is not known. Fetch ends when all blocks
// arrived, or with the first error; the result is valid in both cases.
func (x *Exchange) Fetch(ctx context.Context, refs iter.Seq[blockstore.Ref], peers []Peer, sink func(blockstore.Block) error) (Fetched, error) {
	select {
	case <-x.ready:
	case <-ctx.Done():
		return Fetched{}, ErrNotRunning
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	f := &fetch{
		x:        x,
		cancel:   cancel,
		wanted:   make(map[cid.Cid]*want),
		from:     make(map[peer.ID]int64),
		poisoned: make(map[peer.ID]struct{}),
	}
	f.peers = x.usable(peers)
	if len(f.peers) == 0 {
		return Fetched{}, ErrNoPeers
	}
	x.mu.Lock()
	x.fetches[f] = struct{}{}
	x.mu.Unlock()
	defer func() {
		x.mu.Lock()
		delete(x.fetches, f)
		x.mu.Unlock()
	}()
	err := f.run(ctx, refs, sink)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	return f.result(), err
}

func (f *fetch) run(ctx context.Context, refs iter.Seq[blockstore.Ref], sink func(blockstore.Block) error) error {
	var background sync.WaitGroup
	defer background.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	if err := f.connect(ctx, &background); err != nil {
		return err
	}
	defer f.leave()
	background.Go(func() { f.watch(ctx) })
	session := f.x.bitswap.NewSession(ctx)
	g, batches := errgroup.WithContext(ctx)
	g.SetLimit(maxWants / batchWants)
	window := semaphore.NewWeighted(windowBytes)
	for batch, size := range inBatches(refs) {
		if err := window.Acquire(batches, size); err != nil {
			break
		}
		g.Go(func() error {
			defer window.Release(size)
			return f.batch(batches, session, batch, sink)
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return context.Cause(ctx)
}

// inBatches groups refs so that a few of them fill the window.
func inBatches(refs iter.Seq[blockstore.Ref]) iter.Seq2[[]cid.Cid, int64] {
	return func(yield func([]cid.Cid, int64) bool) {
		var batch []cid.Cid
		var size int64
		for r := range refs {
			n := int64(r.Size)
			if n == 0 {
				n = blockstore.MaxBlock
			}
			if len(batch) == batchWants || size+n > batchBytes {
				if !yield(batch, size) {
					return
				}
				batch, size = nil, 0
			}
			batch = append(batch, toCID(r.CID))
			size += n
		}
		if len(batch) > 0 {
			yield(batch, size)
		}
	}
}

func (f *fetch) batch(ctx context.Context, session boxo.Fetcher, batch []cid.Cid, sink func(blockstore.Block) error) error {
	f.mu.Lock()
	for _, c := range batch {
		f.wanted[c] = &want{lack: make(map[peer.ID]struct{})}
	}
	f.mu.Unlock()
	arrived, err := session.GetBlocks(ctx, batch)
	if err != nil {
		return err
	}
	missing := len(batch)
	for b := range arrived {
		c, ok := fromCID(b.Cid())
		if !ok {
			return fmt.Errorf("bitswap answered with %v", b.Cid())
		}
		verified, err := blockstore.Verify(c, b.RawData())
		if err != nil {
			return err
		}
		f.mu.Lock()
		f.wanted[b.Cid()].arrived = true
		if t, ok := b.(traceability.Block); ok {
			f.from[t.From] += int64(verified.Size())
		}
		f.mu.Unlock()
		f.received.Add(int64(verified.Size()))
		if err := sink(verified); err != nil {
			return err
		}
		missing--
	}
	if missing > 0 { // the channel closes early when the context ended or the exchange stopped
		if err := context.Cause(ctx); err != nil {
			return err
		}
		return ErrNotRunning
	}
	return nil
}

// connect returns as soon as one peer is connected; the others follow in the background.
func (f *fetch) connect(ctx context.Context, background *sync.WaitGroup) error {
	results := make(chan error, len(f.peers))
	f.dialing.Store(int32(len(f.peers))) //nolint:gosec // a handful
	for _, p := range f.peers {
		f.x.asked.add(p.ID, 1)
		background.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, connectTimeout)
			defer cancel()
			err := f.x.cfg.Host.Connect(ctx, p)
			f.dialing.Add(-1)
			results <- err
		})
	}
	var failed []error
	for range f.peers {
		err := <-results
		if err == nil {
			return nil
		}
		failed = append(failed, err)
	}
	f.leave()
	return fmt.Errorf("%w: %w", ErrNoPeers, errors.Join(failed...))
}

func (f *fetch) leave() {
	for _, p := range f.peers {
		f.x.asked.add(p.ID, -1)
	}
}

// watch ends a fetch that nobody will complete.
func (f *fetch) watch(ctx context.Context) {
	const every = 100 * time.Millisecond
	tick := time.NewTicker(every)
	defer tick.Stop()
	var before int64
	var waited time.Duration
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
		if waited += every; waited < f.x.cfg.Patience {
			continue
		}
		now := f.received.Load()
		if now-before < f.x.cfg.MinProgress {
			f.cancel(fmt.Errorf("%w: %d bytes in %v", ErrStalled, now-before, waited))
			return
		}
		before, waited = now, 0
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

func (f *fetch) result() Fetched {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := Fetched{Bytes: f.received.Load(), Peers: make(map[string]int64, len(f.from))}
	for p, n := range f.from {
		r.Peers[p.String()] = n
	}
	for p := range maps.Keys(f.poisoned) {
		r.Poisoned = append(r.Poisoned, p.String())
	}
	return r
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

// poison notes a peer that sends wrong bytes, and ends the fetch when no other peer is left.
func (f *fetch) poison(p peer.ID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.asks(p) {
		return
	}
	f.poisoned[p] = struct{}{}
	if len(f.poisoned) == len(f.peers) {
		f.cancel(fmt.Errorf("%w: %v", ErrPoisoned, p))
	}
}

func (f *fetch) wants(c cid.Cid) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, ok := f.wanted[c]
	return ok
}

func (f *fetch) asks(p peer.ID) bool {
	for _, known := range f.peers {
		if known.ID == p {
			return true
		}
	}
	return false
}

// usable parses peers and leaves out ourselves and those that sent wrong bytes before.
func (x *Exchange) usable(peers []Peer) []peer.AddrInfo {
	var infos []peer.AddrInfo
	for _, p := range peers {
		id, err := peer.Decode(p.ID)
		if err != nil || id == x.cfg.Host.ID() || x.bad(id) {
			continue
		}
		info := peer.AddrInfo{ID: id}
		for _, a := range p.Addrs {
			m, err := multiaddr.NewMultiaddr(a)
			if err != nil {
				continue
			}
			if transport, named := peer.SplitAddr(m); transport != nil && (named == "" || named == id) {
				info.Addrs = append(info.Addrs, transport)
			}
		}
		infos = append(infos, info)
	}
	return infos
}

func (x *Exchange) bad(id peer.ID) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.wrong[id] >= strikes
}
