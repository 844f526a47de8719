package service_test

import (
	"errors"
	"testing"

	"rialto/broker"
	"rialto/pricing"
)

// TestAskTariff prices disk and traffic at the broker: each part of what the agent asks is a floor, and what is asked here is
// what holds and leases say.
func TestAskTariff(t *testing.T) {
	w := newWorld(t, memory())
	ctx := t.Context()
	p := newAgent(t, w)
	agents := broker.Tariff{Disk: 200_000, Egress: 5_000_000}
	offer := func() { p.offer(func(o *broker.Offer) { o.Tariff = agents }) }
	offer()
	expect := func(when string, want broker.Tariff) {
		t.Helper()
		found, err := w.Search(ctx, broker.Query{GPU: broker.GPURequest{Model: broker.AnyModel, Count: 1}})
		if err != nil || len(found.Matches) != 1 {
			t.Fatalf("%s: %d offers, %v", when, len(found.Matches), err)
		}
		if got := found.Matches[0].Offer.Tariff; got != want {
			t.Errorf("%s: %+v, want %+v", when, got, want)
		}
	}
	ask := func(k broker.OwnerAsk) {
		t.Helper()
		if err := w.SetAsk(ctx, p.id(), k); err != nil {
			t.Fatal(err)
		}
	}
	expect("at first", agents)
	ask(broker.OwnerAsk{Tariff: broker.Tariff{Disk: 100_000, Ingress: 3_000_000, Egress: 9_000_000}})
	raised := broker.Tariff{Disk: 200_000, Ingress: 3_000_000, Egress: 9_000_000}
	expect("asked", raised)
	offer()
	expect("asked, and posted again", raised)

	j := w.submit("priced")
	if h := next(t, "hold", p.holds); h.Tariff != raised || h.Rate != pricing.Rate(pricing.USD)/2 {
		t.Errorf("the host was asked at %v with %+v", h.Rate, h.Tariff)
	}
	if l, err := w.Lease(ctx, w.account, j.ID); err != nil || l.Tariff != raised {
		t.Errorf("lease at %+v, %v", l.Tariff, err)
	}
	if set, k, err := w.Host(ctx, p.id()); err != nil || set.Offers[0].Tariff != agents || k.Tariff.Disk != 100_000 {
		t.Errorf("host: %+v, %+v, %v; want what each asks apart", set.Offers, k, err)
	}

	for field, k := range map[string]broker.OwnerAsk{
		"tariff.disk":    {Tariff: broker.Tariff{Disk: -1}},
		"tariff.ingress": {Tariff: broker.Tariff{Ingress: 11 * pricing.USD}},
		"tariff.egress":  {Tariff: broker.Tariff{Egress: -1}},
	} {
		f, ok := errors.AsType[*broker.FieldError](w.SetAsk(ctx, p.id(), k))
		if !ok || f.Field != field {
			t.Errorf("%+v: %v, want a word about %s", k, f, field)
		}
	}
	w.stop()
	w.start()
	offer()
	if _, k, err := w.Host(ctx, p.id()); err != nil || k.Tariff.Egress != 9_000_000 {
		t.Errorf("after a restart: %+v, %v", k, err)
	}
}
