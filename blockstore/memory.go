package blockstore

import (
	"context"
	"sync"
)

// Memory is a Store in memory, for tests and for small things. The zero value is empty and ready.
type Memory struct {
	mu     sync.RWMutex
	blocks map[CID]Block
}

var _ Store = (*Memory)(nil)

// Has reports whether the block is here.
func (m *Memory) Has(_ context.Context, c CID) (bool, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	_, ok := m.blocks[c]
	return ok, nil
}

// Size returns a block's length.
func (m *Memory) Size(ctx context.Context, c CID) (int, error) {
	b, err := m.Get(ctx, c)
	return b.Size(), err
}

// Get returns a block.
func (m *Memory) Get(_ context.Context, c CID) (Block, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	b, ok := m.blocks[c]
	if !ok {
		return Block{}, &BlockError{Op: "get", CID: c, Err: ErrNotFound}
	}
	return b, nil
}

// ReadAt reads a part of a block.
func (m *Memory) ReadAt(ctx context.Context, c CID, p []byte, off int) (int, error) {
	return ReadAt(ctx, m, c, p, off)
}

// Put keeps blocks.
func (m *Memory) Put(_ context.Context, blocks ...Block) error {
	for _, b := range blocks {
		if b.cid.IsZero() {
			return &BlockError{Op: "put", Err: ErrSize}
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.blocks == nil {
		m.blocks = make(map[CID]Block)
	}
	for _, b := range blocks {
		m.blocks[b.cid] = b
	}
	return nil
}

// Delete forgets blocks.
func (m *Memory) Delete(_ context.Context, cids ...CID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range cids {
		delete(m.blocks, c)
	}
	return nil
}
