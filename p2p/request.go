package p2p

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"strings"
	"time"
	"unicode"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/quic-go/quic-go"

	"rialto/p2p/identity"
)

// Prefix begins every protocol of the market.
const Prefix = "/rialto/"

// ProtocolProbe is answered by every host.
const ProtocolProbe = Prefix + "1/probe"

// MaxAnswer bounds an answer; it fits the largest signed message.
const MaxAnswer = 1 << 20

// maxError bounds the text of an error on the wire.
const maxError = 1 << 10

// Statuses of an answer.
const (
	statusOK    = 0
	statusError = 1
)

// RemoteError is what a peer answered instead of an answer. Its message is the peer's word, cleaned for a terminal.
type RemoteError struct {
	Peer     identity.ID
	Protocol string
	Message  string
}

func (e *RemoteError) Error() string {
	return fmt.Sprintf("%s to %s: %s", e.Protocol, e.Peer, e.Message)
}

// Handler answers one request. It is called concurrently; its context ends with the host, or after HandlerTimeout.
// The text of its error is sent to the peer.
type Handler func(ctx context.Context, from identity.ID, request []byte) ([]byte, error)

// Handle has fn answer the requests of a protocol, which must begin with [Prefix], or Handle panics. Requests of more
// than maxRequest bytes are refused.
func (h *Host) Handle(protocolName string, maxRequest int, fn Handler) {
	if !strings.HasPrefix(protocolName, Prefix) {
		panic(fmt.Sprintf("p2p: protocol %q does not begin with %s", protocolName, Prefix))
	}
	h.host.SetStreamHandler(protocol.ID(protocolName), func(s network.Stream) {
		began := time.Now()
		outcome := h.serve(s, maxRequest, fn)
		h.metrics.served(protocolName, outcome, time.Since(began))
	})
}

// serve answers the request on s and says how it went.
func (h *Host) serve(s network.Stream, maxRequest int, fn Handler) outcome {
	p := s.Conn().RemotePeer()
	log := h.config.Logger.With("peer", p.String(), "protocol", string(s.Protocol()))
	if err := h.begin(p); err != nil {
		return h.finish(s, nil, err, refused)
	}
	defer h.finished(p)

	if err := s.SetReadDeadline(time.Now().Add(h.config.IOTimeout)); err != nil {
		return abort(s)
	}
	request, err := readFrame(s, maxRequest)
	if errors.Is(err, errTooLong) {
		return h.finish(s, nil, err, refused)
	}
	if err != nil {
		log.Debug("request did not arrive", "err", err)
		return abort(s)
	}
	answer, err := h.call(fn, identity.ID(p.String()), request)
	if pe, ok := errors.AsType[*panicError](err); ok {
		log.Error("handler panicked", "panic", pe.value, "stack", pe.stack)
		return h.finish(s, nil, errors.New("internal error"), panicked)
	}
	if err == nil && len(answer) > MaxAnswer {
		log.Error("answer too long", "bytes", len(answer))
		err = errors.New("internal error")
	}
	if err != nil {
		return h.finish(s, nil, err, failed)
	}
	return h.finish(s, answer, nil, answered)
}

// begin counts one more request of p in, or says why it is refused.
func (h *Host) begin(p peer.ID) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return errors.New("going away")
	}
	if h.serving[p] >= h.config.Limits.RequestsPerPeer {
		return fmt.Errorf("busy: %d requests at the same time, wait for an answer", h.config.Limits.RequestsPerPeer)
	}
	h.serving[p]++
	h.running.Add(1)
	return nil
}

func (h *Host) finished(p peer.ID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.serving[p]--; h.serving[p] == 0 {
		delete(h.serving, p)
	}
	h.running.Done()
}

// panicError is a handler's panic on its way to the log.
type panicError struct {
	value any
	stack string
}

func (e *panicError) Error() string { return fmt.Sprint("panic: ", e.value) }

// call runs fn and turns a panic into an error: a peer's input must not end the process.
func (h *Host) call(fn Handler, from identity.ID, request []byte) (answer []byte, err error) {
	ctx, cancel := context.WithTimeout(h.lifetime(), h.config.HandlerTimeout)
	defer cancel()
	defer func() {
		if v := recover(); v != nil {
			err = &panicError{v, string(debug.Stack())}
		}
	}()
	return fn(ctx, from, request)
}

// finish writes the answer, or err, and closes the stream.
func (h *Host) finish(s network.Stream, answer []byte, err error, o outcome) outcome {
	status := byte(statusOK)
	if err != nil {
		status, answer = statusError, []byte(cleanError(err.Error()))
	}
	frame := append(make([]byte, 0, 1+4+len(answer)), status)
	if s.SetWriteDeadline(time.Now().Add(h.config.IOTimeout)) != nil {
		return abort(s)
	}
	if _, err := s.Write(appendFrame(frame, answer)); err != nil {
		return abort(s)
	}
	// What is left of a refused request is not read: closing tells the peer to stop.
	if err := s.Close(); err != nil {
		return abort(s)
	}
	return o
}

