package server

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"rialto/blockstore"
	"rialto/blockstore/mount/internal/wire"
)

const (
	maxFailures = 256
	// holdFailure is how long the reads of a block that could not be had fail at once: the kernel asks page by page
	// for what a larger read did not get, and each would wait anew.
	holdFailure = time.Second
)

var errAbsent = errors.New("block is not there")

// block is one of a tree's, shared by all trees that have it.
type block struct {
	ref   blockstore.Ref
	place atomic.Pointer[place] // nil until the agent says it

	// The following are guarded by blocks.mu.
	trees  int            // that have it
	wait   chan struct{}  // not nil while somebody waits; closed when that is over
	until  time.Time      // when the last one stops to wait
	root   blockstore.CID // of the tree that was read last
	failed failure
	bad    spot // where its bytes could not be read
}

// failure is that a block could not be had. The zero value is none.
type failure struct {
	when   time.Time
	root   blockstore.CID // for this tree; another may have it from elsewhere
	reason string
}

// place is where a block's verified bytes are.
type place struct {
	pack   *pack
	offset int64
}

// spot is a place by name.
type spot struct {
	path   string
	offset int64
}

// pack is an open file of the agent's store. Its path may name another file by now: the agent deletes packs, and
// gives their names to new ones.
type pack struct {
	path string
	file *os.File
	info os.FileInfo
	uses int // places in it
}

// blocks is what the server knows of blocks, and whom it asks.
type blocks struct {
	log *slog.Logger

	mu       sync.Mutex
	byCID    map[blockstore.CID]*block
	packs    map[string]*pack
	feed     *feed
	closed   bool           // nobody waits any more
	failures []wire.Failure // the latest, oldest first
}

func newBlocks(log *slog.Logger) *blocks {
	return &blocks{log: log, byCID: make(map[blockstore.CID]*block), packs: make(map[string]*pack)}
}

// hold returns the blocks of a tree, which stay known until drop.
func (s *blocks) hold(refs []blockstore.Ref) []*block {
	all := make([]*block, len(refs))
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, r := range refs {
		b := s.byCID[r.CID]
		if b == nil {
			b = &block{ref: r}
			s.byCID[r.CID] = b
		}
		b.trees++
		all[i] = b
	}
	return all
}

func (s *blocks) drop(all []*block) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range all {
		if b.trees--; b.trees == 0 {
			s.put(b, nil)
			s.wake(b)
			delete(s.byCID, b.ref.CID)
		}
	}
}

// forget has blocks asked for again.
func (s *blocks) forget(all []*block) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range all {
		s.put(b, nil)
	}
}

// put replaces a block's place. s.mu is held.
func (s *blocks) put(b *block, p *place) {
	if p != nil {
		p.pack.uses++
	}
	old := b.place.Swap(p)
	if old == nil {
		return
	}
	if old.pack.uses--; old.pack.uses == 0 {
		if s.packs[old.pack.path] == old.pack {
			delete(s.packs, old.pack.path)
		}
		old.pack.file.Close() // a read in it that still goes on gets an error, and finds the new place
	}
}

// wake ends the waiting for a block. s.mu is held.
func (s *blocks) wake(b *block) {
	if b.wait != nil {
		close(b.wait)
		b.wait = nil
	}
}

