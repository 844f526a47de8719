package service

import (
	"slices"
	"testing"
	"time"

	"rialto/broker"
	"rialto/pricing"
)

// TestSpotPrices: an interruptible lease is a trade of its own term, and its run, with what displaced it, is remembered for a
// week; the clearing price is the newest that runs.
func TestSpotPrices(t *testing.T) {
	const cent = pricing.Rate(pricing.USD / 100)
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	b := newPriceBook("self", []byte("secret"))
	end := func(at time.Time, term pricing.Term, bid, by pricing.Rate) {
		b.ended(&broker.Ending{
			At: at, Customer: "c", Model: "T4", Term: term, Region: "DE", Level: broker.LevelNVML, Rate: 10 * cent, Billed: time.Hour, GPUs: 1,
			Granted: at.Add(-2 * time.Hour), Ready: at.Add(-time.Hour), Bid: bid, Displaced: by,
		})
	}
	end(now.Add(-8*24*time.Hour), pricing.Interruptible, 20*cent, 0) // forgotten
	end(now.Add(-time.Hour), pricing.Interruptible, 20*cent, 33*cent)
	end(now, pricing.Interruptible, 25*cent, 0)
	end(now, pricing.OnDemand, 0, 0)

	spot := b.cells[pricing.Cell{Model: "T4", Term: pricing.Interruptible, Region: "europe", Tier: pricing.TierNVML}]
	demand := b.cells[pricing.Cell{Model: "T4", Term: pricing.OnDemand, Region: "europe", Tier: pricing.TierNVML}]
	if spot == nil || demand == nil || len(demand.trades) != 1 || len(demand.runs) != 0 || spot.total != 3 {
		t.Fatalf("got %+v and %+v", spot, demand)
	}
	want := []pricing.SpotRun{
		{Ended: now.Add(-time.Hour).Unix(), Bid: 20 * cent, Ran: 3600, By: 33 * cent},
		{Ended: now.Unix(), Bid: 25 * cent, Ran: 3600},
	}
	if len(spot.runs) != 2 || spot.runs[0] != want[0] || spot.runs[1] != want[1] {
		t.Errorf("got runs %+v, want %+v", spot.runs, want)
	}

	of := func(rate pricing.Rate) broker.Spot {
		return broker.Spot{Model: "T4", Region: "DE", Level: broker.LevelNVML, Rate: rate}
	}
	if events := b.cleared([]broker.Spot{of(10 * cent), of(15 * cent)}); len(events) != 2 || spot.clearing != 15*cent {
		t.Errorf("got %v and events %+v", spot.clearing, events)
	}
	if events := b.cleared(nil); len(events) != 2 || spot.clearing != 0 {
		t.Errorf("nothing runs: got %v and events %+v", spot.clearing, events)
	}
	b.offered([]broker.Ask{{Provider: "p", Model: "T4", Region: "DE", Rate: 40 * cent, MinBid: 5 * cent, GPUs: 2, Free: 1, Level: broker.LevelNVML}}, nil)
	if got := spot.offer.asks; len(got) != 1 || got[0].Rate != 5*cent || len(demand.offer.asks) != 1 || demand.offer.asks[0].Rate != 40*cent {
		t.Errorf("got asks %+v and %+v", got, demand.offer.asks)
	}
}

// TestSpotWaits: a cell remembers for a week how long jobs waited that name its model and may run in its region, and knows
// those that wait.
func TestSpotWaits(t *testing.T) {
	const cent = pricing.Rate(pricing.USD / 100)
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	b := newPriceBook("self", []byte("secret"))
	cell := pricing.Cell{Model: "T4", Term: pricing.Interruptible, Region: "europe", Tier: pricing.TierNVML}
	b.cellOf(cell)
	demand := cell
	demand.Term = pricing.OnDemand
	b.cellOf(demand)
	wait := func(model string, bid pricing.Rate, began, at time.Time, countries ...string) broker.Wait {
		return broker.Wait{At: at, Began: began, Served: !at.IsZero(), Bid: broker.Bid{Model: model, Rate: bid, GPUs: 1, Countries: countries, Term: pricing.Interruptible}}
	}
	old := wait("T4", 20*cent, now.Add(-9*24*time.Hour), now.Add(-8*24*time.Hour))
	if events := b.waited([]broker.Wait{old}, nil); len(events) != 1 || events[0].Cell != cell || len(b.waitsFor(cell)) != 1 {
		t.Errorf("got events %+v and waits %+v", events, b.waitsFor(cell))
	}
	still := []broker.Wait{wait("T4", 30*cent, now, time.Time{})}
	b.waited([]broker.Wait{
		wait("T4", 21*cent, now.Add(-time.Minute), now), wait("T4", 22*cent, now.Add(-time.Minute), now, "DE"),
		wait("T4", 23*cent, now, now, "US"), wait("A100", 24*cent, now, now), wait(broker.AnyModel, 25*cent, now, now),
	}, still)
	row := b.row(cell, now)
	want := []pricing.SpotWait{
		{Began: now.Unix() - 60, Ended: now.Unix(), Bid: 21 * cent, Served: true},
		{Began: now.Unix() - 60, Ended: now.Unix(), Bid: 22 * cent, Served: true},
		{Began: now.Unix(), Bid: 30 * cent},
	}
	if !slices.Equal(row.Waits, want) || row.WaitsAt != now.Unix() || b.row(demand, now).Waits != nil {
		t.Errorf("got %+v at %d, want %+v", row.Waits, row.WaitsAt, want)
	}
	if events := b.waited(nil, still); len(events) != 0 {
		t.Errorf("nothing changed: %+v", events)
	}
	many := make([]broker.Wait, 2*maxSpotRuns)
	for i := range many {
		many[i] = wait("T4", pricing.Rate(i), now, now)
	}
	b.waited(many, nil)
	if got := b.waitsFor(cell); len(got) != maxSpotRuns || got[maxSpotRuns-1].Bid != 2*maxSpotRuns-1 {
		t.Errorf("got %d waits, the last %+v", len(got), got[len(got)-1])
	}
}
