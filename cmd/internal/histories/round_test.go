//go:build linux

package histories

import (
	"context"
	"sync"
	"time"
)

// aim is when a broker is killed.
type aim string

const (
	aimTime   aim = "any time"
	aimStart  aim = "start"  // while it reads its state
	aimAnswer aim = "answer" // the moment that a customer has one about what changed
	aimHold   aim = "hold"   // the moment that a provider is asked
	aimReport aim = "report" // the moment that a provider has a renewal
)

// trigger kills at the n-th of something.
type trigger struct {
	mu   sync.Mutex
	aim  aim
	left int
	kill func()
}

func (t *trigger) set(a aim, n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.aim, t.left = a, n
}

func (t *trigger) hit(a aim) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.aim != a {
		return
	}
	if t.left--; t.left <= 0 {
		t.aim = ""
		t.kill()
	}
}

// round lets new customers work while the broker is killed some times, and checks all that they saw.
func (w *world) round(kills int) {
	ctx, stop := context.WithCancel(w.ctx)
	defer stop()
	var all []*customer
	for range customers {
		c, err := newCustomer(ctx, w)
		if err != nil {
			w.tb.Fatalf("new customer: %v\n%s", err, w.broker.said())
		}
		all = append(all, c)
		for range 4 {
			c.newDeposit(ctx)
		}
	}
	var working sync.WaitGroup
	for _, c := range all {
		for range workers {
			working.Go(func() { c.work(ctx) }) // ends with stop
		}
	}
	for range kills {
		w.strike()
		for _, c := range all {
			c.list(ctx) // each job is there, at once
		}
	}
	stop()
	working.Wait()
	w.settle(all)
	w.check()
	w.past = append(w.past, all...)
	w.count(func(r *result) { r.Rounds++ })
}

// strike kills the broker once and starts it again.
func (w *world) strike() {
	aims := []aim{aimTime, aimTime, aimStart, aimAnswer, aimAnswer, aimAnswer, aimHold, aimReport}
	w.mu.Lock()
	at := aims[w.random.IntN(len(aims))]
	n, after := 1+w.random.IntN(10), time.Duration(50+w.random.IntN(500))*time.Millisecond
	early := time.Duration(w.random.IntN(60)) * time.Millisecond
	w.mu.Unlock()
	switch at {
	case aimTime:
		w.killAfter(after)
	case aimStart: // twice, the second time while the first is repaired
		w.killAfter(after)
		w.restart(false)
		w.killAfter(early)
	case aimAnswer, aimHold, aimReport:
		w.trigger.set(at, n)
		lazy := time.AfterFunc(2*time.Second, w.broker.kill)
		w.gone()
		lazy.Stop()
		w.trigger.set("", 0)
	}
	w.count(func(r *result) { r.Kills++; r.Aims[at]++ })
	w.restart(true)
}

func (w *world) killAfter(d time.Duration) {
	time.AfterFunc(d, w.broker.kill)
	w.gone()
}

func (w *world) gone() {
	if err := w.broker.gone(); err != nil {
		w.tb.Fatalf("%v\n%s", err, w.broker.said())
	}
}

func (w *world) restart(serves bool) {
	begun := time.Now()
	if err := w.broker.start(); err != nil {
		w.tb.Fatal(err)
	}
	if !serves {
		return
	}
	ctx, stop := context.WithTimeout(w.ctx, settling)
	defer stop()
	if _, err := w.broker.await(ctx); err != nil {
		w.tb.Fatalf("the broker does not start again: %v\n%s", err, w.broker.said())
	}
	w.count(func(r *result) { r.RestartMS = max(r.RestartMS, time.Since(begun).Milliseconds()) })
}