// have notes where a block is. It ignores blocks that nobody has.
func (s *blocks) have(c blockstore.CID, path string, offset int64) error {
	now, err := os.Stat(path)
	if err != nil {
		return err
	}
	s.mu.Lock()
	b, pk := s.byCID[c], s.packs[path]
	s.mu.Unlock()
	if b == nil {
		return nil
	}
	var f *os.File
	if pk == nil || !os.SameFile(pk.info, now) {
		if f, err = os.Open(path); err != nil {
			return err
		}
		if now, err = f.Stat(); err != nil {
			f.Close()
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	b, pk = s.byCID[c], s.packs[path]
	same := pk != nil && os.SameFile(pk.info, now)
	if b == nil || !same && f == nil { // forgotten meanwhile; a reader that comes now asks again
		f.Close()
		return nil
	}
	if same {
		f.Close()
	} else {
		pk = &pack{path: path, file: f, info: now}
		s.packs[path] = pk
	}
	s.put(b, &place{pk, offset})
	b.failed = failure{}
	if b.bad == (spot{path, offset}) { // again: for a while, it cannot be had
		s.put(b, nil)
		b.failed = failure{time.Now(), b.root, fmt.Sprintf("cannot be read at %d of %s", offset, path)}
	}
	b.bad = spot{}
	s.wake(b)
	return nil
}

// fail notes that a block cannot be had for a tree.
func (s *blocks) fail(root, c blockstore.CID, reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b := s.byCID[c]; b != nil {
		b.failed = failure{time.Now(), root, reason}
		s.wake(b)
	}
}

// close ends all waiting, now and until open is called.
func (s *blocks) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, b := range s.byCID {
		s.wake(b)
	}
}

func (s *blocks) open() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = false
}

// lost takes back a place whose bytes cannot be read.
func (s *blocks) lost(b *block, p *place, err error) {
	s.log.Warn("block cannot be read where it was said to be", "cid", b.ref.CID, "path", p.pack.path, "offset", p.offset, "err", err)
	s.mu.Lock()
	defer s.mu.Unlock()
	if b.place.Load() == p {
		b.bad = spot{p.pack.path, p.offset}
		s.put(b, nil)
	}
}

// want asks for a block that has no place. It returns a channel that is closed when the answer is there, nil if the
// block is there already, or an error if it could not be had a moment ago.
func (s *blocks) want(root blockstore.CID, b *block, until time.Time) (<-chan struct{}, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b.place.Load() != nil {
		return nil, nil
	}
	if s.closed || b.failed.root == root && time.Since(b.failed.when) < holdFailure {
		return nil, errAbsent
	}
	if until.After(b.until) {
		b.until = until
	}
	if b.wait == nil || b.root != root { // the agent may know one tree and not the other
		b.root = root
		if s.feed != nil {
			s.feed.ask(b)
		}
	}
	if b.wait == nil {
		b.wait = make(chan struct{})
	}
	return b.wait, nil
}

// overdue notes that somebody who reads a tree stopped to wait.
func (s *blocks) overdue(root blockstore.CID, b *block) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b.place.Load() == nil {
		b.failed = failure{time.Now(), root, "no answer from the agent in time"}
		if s.feed == nil {
			b.failed.reason = "no agent is running"
		}
	}
}

// report keeps a failed read of a tree for whoever asks.
func (s *blocks) report(root blockstore.CID, b *block) {
	s.mu.Lock()
	f := wire.Failure{Time: time.Now(), Root: root, CID: b.ref.CID, Reason: b.failed.reason}
	if s.closed {
		f.Reason = "the mounts are closed"
	}
	known := false
	for _, o := range s.failures {
		known = known || o.Root == f.Root && o.CID == f.CID && o.Reason == f.Reason && f.Time.Sub(o.Time) < holdFailure
	}
	if !known {
		if len(s.failures) == maxFailures {
			s.failures = append(s.failures[:0], s.failures[1:]...)
		}
		s.failures = append(s.failures, f)
	}
	s.mu.Unlock()
	if !known {
		s.log.Error("read failed", "tree", root, "cid", f.CID, "reason", f.Reason)
	}
}

// latest returns the failures that are kept.
func (s *blocks) latest() []wire.Failure {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]wire.Failure(nil), s.failures...)
}

// readAt reads part of a block that is there.
func (p *place) readAt(b []byte, offset int) error {
	n, err := p.pack.file.ReadAt(b, p.offset+int64(offset))
	if n == len(b) {
		return nil
	}
	if errors.Is(err, io.EOF) {
		err = fmt.Errorf("file ends %d bytes early: %w", len(b)-n, io.ErrUnexpectedEOF)
	}
	return err
}
