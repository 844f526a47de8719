// Package disk keeps blocks in append-only pack files, with Badger as their index and nothing else.
//
// # Files
//
//	lock         held while a process has the store open
//	ballast      40 MiB that are given up to delete and to close when others have filled the disk
//	packs/N.pack a header page and segments, one behind the other
//	opening      while the index is being opened: a byte for each process that died of it
//	index/       Badger: block -> pack, page, size, checksums; pack -> its record
//
// All of a pack is made of pages of 4096 bytes, and its length is a multiple of that, so that a pack can
// be mounted as a block device and a block found in it. A segment is one page with a table of up to 101
// blocks and then their data, each from the start of a page on and padded with zeros. Integers are
// big-endian.
//
//	header = "rialto pack 2\n" 0 0 | salt (16) | pack (4) | zeros | crc32c of the page so far (4)
//	table  = "rialto table 2\n" 0 | salt (16) | pack (4) | page of the table (4) | blocks (4)
//	         blocks × { sha256 (32) | size (4) | crc32c of each 64 KiB (4 each) } | zeros | crc32c (4)
//
// The salt is random, one for each pack. A page within a block cannot pose as a table, because who made
// the block did not know it; so what follows a damaged table can be found page by page.
//
// Bytes are counted as the store owns them: header, tables and live blocks, with their padding.
//
// # The packs are the truth
//
// A batch is written to the pack and the pack is synced; then the index learns of it, unsynced. With the
// blocks of a pack each transaction carries the pack's record: the page behind its last segment, and the
// number and a sum of the blocks in it. Open compares: if blocks and record disagree, then the index lost
// something, and the whole pack is read into it anew. If they agree, the index lost at most its end, and
// only what lies behind the recorded page is read. Either way each block is taken against its hash; what
// is torn is cut off. A lost or damaged index is the same with every pack. The index is synced each
// 256 MiB, which bounds how much is read after a power cut, and decides nothing else.
//
// Get hashes what it reads, each time; ReadAt and Scrub check each 64 KiB against the checksum that was
// computed when the verified block was put. Whatever the disk did, wrong bytes never leave the store. A
// damaged block is forgotten, so that it can be fetched again.
//
// Deleting drops the index entries, syncs, and then punches holes into the pack: first the blocks, and
// the table with the last of them. A pack without live blocks is removed. A crash between the two leaves
// space that Open finds, if it is more than 1 MiB in a pack, and punches then. Blocks in a [Hold] are
// neither deleted nor punched, and no block ever moves.
//
// A store of format 1, whose packs begin with "RBLK", is refused with [ErrFormat] rather than emptied:
// the blocks in it may be the only ones, and whoever runs the host decides about them.
package disk

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"rialto/blockstore"
)

const (
	defaultReserve  = 2 << 30
	defaultPackSize = 1 << 30
	maxPackSize     = 1 << 40
)

// ErrFormat says that a directory has packs that this version cannot read. Its blocks are lost to it;
// removing the directory lets them be fetched again.
var ErrFormat = errors.New("block store of another format: remove its directory to begin anew")

// Config says where the store is and how large it may grow.
type Config struct {
	Dir      string
	Quota    int64 // most bytes owned; zero: only the reserve limits them
	Reserve  int64 // bytes that stay free on the file system; zero: 2 GiB, for the rest of the host; negative: only the 32 MiB that the index needs
	PackSize int64 // a pack ends with the block that reaches this many bytes; zero: 1 GiB
	Logger   *slog.Logger

	open func(name string, flag int) (file, error) // what tests put faults in; nil: the system
}

