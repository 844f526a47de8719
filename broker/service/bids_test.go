package service_test

import (
	"errors"
	"testing"
	"time"

	"rialto/broker"
	"rialto/broker/wire"
	"rialto/p2p/identity"
	"rialto/pricing"
)

// TestChangedBid: a bid that waits is changed by its customer's signature alone, survives a restart, and goes to the host
// with the job.
func TestChangedBid(t *testing.T) {
	const cent = pricing.Rate(pricing.USD / 100)
	w := newWorld(t, memory())
	spec := w.spec()
	spec.MaxRate, spec.Bid, spec.MaxCost, spec.GoodUntil, spec.GPU.Model = 0, 20*cent, 0, spec.Created.Add(time.Hour), "RTX 4090"
	j, err := w.Submit(t.Context(), w.account, "k", w.seal(spec))
	if err != nil {
		t.Fatal(err)
	}
	change := func(by identity.Key, c broker.BidChange) error {
		t.Helper()
		envelope, err := wire.SealBidChange(by, c)
		if err != nil {
			t.Fatal(err)
		}
		_, err = w.ChangeBid(t.Context(), w.account, j.ID, envelope)
		return err
	}
	want := broker.BidChange{Customer: spec.Customer, Broker: spec.Broker, Nonce: spec.Nonce, Bid: 30 * cent, Created: spec.Created.Add(time.Second)}
	if err := change(w.customer, want); err != nil {
		t.Fatal(err)
	}
	if err := change(w.customer, want); err != nil {
		t.Errorf("the same again: %v", err)
	}
	other := newKey(t)
	forged := want
	forged.Customer, forged.Bid, forged.Created = broker.PeerID(other.ID()), 40*cent, spec.Created.Add(time.Minute)
	if err := change(other, forged); !errors.Is(err, broker.ErrConflict) {
		t.Errorf("signed by another: %v, want ErrConflict", err)
	}
	if _, err := w.ChangeBid(t.Context(), w.account, j.ID, w.seal(spec)); !errors.Is(err, broker.ErrInvalid) {
		t.Errorf("a spec instead of a change: %v, want ErrInvalid", err)
	}
	envelope, err := wire.SealBidChange(w.customer, want)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.ChangeBid(t.Context(), "a-other", j.ID, envelope); !errors.Is(err, broker.ErrNotFound) {
		t.Errorf("of another account: %v, want ErrNotFound", err)
	}

	w.stop()
	w.start()
	got, err := w.Job(t.Context(), w.account, j.ID)
	if err != nil || got.Spec.Bid != 30*cent || got.Hold != 30*pricing.USD/100 {
		t.Errorf("after a restart it bids %v and holds %v: %v", got.Spec.Bid, got.Hold, err)
	}
	a := newAgent(t, w)
	a.offer(func(o *broker.Offer) { o.MinBid = 25 * cent })
	hold := next(t, "hold", a.holds)
	told, signer, err := wire.OpenBidChange(hold.Bid)
	if err != nil || signer != spec.Customer || told != want || hold.Rate != 25*cent {
		t.Errorf("the host is told %+v by %s: %v; it gets %v", told, signer, err, hold.Rate)
	}

	// Prices know how long it waited with each of its bids.
	cell := pricing.Cell{Model: "RTX 4090", Term: pricing.Interruptible, Region: pricing.AnyRegion, Tier: pricing.TierSimulated}
	var waits []pricing.SpotWait
	w.eventually("its waits are shown", func() bool {
		board, err := w.Prices(t.Context())
		if err != nil {
			return false
		}
		row, err := board.Row(cell)
		if err == nil {
			waits = row.Waits
		}
		return len(waits) == 2
	})
	first, second := waits[0], waits[1]
	if first.Bid != 20*cent || first.Served || second.Bid != 30*cent || !second.Served || second.Began != first.Ended || second.Ended < second.Began {
		t.Errorf("it waited %+v", waits)
	}
}
