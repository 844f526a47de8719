package broker

import (
	"errors"
	"strings"
	"testing"
	"time"
)

// TestBrokenMarketStops spoils a market from the inside: the step that touches the damage fails, and so
// does every step after it.
func TestBrokenMarketStops(t *testing.T) {
	for name, spoil := range map[string]func(*Market){
		"money from nowhere":  func(m *Market) { m.accounts["ann"].Held++ },
		"money below zero":    func(m *Market) { m.accounts["ann"].Available = -5 },
		"a hold without jobs": func(m *Market) { m.committed["ann"]++ },
	} {
		m, err := NewMarket(MarketConfig{Self: "broker"})
		if err != nil {
			t.Fatal(err)
		}
		now := time.Unix(0, 0)
		for _, ev := range []Event{AccountOpened{Account: "ann", Name: "ann"}, Deposited{Account: "ann", Amount: 1, Ref: "1"}} {
			if _, err := m.Step(now, ev); err != nil {
				t.Fatal(err)
			}
		}
		spoil(m)
		if m.Audit() == nil {
			t.Errorf("%s: the audit finds nothing", name)
		}
		for _, ev := range []Event{Deposited{Account: "ann", Amount: 1, Ref: "2"}, Ticked{}} {
			effects, err := m.Step(now, ev)
			if _, ok := errors.AsType[*InvariantError](err); !ok || effects != nil {
				t.Errorf("%s: %T: got %v, %v", name, ev, effects, err)
			}
		}
	}
}

// TestTransferIsChecked moves what cannot be moved.
func TestTransferIsChecked(t *testing.T) {
	for name, x := range map[string]Transfer{
		"more than there is": {From: BookAvailable, FromID: "ann", To: BookFee, Amount: 2},
		"negative":           {From: BookWorld, To: BookAvailable, ToID: "ann", Amount: -1},
		"no such account":    {From: BookWorld, To: BookAvailable, ToID: "bob", Amount: 1},
		"no such book":       {From: BookWorld, To: "pocket", ToID: "ann", Amount: 1},
		"out of range":       {From: BookWorld, To: BookAvailable, ToID: "ann", Amount: 1<<63 - 1},
	} {
		m, err := NewMarket(MarketConfig{Self: "broker"})
		if err != nil {
			t.Fatal(err)
		}
		m.accounts["ann"] = &Account{ID: "ann", Available: 1}
		turn := &turn{Market: m}
		turn.transfer(x)
		if m.fault == nil || len(turn.posts) > 0 {
			t.Errorf("%s: posted %v", name, turn.posts)
		}
	}
}

// TestTimeNeverRunsBackwards steps into the past.
func TestTimeNeverRunsBackwards(t *testing.T) {
	m, err := NewMarket(MarketConfig{Self: "broker"})
	if err != nil {
		t.Fatal(err)
	}
	late := time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)
	for _, now := range []time.Time{late, late.Add(-time.Hour)} {
		if _, err := m.Step(now, Ticked{}); err != nil || !m.clock.Equal(late) {
			t.Errorf("at %v: clock %v, %v", now, m.clock, err)
		}
	}
}

func TestMarketConfigIsChecked(t *testing.T) {
	for name, cfg := range map[string]MarketConfig{
		"no self":        {},
		"negative TTL":   {Self: "b", LeaseTTL: -1},
		"a fee of 200 %": {Self: "b", FeePPM: 2_000_000},
	} {
		if _, err := NewMarket(cfg); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// TestOpenJobsAreBounded fills an account with jobs that cost nothing.
func TestOpenJobsAreBounded(t *testing.T) {
	m, err := NewMarket(MarketConfig{Self: "broker"})
	if err != nil {
		t.Fatal(err)
	}
	m.accounts["ann"] = &Account{ID: "ann", Key: "ann"}
	m.open["ann"] = maxOpen
	spec := JobSpec{
		Image: "i", Digest: "sha256:" + strings.Repeat("0", 64), GPU: GPURequest{Model: AnyModel, Count: 1}, MaxDuration: time.Hour,
		TunnelKey: [32]byte{1}, Customer: "ann", Broker: "broker", Created: time.Unix(1, 0), Nonce: "n",
	}
	if _, err := m.Step(time.Unix(1, 0), Submitted{Job: "j1", Account: "ann", Spec: spec}); !errors.Is(err, ErrUnavailable) {
		t.Errorf("one job too many: got %v", err)
	}
}
