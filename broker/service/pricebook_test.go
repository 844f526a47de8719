package service

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"rialto/broker"
	"rialto/broker/markettest"
	"rialto/pricing"
)

// TestBidsAreInTheBooksOfWhatCouldServeThem, by model, memory and region.
func TestBidsAreInTheBooksOfWhatCouldServeThem(t *testing.T) {
	b := newPriceBook("broker", []byte("secret"))
	asks := []broker.Ask{
		{Provider: "a", Model: "RTX 4090", Region: "DE", Rate: 40 * cent, Reserved: 30 * cent, GPUs: 1, Free: 1, Level: broker.LevelNVML},
		{Provider: "b", Model: "T4", Region: "US", Rate: 9 * cent, GPUs: 1, Free: 1, Level: broker.LevelNVML},
	}
	bids := []broker.Bid{
		{Model: broker.AnyModel, MemoryMiB: 24 << 10, Countries: broker.EUMembers(), Rate: 35 * cent, GPUs: 4, Term: pricing.OnDemand},
		{Model: "RTX 4090", Countries: []string{"US"}, Rate: 30 * cent, GPUs: 2, Term: pricing.OnDemand},
		{Model: "H200", Rate: 200 * cent, GPUs: 8, Term: pricing.OnDemand}, // which nobody offers
		{Model: "RTX 4090", Rate: 25 * cent, GPUs: 1, Term: pricing.Reserved},
	}
	b.offered(asks, nil)
	events := b.offered(asks, bids)
	for cell, want := range map[string][]pricing.Level{
		"RTX_4090:on_demand:any:nvml":    {{Rate: 35 * cent, GPUs: 4}, {Rate: 30 * cent, GPUs: 2}},
		"RTX_4090:on_demand:europe:nvml": {{Rate: 35 * cent, GPUs: 4}},
		"T4:on_demand:any:nvml":          nil,
		"RTX_4090:reserved:any:nvml":     {{Rate: 25 * cent, GPUs: 1}},
		"H200:on_demand:any:nvml":        {{Rate: 200 * cent, GPUs: 8}, {Rate: 35 * cent, GPUs: 4}},
	} {
		c, err := pricing.ParseCell(cell)
		if err != nil {
			t.Fatal(err)
		}
		if got := b.row(c, time.Unix(600, 0)).Bids; !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", cell, got, want)
		}
		told := slices.ContainsFunc(events, func(e broker.PriceEvent) bool { return e.Kind == broker.PriceDepth && e.Cell == c })
		if told != (want != nil) {
			t.Errorf("%s: told %v", cell, told)
		}
	}
}

// TestReservedPricesAreApart: neither an ask nor a lease of who commits to a term is in a cell on demand, nor the other
// way round.
func TestReservedPricesAreApart(t *testing.T) {
	b := newPriceBook("broker", []byte("secret"))
	b.offered([]broker.Ask{
		{Provider: "a", Model: "T4", Rate: 40 * cent, Reserved: 30 * cent, GPUs: 4, Free: 3, Level: broker.LevelNVML},
		{Provider: "b", Model: "T4", Rate: 35 * cent, GPUs: 1, Free: 1, Level: broker.LevelNVML},
	}, nil)
	b.ended(&broker.Ending{
		At: time.Unix(300, 0), Lease: "l", Model: "T4", Term: pricing.Reserved, Rate: 30 * cent, Billed: time.Hour, GPUs: 1, Level: broker.LevelNVML,
		Granted: time.Unix(1, 0), Ready: time.Unix(2, 0), Job: broker.JobDone, Last: true, Customer: "c",
	})
	// A job in what is left of the term is no trade of its own.
	b.ended(&broker.Ending{
		At: time.Unix(301, 0), Lease: "m", Model: "T4", Term: pricing.OnDemand, Rate: 40 * cent, Billed: time.Hour, GPUs: 1, Level: broker.LevelNVML,
		Granted: time.Unix(1, 0), Ready: time.Unix(2, 0), Job: broker.JobDone, Last: true, Customer: "c", Rest: true,
	})
	for term, want := range map[pricing.Term]struct {
		best   pricing.Rate
		gpus   int
		trades uint64
	}{
		pricing.OnDemand: {35 * cent, 5, 0},
		pricing.Reserved: {30 * cent, 4, 1},
	} {
		cell := pricing.Cell{Model: "T4", Term: term, Region: pricing.AnyRegion, Tier: pricing.TierNVML}
		r := b.row(cell, time.Unix(600, 0))
		if r.Asks[0].Rate != want.best || r.GPUs != want.gpus || b.cells[cell].total != want.trades {
			t.Errorf("%s: best ask %v of %d GPUs, %d trades, want %+v", term, r.Asks[0].Rate, r.GPUs, b.cells[cell].total, want)
		}
	}
}

