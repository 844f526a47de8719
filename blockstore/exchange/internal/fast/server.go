// Package fast has both ends of a stream of /rialto/blocks/1. [Server] answers from a store, [Lane] asks. What is
// asked of whom, and what a peer is worth, is the exchange's business.
//
// # What a client may do to a server
//
// A stream costs three goroutines, 68 KiB of buffers and at most three blocks. A client has at most MaxStreams
// streams, and on each at most MaxPending blocks and MaxHaves maps that were not answered: one more resets the
// stream. A frame that was begun must end, and an answer must be taken, at a rate no less than a bad telephone line's;
// a stream on which nothing is asked ends after some minutes. All blocks in memory together are bounded, and
// so is each peer's share of them.
package fast

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"

	"rialto/blockstore"
)

// Protocol is the name of the fast path.
const Protocol protocol.ID = "/rialto/blocks/1"

// Bounds of what one client may ask a server for.
const (
	MaxPending = 1024 // blocks on a stream
	MaxHaves   = 4    // maps on a stream
	MaxStreams = 8    // streams of a peer
)

const (
	allStreams = 1024
	memory     = 64 << 20 // blocks in memory
	peerMemory = 16 << 20 // of one peer: four streams of three blocks, and some
	patience   = 5 * time.Second
	retry      = time.Second
	ioTime     = 10 * time.Second // of a frame; of an answer, in addition to its bytes at minRate
	minRate    = 64 << 10         // bytes a second
	idleTime   = 5 * time.Minute
	// writeBuffer is what yamux sends at once (64 KiB) without its own header.
	writeBuffer = 64<<10 - 12
)

// Server answers streams. Its exported fields must be set before the first one and not changed.
type Server struct {
	Store blockstore.Store
	// Upload and UploadPeer bound the bytes a second to all and to each peer; 0: unlimited.
	Upload, UploadPeer int64
	// Sent is called with every block that was sent, concurrently.
	Sent   func(peer.ID, int)
	Logger *slog.Logger

	once    sync.Once
	gate    *gate
	idle    time.Duration
	frame   time.Duration
	running sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	streams map[peer.ID]map[*conversation]struct{}
	count   int
}

func (s *Server) init() {
	s.once.Do(func() {
		s.gate = &gate{
			rate: s.Upload, peerRate: s.UploadPeer, memory: memory, peerMemory: peerMemory, peers: make(map[peer.ID]*line),
		}
		s.streams = make(map[peer.ID]map[*conversation]struct{})
		if s.idle == 0 {
			s.idle, s.frame = idleTime, ioTime
		}
	})
}

// Handle answers a stream until it ends. The context ends it, too.
func (s *Server) Handle(ctx context.Context, stream network.Stream) {
	s.init()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	c := &conversation{
		server: s, stream: stream, peer: stream.Conn().RemotePeer(), cancel: cancel,
		wake: make(chan struct{}, 1), out: make(chan answer, 1), waiting: make(map[blockstore.CID]*question),
	}
	if !s.register(c) {
		_ = stream.Reset()
		return
	}
	defer s.running.Done()
	defer s.unregister(c)
	var workers sync.WaitGroup
	workers.Go(func() { c.produce(ctx) })
	workers.Go(func() { c.write(ctx) })
	unlock := context.AfterFunc(ctx, func() { _ = stream.Reset() })
	err := c.read()
	if err == nil {
		c.finish() // what was asked for is still answered
		workers.Wait()
		unlock()
		stream.Close()
		return
	}
	cancel(err)
	workers.Wait()
	s.Logger.DebugContext(ctx, "block stream ended", "peer", c.peer.String(), "err", context.Cause(ctx))
}

// Close resets all streams and waits for their handlers. No stream is answered any more.
func (s *Server) Close() {
	s.init()
	s.mu.Lock()
	s.closed = true
	for _, streams := range s.streams {
		for c := range streams {
			_ = c.stream.Reset()
		}
	}
	s.mu.Unlock()
	s.running.Wait()
	s.gate.close()
}

func (s *Server) register(c *conversation) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.count == allStreams || len(s.streams[c.peer]) == MaxStreams {
		return false
	}
	if s.streams[c.peer] == nil {
		s.streams[c.peer] = make(map[*conversation]struct{})
	}
	s.streams[c.peer][c] = struct{}{}
	s.count++
	s.running.Add(1)
	return true
}

func (s *Server) unregister(c *conversation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.streams[c.peer], c)
	if len(s.streams[c.peer]) == 0 {
		delete(s.streams, c.peer)
	}
	s.count--
}

// others returns the other streams of a stream's client.
func (s *Server) others(c *conversation) []*conversation {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []*conversation
	for o := range s.streams[c.peer] {
		if o != c {
			all = append(all, o)
		}
	}
	return all
}
