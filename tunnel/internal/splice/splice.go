// Package splice joins two connections.
package splice

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
)

// Join copies between two connections until both directions have ended, one has failed, or ctx has ended. A
// side that only ends its writing stays readable. Join closes both.
func Join(ctx context.Context, a, b net.Conn) {
	stop := context.AfterFunc(ctx, func() {
		a.Close()
		b.Close()
	})
	defer stop()
	defer a.Close()
	defer b.Close()
	var wait sync.WaitGroup
	wait.Go(func() { pipe(a, b) })
	wait.Go(func() { pipe(b, a) })
	wait.Wait()
}

// pipe copies src to dst and passes on the end of src; an error ends both.
func pipe(dst, src net.Conn) {
	if _, err := io.Copy(dst, src); err != nil {
		dst.Close()
		src.Close()
		return
	}
	if CloseWrite(dst) != nil {
		dst.Close()
	}
}

// CloseWrite ends the writing side of a connection that can do that.
func CloseWrite(c net.Conn) error {
	half, ok := c.(interface{ CloseWrite() error })
	if !ok {
		return errors.ErrUnsupported
	}
	return half.CloseWrite()
}
