package exchange

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/sync/errgroup"

	"rialto/blockstore"
	"rialto/blockstore/exchange/internal/fast"
	"rialto/blockstore/exchange/internal/wire"
)

const (
	// farTrip is the round trip from which one stream's window and one loss cost enough to use several.
	farTrip    = 20 * time.Millisecond
	farLanes   = 3 // for bulk, to a far peer
	laneWants  = 512
	promises   = 16 // blocks that a peer may have deleted before we come to them
	reconnects = 3  // failures without a block in between, until a peer is given up
	backoff    = 500 * time.Millisecond
	// longLife is for how long a source must have been one for its end to be no failure: an idle stream ends, too.
	longLife = time.Minute
)

var (
	errPoison  = errors.New("wrong bytes")
	errPromise = errors.New("blocks that it said it has are not there")
)

// source is somebody to ask: a peer on the fast path, or all Bitswap peers together. The download's mu guards it.
type source struct {
	id    peer.ID // empty: Bitswap
	lanes []*lane // of a peer on the fast path: the first is for what is urgent and for HAVE
	swap  *swap
	end   context.CancelCauseFunc

	dead    bool
	ready   bool      // may be asked for bulk
	busy    time.Time // until then it sends nothing
	overdue bool      // something should have come from it by now
	wants   int
	out     int64 // cost of what it is asked for
	brought bool
	broken  int // blocks that it said it has and then had not
	meter   meter

	has, lacks bits
	answered   bool // a HAVE
	partial    bool // the last HAVE said that something is not there
	asking     bool // a HAVE is out
	nextHave   time.Time
	haveWait   time.Duration
	grew       time.Time // when a HAVE last said more than the one before
}

// lane is a stream of a source; stream is nil for Bitswap.
type lane struct {
	stream  *fast.Lane
	flights map[blockstore.CID]*flight
	out     int64
}

func newLane(stream *fast.Lane) *lane {
	return &lane{stream: stream, flights: make(map[blockstore.CID]*flight)}
}

// serve keeps a peer as a source for as long as it is any good.
func (d *Download) serve(ctx context.Context, info peer.AddrInfo) {
	err := d.attend(ctx, info)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.joining--
	if err != nil {
		d.failed = append(d.failed, fmt.Errorf("%v: %w", info.ID, err))
	}
	d.judgeAll()
}

// attend returns, with joining as it was, once the peer is no source of its own or no more.
func (d *Download) attend(ctx context.Context, info peer.AddrInfo) error {
	for failures := 0; ctx.Err() == nil; failures++ {
		lanes, err := d.x.dial(ctx, info)
		if errors.Is(err, fast.ErrUnsupported) {
			d.attendSwap(ctx, info)
			return nil
		}
		if err == nil {
			var s *source
			begin := time.Now()
			s, err = d.attendFast(ctx, info.ID, lanes)
			if errors.Is(err, errPoison) || errors.Is(err, errPromise) || errors.Is(err, fast.ErrProtocol) {
				d.x.cfg.Logger.Warn("a peer broke the protocol and is dropped", "peer", info.ID.String(), "err", err)
				return err
			}
			if time.Since(begin) > longLife {
				failures = -1
				continue
			}
			if s.brought {
				failures = 0
			}
		} else if failures == 0 {
			return err // it was never there
		}
		if failures == reconnects {
			return err
		}
		select {
		case <-time.After(backoff << failures):
		case <-ctx.Done():
		}
	}
	return context.Cause(ctx)
}

// dial opens a stream for what is urgent and one for bulk.
func (x *Exchange) dial(ctx context.Context, info peer.AddrInfo) ([]*lane, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	if err := x.cfg.Host.Connect(ctx, info); err != nil {
		return nil, err
	}
	if x.cfg.BitswapOnly {
		return nil, fast.ErrUnsupported
	}
	lanes := make([]*lane, 2)
	for i := range lanes {
		stream, err := fast.Open(ctx, x.cfg.Host, info.ID)
		if err != nil {
			for _, l := range lanes[:i] {
				l.stream.Close()
			}
			return nil, err
		}
		lanes[i] = newLane(stream)
	}
	return lanes, nil
}

