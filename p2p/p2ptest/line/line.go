// Package line puts a delay and a rate between two ends of TCP connections on one machine, for tests and benchmarks.
package line

import (
	"context"
	"net"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
)

// Line forwards TCP connections as a line between two hosts would, with a delay and a rate in each direction that all
// connections share. Bytes are read in pieces and written when their time has come: half a round trip after the last bit
// of the piece went over the line. Little more than a round trip is under way, so that TCP at the sender feels the line.
type Line struct {
	listener net.Listener
	to       string
	delay    time.Duration // each way
	rate     float64       // bytes a second each way
	up, down direction
	running  sync.WaitGroup

	mu     sync.Mutex
	closed bool
	conns  []net.Conn
}

// direction is one way of a line: when it has sent what was put on it.
type direction struct {
	mu   sync.Mutex
	free time.Time
}

// put returns when n bytes have gone over the line.
func (d *direction) put(n int, rate float64) time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	if now := time.Now(); d.free.Before(now) {
		d.free = now
	}
	d.free = d.free.Add(time.Duration(float64(n) / rate * float64(time.Second)))
	return d.free
}

// New listens on loopback for what goes to an address, host:port. rtt is the round trip that the line adds, rate what it
// carries each way, in bytes a second. Who makes it closes it; when ctx ends, nothing moves any more.
func New(ctx context.Context, to string, rtt time.Duration, rate float64) (*Line, error) {
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	l := &Line{listener: ln, to: to, delay: rtt / 2, rate: rate}
	l.running.Go(func() { l.accept(ctx) })
	return l, nil
}

// Port returns the port on 127.0.0.1 that leads over the line.
func (l *Line) Port() int { return l.listener.Addr().(*net.TCPAddr).Port }

// Close ends the line and all connections over it.
func (l *Line) Close() error {
	err := l.listener.Close()
	l.mu.Lock()
	l.closed = true
	for _, c := range l.conns {
		c.Close()
	}
	l.mu.Unlock()
	l.running.Wait()
	return err
}

func (l *Line) accept(ctx context.Context) {
	for {
		a, err := l.listener.Accept()
		if err != nil {
			return
		}
		b, err := new(net.Dialer).DialContext(ctx, "tcp", l.to)
		if err != nil {
			a.Close()
			continue
		}
		l.mu.Lock()
		if l.closed {
			a.Close()
			b.Close()
		}
		l.conns = append(l.conns, a, b)
		l.mu.Unlock()
		l.running.Go(func() { l.forward(ctx, b, a, &l.up) })
		l.running.Go(func() { l.forward(ctx, a, b, &l.down) })
	}
}

// forward moves bytes one way until either end is gone.
func (l *Line) forward(ctx context.Context, to, from net.Conn, on *direction) {
	type piece struct {
		p  []byte
		at time.Time
	}
	const size = 64 << 10
	// What is under way, and 10 ms of the line: a router's buffer.
	room := semaphore.NewWeighted(int64((2*l.delay.Seconds()+0.01)*l.rate) + 4*size)
	pieces := make(chan piece, 1<<14)
	var writer sync.WaitGroup
	writer.Go(func() { // ends when pieces is closed
		defer to.Close()
		for p := range pieces {
			if d := time.Until(p.at); d > 200*time.Microsecond { // timers are no better than that
				time.Sleep(d)
			}
			if _, err := to.Write(p.p); err != nil {
				from.Close() // ends the reading; what is in pieces is lost with the connection
			}
			room.Release(int64(len(p.p)))
		}
	})
	for {
		buf := make([]byte, size)
		n, err := from.Read(buf)
		if n > 0 {
			if room.Acquire(ctx, int64(n)) != nil {
				break
			}
			pieces <- piece{buf[:n], on.put(n, l.rate).Add(l.delay)}
		}
		if err != nil {
			break
		}
	}
	close(pieces)
	writer.Wait()
}
