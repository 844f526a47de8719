package agent

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"rialto/broker"
	"rialto/pricing"
)

// A host keeps its reserved price for who commits to enough, whatever its broker says, and takes no commitment that the
// signed budget does not pay.
func TestReservedPrice(t *testing.T) {
	const reserved = rate / 2
	for name, c := range map[string]struct {
		rate    pricing.Rate // of the hold
		reserve time.Duration
		budget  time.Duration // that it buys at the reserved rate
		where   string
		refusal string // "": granted
	}{
		"enough":                   {reserved, 20 * time.Minute, 20 * time.Minute, "", ""},
		"the owner asks more":      {reserved + 1, 20 * time.Minute, 30 * time.Minute, "", ""},
		"too short":                {reserved, 20*time.Minute - 1, time.Hour, "", "the price is $0.40/h, not $0.20/h"},
		"no commitment":            {reserved, 0, time.Hour, "", "the price is $0.40/h, not $0.20/h"},
		"too cheap":                {reserved - 1, 20 * time.Minute, time.Hour, "", "the price is $0.20/h"},
		"too poor":                 {reserved, 20 * time.Minute, 20*time.Minute - time.Second, "", "does not pay the 20m0s that its customer commits to"},
		"its query's price":        {reserved, 20 * time.Minute, time.Hour, "price<=0.20/h reserved_price=0.20/h reserved_min_h<=1h", ""},
		"its query without a term": {rate, 0, time.Hour, "price<=0.20/h", "does not satisfy the job's price<=0.20/h"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.config.ReservedRate, w.config.ReservedMin = reserved, 20*time.Minute
				w.start()
				spec := w.spec()
				spec.Reserve, spec.Where = c.reserve, c.where
				var err error
				if spec.MaxCost, err = reserved.Cost(c.budget); err != nil {
					t.Fatal(err)
				}
				h := w.holdOf("one", spec)
				h.Rate = c.rate
				a := w.ask(h)
				if granted := a.Grant != nil; granted != (c.refusal == "") || !strings.Contains(a.Refusal, c.refusal) {
					t.Fatalf("got %+v, want %q", a, c.refusal)
				}
				if o := w.agent.offerSet(t.Context()); o.Offers[0].ReservedRate != reserved || o.Offers[0].ReservedMin != 20*time.Minute {
					t.Errorf("offered: %+v", o.Offers[0])
				}
				w.mustStop()
			})
		})
	}
}

// A reserved workload is bounded by what its customer signed, the term included.
func TestReservedBudgetBoundsTheJob(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.config.ReservedRate, w.config.ReservedMin = rate/2, time.Minute
		w.start()
		w.broker.set(func(b *fakeBroker) { b.ttl = time.Hour })
		spec := w.spec()
		spec.Reserve = 20 * time.Minute
		var err error
		if spec.MaxCost, err = (rate / 2).Cost(20 * time.Minute); err != nil {
			t.Fatal(err)
		}
		h := w.holdOf("one", spec)
		h.Rate = rate / 2
		if a := w.ask(h); a.Grant == nil {
			t.Fatal(a.Refusal)
		}
		if err := w.confirmFor(h.Lease, time.Hour, 24*time.Hour); err != nil {
			t.Fatal(err)
		}
		w.settle()
		if got := w.runtime.box(h.Lease).watch(); got > 20*time.Minute+time.Millisecond || got < 20*time.Minute-time.Second {
			t.Errorf("the watchdog ends the workload after %v, the budget buys 20m", got)
		}
		w.mustStop()
	})
}

// What no broker would list is not offered.
func TestReservedPriceIsLower(t *testing.T) {
	for _, c := range []struct {
		rate pricing.Rate
		term time.Duration
	}{{rate, time.Hour}, {rate / 2, 0}, {-1, time.Hour}, {rate / 2, broker.MaxTerm + 1}} {
		w := newWorld(t)
		w.config.Network, w.config.ReservedRate, w.config.ReservedMin = &fakeNet{}, c.rate, c.term
		if _, err := New(w.config); err == nil || !strings.Contains(err.Error(), "reserved price") {
			t.Errorf("%v from %v: %v", c.rate, c.term, err)
		}
	}
}
