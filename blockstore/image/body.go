package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"
)

// ErrStalled reports a source that stopped sending in the middle of a layer.
var ErrStalled = errors.New("nothing more is sent")

// body reads a layer's compressed bytes. When the source sends nothing for as long as patience, or breaks
// off, it is asked once more, and what came before is passed over.
type body struct {
	open     func() (io.ReadCloser, error)
	patience time.Duration

	from    io.ReadCloser // nil: to be opened
	stop    func() bool   // ends the watch on from
	timer   *time.Timer
	stalled *atomic.Bool
	done    int64 // bytes handed on
	skip    int64 // bytes of from to pass over
	again   bool  // it was opened a second time
}

// read is Read with a context, whose end closes the source.
func (b *body) read(ctx context.Context, p []byte) (int, error) {
	for {
		if b.from == nil {
			if err := b.begin(ctx); err != nil {
				return 0, err
			}
		}
		into := p
		if b.skip > 0 {
			into = p[:min(int64(len(p)), b.skip)]
		}
		b.timer.Reset(b.patience)
		n, err := b.from.Read(into)
		b.timer.Stop()
		if b.skip > 0 {
			b.skip -= int64(n)
			n = 0
		}
		b.done += int64(n)
		switch {
		case err == nil && n == 0:
			continue
		case err == nil, n > 0 && !errors.Is(err, io.EOF): // what is wrong comes up again
			return n, nil
		case errors.Is(err, io.EOF) && b.skip == 0:
			return n, io.EOF
		case ctx.Err() != nil:
			return 0, context.Cause(ctx)
		}
		if b.stalled.Load() {
			err = fmt.Errorf("%w for %v after %d bytes", ErrStalled, b.patience, b.done)
		}
		if b.again {
			return 0, err
		}
		b.again = true
		b.close()
	}
}

func (b *body) begin(ctx context.Context) error {
	from, err := b.open()
	if err != nil {
		return err
	}
	stalled := new(atomic.Bool)
	// Closing is what ends a Read that waits; its own error says no more than that it was closed.
	b.timer = time.AfterFunc(b.patience, func() {
		stalled.Store(true)
		_ = from.Close()
	})
	b.stop = context.AfterFunc(ctx, func() { _ = from.Close() })
	b.from, b.stalled, b.skip = from, stalled, b.done
	return nil
}

func (b *body) close() {
	if b.from == nil {
		return
	}
	b.timer.Stop()
	b.stop()
	_ = b.from.Close()
	b.from = nil
}
