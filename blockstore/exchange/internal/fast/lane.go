package fast

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/multiformats/go-multistream"

	"rialto/blockstore"
	"rialto/blockstore/exchange/internal/wire"
)

var (
	// ErrUnsupported reports a peer that does not speak the fast path.
	ErrUnsupported = errors.New("peer does not speak " + string(Protocol))
	// ErrProtocol reports a peer that speaks it wrongly.
	ErrProtocol = errors.New("peer broke the protocol")
)

// quiet is the longest that a server may say nothing at all while it is asked.
const quiet = 30 * time.Second

// Reply is what became of a question.
type Reply struct {
	wire.Answer
	CID  blockstore.CID   // of a block that was wanted
	Data []byte           // of DATA, not verified; the receiver's from now on
	Have []blockstore.CID // of MAP: what was asked
	Bits wire.Bits        // of MAP
	Took time.Duration    // from the question to the answer's first byte
}

// Lane is one stream on which a peer is asked. Its methods are safe for concurrent use and do not block, but Run.
type Lane struct {
	stream network.Stream
	wake   chan struct{}

	mu      sync.Mutex
	unsent  []unsent
	waiting []waiting // in the order in which it was asked
	begun   bool      // the first of them is being answered
}

type unsent struct {
	kind wire.AskType
	cids []blockstore.CID
}

type waiting struct {
	cid  blockstore.CID
	have []blockstore.CID
	at   time.Time
}

// Open opens a stream to a connected peer. Run must be called then, which closes it, or Close.
func Open(ctx context.Context, h host.Host, p peer.ID) (*Lane, error) {
	stream, err := h.NewStream(network.WithNoDial(ctx, "the exchange dials"), p, Protocol)
	if err != nil {
		if _, ok := errors.AsType[multistream.ErrNotSupported[protocol.ID]](err); ok {
			return nil, ErrUnsupported
		}
		return nil, err
	}
	return &Lane{stream: stream, wake: make(chan struct{}, 1)}, nil
}

// Close ends the stream.
func (l *Lane) Close() { _ = l.stream.Reset() }

// Want asks for a block. The caller has no more than MaxPending wanted or moved that were not replied to.
func (l *Lane) Want(c blockstore.CID) {
	l.ask(wire.Want, c)
}

// Move asks for a block that is wanted on another lane to the same peer, which then answers on one of both.
func (l *Lane) Move(c blockstore.CID) {
	l.ask(wire.Move, c)
}

// Cancel takes a want back. It is replied to all the same, by CANCELLED or by what it got before.
func (l *Lane) Cancel(c blockstore.CID) {
	l.ask(wire.Cancel, c)
}

// Have asks which of the blocks are there. The caller keeps wire.MaxAsked and MaxHaves.
func (l *Lane) Have(cids []blockstore.CID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.unsent = append(l.unsent, unsent{wire.Have, cids})
	l.await(waiting{have: cids})
}

func (l *Lane) ask(kind wire.AskType, c blockstore.CID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.unsent); n > 0 && l.unsent[n-1].kind == kind && len(l.unsent[n-1].cids) < wire.MaxNames {
		l.unsent[n-1].cids = append(l.unsent[n-1].cids, c)
	} else {
		l.unsent = append(l.unsent, unsent{kind, []blockstore.CID{c}})
	}
	if kind != wire.Cancel {
		l.await(waiting{cid: c})
	} else {
		l.poke()
	}
}

func (l *Lane) await(w waiting) {
	w.at = time.Now()
	if len(l.waiting) == 0 {
		_ = l.stream.SetReadDeadline(w.at.Add(quiet)) // fails only on a stream that is over
	}
	l.waiting = append(l.waiting, w)
	l.poke()
}

func (l *Lane) poke() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Begun reports whether the block's bytes are on their way.
func (l *Lane) Begun(c blockstore.CID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.begun && len(l.waiting) > 0 && l.waiting[0].have == nil && l.waiting[0].cid == c
}

// Run asks and hands on replies, one after another, until the stream fails, which is an error always, or until
// the context ends.
func (l *Lane) Run(ctx context.Context, reply func(Reply)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(ctx, func() { _ = l.stream.Reset() })()
	var writer sync.WaitGroup
	writer.Go(func() {
		if err := l.write(ctx); err != nil {
			cancel(err)
		}
	})
	err := l.read(reply)
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	cancel(err)
	writer.Wait()
	_ = l.stream.Reset()
	return err
}

func (l *Lane) write(ctx context.Context) error {
	for {
		select {
		case <-l.wake:
		case <-ctx.Done():
			return nil
		}
		l.mu.Lock()
		frames := l.unsent
		l.unsent = nil
		l.mu.Unlock()
		var p []byte
		for _, f := range frames {
			p = wire.AppendAsk(p, f.kind, f.cids)
		}
		if err := l.stream.SetWriteDeadline(time.Now().Add(quiet)); err != nil {
			return err
		}
		if _, err := l.stream.Write(p); err != nil {
			return err
		}
	}
}

func (l *Lane) read(reply func(Reply)) error {
	r := bufio.NewReader(l.stream)
	for {
		var took time.Duration
		answer, err := wire.ReadAnswer(r, func() error {
			l.mu.Lock()
			defer l.mu.Unlock()
			if len(l.waiting) == 0 {
				return fmt.Errorf("%w: an answer to nothing", ErrProtocol)
			}
			l.begun = true
			now := time.Now()
			took = now.Sub(l.waiting[0].at)
			return l.stream.SetReadDeadline(now.Add(ioTime))
		})
		if err != nil {
			return broken(err)
		}
		l.mu.Lock()
		asked := l.waiting[0]
		l.mu.Unlock()
		rep := Reply{Answer: answer, CID: asked.cid, Have: asked.have, Took: took}
		if (asked.have != nil) != (answer.Type == wire.Map) || answer.Type == wire.Map && answer.Value != len(asked.have) {
			return fmt.Errorf("%w: an answer of type %d to something else", ErrProtocol, answer.Type)
		}
		if err := l.body(r, &rep); err != nil {
			return broken(err)
		}
		l.mu.Lock()
		l.waiting, l.begun = l.waiting[1:], false
		deadline := time.Time{}
		if len(l.waiting) > 0 {
			deadline = time.Now().Add(quiet)
		}
		err = l.stream.SetReadDeadline(deadline)
		l.mu.Unlock()
		if err != nil {
			return err
		}
		reply(rep)
	}
}

func (l *Lane) body(r io.Reader, rep *Reply) (err error) {
	switch rep.Type {
	case wire.Data:
		late := ioTime + time.Duration(rep.Value)*time.Second/minRate
		if err := l.stream.SetReadDeadline(time.Now().Add(late)); err != nil {
			return err
		}
		rep.Data = make([]byte, rep.Value)
		_, err = io.ReadFull(r, rep.Data)
	case wire.Map:
		rep.Bits, err = wire.ReadBits(r, rep.Value)
	case wire.Absent, wire.Busy, wire.Cancelled:
	}
	return err
}

// broken is the error of a stream that could not be read.
func broken(err error) error {
	if errors.Is(err, wire.ErrFrame) {
		return fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// end is the error of a client that says nothing more: none, if it closed its side.
func end(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func timeout(err error) bool {
	ne, ok := errors.AsType[net.Error](err)
	return ok && ne.Timeout()
}
