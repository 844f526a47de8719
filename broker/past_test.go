package broker_test

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"rialto/broker"
	"rialto/broker/markettest"
	"rialto/pricing"
)

// TestTheForgottenIsAnsweredAsBefore ends a job, has the market forget it, and goes on about it.
func TestTheForgottenIsAnsweredAsBefore(t *testing.T) {
	w, err := markettest.NewWorld(broker.MarketConfig{})
	if err != nil {
		t.Fatal(err)
	}
	step := func(ev broker.Event) []broker.Effect {
		t.Helper()
		effects, err := w.Step(ev)
		if err != nil {
			t.Fatalf("%T: %v", ev, err)
		}
		return effects
	}
	if err := w.Open("ann", pricing.USD); err != nil {
		t.Fatal(err)
	}
	o := markettest.Offer("alpha", "RTX 4090", 1, 400_000_000)
	step(broker.OffersPosted{Provider: "alpha", Set: broker.OfferSet{Boot: "b", Seq: 1, Offers: []broker.Offer{o}}})
	submitted := broker.Submitted{Job: "j1", Account: "ann", Spec: markettest.Spec("ann", "n")}
	step(submitted)
	l := w.Leases[w.Jobs["j1"].Lease]
	gpus := []broker.GPULease{{UUID: "GPU-alpha-0", Epoch: 1}}
	grant := markettest.Grant(l, gpus...)
	step(grant)
	exited := broker.Reported{Provider: "alpha", Report: broker.Report{Lease: l.ID, GPUs: gpus, Seq: 1, Phase: broker.PhaseExited}}
	step(exited)
	if _, kept := w.Market.Job("j1"); !kept {
		t.Fatal("the job is forgotten before its receipt is signed")
	}
	receipt := broker.ReceiptSigned{Lease: l.ID, Envelope: []byte("receipt")}
	step(receipt)
	if _, kept := w.Market.Job("j1"); kept {
		t.Fatal("the job is over and not forgotten")
	}
	if _, kept := w.Market.Lease(l.ID); kept {
		t.Fatal("the lease is over and not forgotten")
	}
	if n := len(w.Endings); n != 1 || w.Endings[0].Lease != l.ID || w.Endings[0].Job != broker.JobDone || !w.Endings[0].At.Equal(w.Now) {
		t.Errorf("endings: %+v", w.Endings)
	}

	late := broker.Event(broker.Reported{Provider: "mallory", Report: broker.Report{Lease: l.ID, GPUs: gpus, Seq: 2, Phase: broker.PhaseExited}})
	again := submitted
	again.Job = "j2"
	for _, c := range []struct {
		ev   broker.Event
		want error // nil: accepted
		text string
	}{
		{ev: submitted, want: broker.ErrConflict, text: "the id is taken"},
		{ev: again, want: broker.ErrConflict, text: "the same spec is job j1"},
		{ev: broker.CancelRequested{Job: "j1"}, want: broker.ErrJobTerminal},
		{ev: broker.QuoteAccepted{Job: "j1"}, want: broker.ErrConflict, text: "not a quote"},
		{ev: broker.Deposited{Account: "ann", Amount: pricing.USD, Ref: "first of ann"}},
		{ev: broker.Deposited{Account: "ann", Amount: 2, Ref: "first of ann"}, want: broker.ErrConflict, text: "it was $1.00"},
		{ev: broker.ConfirmAnswered{Lease: l.ID}},
		{ev: broker.ReleaseAnswered{Lease: l.ID}},
		{ev: receipt},
		{ev: late, want: broker.ErrForbidden},
		{ev: broker.CancelRequested{Job: "nobody's"}, want: broker.ErrNotFound},
	} {
		effects, err := w.Step(c.ev)
		if !errors.Is(err, c.want) || err != nil && !strings.Contains(err.Error(), c.text) || len(effects) != 0 {
			t.Errorf("%+v: got %v, %v; want %v %s", c.ev, effects, err, c.want, c.text)
		}
	}
	w.Now = w.Now.Add(time.Hour)
	if got, want := step(exited), []broker.Effect{broker.SendRenewal{Renewal: broker.Renewal{Lease: l.ID, Seq: 1}}}; !reflect.DeepEqual(got, want) {
		t.Errorf("a report that is sent again: %+v, want %+v", got, want)
	}
	if got, ok := step(grant)[0].(broker.SendRelease); !ok || got.Release.Lease != l.ID {
		t.Errorf("a grant that comes late: %+v, want a release", got)
	}
	if _, err := w.Market.Step(w.Now, broker.CancelRequested{Job: "j1"}); !errors.Is(err, broker.ErrNotFound) {
		t.Errorf("a forgotten job that nobody recalls: %v", err)
	}
}

// TestSlotsAreUsedAgain opens and ends jobs: there are never more slots than jobs were open at a time.
func TestSlotsAreUsedAgain(t *testing.T) {
	w, err := markettest.NewWorld(broker.MarketConfig{})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Open("ann", 100*pricing.USD); err != nil {
		t.Fatal(err)
	}
	o := markettest.Offer("alpha", "RTX 4090", 1, 1)
	connect := func() {
		t.Helper()
		if _, err := w.Step(broker.OffersPosted{Provider: "alpha", Set: broker.OfferSet{Boot: "b", Seq: 1, Offers: []broker.Offer{o}}}); err != nil {
			t.Fatal(err)
		}
	}
	connect()
	submit := func(id broker.JobID) int {
		t.Helper()
		effects, err := w.Step(broker.Submitted{Job: id, Account: "ann", Spec: markettest.Spec("ann", string(id))})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range effects {
			if d, ok := e.(broker.SaveDerived); ok {
				if s, ok := d.Derived.(broker.Slot); ok && s.Job == id && !s.Closed {
					return s.Number
				}
			}
		}
		t.Fatalf("%s got no slot: %+v", id, effects)
		return 0
	}
	// The first asks the only host; the others wait, and end as soon as they are cancelled.
	for i, id := range []broker.JobID{"a", "b", "c"} {
		if got := submit(id); got != i {
			t.Errorf("%s is in slot %d, want %d", id, got, i)
		}
	}
	for _, id := range []broker.JobID{"b", "a"} {
		if _, err := w.Step(broker.CancelRequested{Job: id}); err != nil {
			t.Fatal(err)
		}
	}
	if got := submit("d"); got != 1 {
		t.Errorf("d is in slot %d, want 1: that of a is taken until its host has let go", got)
	}
	if err := w.Restart(); err != nil {
		t.Fatal(err)
	}
	connect()
	if got := submit("e"); got != 3 {
		t.Errorf("e is in slot %d, want 3", got)
	}
}
