package broker

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"rialto/pricing"
)

// TestCostMargin is the worked example: a host misses 20 GB that it can fetch at 500 Mbit/s, which takes 320 s. Another
// that holds them wins while it is dearer by less than 8.9 % for a job of an hour, 53 % for ten minutes, 0.4 % for a day.
func TestCostMargin(t *testing.T) {
	const rate = 350_000_000
	ready := milliseconds(20e9/usualRate/3600, longestWait)
	if ready != 320*time.Second {
		t.Fatalf("20 GB take %v, want 320s", ready)
	}
	cost := func(rate pricing.Rate, run, ready time.Duration) pricing.Money {
		var c Cost
		c.money(priced{charge: Charge{GPUs: rate}, run: run, ready: ready, hazard: Record{}.Hazard()})
		if c.Total != c.Run+c.Disk+c.Traffic+c.Start+c.Failure+c.Waiting {
			t.Errorf("%+v does not add up", c)
		}
		return c.Total
	}
	for run, permille := range map[time.Duration]int64{time.Hour: 89, 10 * time.Minute: 533, 24 * time.Hour: 4} {
		lacks := cost(rate, run, ready)
		if holds := cost(rate*(1000+pricing.Rate(permille)-1)/1000, run, 0); holds >= lacks {
			t.Errorf("%v: who holds it loses at %d permille more: %v, the other %v", run, permille-1, holds, lacks)
		}
		if holds := cost(rate*(1000+pricing.Rate(permille)+1)/1000, run, 0); holds <= lacks {
			t.Errorf("%v: who holds it wins at %d permille more: %v, the other %v", run, permille+1, holds, lacks)
		}
	}
}

// TestLost compares with the formula worked out by hand.
func TestLost(t *testing.T) {
	for _, tt := range []struct {
		run, ready time.Duration
		hazard     float64
		want       time.Duration
	}{
		{time.Hour, 0, 0, 0},
		{0, time.Minute, 1, 0},
		{time.Hour, 0, 1.0 / 200, 9015 * time.Millisecond}, // 200 (e^0.005 − 1) − 1 h
		{24 * time.Hour, 320 * time.Second, 1.0 / 200, time.Duration(1.510703 * 3.6e12)}, // (200 + 0.0889)(e^0.12 − 1) − 24 h
		{48 * time.Hour, 0, 1.0 / 200, time.Duration(2.998741 * 3.6e12)},                 // twice a day with a checkpoint between
		{24 * time.Hour, 0, 1000, mostLost},
		{24 * time.Hour, 0, math.Inf(1), mostLost},
	} {
		got := lost(tt.run, tt.ready, tt.hazard)
		if (got - tt.want).Abs() > 50*time.Millisecond {
			t.Errorf("%v, ready in %v, hazard %g: %v lost, want %v", tt.run, tt.ready, tt.hazard, got, tt.want)
		}
	}
}

