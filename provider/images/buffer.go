//go:build linux

package images

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"rialto/blockstore"
)

const (
	queueBytes = 32 << 20 // to be stored: one batch is stored while the next one gathers
	batchBytes = 16 << 20 // stored with one sync: what somebody waits for does not wait long
)

var (
	errEnded = errors.New("no block is taken any more")
	errStore = errors.New("blocks cannot be stored")
)

// putter is the part of a store that a buffer needs.
type putter interface {
	Has(ctx context.Context, c blockstore.CID) (bool, error)
	Put(ctx context.Context, blocks ...blockstore.Block) error
}

// buffer stands before a store while blocks arrive: who adds a block does not wait for the disk. Memory is bounded; a
// slow disk slows down who adds. It is safe for concurrent use.
type buffer struct {
	store putter

	mu      sync.Mutex
	changed chan struct{}               // closed and made anew at each change
	waiting map[blockstore.CID]struct{} // in queue or in the batch being stored
	queue   []blockstore.Block
	queued  int   // bytes waiting
	ended   bool  // nothing is added any more
	err     error // why, if not because all was added
}

func newBuffer(store putter) *buffer {
	return &buffer{store: store, changed: make(chan struct{}), waiting: make(map[blockstore.CID]struct{})}
}

// change wakes everybody who waits. The caller holds mu.
func (b *buffer) change() {
	close(b.changed)
	b.changed = make(chan struct{})
}

// add takes a block, and waits while too much is to be stored.
func (b *buffer) add(ctx context.Context, block blockstore.Block) error {
	for {
		b.mu.Lock()
		if b.ended {
			defer b.mu.Unlock()
			return errors.Join(errEnded, b.err)
		}
		if _, dup := b.waiting[block.CID()]; dup {
			b.mu.Unlock()
			return nil
		}
		if b.queued < queueBytes {
			b.queue = append(b.queue, block)
			b.enter(block)
			b.mu.Unlock()
			return nil
		}
		changed := b.changed
		b.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// enter counts a block in. The caller holds mu.
func (b *buffer) enter(block blockstore.Block) {
	b.queued += block.Size()
	b.waiting[block.CID()] = struct{}{}
	b.change()
}

// put stores a block before all that is queued, and returns when it is in the store.
func (b *buffer) put(ctx context.Context, block blockstore.Block) error {
	b.mu.Lock()
	if _, dup := b.waiting[block.CID()]; !dup && !b.ended {
		b.queue = slices.Insert(b.queue, 0, block)
		b.enter(block)
	}
	b.mu.Unlock()
	return b.await(ctx, block.CID())
}

// has reports whether there is a block that is not stored yet.
func (b *buffer) has(c blockstore.CID) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, waiting := b.waiting[c]
	return waiting
}

// hasten has a block stored before all that is queued, and reports whether there is one that is not stored yet.
func (b *buffer) hasten(c blockstore.CID) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, waiting := b.waiting[c]; !waiting {
		return false
	}
	i := slices.IndexFunc(b.queue, func(o blockstore.Block) bool { return o.CID() == c })
	if i > 0 { // else it is the next one, or being stored
		block := b.queue[i]
		copy(b.queue[1:i+1], b.queue[:i])
		b.queue[0] = block
	}
	return true
}

// await returns when a block is in the store. It fails when none is added any more.
func (b *buffer) await(ctx context.Context, c blockstore.CID) error {
	for {
		b.mu.Lock()
		_, waiting := b.waiting[c]
		changed, ended, cause := b.changed, b.ended, b.err
		b.mu.Unlock()
		if !waiting {
			if ok, err := b.store.Has(ctx, c); ok || err != nil {
				return err
			}
		}
		if ended && (!waiting || cause != nil) {
			return &blockstore.BlockError{Op: "await", CID: c, Err: errors.Join(blockstore.ErrNotFound, cause)}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// end says that nothing comes any more, and why if that is too early.
func (b *buffer) end(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.ended {
		b.ended, b.err = true, err
		b.change()
	}
}

// failure returns why the store refused a block, or nil.
func (b *buffer) failure() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if errors.Is(b.err, errStore) {
		return b.err
	}
	return nil
}

// drain returns when all that was added is stored.
func (b *buffer) drain(ctx context.Context) error {
	for {
		b.mu.Lock()
		left, changed, err := len(b.waiting), b.changed, b.err
		b.mu.Unlock()
		if err != nil || left == 0 {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// run stores what is added until the end, and then all the rest.
func (b *buffer) run(ctx context.Context) error {
	for {
		b.mu.Lock()
		batch := b.batch()
		changed, ended := b.changed, b.ended
		b.mu.Unlock()
		if len(batch) == 0 {
			if ended {
				return nil
			}
			select {
			case <-changed:
			case <-ctx.Done():
				b.end(context.Cause(ctx))
				return context.Cause(ctx)
			}
			continue
		}
		if err := b.store.Put(ctx, batch...); err != nil {
			err = fmt.Errorf("%w: %w", errStore, err)
			b.end(err)
			return err
		}
		b.mu.Lock()
		for _, block := range batch {
			b.queued -= block.Size()
			delete(b.waiting, block.CID())
		}
		b.change()
		b.mu.Unlock()
	}
}

// batch takes blocks off the queue. The caller holds mu.
func (b *buffer) batch() []blockstore.Block {
	size, n := 0, 0
	for n < len(b.queue) && size < batchBytes {
		size += b.queue[n].Size()
		n++
	}
	batch := b.queue[:n:n]
	b.queue = b.queue[n:]
	return batch
}
