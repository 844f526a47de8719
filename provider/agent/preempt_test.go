package agent

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"rialto/broker"
	"rialto/pricing"
	"rialto/provider"
)

// A workload that is displaced hears at once and has its notice: it may end by itself meanwhile, and is ended otherwise.
func TestDisplacedWorkloadHasItsNotice(t *testing.T) {
	for name, c := range map[string]struct {
		ends time.Duration // by itself, after it heard; zero: never
		code int
		ran  time.Duration
	}{
		"ends by itself": {ends: 12 * time.Second, code: 3, ran: 12 * time.Second},
		"goes on":        {code: 137, ran: 30 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.start()
				lease := w.running("one")
				box := w.runtime.box(lease)
				box.mu.Lock()
				box.busy = true
				box.mu.Unlock()
				w.broker.set(func(b *fakeBroker) { b.notice = 30 * time.Second })
				heard := ""
				for range 60 {
					time.Sleep(time.Second)
					synctest.Wait()
					if _, heard, _ = box.state(); heard != "" {
						break
					}
				}
				if heard != displaced {
					t.Fatalf("it heard %q", heard)
				}
				from := w.agent.workload(lease).used()
				if c.ends > 0 {
					time.Sleep(c.ends)
					box.finish(provider.Exit{Code: c.code})
				}
				time.Sleep(time.Minute)
				synctest.Wait()
				r := w.broker.last()
				if ran := r.Used - from; r.Phase != broker.PhaseExited || r.ExitCode != c.code || r.Message != displaced ||
					ran < c.ran-2*time.Second || ran > c.ran+2*time.Second {
					t.Errorf("it ran %v, last report: %+v", ran, r)
				}
				w.mustStop()
			})
		})
	}
}

// What a host takes of an interruptible job is what its owner asks, and what its customer signed.
func TestBids(t *testing.T) {
	for name, c := range map[string]struct {
		pays, bid pricing.Rate // of 400 that the GPU costs on-demand
		want      string       // empty: it is taken
	}{
		"as little as possible": {pays: 100, bid: 200},
		"the bid":               {pays: 200, bid: 200},
		"above the bid":         {pays: 201, bid: 200, want: "above the customer's bid"},
		"too little":            {pays: 99, bid: 200, want: "at least"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.config.MinBid = rate * 100 / 400
				w.start()
				spec := w.spec()
				spec.Bid = rate * c.bid / 400
				h := w.holdOf("one", spec)
				h.Rate = rate * c.pays / 400
				a := w.ask(h)
				if c.want == "" != (a.Grant != nil) || !strings.Contains(a.Refusal, c.want) {
					t.Errorf("got %+v", a)
				}
				w.mustStop()
			})
		})
	}
}