// TestPriceBookIsBounded: strangers make up models, and others' cells and history do not suffer.
func TestPriceBookIsBounded(t *testing.T) {
	b := newPriceBook("broker", []byte("secret"))
	var asks []broker.Ask
	for i := range 10 * maxOddCells {
		asks = append(asks, broker.Ask{Provider: "evil", Model: fmt.Sprint("Made Up ", i), Region: "DE", Rate: cent, GPUs: 1, Free: 1})
	}
	asks = append(asks, broker.Ask{Provider: "good", Model: "T4", Rate: 9 * cent, GPUs: 2, Free: 1, Level: broker.LevelNVML})
	b.offered(asks, nil)
	if len(b.cells) != maxOddCells+1 || b.odd != maxOddCells {
		t.Errorf("%d cells, %d odd ones, want %d and %d", len(b.cells), b.odd, maxOddCells+1, maxOddCells)
	}
	good := pricing.Cell{Model: "T4", Term: pricing.OnDemand, Region: pricing.AnyRegion, Tier: pricing.TierNVML}
	b.show(600, b.prepare(600))
	if r := b.row(good, time.Unix(600, 0)); r.Print.Index != 9*cent || r.FreeGPUs != 1 || r.GPUs != 2 || r.Providers != 1 {
		t.Errorf("the honest offer: %+v", r)
	}
	b.offered(nil, nil)
	b.show(660, b.prepare(660))
	if len(b.cells) != 1 || b.odd != 0 {
		t.Errorf("%d cells are kept of models that nobody offers or traded, %d odd", len(b.cells)-1, b.odd)
	}
	for i := range 3 * maxTape {
		b.ended(&broker.Ending{At: time.Unix(int64(i), 0), Granted: time.Unix(1, 0)})
	}
	if len(b.tape) > maxTape {
		t.Errorf("%d leases are remembered", len(b.tape))
	}
}

