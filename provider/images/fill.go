//go:build linux

package images

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"
	"time"

	"rialto/blockstore"
	"rialto/blockstore/disk"
	"rialto/blockstore/exchange"
	"rialto/blockstore/image"
	"rialto/blockstore/mount"
)

// fill brings the blocks of one target onto the host: all of them, in a good order, and ahead of these the one that
// somebody waits for. It is the source of the tree's mount, and a Getter for the lists of blocks. Methods are safe for
// concurrent use.
type fill struct {
	images *Images
	target target
	meter  *meter

	// Set before run and Block.
	tree    *blockstore.Tree
	root    blockstore.CID // of tree
	counted bool           // the meter knows of what is here

	lifetime func() context.Context // ends with close
	end      context.CancelFunc
	running  sync.WaitGroup

	mu      sync.Mutex
	buf     *buffer            // before the store
	down    *exchange.Download // into buf; nil: none yet, or there are no peers
	closed  bool
	imports *importing // from the registry; nil: not needed yet
	asked   time.Time  // for further peers: see widen
	holds   []*disk.Hold
	named   bool                        // what comes belongs to what is shown: its record stays
	pins    []*disk.Hold                // until then: what came, or was here already
	pinned  []blockstore.CID            // by those
	sure    map[blockstore.CID]struct{} // blocks that this fill put
}

// importing is an import under way, or one that ended.
type importing struct {
	buf  *buffer
	done chan struct{}
	err  error // after done
}

var (
	_ blockstore.Getter = (*fill)(nil)
	_ mount.Source      = (*fill)(nil)
)

var errNoSources = errors.New("no peers known")

// newFill begins to store what is brought, until close.
func (m *Images) newFill(t target, meter *meter) *fill {
	ctx, end := context.WithCancel(m.lifetime())
	f := &fill{
		images: m, target: t, meter: meter, sure: make(map[blockstore.CID]struct{}),
		lifetime: func() context.Context { return ctx }, end: end,
	}
	f.begin()
	return f
}

// begin makes the buffer. The caller holds mu, or is alone.
func (f *fill) begin() {
	b := newBuffer(room{f})
	f.buf = b
	f.running.Go(func() { _ = b.run(f.lifetime()) }) // who adds or awaits is told
}

// buffer returns what stands before the store. When the store refused a block, for there was no room, then everything
// begins anew: there may be room now. The caller holds mu.
func (f *fill) buffer() *buffer {
	if f.closed || f.buf.failure() == nil {
		return f.buf
	}
	if d := f.down; d != nil {
		f.running.Go(func() { _ = f.part(d) }) // it has failed, and said so
	}
	f.down, f.imports = nil, nil
	f.begin()
	return f.buf
}

// store returns what stands before the store.
func (f *fill) store() *buffer {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.buffer()
}

// close ends all that is under way.
func (f *fill) close() error {
	f.mu.Lock()
	d, b := f.down, f.buf
	f.down, f.closed = nil, true
	f.mu.Unlock()
	f.end()
	b.end(errEnded)
	f.running.Wait()
	f.mu.Lock()
	for _, h := range f.holds {
		h.Release()
	}
	f.holds = nil
	f.mu.Unlock()
	f.unpin()
	return f.part(d)
}

// breath is how long the bulk of an image waits behind what a start reads: the start would share the host with it.
const breath = time.Second