func (c Config) withDefaults() (Config, error) {
	if c.Dir == "" {
		return c, errors.New("block store without a directory")
	}
	if c.Quota < 0 || c.PackSize < 0 || c.PackSize > maxPackSize {
		return c, errors.New("block store with a limit out of range")
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
	if c.open == nil {
		c.open = openFile
	}
	return c, nil
}

// Store is a blockstore.Store on a file system. Methods are safe for concurrent use.
type Store struct {
	cfg   Config
	aside atomic.Int64 // bytes that stay free beside the reserve
	lock  *os.File
	index index

	// turn holds one token: who has it may append, delete and change the packs, and alone reads the
	// packs' records, tables and sealed, and unsynced.
	turn     chan struct{}
	unsynced int64 // bytes put since the index was synced

	mu     sync.RWMutex
	packs  map[uint32]*pack
	active uint32 // the pack that is appended to, if it is there
	used   int64
	pins   map[blockstore.CID]int
	going  map[blockstore.CID]struct{} // being deleted: too late to hold them
	broken error                       // set once the index refused a commit: its state is unknown until the next Open
}

var _ blockstore.Store = (*Store)(nil)

// Stats says what the store holds.
type Stats struct {
	Bytes  int64 // owned
	Quota  int64 // zero: none
	Packs  int
	Pinned int // blocks in a Hold
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
	s := &Store{
		cfg: cfg, turn: make(chan struct{}, 1), packs: make(map[uint32]*pack),
		pins: make(map[blockstore.CID]int), going: make(map[blockstore.CID]struct{}),
	}
	if s.lock, err = acquire(filepath.Join(cfg.Dir, "lock")); err != nil {
		return nil, fmt.Errorf("lock block store %s: %w", cfg.Dir, err)
	}
	if err := s.open(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("open block store %s: %w", cfg.Dir, err), s.Close())
	}
	return s, nil
}

func (s *Store) open(ctx context.Context) error {
	if err := s.openPacks(); err != nil {
		return err
	}
	if err := s.giveWay(); err != nil {
		return err
	}
	if err := s.openIndex(ctx); err != nil {
		return err
	}
	s.keepBallast(ctx)
	return nil
}

// fatalOpens is how many processes may die while they open an index. One of them may have been killed.
const fatalOpens = 2

// openIndex opens the index and makes it agree with the packs, or makes it anew if it is damaged.
// Badger answers some damage with a panic in a goroutine of its own, of which nobody can recover: the
// file "opening" has a byte for each process that began and did not come back.
func (s *Store) openIndex(ctx context.Context) error {
	dir, opening := filepath.Join(s.cfg.Dir, "index"), filepath.Join(s.cfg.Dir, "opening")
	deaths, err := os.ReadFile(opening)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.WriteFile(opening, append(deaths, '.'), 0o600); err != nil {
		return err
	}
	err = errIndex
	if len(deaths) < fatalOpens {
		if s.index, err = openIndex(dir); err == nil {
			err = s.recover(ctx)
		}
	}
	if errors.Is(err, errIndex) {
		s.cfg.Logger.WarnContext(ctx, "index of blocks is made anew from the packs", "dir", dir, "deaths", len(deaths), "err", err)
		s.index.close() //nolint:errcheck // it is thrown away
		if err = os.RemoveAll(dir); err != nil {
			return err
		}
		if s.index, err = openIndex(dir); err == nil {
			err = s.recover(ctx)
		}
	}
	return errors.Join(err, os.Remove(opening))
}

// Close ends the store. No other call may be under way. Where the disk is full or cannot be written the
// index stays as it is, in the way that a crash leaves it, and only another process can open it again.
func (s *Store) Close() error {
	err := s.makeWay()
	if err == nil {
		err = s.index.close()
	}
	for _, p := range s.packs {
		p.file.Close()
	}
	return errors.Join(err, s.lock.Close())
}

// SetAside has so many bytes stay free beside the reserve, in place of those before: others were promised them. It takes
// no block away.
func (s *Store) SetAside(bytes int64) { s.aside.Store(max(bytes, 0)) }

// Stats returns the present state.
func (s *Store) Stats() Stats {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return Stats{Bytes: s.used, Quota: s.cfg.Quota, Packs: len(s.packs), Pinned: len(s.pins)}
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

// fail marks the store as broken after a commit that the index refused.
func (s *Store) fail(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.broken = fmt.Errorf("index of blocks failed, open the store again: %w", err)
	return s.broken
}
