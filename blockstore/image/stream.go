package image

import (
	"bufio"
	"bytes"
	"context"
	"hash"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// zstdWindow is the largest window that is decoded: what `zstd --ultra --long=27` needs.
const zstdWindow = 128 << 20

// decompress tells the format by its first bytes; media types are often wrong.
func decompress(r io.Reader) (io.ReadCloser, error) {
	br := bufio.NewReaderSize(r, 256<<10)
	magic, err := br.Peek(4)
	if err != nil && len(magic) < 2 {
		return nil, io.ErrUnexpectedEOF
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		return gzip.NewReader(br)
	case bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		d, err := zstd.NewReader(br, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(zstdWindow))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	default:
		return io.NopCloser(br), nil
	}
}

// source counts what is read and ends with its context.
type source struct {
	ctx  context.Context //nolint:containedctx // a Reader has no other way to be told; it lives for one call
	from *body
	read func(int)
}

func (s *source) Read(p []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := s.from.read(s.ctx, p)
	if s.read != nil {
		s.read(n)
	}
	return n, err
}

// hashed hashes what is read, and ends with ErrTooLarge when there is too much: a few kilobytes can inflate to
// terabytes of nothing.
type hashed struct {
	r    io.Reader
	sum  hash.Hash
	left int64
}

func (h *hashed) Read(p []byte) (int, error) {
	n, err := h.r.Read(p)
	h.sum.Write(p[:n])
	if h.left -= int64(n); h.left < 0 {
		return 0, ErrTooLarge
	}
	return n, err
}

// Bounds of what ahead holds: a few chunks smooth out what a source and its reader do at different speeds.
const (
	aheadChunk  = 256 << 10
	aheadChunks = 8
)

// ahead reads from a source while its reader works on what came before: it decompresses on one core what another hashes.
type ahead struct {
	chunks chan chunk
	free   chan []byte
	stop   chan struct{}
	rest   []byte // of whole
	whole  []byte
	err    error
}

type chunk struct {
	p   []byte
	err error
}

func readAhead(r io.Reader) *ahead {
	a := &ahead{chunks: make(chan chunk, aheadChunks), free: make(chan []byte, aheadChunks), stop: make(chan struct{})}
	for range aheadChunks {
		a.free <- make([]byte, aheadChunk)
	}
	go a.run(r) // ends with the source, or with Close
	return a
}

func (a *ahead) run(r io.Reader) {
	defer close(a.chunks)
	for {
		var p []byte
		select {
		case p = <-a.free:
		case <-a.stop:
			return
		}
		n := 0
		var err error
		for n < len(p) && err == nil {
			var m int
			m, err = r.Read(p[n:])
			n += m
		}
		a.chunks <- chunk{p[:n], err} // there is room for each that is free
		if err != nil {
			return
		}
	}
}

func (a *ahead) Read(p []byte) (int, error) {
	for len(a.rest) == 0 {
		if a.err != nil {
			return 0, a.err
		}
		if a.whole != nil {
			a.free <- a.whole[:aheadChunk] // there is room for each
			a.whole = nil
		}
		c := <-a.chunks
		a.whole, a.rest, a.err = c.p, c.p, c.err
	}
	n := copy(p, a.rest)
	a.rest = a.rest[n:]
	return n, nil
}

// Close ends the reading ahead and waits for that. A Read of the source that waits must be ended by somebody else.
func (a *ahead) Close() {
	close(a.stop)
	for range a.chunks { // until run has ended
		continue
	}
}