// TestCostGrows with price, hazard, missing bytes, and what waiting is worth; it never overflows.
func TestCostGrows(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rate := rapid.Int64Range(0, int64(maxRate)*maxJobGPUs)
		bytes := rapid.Int64Range(0, maxContent*(maxJobGPUs+1))
		draw := func() (priced, int64) {
			return priced{
				charge: Charge{
					GPUs: pricing.Rate(rate.Draw(t, "rate")), Disk: pricing.Rate(rate.Draw(t, "disk")), Traffic: pricing.Money(rate.Draw(t, "traffic")),
				},
				run:    time.Duration(rapid.Int64Range(0, int64(maxDuration)).Draw(t, "run")),
				hazard: rapid.Float64Range(0, 1e6).Draw(t, "hazard"), wait: pricing.Rate(rate.Draw(t, "wait")),
				hold: Record{Asked: fillWindow, Honoured: rapid.IntRange(0, fillWindow).Draw(t, "honoured")}.unfilled(20 * time.Second),
			}, bytes.Draw(t, "missing")
		}
		cost := func(p priced, missing int64) (c Cost) {
			p.ready = milliseconds(float64(missing)/usualRate/3600, longestWait)
			c.money(p)
			return c
		}
		a, missing := draw()
		b, more := draw()
		low := cost(a, missing)
		if low.Total < 0 || min(low.Run, low.Disk, low.Traffic, low.Start, low.Failure, low.Waiting) < 0 {
			t.Fatalf("%+v: %+v", a, low)
		}
		for name, change := range map[string]func(*priced, *int64){
			"price":        func(p *priced, _ *int64) { p.charge.GPUs = max(a.charge.GPUs, b.charge.GPUs) },
			"disk":         func(p *priced, _ *int64) { p.charge.Disk = max(a.charge.Disk, b.charge.Disk) },
			"traffic":      func(p *priced, _ *int64) { p.charge.Traffic = max(a.charge.Traffic, b.charge.Traffic) },
			"run":          func(p *priced, _ *int64) { p.run = max(a.run, b.run) },
			"hazard":       func(p *priced, _ *int64) { p.hazard = max(a.hazard, b.hazard) },
			"failed holds": func(p *priced, _ *int64) { p.hold = max(a.hold, b.hold) },
			"waiting":      func(p *priced, _ *int64) { p.wait = max(a.wait, b.wait) },
			"missing":      func(_ *priced, n *int64) { *n = max(missing, more) },
		} {
			p, n := a, missing
			change(&p, &n)
			if high := cost(p, n); high.Total < low.Total {
				t.Fatalf("more %s makes %+v of %+v", name, high, low)
			}
		}
	})
}

// TestStartsForgetOrder: what is remembered of starts does not depend on the order in which leases end.
func TestStartsForgetOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		leases := make([]Lease, rapid.IntRange(0, 80).Draw(t, "leases"))
		for i := range leases {
			l := &leases[i]
			l.ID = LeaseID(fmt.Sprintf("l%d", i))
			l.Provider = PeerID(rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "provider"))
			if rapid.Bool().Draw(t, "many") {
				l.Provider = PeerID(l.ID)
			}
			l.Ready = time.Unix(rapid.Int64Range(1, 50).Draw(t, "ready"), 0)
			l.Startup = Startup{Took: time.Duration(i + 1), Total: rapid.Int64Range(0, 2).Draw(t, "total")}
		}
		learn := func(leases []Lease) seenStarts {
			s := newSeenStarts()
			for i := range leases {
				s.learn(&leases[i], &JobSpec{Digest: "image"})
			}
			return s
		}
		want := learn(leases)
		got := learn(rapid.Permutation(leases).Draw(t, "otherwise"))
		if !got.equal(&want) {
			t.Fatalf("got %+v, want %+v", got, want)
		}
		if len(leases) > 0 && got.equal(new(newSeenStarts())) {
			t.Fatal("nothing was learned")
		}
	})
}

