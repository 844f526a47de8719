package exchange

import (
	"context"
	"errors"
	"iter"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/sync/semaphore"

	"rialto/blockstore"
)

// Peer is somebody who may have the blocks.
type Peer struct {
	ID    string   // libp2p peer id
	Addrs []string // multiaddrs, with or without /p2p/ID
}

// Fetched says what a download brought.
type Fetched struct {
	Bytes    int64
	Peers    map[string]int64 // bytes by peer id
	Blocks   map[string]int64 // blocks by peer id
	Wasted   int64            // bytes that came and were of no use: wrong ones, and second copies
	Poisoned []string         // peers that sent wrong bytes
	Poisons  []Poison         // what each of them sent first
}

// Poison is a peer's first wrong answer.
type Poison struct {
	Peer string
	Want blockstore.CID // what was asked for; zero over Bitswap, whose answers do not say to what
	Got  blockstore.CID // what the bytes hash to; zero if they came over Bitswap under another hash
	Size int            // of the bytes
}

const (
	// lookahead is how many blocks of what Fetch is given are known at a time: what peers have is asked of those,
	// and the order is departed from only within them.
	lookahead = 4096
	// maxUnsunk is how many blocks are asked for or in hand at most.
	maxUnsunk = 1024
	sinkers   = 16
	verifiers = 4 // each hashes more than 10 Gbit/s
	tickTime  = 20 * time.Millisecond
)

// Download is a set of blocks on their way from a set of peers. Methods are safe for concurrent use.
type Download struct {
	x        *Exchange
	sink     func(blockstore.Block) error
	room     *semaphore.Weighted // lookahead
	arrivals chan arrival
	verified chan arrival
	spawn    func(func(context.Context)) // runs something that ends with the download
	done     <-chan struct{}             // closed when the download ends
	cause    func() error                // why it ended; nil: it did not
	cancel   context.CancelCauseFunc
	running  sync.WaitGroup
	wake     chan struct{} // something is wanted

	mu      sync.Mutex // never held while something is waited for
	began   time.Time
	came    time.Time          // when the last block came
	known   map[peer.ID]uint64 // peers that were given, and their keys
	keys    []uint64
	joining int     // of those, peers that may still become sources
	failed  []error // why others did not
	sources []*source
	swap    *swap // the source that is all Bitswap peers; nil: none
	items   map[blockstore.CID]*item
	index   int
	queue   []*item // bulk that waits, in order
	urgent  []*item // of Get, that waits
	pulling int     // calls that will name more
	total   int     // items that were bulk
	out     int64   // cost of all that is asked for or in hand
	unsunk  int
	sinking int
	bytes   int64
	from    map[string]int64
	blocks  map[string]int64
	wasted  int64
	poisons []Poison
}

// Open begins a download from peers, which ends with Close or with ctx. sink is called with each block that Fetch asks
// for, from several goroutines; it may block, which holds up nobody but this download. An error of sink fails all
// of it.
func (x *Exchange) Open(ctx context.Context, peers []Peer, sink func(blockstore.Block) error) (*Download, error) {
	select {
	case <-x.ready:
	case <-ctx.Done():
		return nil, ErrNotRunning
	}
	infos := x.usable(peers)
	if len(infos) == 0 {
		return nil, ErrNoPeers
	}
	ctx, cancel := context.WithCancelCause(ctx)
	d := &Download{
		x: x, sink: sink,
		room:     semaphore.NewWeighted(lookahead),
		arrivals: make(chan arrival, 2*maxUnsunk), verified: make(chan arrival, 2*maxUnsunk),
		wake:  make(chan struct{}, 1),
		began: time.Now(), came: time.Now(),
		done: ctx.Done(), cause: func() error { return context.Cause(ctx) }, cancel: cancel,
		known: make(map[peer.ID]uint64), items: make(map[blockstore.CID]*item),
		from: make(map[string]int64), blocks: make(map[string]int64),
	}
	d.spawn = func(f func(context.Context)) { d.running.Go(func() { f(ctx) }) }
	if !x.enlist(d) {
		cancel(ErrNotRunning)
		return nil, ErrNotRunning
	}
	for range verifiers {
		d.running.Go(d.verifyAll)
	}
	for range sinkers {
		d.running.Go(d.sinkAll)
	}
	d.running.Go(d.watch)
	d.add(infos)
	return d, nil
}

// Add tells of peers that were learnt of later. Those that are known are skipped.
func (d *Download) Add(peers ...Peer) { d.add(d.x.usable(peers)) }

func (d *Download) add(infos []peer.AddrInfo) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cause() != nil {
		return
	}
	for _, info := range infos {
		if _, ok := d.known[info.ID]; ok {
			continue
		}
		d.known[info.ID] = key(info.ID)
		d.keys = append(d.keys, d.known[info.ID])
		d.joining++
		d.spawn(func(ctx context.Context) { d.serve(ctx, info) })
	}
}

