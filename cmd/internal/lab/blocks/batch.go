package blocks

import (
	"context"
	"sync"

	"rialto/blockstore"
)

// batch puts blocks 64 at a time, because each put waits for the disk. It is safe for concurrent use.
type batch struct {
	store blockstore.Store

	mu      sync.Mutex
	waiting []blockstore.Block
}

func (b *batch) add(ctx context.Context, block blockstore.Block) error {
	b.mu.Lock()
	b.waiting = append(b.waiting, block)
	var full []blockstore.Block
	if len(b.waiting) >= 64 {
		full, b.waiting = b.waiting, nil
	}
	b.mu.Unlock()
	return b.store.Put(ctx, full...)
}

func (b *batch) flush(ctx context.Context) error {
	b.mu.Lock()
	rest := b.waiting
	b.waiting = nil
	b.mu.Unlock()
	return b.store.Put(ctx, rest...)
}
