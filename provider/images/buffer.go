//go:build linux

package images

import (
	"context"
	"errors"
	"sync"

	"rialto/blockstore"
)

const (
	queueBytes  = 32 << 20 // to be stored: one batch is stored while the next one gathers
	recentBytes = 32 << 20 // stored already, kept for who reads close behind
)

// buffer stands before a store while blocks arrive: who adds a block does not wait for the disk, and who
// reads it soon does not read it from there. Memory is bounded; a slow disk slows down who adds.
type buffer struct {
	store blockstore.Store

	mu      sync.Mutex
	changed chan struct{} // closed and made anew at each change
	blocks  map[blockstore.CID]blockstore.Block
	queue   []blockstore.Block
	queued  int // bytes in queue and in the batch being stored
	stored  []blockstore.Block
	kept    int   // bytes in stored
	ended   bool  // nothing is added any more
	err     error // why, if not because all was added
}

func newBuffer(store blockstore.Store) *buffer {
	return &buffer{
		store:   store,
		changed: make(chan struct{}),
		blocks:  make(map[blockstore.CID]blockstore.Block),
	}
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
		if _, dup := b.blocks[block.CID()]; dup {
			b.mu.Unlock()
			return nil
		}
		if b.queued < queueBytes {
			b.queue = append(b.queue, block)
			b.queued += block.Size()
			b.blocks[block.CID()] = block
			b.change()
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

var errEnded = errors.New("no block is taken any more")

// Get returns a block from memory or store, and waits for it as long as it may still come.
func (b *buffer) Get(ctx context.Context, c blockstore.CID) (blockstore.Block, error) {
	for {
		b.mu.Lock()
		block, here := b.blocks[c]
		changed, ended, cause := b.changed, b.ended, b.err
		b.mu.Unlock()
		if here {
			return block, nil
		}
		// Everything that was ever added and is not in memory is in the store.
		block, err := b.store.Get(ctx, c)
		if !errors.Is(err, blockstore.ErrNotFound) {
			return block, err
		}
		if ended {
			return blockstore.Block{}, errors.Join(err, cause)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return blockstore.Block{}, context.Cause(ctx)
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

// run stores what is added until the end, and then all the rest.
func (b *buffer) run(ctx context.Context) error {
	for {
		b.mu.Lock()
		batch := b.queue
		b.queue = nil
		changed, ended := b.changed, b.ended
		b.mu.Unlock()
		if len(batch) == 0 {
			if ended {
				return nil
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			continue
		}
		if err := b.store.Put(ctx, batch...); err != nil {
			b.end(err)
			return err
		}
		b.retire(batch)
	}
}

// retire lets go of stored blocks, oldest first.
func (b *buffer) retire(batch []blockstore.Block) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, block := range batch {
		b.queued -= block.Size()
		b.kept += block.Size()
	}
	b.stored = append(b.stored, batch...)
	n := 0
	for b.kept > recentBytes {
		delete(b.blocks, b.stored[n].CID())
		b.kept -= b.stored[n].Size()
		n++
	}
	b.stored = append([]blockstore.Block(nil), b.stored[n:]...)
	b.change()
}
