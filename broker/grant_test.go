package broker_test

import (
	"strings"
	"testing"

	"rialto/broker"
	"rialto/broker/markettest"
	"rialto/pricing"
	"rialto/tunnel"
)

// TestFlawedGrants spoils a good grant in every way: the lease is released and the job goes on.
func TestFlawedGrants(t *testing.T) {
	for want, spoil := range map[string]func(*broker.HoldAnswered){
		"another lease":     func(a *broker.HoldAnswered) { a.Answer.Grant.Job = "j9" },
		"2 GPUs, want 1":    func(a *broker.HoldAnswered) { g := a.Answer.Grant; g.GPUs = append(g.GPUs, g.GPUs...) },
		"no tunnel key":     func(a *broker.HoldAnswered) { a.Answer.Grant.TunnelKey = tunnel.Key{} },
		"not host:port":     func(a *broker.HoldAnswered) { a.Answer.Grant.Endpoints = []string{"192.0.2.1"} },
		"too many endpoint": func(a *broker.HoldAnswered) { a.Answer.Grant.Endpoints = make([]string, 17) },
		"not in the offer":  func(a *broker.HoldAnswered) { a.Answer.Grant.GPUs[0].UUID = "GPU-alpha-7" },
		"stale epoch":       func(a *broker.HoldAnswered) { a.Answer.Grant.GPUs[0].Epoch = 0 },
	} {
		w, err := markettest.NewWorld(broker.MarketConfig{})
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Open("ann", pricing.USD); err != nil {
			t.Fatal(err)
		}
		step := func(ev broker.Event) {
			if _, err := w.Step(ev); err != nil {
				t.Fatal(err)
			}
		}
		o := markettest.Offer("alpha", "RTX 4090", 2, 400_000_000)
		step(broker.OffersPosted{Provider: "alpha", Set: broker.OfferSet{Boot: "b", Seq: 1, Offers: []broker.Offer{o}}})
		step(broker.Submitted{Job: "j1", Account: "ann", Spec: markettest.Spec("ann", "n")})
		l := w.Leases[w.Jobs["j1"].Lease]
		a := markettest.Grant(l, broker.GPULease{UUID: "GPU-alpha-0", Epoch: 1})
		spoil(&a)
		step(a)
		j := w.Jobs["j1"]
		if said := j.Log[len(j.Log)-2].Text; j.State != broker.JobQueued || !strings.Contains(said, want) {
			t.Errorf("%s: job is %v: %s", want, j.State, said)
		}
		if state := w.Leases[l.ID].State; state != broker.LeaseEnding {
			t.Errorf("%s: lease state %d, want ending", want, state)
		}
	}
}

func TestAccessors(t *testing.T) {
	w, err := markettest.NewWorld(broker.MarketConfig{})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Open("ann", pricing.USD); err != nil {
		t.Fatal(err)
	}
	if a, ok := w.Market.AccountOf("ann"); !ok || a.ID != "ann" {
		t.Errorf("account of ann's key: %+v, %v", a, ok)
	}
	if a, ok := w.Market.AccountOf("nobody"); ok {
		t.Errorf("account of nobody's key: %+v", a)
	}
	for _, refused := range []broker.Event{
		nil,
		broker.AccountOpened{Account: "ann", Name: "again"},
		broker.AccountOpened{Account: "", Name: "none"},
		broker.KeyBound{Account: "ann", Key: "other"},
		broker.KeyBound{Account: "bob", Key: "other"},
		broker.KeyBound{Account: "ann"},
		broker.HoldAnswered{Lease: "l-none"},
		broker.ConfirmAnswered{Lease: "l-none"},
		broker.ReleaseAnswered{Lease: "l-none"},
		broker.ReceiptSigned{Lease: "l-none"},
	} {
		if effects, err := w.Step(refused); !markettest.Refused(err) || effects != nil {
			t.Errorf("%+v: got %v, %v", refused, effects, err)
		}
	}
	o := markettest.Offer("alpha", "RTX 4090", 2, 400_000_000)
	if _, err := w.Step(broker.OffersPosted{Provider: "alpha", Set: broker.OfferSet{Boot: "b", Offers: []broker.Offer{o}}}); err != nil {
		t.Fatal(err)
	}
	for _, id := range []broker.JobID{"j2", "j1"} {
		if _, err := w.Step(broker.Submitted{Job: id, Account: "ann", Spec: markettest.Spec("ann", string(id))}); err != nil {
			t.Fatal(err)
		}
	}
}
