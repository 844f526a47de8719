package main

import (
	"context"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"rialto/broker/api"
	"rialto/tunnel/client"
	"rialto/tunnel/console"
)

// session is a way into the container of one lease. A nil session is one that never ends.
type session struct {
	lease   api.Lease
	link    *link
	console *console.Client

	stop   context.CancelFunc
	group  errgroup.Group
	done   chan struct{} // closed when the output has ended
	exited bool          // done was seen
	over   bool          // the job had ended before we entered

	lost     chan struct{}   // the host may have lost the keys of what is private; capacity 1
	unlocked <-chan struct{} // closed when the host has them; nil: nobody brings them

	heard    atomic.Bool  // the console has answered
	lastByte atomic.Int64 // Unix nanoseconds
	exit     int          // after done, if known
	known    bool
	err      error // after done: why the output ended early
}

// enter opens the way into a lease's container.
func (m *market) enter(r record, lease api.Lease) (*session, error) {
	l, err := newLink(m.home, r, lease)
	if err != nil {
		return nil, err
	}
	return &session{
		lease: lease, link: l, console: console.NewClient(l.DialContext, l.job()), done: make(chan struct{}), lost: make(chan struct{}, 1),
	}, nil
}

// follow streams the output to sink until it ends; then done is closed.
func (s *session) follow(ctx context.Context, sink console.Sink) {
	ctx = s.start(ctx)
	s.group.Go(func() error {
		defer close(s.done)
		s.exit, s.known, s.err = s.console.Logs(ctx, true, func(stream byte, p []byte) error {
			s.heard.Store(true)
			s.lastByte.Store(time.Now().UnixNano())
			return sink(stream, p)
		})
		return nil
	})
}

// start returns the context of the session's goroutines.
func (s *session) start(ctx context.Context) context.Context {
	ctx, cancel := context.WithCancel(ctx)
	before := s.stop
	s.stop = func() {
		cancel()
		if before != nil {
			before()
		}
	}
	return ctx
}

// publish leads local ports to ports in the container until the session is closed.
func (s *session) publish(ctx context.Context, forwards []forward, say func(string, ...any)) error {
	if len(forwards) == 0 {
		return nil
	}
	ctx = s.start(ctx)
	for _, f := range forwards {
		var lc net.ListenConfig
		ln, err := lc.Listen(ctx, "tcp", f.local.String())
		if err != nil {
			return fmt.Errorf("publish %s: %w", f, err)
		}
		say("%s leads to port %d of job %s", ln.Addr(), f.remote, s.lease.Job)
		s.group.Go(func() error {
			return client.Forward(ctx, ln, func(ctx context.Context) (net.Conn, error) {
				return s.console.Dial(ctx, f.remote)
			}, func(err error) { say("port %d of job %s: %v", f.remote, s.lease.Job, err) })
		})
	}
	return nil
}

// ended is closed when the output has ended; nil when that was seen already.
func (s *session) ended() <-chan struct{} {
	if s == nil || s.exited {
		return nil
	}
	return s.done
}

// close ends everything of the session.
func (s *session) close() {
	if s.stop != nil {
		s.stop()
	}
	_ = s.link.Close() // nothing is lost with it
	_ = s.group.Wait() // errors were said when they happened
}
