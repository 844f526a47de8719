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
	"bufio"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"

	"rialto/blockstore"
	"rialto/blockstore/exchange/internal/wire"
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
	streams map[peer.ID]map[network.Stream]struct{}
	count   int
}

func (s *Server) init() {
	s.once.Do(func() {
		s.gate = &gate{
			rate: s.Upload, peerRate: s.UploadPeer, memory: memory, peerMemory: peerMemory, peers: make(map[peer.ID]*line),
		}
		s.streams = make(map[peer.ID]map[network.Stream]struct{})
		if s.idle == 0 {
			s.idle, s.frame = idleTime, ioTime
		}
	})
}

// Handle answers a stream until it ends. The context ends it, too.
func (s *Server) Handle(ctx context.Context, stream network.Stream) {
	s.init()
	p := stream.Conn().RemotePeer()
	if !s.register(p, stream) {
		_ = stream.Reset()
		return
	}
	defer s.running.Done()
	defer s.unregister(p, stream)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	c := &conversation{
		server: s, stream: stream, peer: p, cancel: cancel,
		wake: make(chan struct{}, 1), out: make(chan answer, 1),
	}
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
	s.Logger.DebugContext(ctx, "block stream ended", "peer", p.String(), "err", context.Cause(ctx))
}

// Close resets all streams and waits for their handlers. No stream is answered any more.
func (s *Server) Close() {
	s.init()
	s.mu.Lock()
	s.closed = true
	for _, streams := range s.streams {
		for stream := range streams {
			_ = stream.Reset()
		}
	}
	s.mu.Unlock()
	s.running.Wait()
	s.gate.close()
}

func (s *Server) register(p peer.ID, stream network.Stream) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.count == allStreams || len(s.streams[p]) == MaxStreams {
		return false
	}
	if s.streams[p] == nil {
		s.streams[p] = make(map[network.Stream]struct{})
	}
	s.streams[p][stream] = struct{}{}
	s.count++
	s.running.Add(1)
	return true
}

func (s *Server) unregister(p peer.ID, stream network.Stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.streams[p], stream)
	if len(s.streams[p]) == 0 {
		delete(s.streams, p)
	}
	s.count--
}

// conversation is one stream.
type conversation struct {
	server *Server
	stream network.Stream
	peer   peer.ID
	cancel context.CancelCauseFunc
	wake   chan struct{} // something was asked, or finished
	out    chan answer

	mu       sync.Mutex
	asked    []question
	wants    int
	haves    int
	finished bool
}

// question is a block that is wanted, or a list of blocks that may be here.
type question struct {
	cid       blockstore.CID
	cancelled bool
	have      []blockstore.CID
}

type answer struct {
	wire.Answer
	body []byte
	held bool // body is the gate's
}

var errTooMuch = errors.New("more was asked for than is allowed")

// read takes what the client asks, until it has closed its side.
func (c *conversation) read() error {
	r := bufio.NewReader(c.stream)
	for {
		if err := c.stream.SetReadDeadline(time.Now().Add(c.server.idle)); err != nil {
			return err
		}
		a, err := wire.ReadAsk(r, func() error { return c.stream.SetReadDeadline(time.Now().Add(c.server.frame)) })
		if err != nil {
			if timeout(err) && c.pending() {
				continue // the client waits for us
			}
			return end(err)
		}
		if err := c.take(a); err != nil {
			return err
		}
	}
}

func (c *conversation) pending() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.asked) > 0
}

func (c *conversation) take(a wire.Ask) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch a.Type {
	case wire.Want:
		if c.wants += len(a.CIDs); c.wants > MaxPending {
			return errTooMuch
		}
		for _, name := range a.CIDs {
			c.asked = append(c.asked, question{cid: name})
		}
	case wire.Have:
		if c.haves++; c.haves > MaxHaves {
			return errTooMuch
		}
		c.asked = append(c.asked, question{have: a.CIDs})
	case wire.Cancel:
		for _, name := range a.CIDs {
			i := slices.IndexFunc(c.asked, func(q question) bool { return q.cid == name && !q.cancelled && q.have == nil })
			if i >= 0 {
				c.asked[i].cancelled = true
			}
		}
	}
	c.poke()
	return nil
}