// breathe lets a start go first.
func (f *fill) breathe(ctx context.Context) error {
	timer := time.NewTimer(breath)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// rest ends the download when all is here. It begins anew if a block is damaged later.
func (f *fill) rest() error {
	f.mu.Lock()
	d := f.down
	f.down, f.imports = nil, nil
	clear(f.sure) // what is read from now on has been on the disk for a while
	f.mu.Unlock()
	err := f.part(d)
	f.meter.flush()
	return err
}

// peers returns the download from peers, begun when it is needed first.
func (f *fill) peers() (*exchange.Download, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	b := f.buffer()
	switch {
	case f.closed:
		return nil, errEnded
	case f.down != nil:
		return f.down, nil
	case f.images.cfg.Peers == nil || len(f.target.sources) == 0:
		return nil, errNoSources
	}
	ctx := f.lifetime()
	d, err := f.images.cfg.Peers.Open(ctx, f.target.sources, func(block blockstore.Block) error {
		f.meter.came(int64(block.Size()))
		return b.add(ctx, block)
	})
	if err != nil {
		return nil, err
	}
	f.down = d
	f.meter.follow(d)
	return d, nil
}

// Get returns a block from the store, or else from peers. It is for roots and lists; data goes another way.
func (f *fill) Get(ctx context.Context, c blockstore.CID) (blockstore.Block, error) {
	b, err := f.images.cfg.Store.Get(ctx, c)
	if err == nil {
		err = f.pin(ctx, c) // or an eviction that goes on takes it
	}
	if !errors.Is(err, blockstore.ErrNotFound) {
		return b, err
	}
	to := f.store()     //nolint:contextcheck // the buffer outlives who asks first
	d, err := f.peers() //nolint:contextcheck // the download outlives who asks first
	if err != nil {
		return blockstore.Block{}, &blockstore.BlockError{Op: "get", CID: c, Err: errors.Join(blockstore.ErrNotFound, err)}
	}
	if b, err = d.Get(ctx, blockstore.Ref{CID: c}); err != nil {
		return blockstore.Block{}, err
	}
	if parts, err := blockstore.Parts(b); err == nil && len(parts) > 1 {
		// The caller asks for them one after the other; this asks for all at once.
		refs := make([]blockstore.Ref, len(parts))
		for i, part := range parts {
			refs[i].CID = part
		}
		if err := d.Fetch(ctx, slices.Values(refs)); err != nil {
			return blockstore.Block{}, err
		}
		if err := to.drain(ctx); err != nil {
			return blockstore.Block{}, err
		}
	}
	return b, to.add(ctx, b)
}

// bring fetches one block that somebody waits for.
func (f *fill) bring(ctx context.Context, ref blockstore.Ref) error {
	// It may have come, and wait for the disk, or be there since the caller looked.
	if to := f.store(); to.hasten(ref.CID) { //nolint:contextcheck // the buffer outlives who asks first
		if err := to.await(ctx, ref.CID); err == nil || ctx.Err() != nil {
			return err
		}
	}
	if here, err := (room{f}).Has(ctx, ref.CID); here || err != nil {
		return err
	}
	b, err := f.fromPeers(ctx, ref)
	if err == nil {
		return f.store().put(ctx, b) //nolint:contextcheck // the buffer outlives who asks first
	}
	if f.widen(ctx) {
		return f.bring(ctx, ref)
	}
	if ctx.Err() != nil || !f.target.registered() {
		return err
	}
	// An import under way may have been past the block before it was known to be damaged: then the next one brings it.
	for range 2 {
		here, importErr := f.awaitImport(ctx, ref.CID, f.fromRegistry(err)) //nolint:contextcheck // so does the import
		if here || importErr != nil {
			return importErr
		}
	}
	return &blockstore.BlockError{Op: "import", CID: ref.CID, Err: blockstore.ErrNotFound}
}

// fromPeers asks peers for a block. The download may end meanwhile, because all the others are here or one cannot be
// stored.
func (f *fill) fromPeers(ctx context.Context, ref blockstore.Ref) (blockstore.Block, error) {
	for {
		d, err := f.peers() //nolint:contextcheck // the download outlives who asks first
		if err != nil {
			return blockstore.Block{}, err
		}
		b, err := d.Get(ctx, ref)
		if !errors.Is(err, exchange.ErrClosed) && !errors.Is(err, errStore) {
			return b, err
		}
		if here, err := (room{f}).Has(ctx, ref.CID); here || err != nil {
			if err == nil {
				b, err = f.images.cfg.Store.Get(ctx, ref.CID)
			}
			return b, err
		}
	}
}

// awaitImport returns when a block is here, or an import is over.
func (f *fill) awaitImport(ctx context.Context, c blockstore.CID, i *importing) (here bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	arrived := make(chan error, 1)
	go func() { arrived <- i.buf.await(ctx, c) }() // ends with ctx at the latest
	select {
	case err := <-arrived:
		return err == nil, err
	case <-i.done:
	}
	if i.err != nil {
		return false, i.err
	}
	return room{f}.Has(ctx, c)
}

// run brings all blocks, in the order in which they are likely to be wanted. When it returns nil, all are stored.
func (f *fill) run(ctx context.Context) error {
	missing, traced, err := f.missing(ctx)
	if err != nil || len(missing) == 0 {
		return err
	}
	b := f.store()      //nolint:contextcheck // the download outlives who asks first
	d, err := f.peers() //nolint:contextcheck // the download outlives who asks first
	// What is likely to be read first comes whole before anything else does: several peers mix what they fetch at once.
	if err == nil && traced > 0 {
		if err = d.Fetch(ctx, f.absent(ctx, b, missing[:traced])); err == nil {
			err = f.breathe(ctx)
		}
	}
	if err == nil {
		err = d.Fetch(ctx, f.absent(ctx, b, missing[traced:]))
	}
	if err == nil {
		return b.drain(ctx)
	}
	if why := b.failure(); why != nil { // whatever came of it
		return why
	}
	if f.widen(ctx) {
		return f.run(ctx)
	}
	if ctx.Err() != nil || !f.target.registered() {
		return err
	}
	imports := f.fromRegistry(err) //nolint:contextcheck // it outlives who asks first
	select {
	case <-imports.done:
		return imports.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// missing lists the blocks of the tree that are not here, first those of the trace, and counts those that are here.
func (f *fill) missing(ctx context.Context) (missing []blockstore.Ref, traced int, err error) {
	var here int64
	number := 0
	for ref := range f.tree.InOrder(f.target.trace) {
		ok, err := f.images.cfg.Store.Has(ctx, ref.CID)
		if err != nil {
			return nil, 0, err
		}
		if ok {
			here += int64(ref.Size)
		} else {
			missing = append(missing, ref)
		}
		if number++; number <= len(f.target.trace) {
			traced = len(missing)
		}
	}
	if !f.counted {
		f.meter.total(f.tree.Size())
		f.meter.local(here)
	}
	return missing, traced, nil
}

// absent yields what has not come since it was missing: somebody waited for it.
func (f *fill) absent(ctx context.Context, b *buffer, missing []blockstore.Ref) iter.Seq[blockstore.Ref] {
	return func(yield func(blockstore.Ref) bool) {
		for _, ref := range missing {
			if b.has(ref.CID) {
				continue
			}
			if here, err := (room{f}).Has(ctx, ref.CID); here && err == nil {
				continue
			}
			if !yield(ref) {
				return
			}
		}
	}
}

// fromRegistry begins to import the image once more, because peers failed, unless that is under way. The same image
// gives the same blocks.
func (f *fill) fromRegistry(why error) *importing {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.imports != nil {
		select {
		case <-f.imports.done:
		default:
			return f.imports
		}
	}
	b := f.buffer()
	i := &importing{buf: b, done: make(chan struct{})}
	f.imports = i
	if f.closed {
		i.err = errEnded
		close(i.done)
		return i
	}
	f.running.Go(func() { // ends with the fill, or after Timeout
		defer close(i.done)
		marked, err := f.images.filling() // of another tree, if the registry has one
		if err != nil {
			i.err = err
			return
		}
		defer func() { marked(i.err == nil) }()
		ctx, cancel := context.WithTimeout(f.lifetime(), f.images.cfg.Timeout)
		defer cancel()
		log := f.images.cfg.Logger.With("want", f.target.name())
		if !errors.Is(why, errNoSources) {
			log.WarnContext(ctx, "peers failed, the registry takes over", "err", why)
		}
		got, err := f.importImage(ctx, b)
		if err == nil && got.Image.Tree != f.root {
			err = fmt.Errorf("%w: its layers add up to %v, not to %v", image.ErrProof, got.Image.Tree, f.root)
		}
		if err == nil {
			err = b.drain(ctx)
		}
		if i.err = err; err != nil {
			log.WarnContext(ctx, "the registry failed as well", "err", err)
		}
	})
	return i
}

// importImage reads the image from its registry into a buffer.
func (f *fill) importImage(ctx context.Context, to *buffer) (*image.Imported, error) {
	r := image.Registry{Transport: f.images.cfg.Transport, Keychain: f.images.cfg.Keychain}
	src, err := r.Open(ctx, f.target.image, f.target.signed)
	if err != nil {
		return nil, err
	}
	f.meter.restart(src.CompressedSize())
	got, err := src.Import(ctx, image.Import{
		Put:      to.add,
		Scratch:  f.images.scratch,
		Read:     func(n int) { f.meter.registry(int64(n)) },
		Layers:   f.layers(),
		Recalled: f.meter.local,
		Limits:   f.images.cfg.Limits,
	})
	if err != nil {
		return nil, fmt.Errorf("fetch %s: %w", f.target.image, err)
	}
	if src.Index != nil && len(src.Index) <= blockstore.MaxBlock {
		b, err := blockstore.NewBlock(src.Index)
		if err != nil {
			return nil, err
		}
		if err := to.add(ctx, b); err != nil {
			return nil, err
		}
	}
	return got, nil
}
