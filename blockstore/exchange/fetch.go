package exchange

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"sync"
	"sync/atomic"

	"github.com/ipfs/boxo/bitswap/client/traceability"
	"github.com/ipfs/go-cid"
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
	sinking  atomic.Int32 // blocks that sink has not taken yet

	mu       sync.Mutex
	asking   *asking
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
	f.asking = f.x.ask(ctx)
	background.Go(func() { f.watch(ctx) })
	g, batches := errgroup.WithContext(ctx)
	g.SetLimit(maxWants / batchWants)
	window := semaphore.NewWeighted(windowBytes)
	for batch, size := range inBatches(refs) {
		if err := window.Acquire(batches, size); err != nil {
			break
		}
		g.Go(func() error {
			defer window.Release(size)
			return f.batch(batches, batch, sink)
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

// batch brings some blocks, in as many sessions as it takes.
func (f *fetch) batch(ctx context.Context, missing []cid.Cid, sink func(blockstore.Block) error) error {
	f.mu.Lock()
	for _, c := range missing {
		f.wanted[c] = &want{lack: make(map[peer.ID]struct{})}
	}
	f.mu.Unlock()
	for {
		f.mu.Lock()
		a := f.asking
		f.mu.Unlock()
		var err error
		if missing, err = f.receive(ctx, a, missing, sink); err != nil || len(missing) == 0 {
			return err
		}
		if err := context.Cause(ctx); err != nil {
			return err
		}
		select {
		case <-a.over:
		default:
			return ErrNotRunning // nobody but the exchange itself ended the session
		}
		select {
		case <-a.replaced:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// receive hands on the blocks that a session brings, and returns the names of the others when it ends.
func (f *fetch) receive(ctx context.Context, a *asking, names []cid.Cid, sink func(blockstore.Block) error) ([]cid.Cid, error) {
	arrived, err := a.session.GetBlocks(ctx, names)
	if err != nil {
		return nil, err
	}
	left := cid.NewSet()
	for _, c := range names {
		left.Add(c)
	}
	for b := range arrived {
		c, ok := fromCID(b.Cid())
		if !ok {
			return nil, fmt.Errorf("bitswap answered with %v", b.Cid())
		}
		verified, err := blockstore.Verify(c, b.RawData())
		if err != nil {
			return nil, err
		}
		f.mu.Lock()
		f.wanted[b.Cid()].arrived = true
		if t, ok := b.(traceability.Block); ok {
			f.from[t.From] += int64(verified.Size())
		}
		f.mu.Unlock()
		f.received.Add(int64(verified.Size()))
		f.sinking.Add(1)
		err = sink(verified)
		f.sinking.Add(-1)
		if err != nil {
			return nil, err
		}
		left.Remove(b.Cid())
	}
	return left.Keys(), nil
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