func (c *conversation) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *conversation) finish() {
	c.mu.Lock()
	c.finished = true
	c.mu.Unlock()
	c.poke()
}

// next waits for a question. It stays counted until it is answered.
func (c *conversation) next(ctx context.Context) (question, bool) {
	for {
		c.mu.Lock()
		if len(c.asked) > 0 {
			q := c.asked[0]
			c.asked = c.asked[1:]
			c.mu.Unlock()
			return q, true
		}
		finished := c.finished
		c.mu.Unlock()
		if finished {
			return question{}, false
		}
		select {
		case <-c.wake:
		case <-ctx.Done():
			return question{}, false
		}
	}
}

// produce makes answers, one ahead of the one that is being written.
func (c *conversation) produce(ctx context.Context) {
	defer close(c.out)
	for {
		q, ok := c.next(ctx)
		if !ok {
			return
		}
		a, err := c.answer(ctx, q)
		if err != nil {
			c.cancel(err)
			return
		}
		c.out <- a // write takes it, whatever happens
	}
}

func (c *conversation) answer(ctx context.Context, q question) (answer, error) {
	if q.have != nil {
		return c.has(ctx, q.have)
	}
	if q.cancelled {
		return answer{Answer: wire.Answer{Type: wire.Cancelled}}, nil
	}
	absent := answer{Answer: wire.Answer{Type: wire.Absent}}
	n, err := c.server.Store.Size(ctx, q.cid)
	if err != nil {
		return absent, c.absence(ctx, err)
	}
	switch err := c.server.gate.enter(ctx, c.peer, int64(n), patience); {
	case errors.Is(err, errBusy):
		return answer{Answer: wire.Answer{Type: wire.Busy, Value: int(retry.Milliseconds())}}, nil
	case err != nil:
		return answer{}, err
	}
	b, err := c.server.Store.Get(ctx, q.cid)
	if err != nil || b.Size() != n {
		c.server.gate.leave(c.peer, int64(n))
		return absent, c.absence(ctx, err)
	}
	return answer{Answer: wire.Answer{Type: wire.Data, Value: n}, body: b.Data(), held: true}, nil
}

// absence takes a block that cannot be read for one that is not here, unless the stream is over.
func (c *conversation) absence(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil && !errors.Is(err, blockstore.ErrNotFound) {
		c.server.Logger.WarnContext(ctx, "a block cannot be served", "err", err)
	}
	return nil
}

func (c *conversation) has(ctx context.Context, cids []blockstore.CID) (answer, error) {
	bits := wire.NewBits(len(cids))
	for i, name := range cids {
		here, err := c.server.Store.Has(ctx, name)
		if err != nil {
			return answer{}, err
		}
		if here {
			bits.Set(i)
		}
	}
	return answer{Answer: wire.Answer{Type: wire.Map, Value: len(cids)}, body: bits}, nil
}

// write sends answers. After an error it only gives back what they hold.
func (c *conversation) write(ctx context.Context) {
	w := bufio.NewWriterSize(c.stream, writeBuffer)
	for a := range c.out {
		if ctx.Err() == nil {
			if err := c.send(w, a); err != nil {
				c.cancel(err)
			}
		}
		if a.held {
			c.server.gate.leave(c.peer, int64(len(a.body)))
		}
	}
}

func (c *conversation) send(w *bufio.Writer, a answer) error {
	late := c.server.frame + time.Duration(len(a.body))*time.Second/minRate
	if err := c.stream.SetWriteDeadline(time.Now().Add(late)); err != nil {
		return err
	}
	c.mu.Lock()
	if a.Type == wire.Map {
		c.haves--
	} else {
		c.wants--
	}
	more := len(c.asked) > 0
	c.mu.Unlock()
	if _, err := w.Write(wire.AppendAnswer(nil, a.Answer)); err != nil {
		return err
	}
	if _, err := w.Write(a.body); err != nil {
		return err
	}
	if a.Type == wire.Data {
		c.server.Sent(c.peer, len(a.body))
	}
	if more && len(c.out) > 0 {
		return nil // the next answer is there already and takes the rest along
	}
	return w.Flush()
}
