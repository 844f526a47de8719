package pricing_test

import (
	"testing"

	"rialto/pricing"
)

func TestSurvival(t *testing.T) {
	const cent = pricing.Rate(pricing.USD / 100)
	run := func(bid, by pricing.Rate, minutes int64) pricing.SpotRun {
		return pricing.SpotRun{Bid: bid * cent, By: by * cent, Ran: minutes * 60}
	}
	// Ten runs at 20 cents: two displaced by 30 cents after 20 and 40 minutes, one by 23 after 30, three ended by themselves
	// after 25, the others lasted longer than an hour.
	runs := []pricing.SpotRun{
		run(20, 30, 20), run(20, 0, 25), run(20, 0, 25), run(20, 0, 25), run(20, 23, 30), run(20, 30, 40),
		run(20, 0, 70), run(20, 0, 80), run(20, 50, 90), run(20, 0, 61),
	}
	for name, c := range map[string]struct {
		bid  pricing.Rate
		want int64
		n    int
		ok   bool
	}{
		"as bid": {20, 600_000, 10, true}, // 9/10 · 5/6 · 4/5
		// The 23 cents would not have been enough: that run is known to have lasted half an hour.
		"more":     {22, 720_000, 10, true}, // 9/10 · 4/5
		"most":     {28, 1_000_000, 10, true},
		"too few":  {19, 0, 0, false},
		"an ocean": {500, 1_000_000, 10, true},
	} {
		t.Run(name, func(t *testing.T) {
			ppm, n, ok := pricing.Survival(runs, c.bid*cent, 3600)
			if ppm != c.want || n != c.n || ok != c.ok {
				t.Errorf("got %d of %d runs, %v; want %d of %d, %v", ppm, n, ok, c.want, c.n, c.ok)
			}
		})
	}
	// A dear run says nothing of what a cheap one had to fear.
	if _, n, ok := pricing.Survival(append(runs[:9:9], run(40, 0, 100)), 20*cent, 3600); n != 9 || ok {
		t.Errorf("got an estimate from %d runs", n)
	}
}