// TestMisses goes through what a market may know of an image i and weights v and w.
func TestMisses(t *testing.T) {
	images := []ImageHeld{{Digest: "i"}}
	type answer struct {
		miss, held int64
		known      bool
	}
	for _, tt := range []struct {
		name  string
		needs needs
		offer Offer
		want  answer
	}{
		{"nothing asked", needs{}, Offer{Images: images}, answer{}},
		{"image there", needs{items: []need{{bytes: 5}}}, Offer{Images: images}, answer{0, 5, true}},
		{"image missing", needs{items: []need{{bytes: 5}}}, Offer{}, answer{5, 0, true}},
		{"unknown, there", needs{items: []need{{}}}, Offer{Images: images}, answer{0, 0, true}},
		{"unknown, missing", needs{items: []need{{}}}, Offer{}, answer{}},
		{"weights by difference", needs{items: []need{{bytes: 5}, {weights: "v"}}, whole: 12}, Offer{Images: images}, answer{7, 5, true}},
		{"weights there", needs{items: []need{{bytes: 5}, {weights: "v"}}, whole: 12}, Offer{Weights: []string{"v"}}, answer{5, 7, true}},
		{"weights there, unknown", needs{items: []need{{bytes: 5}, {weights: "v"}}}, Offer{Weights: []string{"v"}}, answer{5, 0, true}},
		{"one of two", needs{items: []need{{bytes: 5}, {weights: "v"}, {weights: "w"}}, whole: 12}, Offer{Weights: []string{"v"}}, answer{}},
		{"both", needs{items: []need{{bytes: 5}, {weights: "v"}, {weights: "w"}}, whole: 12}, Offer{}, answer{12, 0, true}},
		{"voices differ", needs{items: []need{{bytes: 5}, {weights: "v"}}, whole: 3}, Offer{}, answer{5, 0, true}},
	} {
		var got answer
		got.miss, got.held, got.known = tt.needs.misses(&Query{Image: "i"}, &tt.offer)
		if got != tt.want {
			t.Errorf("%s: got %+v, want %+v", tt.name, got, tt.want)
		}
	}
}

// TestSpread: equal jobs go to the offers within one per cent of the best in the ratio of their free GPUs, to no other, and
// each always to the same.
func TestSpread(t *testing.T) {
	m, err := NewMarket(MarketConfig{Self: "broker"})
	if err != nil {
		t.Fatal(err)
	}
	offer := func(name string, gpus int, rate pricing.Rate) *Offer {
		o := &Offer{ID: OfferID(name), Provider: PeerID(name), Host: name, Rate: rate}
		for i := range gpus {
			g := GPU{UUID: fmt.Sprint(name, i), Model: "RTX 4090", MemoryMiB: 1}
			o.GPUs, o.Free = append(o.GPUs, g), append(o.Free, g.UUID)
		}
		return o
	}
	offers := []*Offer{
		offer("cheapest", 1, 400_000_000), offer("two", 2, 400_000_000), offer("five", 5, 403_000_000),
		offer("dear", 50, 404_100_000), // 1.025 % more
	}
	const jobs = 8000
	first := map[string]int{}
	for i := range jobs {
		q := Query{GPU: GPURequest{Model: AnyModel, Count: 1}, lottery: fmt.Sprint("customer nonce", i)}
		all := ranked(m, &q, offers)
		first[all[0].offer.Host]++
		if again := ranked(m, &q, offers); !slices.EqualFunc(all, again, func(a, b candidate) bool { return a.offer == b.offer }) {
			t.Fatal("equal jobs, other orders")
		}
		if len(all) != 4 || all[3].offer.Host != "dear" {
			t.Fatalf("dear is not the last of %d", len(all))
		}
	}
	// Each count is binomial: four standard deviations.
	for host, share := range map[string]float64{"cheapest": 1. / 8, "two": 2. / 8, "five": 5. / 8} {
		want := jobs * share
		if got := float64(first[host]); math.Abs(got-want) > 4*math.Sqrt(want*(1-share)) {
			t.Errorf("%s is first of %v jobs, want about %v", host, got, want)
		}
	}
	// Where nobody knows what holding the image is worth, who holds it keeps its place; where it is known, it is in the price.
	offers[0].Images = []ImageHeld{{Digest: "image"}}
	for range 2 {
		others := 0
		for i := range 100 {
			q := Query{GPU: GPURequest{Model: AnyModel, Count: 1}, Image: "image", lottery: fmt.Sprint(i)}
			if ranked(m, &q, offers)[0].offer != offers[0] {
				others++
			}
		}
		if known := m.sizes["image"] > 0; known != (others > 0) {
			t.Errorf("size known: %v; of 100 jobs %d go elsewhere", known, others)
		}
		m.sized(ContentSized{Digest: "image", Bytes: 1})
	}
}