// Fetch asks for blocks, in about the order in which refs yields them, and returns when sink has taken all, or with
// the first error. A ref's size may be 0 when it is not known. A block that sink had before is not asked for again.
func (d *Download) Fetch(ctx context.Context, refs iter.Seq[blockstore.Ref]) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	c := &call{end: make(chan struct{})}
	d.mu.Lock()
	if err := d.cause(); err != nil {
		d.mu.Unlock()
		return err
	}
	d.spawn(func(whole context.Context) {
		select {
		case <-whole.Done():
			stop(d.cause())
		case <-ctx.Done():
		}
	})
	d.pulling++
	d.mu.Unlock()
	err := d.pull(ctx, c, refs)
	d.mu.Lock()
	d.pulling--
	c.pulled = true
	if c.left == 0 && err == nil {
		c.finish(nil)
	}
	d.mu.Unlock()
	if err == nil {
		select {
		case <-c.end:
			return c.err
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.drop(c, err)
	return c.err
}

// pull takes what refs yields, no further ahead than lookahead.
func (d *Download) pull(ctx context.Context, c *call, refs iter.Seq[blockstore.Ref]) error {
	batch := make([]blockstore.Ref, 0, 64)
	flush := func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		for _, r := range batch {
			d.wantBulk(c, r)
		}
		batch = batch[:0]
		d.askHaves(time.Now())
		d.schedule()
	}
	for r := range refs {
		if !d.room.TryAcquire(1) {
			flush()
			if err := d.room.Acquire(ctx, 1); err != nil {
				return context.Cause(ctx)
			}
		}
		select {
		case <-c.end:
			d.room.Release(1)
			return c.err
		default:
		}
		if batch = append(batch, r); len(batch) == cap(batch) {
			flush()
		}
	}
	flush()
	return nil
}

// wantBulk wants a block for sink. The room that its caller acquired is given back here or with the block.
func (d *Download) wantBulk(c *call, r blockstore.Ref) {
	it := d.item(r)
	if it.done && !it.sunk && len(it.calls) == 0 { // it was given up, or was only for Get
		delete(d.items, r.CID)
		it = d.item(r)
	}
	if it.sunk || len(it.calls) > 0 {
		d.room.Release(1)
	} else {
		d.total++
	}
	if it.sunk {
		return
	}
	c.left++
	it.calls = append(it.calls, c)
	if it.waits() && !it.queued {
		it.queued = true
		d.queue = append(d.queue, it)
	}
}

func (d *Download) item(r blockstore.Ref) *item {
	select {
	case d.wake <- struct{}{}:
	default:
	}
	it := d.items[r.CID]
	if it == nil {
		it = &item{cid: r.CID, cost: int64(r.Size), index: d.index, since: time.Now()}
		if r.Size <= 0 || r.Size > blockstore.MaxBlock {
			it.cost = blockstore.MaxBlock
		}
		d.index++
		d.items[r.CID] = it
	}
	return it
}

// Get asks for a block ahead of everything that waits, and returns it. sink gets it, too, if Fetch wants it.
func (d *Download) Get(ctx context.Context, ref blockstore.Ref) (blockstore.Block, error) {
	ch := make(chan gotten, 1)
	d.mu.Lock()
	it := d.item(ref)
	if it.block.Size() > 0 { // it waits for sink
		defer d.mu.Unlock()
		return it.block, nil
	}
	if it.done { // sink has or had it: this is another copy
		sunk := it.sunk || len(it.calls) > 0
		delete(d.items, ref.CID)
		it = d.item(ref)
		it.sunk = sunk
	}
	it.getters = append(it.getters, ch)
	d.hasten(it, time.Now())
	d.askHaves(time.Now())
	d.schedule()
	d.mu.Unlock()
	var err error
	select {
	case got := <-ch:
		return got.block, got.err
	case <-ctx.Done():
		err = context.Cause(ctx)
	case <-d.done:
		err = d.cause()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	it.getters = slices.DeleteFunc(it.getters, func(c chan<- gotten) bool { return c == ch })
	d.release(it)
	return blockstore.Block{}, err
}

// Close ends the download and waits for all that it runs, sink included.
func (d *Download) Close() error {
	d.mu.Lock() // nothing is started any more once it is seen
	d.cancel(ErrClosed)
	d.mu.Unlock()
	d.running.Wait()
	d.x.delist(d)
	return nil
}

// Fetched says what came until now.
func (d *Download) Fetched() Fetched {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := Fetched{
		Bytes: d.bytes, Peers: maps.Clone(d.from), Blocks: maps.Clone(d.blocks),
		Wasted: d.wasted, Poisons: slices.Clone(d.poisons),
	}
	for _, p := range d.poisons {
		f.Poisoned = append(f.Poisoned, p.Peer)
	}
	return f
}

// Fetch is a download of its own: it asks peers for blocks, in about the order in which refs yields them, and hands
// each to sink, which is called from several goroutines. A ref's size may be 0 when it is not known. Fetch ends when
// all blocks arrived, or with the first error; the result is valid in both cases.
func (x *Exchange) Fetch(ctx context.Context, refs iter.Seq[blockstore.Ref], peers []Peer, sink func(blockstore.Block) error) (Fetched, error) {
	d, err := x.Open(ctx, peers, sink)
	if err != nil {
		return Fetched{}, err
	}
	err = d.Fetch(ctx, refs)
	return d.Fetched(), errors.Join(err, d.Close())
}
