package server

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"rialto/blockstore"
	"rialto/blockstore/mount/internal/wire"
)

// feed is the connection to an agent that says where blocks are.
type feed struct {
	c     *net.UnixConn
	store *blocks

	mu    sync.Mutex
	queue []*block // to ask for. Bounded by the kernel's requests that are waiting.
	more  chan struct{}
}

// ask queues a question.
func (f *feed) ask(b *block) {
	f.mu.Lock()
	f.queue = append(f.queue, b)
	f.mu.Unlock()
	select {
	case f.more <- struct{}{}:
	default:
	}
}

// attach makes a connection the feed, and ends the one before. Whoever waits is asked for again.
func (s *blocks) attach(c *net.UnixConn) *feed {
	f := &feed{c: c, store: s, more: make(chan struct{}, 1)}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.feed != nil {
		_ = s.feed.c.Close() // its agent is gone, or about to be
	}
	s.feed = f
	for _, b := range s.byCID {
		if b.wait != nil {
			f.ask(b)
		}
	}
	return f
}

// asked returns the tree that a block was asked for last.
func (s *blocks) asked(c blockstore.CID) blockstore.CID {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b := s.byCID[c]; b != nil {
		return b.root
	}
	return blockstore.CID{}
}

// run returns when the connection ends.
func (f *feed) run(r *bufio.Reader) error {
	done := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() { f.write(done) })
	err := f.read(r)
	f.store.mu.Lock()
	if f.store.feed == f {
		f.store.feed = nil
	}
	f.store.mu.Unlock()
	close(done)
	_ = f.c.Close() // it ended
	writer.Wait()
	return err
}

func (f *feed) read(r *bufio.Reader) error {
	paths := make(map[uint32]string)
	for {
		m, err := wire.Read(r)
		if err != nil {
			return err
		}
		switch m := m.(type) {
		case *wire.File:
			paths[m.ID] = m.Path
		case *wire.Have:
			path, ok := paths[m.File]
			if !ok {
				return fmt.Errorf("block in file %d, which has no path", m.File)
			}
			if err := f.store.have(m.CID, path, m.Offset); err != nil {
				f.store.fail(f.store.asked(m.CID), m.CID, "open pack: "+err.Error())
			}
		case *wire.Fail:
			f.store.fail(m.Root, m.CID, m.Reason)
		case *wire.Hello, *wire.Want, *wire.Call, *wire.Reply:
			return fmt.Errorf("unexpected %T", m)
		}
	}
}

func (f *feed) write(done <-chan struct{}) {
	for {
		select {
		case <-done:
			return
		case <-f.more:
		}
		f.mu.Lock()
		queue := f.queue
		f.queue = nil
		f.mu.Unlock()
		var batch []wire.Message
		f.store.mu.Lock()
		for _, b := range queue {
			if b.wait != nil {
				batch = append(batch, &wire.Want{Root: b.root, Ref: b.ref, Millis: patience(time.Until(b.until))})
			}
		}
		f.store.mu.Unlock()
		if err := wire.Write(f.c, batch...); err != nil {
			if !errors.Is(err, net.ErrClosed) {
				f.store.log.Warn("ask agent", "err", err)
			}
			_ = f.c.Close() // the reader sees it
			return
		}
	}
}

// patience is how long the agent may try: a little less than the reader waits, so that its reason comes in time.
func patience(left time.Duration) uint32 {
	left -= min(left/8, time.Second)
	return uint32(max(left.Milliseconds(), 1))
}
