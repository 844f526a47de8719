package fast

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// errBusy reports that a turn did not come in time.
var errBusy = errors.New("no turn to upload")

// gate decides who uploads next. It holds all uploads together to a rate and to a number of bytes in memory, each
// peer to a rate and its share of that memory, and gives turns so that all peers that wait get the same number of bytes.
type gate struct {
	rate, peerRate     int64 // bytes a second; 0: unlimited
	memory, peerMemory int64 // bytes

	mu     sync.Mutex
	all    bucket
	held   int64
	now    int64 // how far all peers that wait have been served: who comes begins here
	peers  map[peer.ID]*line
	timer  *time.Timer // runs pump when a bucket has filled; nil: nothing waits for that
	closed bool
}

// line is a peer's place in the gate, kept while it waits or holds memory or is ahead of others.
type line struct {
	bucket  bucket
	held    int64
	served  int64
	waiting []*turn
}

type turn struct {
	n     int64
	ready chan struct{}
}

// bucket is a token bucket that may be overdrawn by the last taker, so that its rate is exact for any size.
type bucket struct {
	tokens float64
	at     time.Time
}

// burst is how much of a second's rate may be saved up: enough for the timer's inaccuracy.
const burst = 0.1

// fill returns how long the bucket is overdrawn for.
func (b *bucket) fill(now time.Time, rate int64) time.Duration {
	if rate == 0 {
		return 0
	}
	if !b.at.IsZero() {
		b.tokens = min(b.tokens+now.Sub(b.at).Seconds()*float64(rate), burst*float64(rate))
	}
	b.at = now
	if b.tokens >= 0 {
		return 0
	}
	return time.Duration(-b.tokens / float64(rate) * float64(time.Second))
}

// enter waits for the peer's turn to hold and send n bytes. After nil, leave must be called.
func (g *gate) enter(ctx context.Context, p peer.ID, n int64, patience time.Duration) error {
	t := &turn{n: n, ready: make(chan struct{})}
	g.mu.Lock()
	l := g.peers[p]
	if l == nil {
		l = &line{served: g.now}
		g.peers[p] = l
	}
	l.served = max(l.served, g.now) // who was away has saved nothing up
	l.waiting = append(l.waiting, t)
	g.pump()
	g.mu.Unlock()
	late := time.NewTimer(patience)
	defer late.Stop()
	var err error
	select {
	case <-t.ready:
		return nil
	case <-ctx.Done():
		err = context.Cause(ctx)
	case <-late.C:
		err = errBusy
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-t.ready: // just now
		return nil
	default:
	}
	l.waiting = slices.DeleteFunc(l.waiting, func(w *turn) bool { return w == t })
	g.forget(p, l)
	return err
}

// leave gives back what enter took.
func (g *gate) leave(p peer.ID, n int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.held -= n
	l := g.peers[p]
	l.held -= n
	g.pump()
	g.forget(p, l)
}

// forget drops a line that nobody needs. One that is overdrawn or ahead stays for its peer's next turn, or until next.
func (g *gate) forget(p peer.ID, l *line) {
	if len(l.waiting) == 0 && l.held == 0 && l.served <= g.now && l.bucket.fill(time.Now(), g.peerRate) == 0 {
		delete(g.peers, p)
	}
}

// pump gives as many turns as there are. The caller holds mu.
func (g *gate) pump() {
	if g.closed {
		return
	}
	now := time.Now()
	for {
		if wait := g.all.fill(now, g.rate); wait > 0 {
			g.again(wait)
			return
		}
		next, wait := g.next(now)
		if next == nil {
			if wait > 0 {
				g.again(wait)
			}
			return
		}
		t := next.waiting[0]
		next.waiting = next.waiting[1:]
		g.held += t.n
		next.held += t.n
		g.now = max(g.now, next.served)
		next.served += t.n
		g.all.tokens -= float64(t.n)
		next.bucket.tokens -= float64(t.n)
		close(t.ready)
	}
}

// next returns the line that was served least of those that may have a turn, or how long it is until one may.
func (g *gate) next(now time.Time) (*line, time.Duration) {
	var best *line
	var soonest time.Duration
	contended, ahead := false, g.now
	for p, l := range g.peers {
		wait := l.bucket.fill(now, g.peerRate)
		if len(l.waiting) == 0 {
			g.forget(p, l)
			ahead = max(ahead, l.served)
			continue
		}
		contended = true
		n := l.waiting[0].n
		switch {
		case wait > 0:
			if soonest == 0 || wait < soonest {
				soonest = wait
			}
		case g.held+n > g.memory || l.held+n > g.peerMemory: // leave comes back to it
		case best == nil || l.served < best.served:
			best = l
		}
	}
	if !contended {
		g.now = ahead // nobody waits, so nobody is behind
	}
	return best, soonest
}

func (g *gate) again(wait time.Duration) {
	if g.timer == nil {
		g.timer = time.AfterFunc(wait, func() {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.timer = nil
			g.pump()
		})
	}
}

func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	if g.timer != nil {
		g.timer.Stop()
	}
}
