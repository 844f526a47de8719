package service_test

import (
	"errors"
	"strings"
	"testing"

	"rialto/broker"
	"rialto/broker/service"
	"rialto/broker/wire"
	"rialto/pricing"
)

// TestCustody opens an account whose key the broker holds, runs a job on it, and finds the same key after a restart.
func TestCustody(t *testing.T) {
	w := newWorld(t, memory())
	ctx := t.Context()
	deposit := 5 * pricing.USD
	a, token, err := w.OpenCustodial(ctx, "vera", &deposit)
	if err != nil || !a.Custodial || a.Key == "" {
		t.Fatalf("open: %+v, %v; want a custodial account with a key", a, err)
	}
	key, err := w.Custody(ctx, a.ID)
	if err != nil || broker.PeerID(key.ID()) != a.Key {
		t.Fatalf("custody: %s, %v; want %s", key.ID(), err, a.Key)
	}
	if _, err := w.Custody(ctx, w.account); !errors.Is(err, broker.ErrForbidden) || !strings.Contains(err.Error(), "signs its jobs itself") {
		t.Errorf("custody of an ordinary account: %v, want %v and why", err, broker.ErrForbidden)
	}
	if _, err := w.BindKey(ctx, a.ID, broker.PeerID(newKey(t).ID())); !errors.Is(err, broker.ErrConflict) {
		t.Errorf("another key for a custodial account: %v, want %v", err, broker.ErrConflict)
	}
	spec := w.spec()
	spec.Customer = a.Key
	envelope, err := wire.SealJobSpec(key, spec)
	if err != nil {
		t.Fatal(err)
	}
	newAgent(t, w).offer()
	j, err := w.SubmitTagged(ctx, a.ID, "once", envelope, []byte("first"))
	if err != nil {
		t.Fatalf("submit: %v", err)
	}
	if tag, err := w.Tag(ctx, a.ID, j.ID); err != nil || string(tag) != "first" {
		t.Errorf("tag %q, %v; want first", tag, err)
	}
	if _, err := w.Tag(ctx, w.account, j.ID); !errors.Is(err, broker.ErrNotFound) {
		t.Errorf("tag of another's job: %v, want %v", err, broker.ErrNotFound)
	}
	if err := w.SetTag(ctx, w.account, j.ID, []byte("x")); !errors.Is(err, broker.ErrNotFound) {
		t.Errorf("set tag of another's job: %v, want %v", err, broker.ErrNotFound)
	}
	if err := w.SetTag(ctx, a.ID, j.ID, make([]byte, service.MaxTag+1)); !errors.Is(err, broker.ErrInvalid) {
		t.Errorf("long tag: %v, want %v", err, broker.ErrInvalid)
	}
	if err := w.SetTag(ctx, a.ID, j.ID, []byte("second")); err != nil {
		t.Errorf("set tag: %v", err)
	}

	w.stop()
	w.start()
	if id, err := w.Authenticate(token); err != nil || id != a.ID {
		t.Errorf("after a restart: the token is of %q, %v", id, err)
	}
	if again, err := w.Custody(ctx, a.ID); err != nil || again.ID() != key.ID() {
		t.Errorf("after a restart: custody %s, %v; want %s", again.ID(), err, key.ID())
	}
	if tag, err := w.Tag(ctx, a.ID, j.ID); err != nil || string(tag) != "second" {
		t.Errorf("after a restart: tag %q, %v; want second", tag, err)
	}
	w.key = newKey(t)
	w.stop()
	w.start()
	if _, err := w.Custody(ctx, a.ID); !errors.Is(err, broker.ErrForbidden) {
		t.Errorf("under another broker's key: %v, want %v", err, broker.ErrForbidden)
	}
}

// TestAsk lists, unlists and prices a host at the broker; its agent's price is the floor.
func TestAsk(t *testing.T) {
	w := newWorld(t, memory())
	ctx := t.Context()
	p := newAgent(t, w)
	p.offer()
	id := p.id()
	rates := func() []pricing.Rate {
		t.Helper()
		found, err := w.Search(ctx, broker.Query{GPU: broker.GPURequest{Model: broker.AnyModel, Count: 1}})
		if err != nil {
			t.Fatal(err)
		}
		var out []pricing.Rate
		for _, m := range found.Matches {
			out = append(out, m.Offer.Rate)
		}
		return out
	}
	cents := pricing.Rate(pricing.USD) / 100
	expect := func(when string, want ...pricing.Rate) {
		t.Helper()
		if got := rates(); len(got) != len(want) || len(got) == 1 && got[0] != want[0] {
			t.Errorf("%s: rates %v, want %v", when, got, want)
		}
	}
	expect("at first", 50*cents)
	for _, step := range []struct {
		ask  broker.OwnerAsk
		want []pricing.Rate
	}{
		{broker.OwnerAsk{Rate: 55 * cents}, []pricing.Rate{55 * cents}},
		{broker.OwnerAsk{Rate: 10 * cents}, []pricing.Rate{50 * cents}},
		{broker.OwnerAsk{Rate: 55 * cents, Unlisted: true}, nil},
	} {
		if err := w.SetAsk(ctx, id, step.ask); err != nil {
			t.Fatal(err)
		}
		expect("asked", step.want...)
	}
	p.offer()
	expect("unlisted, and posted again")
	if set, ask, err := w.Host(ctx, id); err != nil || len(set.Offers) != 1 || !ask.Unlisted {
		t.Errorf("host: %d offers, %+v, %v", len(set.Offers), ask, err)
	}
	if err := w.SetAsk(ctx, id, broker.OwnerAsk{Rate: 55 * cents}); err != nil {
		t.Fatal(err)
	}
	expect("listed again", 55*cents)
	if err := w.SetAsk(ctx, id, broker.OwnerAsk{Rate: -1}); !errors.Is(err, broker.ErrInvalid) {
		t.Errorf("negative rate: %v, want %v", err, broker.ErrInvalid)
	}

	token, err := w.OwnerToken(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.OwnerToken(ctx, "nobody"); !errors.Is(err, broker.ErrInvalid) {
		t.Errorf("token for no peer id: %v, want %v", err, broker.ErrInvalid)
	}
	w.stop()
	w.start()
	if got, err := w.Authenticate(token); err != nil || string(got) != string(id) {
		t.Errorf("the owner's token is of %q, %v; want %s", got, err, id)
	}
	p.offer()
	expect("after a restart", 55*cents)
}
