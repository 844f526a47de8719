package image

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"sync/atomic"

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

// budget is what all layers of an image may inflate to together.
type budget struct {
	used atomic.Int64
	most int64
}

// limited ends with ErrTooLarge when the budget is spent: a few kilobytes can inflate to terabytes.
type limited struct {
	r      io.Reader
	budget *budget
}

func (l *limited) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	if l.budget.used.Add(int64(n)) > l.budget.most {
		return 0, ErrTooLarge
	}
	return n, err
}