// TestHealth counts what became of leases.
func TestHealth(t *testing.T) {
	b := newPriceBook("broker", []byte("secret"))
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	end := func(ago time.Duration, state broker.JobState, last, granted, ready bool, start, billed time.Duration) {
		l := broker.Ending{At: now.Add(-ago), Model: "T4", Rate: cent, Billed: billed, GPUs: 2, Job: state, Last: last, Customer: "c"}
		if granted {
			l.Granted = now.Add(-ago - time.Hour)
		}
		if ready {
			l.Ready = l.Granted.Add(start)
		}
		b.ended(&l)
	}
	end(25*time.Hour, broker.JobDone, true, true, true, time.Second, time.Hour)     // too long ago
	end(5*time.Hour, broker.JobCancelled, true, false, false, 0, 0)                 // before the answer: nobody's fault
	end(4*time.Hour, broker.JobDone, false, false, false, 0, 0)                     // refused, then run elsewhere
	end(3*time.Hour, broker.JobDone, true, true, true, 3*time.Second, time.Hour)    // fine
	end(2*time.Hour, broker.JobFailed, true, true, true, time.Second, time.Hour)    // lost
	end(2*time.Hour, broker.JobFailed, true, true, false, 0, 0)                     // never ready
	end(1*time.Hour, broker.JobExpired, true, true, true, 5*time.Second, time.Hour) // fine
	want := broker.MarketHealth{Holds: 5, Granted: 4, Starts: 3, MedianStart: 3 * time.Second, Interruptions: 1, GPUSeconds: 3 * 2 * 3600}
	if got := b.health(now); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// TestPriceHub: a reader gets the newest of each kind and cell, and nothing twice.
func TestPriceHub(t *testing.T) {
	h := newPriceHub()
	a, c := pricing.Cell{Model: "A10"}, pricing.Cell{Model: "T4"}
	tell := func(events ...broker.PriceEvent) uint64 {
		seq := h.number(events)
		h.publish(events)
		return seq
	}
	_, start, changed := h.since(0)
	first := tell(broker.PriceEvent{Kind: broker.PriceDepth, Cell: a}, broker.PriceEvent{Kind: broker.PriceOffer, Cell: c})
	select {
	case <-changed:
	default:
		t.Error("nobody was woken")
	}
	if first != start+2 {
		t.Errorf("numbers: %d after %d", first, start)
	}
	tell(broker.PriceEvent{Kind: broker.PriceDepth, Cell: a})
	got, seq, _ := h.since(start)
	if len(got) != 2 || got[0].Seq != first || got[1].Cell != a || got[1].Seq != seq || seq != first+1 {
		t.Errorf("after two changes of one thing: %+v, %d", got, seq)
	}
	if got, _, _ := h.since(seq); len(got) != 0 {
		t.Errorf("told twice: %+v", got)
	}
}

// TestPrintsAreNotWrittenTwice: a time that was printed already, by a clock that was ahead, is passed over.
func TestPrintsAreNotWrittenTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newPriceMarket(t)
		m.offer("alpha", 2, 40*cent)
		m.settle()
		before := m.row(pricing.TierNVML, pricing.AnyRegion).Print.At
		err := m.do(t.Context(), 0, func(_ context.Context, b *batch) error {
			b.notes[beatKey(before+60)] = []byte("{}")
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		m.settle()
		if at := m.row(pricing.TierNVML, pricing.AnyRegion).Print.At; at != before {
			t.Errorf("printed at %d, after %d, over what was there", at, before)
		}
		m.settle()
		if at := m.row(pricing.TierNVML, pricing.AnyRegion).Print.At; at != before+120 {
			t.Errorf("the next print is of %d, want %d", at, before+120)
		}
		events, _, _ := m.PriceChanges(0)
		if !slices.ContainsFunc(events, func(e broker.PriceEvent) bool { return e.Kind == broker.PricePrint && e.Row.Print.At == before+120 }) {
			t.Errorf("the stream does not tell it: %+v", events)
		}
	})
}

// BenchmarkOffered takes what a large market offers: 10,000 offers of 60 models in 8 countries.
func BenchmarkOffered(b *testing.B) {
	book := newPriceBook("broker", []byte("secret"))
	asks := make([]broker.Ask, 10_000)
	models, countries := broker.Models(), []string{"DE", "US", "JP", "FR", "SE", "IN", "BR", "ZA"}
	for i := range asks {
		asks[i] = broker.Ask{
			Provider: broker.PeerID(fmt.Sprint("p", i/4)), Model: models[i%60].Name, Region: countries[i%8],
			Rate: 40*cent + pricing.Rate(i%100)*cent/10, GPUs: 8, Free: 1 + i%8, Level: broker.LevelNVML,
		}
	}
	for b.Loop() {
		book.offered(asks, nil)
		for _, cell := range book.sorted() {
			book.row(cell, time.Unix(1_800_000_000, 0))
		}
	}
}

// BenchmarkAsks reads what 10,000 offers of 8 GPUs offer, which is what prices cost the writer.
func BenchmarkAsks(b *testing.B) {
	m, err := broker.NewMarket(broker.MarketConfig{Self: "broker"})
	if err != nil {
		b.Fatal(err)
	}
	for i := range 10_000 {
		o := markettest.Offer(fmt.Sprint("host", i), "RTX 4090", 8, 40*cent)
		if _, err := m.Step(time.Now(), broker.OffersPosted{Provider: o.Provider, Set: broker.OfferSet{Boot: "b", Seq: 1, Offers: []broker.Offer{o}}}); err != nil {
			b.Fatal(err)
		}
	}
	b.ResetTimer()
	for b.Loop() {
		if n := len(m.Asks()); n != 10_000 {
			b.Fatal(n)
		}
	}
}
