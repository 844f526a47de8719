// Package disk keeps blocks in append-only pack files, with Badger as their index and nothing else.
//
// # Files
//
//	lock         held while a process has the store open
//	packs/N.pack records, one behind the other
//	index/       Badger: block -> pack, offset, size; pack -> its committed length
//
//	record = "RBLK" | size (4 bytes) | sha256 of the data (32) | crc32c of these 40 bytes (4) | data
//
// Integers are big-endian. The index can be lost: what has no index entry is found again by reading
// the packs, each block against its hash.
//
// # What a crash cannot do
//
// A batch is written to the pack, the pack is synced, and only then the index learns of it, in
// transactions that also carry the pack's new committed length. Open cuts a pack back to its committed
// length and drops index entries that point past the data, so the index names no byte that was not
// on disk before. Get hashes what it reads, each time: whatever the disk did, wrong bytes never leave
// the store. A damaged block is forgotten, so that it can be fetched again.
//
// Deleting removes the index entry first and then punches a hole into the pack; a pack without live
// blocks is removed. A crash between the two leaks the space of that block until its pack is removed.
package disk

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"rialto/blockstore"
)

const (
	defaultReserve  = 2 << 30
	defaultPackSize = 1 << 30
)

// Config says where the store is and how large it may grow.
type Config struct {
	Dir      string
	Quota    int64 // most bytes of blocks; zero: only the reserve limits them
	Reserve  int64 // bytes that stay free on the file system; zero: 2 GiB, for the rest of the host; negative: none
	PackSize int64 // a pack ends after this many bytes; zero: 1 GiB
	Logger   *slog.Logger
}

func (c Config) withDefaults() (Config, error) {
	if c.Dir == "" {
		return c, errors.New("block store without a directory")
	}
	if c.Quota < 0 || c.PackSize < 0 {
		return c, errors.New("block store with a negative limit")
	}
	if c.Reserve == 0 {
		c.Reserve = defaultReserve
	}
	if c.PackSize == 0 {
		c.PackSize = defaultPackSize
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, nil
}

// Store is a blockstore.Store on a file system. Methods are safe for concurrent use.
type Store struct {
	cfg   Config
	lock  *os.File
	index index
	turn  chan struct{} // holds one token: who has it may append, delete and change the packs

	mu     sync.RWMutex
	packs  map[uint32]*pack
	active uint32
	used   int64
	broken error // set once the index refused a commit: its state is unknown until the next Open
}

var _ blockstore.Store = (*Store)(nil)

// Stats says what the store holds.
type Stats struct {
	Bytes int64 // of live blocks
	Quota int64 // zero: none
	Packs int
}

// Open opens or makes a store. Who opens it closes it.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(cfg.Dir, "packs"), 0o700); err != nil {
		return nil, err
	}
	s := &Store{cfg: cfg, turn: make(chan struct{}, 1), packs: make(map[uint32]*pack)}
	if s.lock, err = acquire(filepath.Join(cfg.Dir, "lock")); err != nil {
		return nil, fmt.Errorf("lock block store %s: %w", cfg.Dir, err)
	}
	if s.index, err = openIndex(filepath.Join(cfg.Dir, "index"), cfg.Logger); err != nil {
		s.lock.Close()
		return nil, fmt.Errorf("open index of block store %s: %w", cfg.Dir, err)
	}
	if err := s.recover(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("recover block store %s: %w", cfg.Dir, err), s.Close())
	}
	return s, nil
}

// Close ends the store. No other call may be under way.
func (s *Store) Close() error {
	err := s.index.close()
	for _, p := range s.packs {
		p.file.Close()
	}
	return errors.Join(err, s.lock.Close())
}

// Stats returns the present state.
func (s *Store) Stats() Stats {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return Stats{Bytes: s.used, Quota: s.cfg.Quota, Packs: len(s.packs)}
}

// Has reports whether the index knows the block.
func (s *Store) Has(_ context.Context, c blockstore.CID) (bool, error) {
	_, found, err := s.index.find(c)
	return found, err
}

// Size returns a block's length.
func (s *Store) Size(_ context.Context, c blockstore.CID) (int, error) {
	at, found, err := s.index.find(c)
	if err == nil && !found {
		err = &blockstore.BlockError{Op: "size", CID: c, Err: blockstore.ErrNotFound}
	}
	return int(at.size), err
}

// Get reads a block and hashes it.
func (s *Store) Get(ctx context.Context, c blockstore.CID) (blockstore.Block, error) {
	at, found, err := s.index.find(c)
	if err != nil {
		return blockstore.Block{}, err
	}
	for found {
		b, readErr := s.read(c, at)
		if readErr == nil {
			return b, nil
		}
		// The block may have been deleted, and even put again elsewhere, while it was read.
		now, still, err := s.index.find(c)
		if err != nil {
			return blockstore.Block{}, err
		}
		if still && now == at {
			s.cfg.Logger.WarnContext(ctx, "damaged block forgotten", "cid", c.String(), "err", readErr)
			return blockstore.Block{}, errors.Join(readErr, s.remove(ctx, c))
		}
		at, found = now, still
	}
	return blockstore.Block{}, &blockstore.BlockError{Op: "get", CID: c, Err: blockstore.ErrNotFound}
}

func (s *Store) read(c blockstore.CID, at location) (blockstore.Block, error) {
	s.mu.RLock()
	p := s.packs[at.pack]
	s.mu.RUnlock()
	if p == nil {
		return blockstore.Block{}, &blockstore.BlockError{Op: "get", CID: c, Err: blockstore.ErrMismatch}
	}
	data := make([]byte, at.size)
	if _, err := p.file.ReadAt(data, at.offset); err != nil {
		return blockstore.Block{}, &blockstore.BlockError{Op: "get", CID: c, Err: err}
	}
	return blockstore.Verify(c, data)
}

func (s *Store) acquireTurn(ctx context.Context) error {
	select {
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.broken != nil {
		<-s.turn
		return s.broken
	}
	return nil
}
