package exchange_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"rialto/p2p/p2ptest/line"
)

// newLink is a line that ends with the test.
func newLink(tb testing.TB, to string, rtt time.Duration, rate float64) *line.Line {
	tb.Helper()
	l, err := line.New(tb.Context(), to, rtt, rate)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { l.Close() })
	return l
}

// copyOver measures what a plain TCP connection makes of the link: the limit.
func copyOver(tb testing.TB, rtt time.Duration, rate float64, size int64) float64 {
	tb.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer ln.Close()
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		io.Copy(c, io.LimitReader(zeros{}, size))
	}()
	l := newLink(tb, ln.Addr().String(), rtt, rate)
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", l.Port()))
	if err != nil {
		tb.Fatal(err)
	}
	defer c.Close()
	begin := time.Now()
	n, err := io.Copy(io.Discard, c)
	if err != nil && !errors.Is(err, net.ErrClosed) || n != size {
		tb.Fatalf("copied %d bytes, %v", n, err)
	}
	return float64(n) / time.Since(begin).Seconds()
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }
