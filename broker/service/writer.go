package service

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"rialto/broker"
	"rialto/broker/wire"
)

const (
	// queueLength bounds the events that wait; when it is full, callers wait as long as their context allows.
	queueLength = 1024
	// batchBytes bounds what one batch saves before it takes another op, so that with the last op's step, which the
	// market bounds, it stays below what a store takes.
	batchBytes = 1 << 20
	// drainBytes bounds what is taken from the queue at once.
	drainBytes = 4 << 20
	// opBytes is added to an op's own size for the records that it rewrites.
	opBytes = 4 << 10
	// observeEvery is how often the metrics read the market: as often as they are scraped, or so.
	observeEvery = 5 * time.Second
)

// op is one turn of the writer.
type op struct {
	size int
	// run steps the market. An error refuses the op; nothing of it may have been stepped then.
	run  func(ctx context.Context, b *batch) error
	err  error
	done chan struct{} // closed when err is set and the batch is durable
}

// do runs fn in the writer's goroutine and returns when its batch is durable. When ctx ends first, the
// outcome is unknown and what fn sets must not be read.
func (s *Service) do(ctx context.Context, size int, fn func(ctx context.Context, b *batch) error) error {
	if err := s.Ready(); err != nil {
		return err
	}
	o := &op{size: size + opBytes, run: fn, done: make(chan struct{})}
	select {
	case s.queue <- o:
	case <-s.stopped:
		return fmt.Errorf("the market closed: %w", broker.ErrUnavailable)
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-o.done:
		return o.err
	case <-s.stopped:
		select {
		case <-o.done: // answered just before the end
			return o.err
		default:
			return fmt.Errorf("the market closed, the outcome is unknown: %w", broker.ErrUnavailable)
		}
	case <-ctx.Done():
		return ctx.Err()
	}
}

// ask is do for a turn with a result, which is read only when the turn is surely over.
func ask[T any](ctx context.Context, s *Service, size int, fn func(ctx context.Context, b *batch) (T, error)) (T, error) {
	var out, none T
	err := s.do(ctx, size, func(ctx context.Context, b *batch) (err error) {
		out, err = fn(ctx, b)
		return err
	})
	if err != nil {
		return none, err
	}
	return out, nil
}

// event steps the market for one event.
func (s *Service) event(ctx context.Context, size int, ev broker.Event) error {
	return s.do(ctx, size, func(ctx context.Context, b *batch) error { return b.step(ctx, ev) })
}

// batch collects what the steps of one turn want.
type batch struct {
	s       *Service
	now     time.Time
	saves   []broker.Effect
	sends   []broker.Effect
	notes   map[string][]byte
	hints   map[string][]byte
	ops     []*op           // to be answered when it is durable
	unsaved *unsaved        // batches before it that are not durable yet
	size    int             // of the saves, roughly
	renewal *broker.Renewal // of the last step
	fatal   error
}

// step steps the market, with what it has forgotten of what the event names. An error means that the event was refused and
// nothing changed.
func (b *batch) step(ctx context.Context, ev broker.Event) error {
	b.renewal = nil
	ev, err := b.s.market.Recall(ctx, ev, b.s.c.Store)
	if err != nil {
		return err
	}
	effects, err := b.s.step(b.now, ev)
	if err != nil {
		if _, broken := errors.AsType[*broker.InvariantError](err); broken {
			b.fatal = err
		}
		b.s.metrics.refused.Inc()
		return err
	}
	b.s.metrics.events.Inc()
	for _, e := range effects {
		b.size += broker.Size(e)
		switch e := e.(type) {
		case broker.SaveAccount, broker.SaveJob, broker.SaveLease, broker.Post, broker.SaveDerived:
			b.saves = append(b.saves, e)
		case broker.SendHold, broker.SendConfirm, broker.SendRelease:
			b.sends = append(b.sends, e)
		case broker.SendRenewal:
			b.renewal = new(e.Renewal)
		case broker.SignReceipt:
			if err := b.sign(ctx, e.Receipt); err != nil {
				b.fatal = err
				return err
			}
		}
	}
	return nil
}

// sign seals a receipt and stores it with its lease in the same batch.
func (b *batch) sign(ctx context.Context, r broker.Receipt) error {
	envelope, err := wire.SealReceipt(b.s.c.Key, r)
	if err != nil {
		return fmt.Errorf("sign receipt of lease %s: %w", r.Lease, err)
	}
	renewal := b.renewal
	err = b.step(ctx, broker.ReceiptSigned{Lease: r.Lease, Envelope: envelope})
	if b.renewal == nil {
		b.renewal = renewal
	}
	return err
}

// note returns what a note says, also one of this batch.
func (b *batch) note(ctx context.Context, key string) ([]byte, error) {
	if v, ok := b.notes[key]; ok {
		return v, nil
	}
	if v, ok := b.unsaved.note(key); ok {
		return v, nil
	}
	return b.s.c.Store.Note(ctx, key)
}

// unsaved lists the batches that were stepped and are on their way to the store: at most two.
type unsaved struct {
	mu      sync.Mutex
	batches []*batch
}

func (u *unsaved) add(b *batch) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.batches = append(u.batches, b)
}

// saved forgets the oldest, which the store has now.
func (u *unsaved) saved() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.batches = slices.Delete(u.batches, 0, 1)
}

func (u *unsaved) note(key string) ([]byte, bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, b := range u.batches {
		if v, ok := b.notes[key]; ok {
			return v, true
		}
	}
	return nil, false
}

// writer is the one goroutine that steps the market, and beside it the one that saves: while a batch is on its way to
// the disk, the next one is stepped. Batches are saved, shown and answered in the order in which they were stepped.
type writer struct {
	s       *Service
	epoch   uint64
	batches uint64 // the saving goroutine's
	clock   clock
	unsaved unsaved
	over    archive
	stepped chan *batch // to the saving goroutine

	observed time.Time // when the metrics last read the market
}

// clock is the wall clock of the start plus what the monotonic clock counted since, so that a wall clock
// that is set while the broker runs moves no deadline and bills nothing.
type clock struct{ base, started time.Time }

// newClock starts a clock that goes on from saved if the wall clock was set back since: the market's time
// would stand still until the wall clock caught up, and no lease or hold would lapse.
func newClock(saved time.Time) clock {
	started := time.Now()
	base := started.Round(0)
	if base.Before(saved) {
		base = saved
	}
	return clock{base: base, started: started}
}

func (c clock) now() time.Time { return c.base.Add(time.Since(c.started)) }

// run takes turns until ctx ends or a batch cannot be saved. Batches are saved under a context of their own, because one
// that was begun must end.
func (w *writer) run(ctx, sendCtx context.Context) error {
	saving, failed := context.WithCancelCause(context.WithoutCancel(ctx))
	defer failed(nil)
	w.stepped = make(chan *batch)
	done := make(chan struct{})
	go func() { // ends when stepped is closed
		defer close(done)
		for b := range w.stepped {
			if saving.Err() != nil {
				continue // what follows a batch that failed must not be saved
			}
			if err := w.commit(saving, sendCtx, b); err != nil {
				failed(err)
			}
		}
	}()
	err := w.turns(ctx, saving)
	close(w.stepped)
	<-done
	if err == nil {
		err = context.Cause(saving)
	}
	return err
}

func (w *writer) turns(ctx, saving context.Context) error {
	if err := w.distrust(); err != nil {
		return err
	}
	if err := w.tellBuilt(ctx); err != nil {
		return err
	}
	tick := time.NewTicker(w.s.c.Tick)
	defer tick.Stop()
	for {
		var ops []*op
		ticked := false
		select {
		case <-ctx.Done():
			return nil
		case <-saving.Done():
			return nil // run has the cause
		case <-tick.C:
			ticked = true
		case <-w.s.gone.wake:
		case o := <-w.s.queue:
			ops = w.drain(o)
		}
		if err := w.turn(saving, ops, ticked); err != nil {
			return err
		}
	}
}

// drain takes what waits, up to a bound.
func (w *writer) drain(first *op) []*op {
	ops := []*op{first}
	for size := first.size; size < drainBytes; {
		select {
		case o := <-w.s.queue:
			ops = append(ops, o)
			size += o.size
		default:
			return ops
		}
	}
	return ops
}

func (w *writer) turn(ctx context.Context, ops []*op, ticked bool) error {
	b := w.begin()
	if over := w.over.take(); len(over.Jobs)+len(over.Deposits) > 0 {
		if _, err := w.s.step(b.now, over); err != nil {
			return fmt.Errorf("forget what is over: %w", err)
		}
	}
	if ticked {
		if err := b.step(ctx, broker.Ticked{}); err != nil {
			return fmt.Errorf("tick: %w", err)
		}
	}
	for _, id := range w.s.gone.take() {
		if _, connected := w.s.c.Host.RemoteIP(id); connected {
			continue // came back meanwhile, and may have sent offers already
		}
		w.s.holders.remove(broker.PeerID(id))
		w.s.asks.gone(broker.PeerID(id))
		if err := b.step(ctx, broker.ProviderGone{Provider: broker.PeerID(id)}); err != nil {
			w.s.c.Logger.Debug("disconnect refused", "provider", id, "err", err)
		}
	}
	for {
		n := 0
		for n < len(ops) && b.size < batchBytes && b.fatal == nil {
			ops[n].err = ops[n].run(ctx, b)
			n++
		}
		if b.fatal != nil {
			return b.fatal
		}
		b.ops = ops[:n]
		w.unsaved.add(b)
		w.stepped <- b
		if ops = ops[n:]; len(ops) == 0 {
			break
		}
		b = w.begin()
	}
	if b.now.Sub(w.observed) >= observeEvery {
		w.observed = b.now
		w.s.metrics.observe(w.s.market, len(w.s.queue))
		w.s.metrics.distrusted.Set(float64(len(w.s.poisons.distrusted(b.now))))
	}
	return nil
}

func (w *writer) begin() *batch {
	return &batch{s: w.s, now: w.clock.now(), notes: map[string][]byte{}, hints: map[string][]byte{}, unsaved: &w.unsaved}
}

// commit makes a batch durable, and only then shows it, answers its ops and sends what it wants sent.
func (w *writer) commit(ctx, sendCtx context.Context, b *batch) error {
	if err := w.save(ctx, b); err != nil {
		return err
	}
	w.s.view.publish(b.saves, b.notes)
	w.over.add(b.saves)
	w.unsaved.saved()
	for _, o := range b.ops {
		close(o.done)
	}
	for _, e := range b.sends {
		w.s.send(sendCtx, e)
	}
	return nil
}

func (w *writer) save(ctx context.Context, b *batch) error {
	if len(b.saves) == 0 && len(b.notes) == 0 && len(b.hints) == 0 {
		return nil
	}
	w.batches++
	id := fmt.Sprintf("%d-%d", w.epoch, w.batches)
	begun := time.Now()
	if err := w.s.c.Store.Save(ctx, w.epoch, id, b.saves, b.notes, b.hints); err != nil {
		return fmt.Errorf("save batch %s: %w", id, err)
	}
	w.s.metrics.commit.Observe(time.Since(begun).Seconds())
	w.s.metrics.batch.Observe(float64(len(b.saves)))
	return nil
}
