package agent

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"rialto/broker"
)

// quote is a hold for a firm quote of 15 s, as a broker asks for it.
func (w *world) quote(name string) broker.Hold {
	spec := w.spec()
	spec.Firm = 15 * time.Second
	h := w.holdOf(name, spec)
	h.TTL += spec.Firm
	return h
}

// A host that quotes signs its price and how long it stands by it, keeps the GPUs for so long, and fetches nothing before
// the quote is accepted.
func TestQuoteWaitsForItsCustomer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start()
		h := w.quote("one")
		a := w.ask(h)
		if a.Grant == nil || a.Grant.Rate != rate || a.Grant.Firm != 15*time.Second {
			t.Fatalf("%+v: %+v", a, a.Grant)
		}
		time.Sleep(15 * time.Second)
		w.settle()
		if got := w.broker.free(); !slices.Equal(got, []string{"SIM-2"}) {
			t.Errorf("offered %v while SIM-1 is quoted", got)
		}
		if w.images.asked() != 0 || w.broker.taken() != 0 {
			t.Errorf("%d images fetched, %d reports before the quote was accepted", w.images.asked(), w.broker.taken())
		}
		if err := w.confirm(h.Lease); err != nil {
			t.Fatal(err)
		}
		w.settle()
		r := w.broker.last()
		if r.Phase != broker.PhaseReady || w.images.asked() != 1 {
			t.Errorf("after acceptance: %d images fetched, report %+v", w.images.asked(), r)
		}
		for _, s := range r.Steps {
			if s.Start > time.Second {
				t.Errorf("the customer's thinking counts as start-up: %+v", s)
			}
		}
		w.release(h.Lease, "enough")
		w.mustStop()
	})
}

// A quote that nobody accepts lapses by itself, also when its broker is gone; nothing of it is left.
func TestQuoteLapses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start()
		h := w.quote("one")
		if a := w.ask(h); a.Grant == nil {
			t.Fatal(a.Refusal)
		}
		time.Sleep(h.TTL + time.Second)
		w.settle()
		if got := w.broker.free(); !slices.Equal(got, []string{"SIM-1", "SIM-2"}) || len(w.runtime.list()) != 0 || w.images.asked() != 0 {
			t.Errorf("offered %v, sandboxes %v, %d images fetched", got, w.runtime.list(), w.images.asked())
		}
		if err := w.confirm(h.Lease); err == nil {
			t.Error("a quote was accepted after it had lapsed")
		}
		w.mustStop()
	})
}

// A quote survives its agent: the next one knows that it is a quote and starts it when it is accepted.
func TestQuoteOutlivesTheAgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start()
		h := w.quote("one")
		first := w.ask(h)
		if first.Grant == nil {
			t.Fatal(first.Refusal)
		}
		w.mustStop()
		w.start()
		if again := w.ask(h); again.Grant == nil || again.Grant.TunnelKey != first.Grant.TunnelKey || again.Grant.Firm != first.Grant.Firm {
			t.Errorf("the next agent answers %+v", again)
		}
		if w.images.asked() != 0 {
			t.Errorf("%d images fetched before the quote was accepted", w.images.asked())
		}
		if err := w.confirm(h.Lease); err != nil {
			t.Fatal(err)
		}
		w.settle()
		if r := w.broker.last(); r.Phase != broker.PhaseReady {
			t.Errorf("report %+v", r)
		}
		w.release(h.Lease, "enough")
		w.mustStop()
	})
}

// Quotes are bounded by GPUs, not by the holds that prepare at once. A hold that ends before its quote is none.
func TestQuotesAreNotHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.config.MaxHolds = 1
		w.start()
		short := w.quote("short")
		short.TTL = 14 * time.Second
		if a := w.ask(short); !strings.Contains(a.Refusal, "the quote is to last 15s") {
			t.Errorf("%+v", a)
		}
		if a := w.ask(w.quote("one")); a.Grant == nil {
			t.Error(a.Refusal)
		}
		if a := w.ask(w.holdOf("two", w.spec())); a.Grant == nil {
			t.Error("a quote takes the place of a hold: " + a.Refusal)
		}
		w.mustStop()
	})
}

// asked counts the images that were asked for so far.
func (f *fakeImages) asked() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.wants)
}
