package exchange_test

import (
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// link forwards TCP connections to an address as a line with a delay and a rate in each direction would: it stands
// between two hosts on loopback. Bytes are read in pieces, stamped, and written when their time has come: half the
// round trip after the last bit went over the line. At most a round trip and some is under way, so that
// TCP at the sender feels the line.
type link struct {
	listener net.Listener
	to       string
	delay    time.Duration // each way
	rate     float64       // bytes a second each way
	up, down line          // shared by all connections
	running  sync.WaitGroup

	mu    sync.Mutex
	conns []net.Conn
}

// line is one direction: when it has sent all that was put on it.
type line struct {
	mu   sync.Mutex
	free time.Time
}

// put returns when n bytes have gone over the line.
func (l *line) put(n int, rate float64) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := time.Now(); l.free.Before(now) {
		l.free = now
	}
	l.free = l.free.Add(time.Duration(float64(n) / rate * float64(time.Second)))
	return l.free
}

func newLink(tb testing.TB, to string, rtt time.Duration, rate float64) *link {
	tb.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	l := &link{listener: ln, to: to, delay: rtt / 2, rate: rate}
	l.running.Go(l.accept)
	tb.Cleanup(func() {
		ln.Close()
		l.mu.Lock()
		for _, c := range l.conns {
			c.Close()
		}
		l.mu.Unlock()
		l.running.Wait()
	})
	return l
}

func (l *link) port() int { return l.listener.Addr().(*net.TCPAddr).Port }

func (l *link) accept() {
	for {
		a, err := l.listener.Accept()
		if err != nil {
			return
		}
		b, err := net.Dial("tcp", l.to)
		if err != nil {
			a.Close()
			continue
		}
		l.mu.Lock()
		l.conns = append(l.conns, a, b)
		l.mu.Unlock()
		l.running.Go(func() { l.forward(b, a, &l.up) })
		l.running.Go(func() { l.forward(a, b, &l.down) })
	}
}

type piece struct {
	p  []byte
	at time.Time
}

// forward moves bytes one way until either end is gone.
func (l *link) forward(to, from net.Conn, on *line) {
	defer to.Close()
	const size = 64 << 10
	// What is under way, and 10 ms of the line: a router's buffer.
	under := int((2*l.delay.Seconds()+0.01)*l.rate) + 4*size
	pieces := make(chan piece, 1<<16)
	room := make(chan int, 1<<16)
	var writer sync.WaitGroup
	writer.Go(func() {
		for p := range pieces {
			if d := time.Until(p.at); d > 200*time.Microsecond {
				time.Sleep(d)
			}
			_, err := to.Write(p.p)
			room <- len(p.p)
			if err != nil {
				from.Close()
			}
		}
	})
	out := 0
	for {
		for out > under {
			out -= <-room
		}
		buf := make([]byte, size)
		n, err := from.Read(buf)
		if n > 0 {
			out += n
			pieces <- piece{buf[:n], on.put(n, l.rate).Add(l.delay)}
		}
		if err != nil {
			break
		}
		for more := true; more; {
			select {
			case n := <-room:
				out -= n
			default:
				more = false
			}
		}
	}
	close(pieces)
	writer.Wait()
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
	c, err := net.Dial("tcp", l.listener.Addr().String())
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