// attendFast has a source for as long as its streams live.
func (d *Download) attendFast(ctx context.Context, id peer.ID, lanes []*lane) (*source, error) {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	s := &source{id: id, lanes: lanes, end: end}
	group, ctx := errgroup.WithContext(ctx)
	run := func(l *lane) {
		group.Go(func() error { return l.stream.Run(ctx, func(r fast.Reply) { d.reply(s, l, r) }) })
	}
	for _, l := range lanes {
		run(l)
	}
	group.Go(func() error { return d.widen(ctx, s, run) })
	d.mu.Lock()
	d.joining--
	d.admit(s)
	d.mu.Unlock()
	err := group.Wait()
	d.mu.Lock()
	d.joining++ // until it is known what becomes of the peer
	d.dismiss(s)
	d.mu.Unlock()
	return s, err
}

// admit begins to ask a source.
func (d *Download) admit(s *source) {
	s.haveWait = haveEvery
	s.meter.window = startWindow
	if len(d.known) > 1 && s.swap == nil {
		s.meter.window = 1
	} else {
		s.ready = true
	}
	d.sources = append(d.sources, s)
	d.askHaves(time.Now())
	d.schedule()
}

// dismiss asks a source no more, and others for what it was asked for. It may be called again.
func (d *Download) dismiss(s *source) {
	if s.dead {
		return
	}
	s.dead = true
	for i, other := range d.sources {
		if other == s {
			d.sources = append(d.sources[:i:i], d.sources[i+1:]...)
			break
		}
	}
	for _, it := range d.items {
		s.forget(it)
	}
	for _, l := range s.lanes {
		for _, f := range l.flights {
			d.land(f)
			d.requeue(f.item)
		}
	}
	if d.cause() == nil {
		d.judgeAll()
		d.schedule()
	}
}

// widen opens more streams to a peer that turns out to be far away.
func (d *Download) widen(ctx context.Context, s *source, run func(*lane)) error {
	tick := time.NewTicker(tickTime)
	defer tick.Stop()
	for {
		d.mu.Lock()
		rtt := s.meter.rtt
		d.mu.Unlock()
		if rtt > 0 && rtt < farTrip {
			return nil
		}
		if rtt > 0 {
			break
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
	for range farLanes - 1 {
		stream, err := fast.Open(ctx, d.x.cfg.Host, s.id)
		if err != nil {
			return nil // those that are open will do
		}
		l := newLane(stream)
		run(l)
		d.mu.Lock()
		s.lanes = append(s.lanes, l)
		d.mu.Unlock()
	}
	return nil
}

// reply takes what became of a question. It runs on the stream's own goroutine.
func (d *Download) reply(s *source, l *lane, r fast.Reply) {
	now := time.Now()
	d.mu.Lock()
	if r.Type == wire.Map {
		d.learn(s, r, now)
		d.schedule()
		d.mu.Unlock()
		return
	}
	f := l.flights[r.CID]
	if f == nil { // the source was dismissed
		if r.Type == wire.Data {
			d.wasted += int64(len(r.Data))
		}
		d.mu.Unlock()
		return
	}
	first := len(l.flights) == 1 && l == s.lanes[0]
	d.land(f)
	it := f.item
	switch r.Type {
	case wire.Data:
		if first {
			s.meter.trip(r.Took)
		}
		if l == s.lanes[0] {
			s.meter.rush.add(now.Sub(f.at))
		} else {
			s.meter.took.add(now.Sub(f.at))
		}
		s.brought = true
		s.meter.got(now, int64(len(r.Data)))
	case wire.Absent:
		if s.has.has(it.index) {
			s.broken++
		}
		s.learn(it, false)
		s.partial = s.partial || len(d.known) > 1
	case wire.Busy:
		s.busy = now.Add(time.Duration(r.Value) * time.Millisecond)
	default: // CANCELLED; MAP was above
		d.stay(f)
	}
	if s.out == 0 {
		s.meter.idle()
	}
	hand := r.Type == wire.Data && d.receive(it)
	if r.Type == wire.Data && !hand {
		d.wasted += int64(len(r.Data))
	}
	if s.broken > promises {
		s.end(errPromise)
		d.dismiss(s)
	}
	urgent := len(it.getters) > 0
	d.requeue(it)
	d.judge(it)
	d.schedule()
	d.mu.Unlock()
	if !hand {
		return
	}
	a := arrival{source: s, from: s.id, item: it, data: r.Data}
	if urgent && !d.verify(&a) {
		return
	}
	d.arrive(a)
}
