package agent

import (
	"testing"
	"testing/synctest"
	"time"

	"rialto/broker"
	"rialto/provider"
)

// What a customer signed bounds how long a job runs, whatever its broker confirms, and also while nobody hears of that
// broker any more, and under a next agent.
func TestBudgetEndsTheJobWithoutItsBroker(t *testing.T) {
	const buys = 10 * time.Minute // of the budget, at the hold's rate
	for name, how := range map[string]struct{ restart, changed bool }{
		"same agent": {}, "next agent": {restart: true}, "changed with the bid": {changed: true}, "changed, next agent": {restart: true, changed: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.config.MinBid = rate / 2
				w.start()
				w.broker.set(func(b *fakeBroker) { b.ttl = time.Hour })
				spec := w.spec()
				cost, err := rate.Cost(buys)
				if err != nil {
					t.Fatal(err)
				}
				spec.MaxCost = cost
				h := w.holdOf("one", spec)
				if how.changed {
					spec.MaxCost, spec.Bid = cost/2, 2*rate
					h = w.holdOf("one", spec)
					h.Bid = w.change(spec, func(c *broker.BidChange) { c.MaxCost = cost })
				}
				if a := w.ask(h); a.Grant == nil {
					t.Fatal(a.Refusal)
				}
				if how.restart {
					w.mustStop()
					w.start()
				}
				// A broker that lies: it confirms what the budget does not pay.
				if err := w.confirmFor(h.Lease, time.Hour, 24*time.Hour); err != nil {
					t.Fatal(err)
				}
				w.settle()
				box := w.runtime.box(h.Lease)
				if got := box.watch(); got > buys+time.Millisecond || got < buys-time.Second {
					t.Fatalf("the watchdog ends the workload after %v, the budget buys %v", got, buys)
				}
				time.Sleep(5 * time.Minute)
				synctest.Wait()
				w.broker.set(func(b *fakeBroker) { b.down = true })
				time.Sleep(box.watch() - 5*time.Minute)
				box.finish(provider.Exit{Code: 143, Reason: "deadline"}) // as the sandbox's own watchdog does
				w.broker.set(func(b *fakeBroker) { b.down = false })
				time.Sleep(time.Minute)
				synctest.Wait()
				r := w.broker.last()
				if r.Phase != broker.PhaseExited || r.Used > buys+2*time.Second || r.Message != "the job's maximum duration is over" {
					t.Errorf("last report: %+v", r)
				}
				w.mustStop()
			})
		})
	}
}
