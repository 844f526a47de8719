package agent

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"rialto/broker"
	"rialto/broker/wire"
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

// One that says so hears by a file, and gets SIGTERM shortly before its end; the others do at once. All have the file.
func TestDisplacedWorkloadFindsAFile(t *testing.T) {
	for name, c := range map[string]struct {
		env   map[string]string
		hears time.Duration // after the file
		ends  time.Duration // by itself after the file; zero: never
	}{
		"by default":             {hears: 0},
		"by the file":            {env: map[string]string{noticeWish: "file"}, hears: 20 * time.Second},
		"by the file, and ends":  {env: map[string]string{noticeWish: "file"}, ends: 5 * time.Second},
		"by what is not offered": {env: map[string]string{noticeWish: "mail"}, hears: 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.config.MinBid = rate / 2
				w.start()
				spec := w.spec()
				spec.Bid, spec.Env = rate, c.env
				h := w.holdOf("one", spec)
				if a := w.ask(h); a.Grant == nil {
					t.Fatal(a.Refusal)
				}
				if err := w.confirm(h.Lease); err != nil {
					t.Fatal(err)
				}
				w.settle()
				box := w.runtime.box(h.Lease)
				box.mu.Lock()
				box.busy = true
				if !box.program.Notices {
					t.Error("it has no folder for notices")
				}
				box.mu.Unlock()
				w.broker.set(func(b *fakeBroker) { b.notice = 30 * time.Second })
				var found time.Time
				text := ""
				for range 60 {
					time.Sleep(time.Second)
					synctest.Wait()
					box.mu.Lock()
					text = box.notices[noticeFile]
					box.mu.Unlock()
					if text != "" {
						found = time.Now()
						break
					}
				}
				if want := fmt.Sprintf("30 %s\n", found.Add(30*time.Second).UTC().Format(time.RFC3339)); text != want {
					t.Fatalf("the file says %q, want %q", text, want)
				}
				if c.ends > 0 {
					time.Sleep(c.ends)
					box.finish(provider.Exit{Code: 3})
				}
				time.Sleep(time.Minute)
				synctest.Wait()
				r := w.broker.last()
				box.mu.Lock()
				heard := box.asked.Sub(found)
				box.mu.Unlock()
				switch {
				case r.Phase != broker.PhaseExited || r.Message != displaced:
					t.Errorf("last report: %+v", r)
				case c.ends > 0 && r.ExitCode != 3, c.ends == 0 && r.ExitCode != 137:
					t.Errorf("it ended with %d", r.ExitCode)
				case c.ends == 0 && (heard < c.hears-time.Second || heard > c.hears+time.Second):
					t.Errorf("it was asked to stop %v after the file, want %v", heard, c.hears)
				}
				w.mustStop()
			})
		})
	}
}

// change is a customer's new bid for the job of a spec, as it is unless something of it is changed.
func (w *world) change(spec broker.JobSpec, f func(*broker.BidChange)) []byte {
	w.t.Helper()
	c := broker.BidChange{
		Customer: spec.Customer, Broker: spec.Broker, Nonce: spec.Nonce, Bid: spec.Bid, MaxCost: spec.MaxCost, Created: spec.Created.Add(time.Second),
	}
	f(&c)
	key := w.customer
	if c.Customer != spec.Customer {
		key = w.broker.key
	}
	envelope, err := wire.SealBidChange(key, c)
	if err != nil {
		w.t.Fatal(err)
	}
	return envelope
}

// A bid that was changed counts instead of the spec's, if the same customer signed it for this job.
func TestChangedBids(t *testing.T) {
	bid := func(r pricing.Rate) func(*broker.BidChange) { return func(c *broker.BidChange) { c.Bid = r } }
	for name, c := range map[string]struct {
		change   func(*broker.BidChange)
		onDemand bool
		want     string // empty: it is taken at 300, for a spec that bids 200
	}{
		"raised":           {change: bid(rate * 300 / 400)},
		"raised too low":   {change: bid(rate * 299 / 400), want: "above the customer's bid"},
		"of another job":   {change: func(c *broker.BidChange) { c.Bid, c.Nonce = rate, "another" }, want: "for another job"},
		"at another's":     {change: func(c *broker.BidChange) { c.Bid, c.Broker = rate, c.Customer }, want: "for another job"},
		"by another":       {change: func(c *broker.BidChange) { c.Bid, c.Customer = rate, c.Broker }, want: "for another job"},
		"before the job":   {change: func(c *broker.BidChange) { c.Bid, c.Created = rate, c.Created.Add(-time.Hour) }, want: "was signed at"},
		"of one on demand": {change: bid(rate), onDemand: true, want: "does not bid"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.config.MinBid = rate * 100 / 400
				w.start()
				spec := w.spec()
				if spec.Bid = rate * 200 / 400; c.onDemand {
					spec.Bid = 0
				}
				h := w.holdOf("one", spec)
				h.Rate, h.Bid = rate*300/400, w.change(spec, c.change)
				a := w.ask(h)
				if c.want == "" != (a.Grant != nil) || !strings.Contains(a.Refusal, c.want) {
					t.Errorf("got %+v", a)
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