func abort(s network.Stream) outcome {
	_ = s.Reset() // it has no other use for the stream, and neither have we
	return aborted
}

// Request sends one request to a connected peer and returns its answer of at most [MaxAnswer] bytes. The peer's
// refusal is a [*RemoteError]; without a connection the error is [ErrNotConnected].
func (h *Host) Request(ctx context.Context, to identity.ID, protocolName string, request []byte) ([]byte, error) {
	began := time.Now()
	answer, err := h.request(ctx, to, protocolName, request)
	h.metrics.requested(protocolName, err, time.Since(began))
	if _, ok := errors.AsType[*RemoteError](err); err != nil && !ok {
		return nil, fmt.Errorf("%s to %s: %w", protocolName, to, err)
	}
	return answer, err
}

func (h *Host) request(ctx context.Context, to identity.ID, protocolName string, request []byte) ([]byte, error) {
	p, err := peer.Decode(string(to))
	if err != nil {
		return nil, fmt.Errorf("peer %q: %w", string(to), err)
	}
	ctx, cancel := context.WithTimeout(ctx, h.config.HandlerTimeout+2*h.config.IOTimeout)
	defer cancel()
	for {
		s, err := h.open(ctx, p, protocolName)
		if err != nil {
			return nil, err
		}
		answer, err := exchange(ctx, s, request)
		if _, reset := errors.AsType[*quic.StatelessResetError](err); !reset {
			return answer, err
		}
		// The peer's process crashed that had this connection, and its next one has not seen the request. There may be a
		// newer connection to that, and there is no use in waiting until QUIC gives the old one up.
		_ = s.Conn().Close()
	}
}

// exchange writes a request and reads its answer.
func exchange(ctx context.Context, s network.Stream, request []byte) ([]byte, error) {
	stop := context.AfterFunc(ctx, func() { _ = s.Reset() }) // ends both ends' reads and writes
	defer stop()

	// The answer is awaited while the request is written: a peer that refuses it does not read it.
	var writeErr error
	written := make(chan struct{})
	go func() { // until the request is sent or the stream ends, which this function sees to
		defer close(written)
		if _, writeErr = s.Write(appendFrame(make([]byte, 0, 4+len(request)), request)); writeErr == nil {
			writeErr = s.CloseWrite()
		}
	}()
	status, answer, err := readAnswer(s)
	if err != nil {
		_ = s.Reset()
		<-written
		if writeErr != nil {
			err = writeErr
		}
		if ctx.Err() != nil {
			err = context.Cause(ctx) // the reset was ours
		}
		return nil, err
	}
	_ = s.Close() // the answer is here, nothing depends on how the stream ends
	<-written
	if status == statusError {
		return nil, &RemoteError{Peer: identity.ID(s.Conn().RemotePeer().String()), Protocol: string(s.Protocol()), Message: cleanError(string(answer))}
	}
	return answer, nil
}

// open opens a stream on an existing connection.
func (h *Host) open(ctx context.Context, p peer.ID, protocolName string) (network.Stream, error) {
	s, err := h.host.NewStream(network.WithNoDial(ctx, "requests do not dial"), p, protocol.ID(protocolName))
	if err == nil {
		return s, nil
	}
	if h.host.Network().Connectedness(p) != network.Connected {
		return nil, ErrNotConnected
	}
	return nil, err
}

func readAnswer(s network.Stream) (status byte, answer []byte, err error) {
	var b [1]byte
	if _, err := io.ReadFull(s, b[:]); err != nil {
		return 0, nil, fmt.Errorf("no answer: %w", err)
	}
	limit := MaxAnswer
	switch b[0] {
	case statusOK:
	case statusError:
		limit = maxError
	default:
		return 0, nil, fmt.Errorf("status %d is not known", b[0])
	}
	answer, err = readFrame(s, limit)
	return b[0], answer, err
}

var errTooLong = errors.New("too long")

// readFrame reads LEN BYTES. Memory is taken as the bytes arrive, not as LEN promises.
func readFrame(r io.Reader, limit int) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(head[:])
	if uint64(size) > uint64(limit) {
		return nil, fmt.Errorf("%d bytes, at most %d: %w", size, limit, errTooLong)
	}
	b, err := io.ReadAll(io.LimitReader(r, int64(size)))
	if err == nil && len(b) < int(size) {
		err = io.ErrUnexpectedEOF
	}
	return b, err
}

func appendFrame(b, payload []byte) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(payload))), payload...)
}

// cleanError makes an error's text fit to cross the wire and be shown on a terminal.
func cleanError(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) && r != unicode.ReplacementChar {
			return r
		}
		return '?'
	}, s[:min(len(s), maxError)])
}
