package pricing_test

import (
	"math"
	"testing"

	"pgregory.net/rapid"

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

func TestFill(t *testing.T) {
	const cent, now = pricing.Rate(pricing.USD / 100), int64(10_000)
	wait := func(bid pricing.Rate, served bool, began, ended int64) pricing.SpotWait {
		return pricing.SpotWait{Bid: bid * cent, Served: served, Began: began, Ended: ended}
	}
	// Ten jobs that bid 20 cents: four are served at once, one after a minute, one after ten; one gives up after half a minute,
	// one after an hour; two wait still, since two minutes and since an hour.
	waits := []pricing.SpotWait{
		wait(20, true, 100, 100), wait(20, true, 200, 200), wait(20, true, 300, 300), wait(20, true, 400, 400),
		wait(20, true, 500, 560), wait(20, true, 500, 1100), wait(20, false, 700, 730), wait(20, false, 800, 4400),
		wait(20, false, now-120, 0), wait(20, false, now-3600, 0),
	}
	for name, c := range map[string]struct {
		bid     pricing.Rate
		seconds int64
		want    int64
		n       int
		ok      bool
	}{
		"at once":       {20, 0, 400_000, 10, true},
		"a minute":      {20, 60, 520_000, 10, true}, // 1 - 6/10 · 4/5
		"nine minutes":  {20, 599, 520_000, 10, true},
		"ten minutes":   {20, 600, 680_000, 10, true}, // 1 - 6/10 · 4/5 · 2/3
		"a little more": {21, 600, 680_000, 10, true}, // they say what a bid of a tenth more does at least
		"a tenth more":  {22, 600, 0, 0, false},
		"less":          {19, 600, 0, 0, false}, // nor what a lower one does
	} {
		t.Run(name, func(t *testing.T) {
			ppm, n, ok := pricing.Fill(waits, c.bid*cent, c.seconds, now)
			if ppm != c.want || n != c.n || ok != c.ok {
				t.Errorf("got %d of %d waits, %v; want %d of %d, %v", ppm, n, ok, c.want, c.n, c.ok)
			}
		})
	}
	if _, n, ok := pricing.Fill(waits[1:], 20*cent, 600, now); n != 9 || ok {
		t.Errorf("got an estimate from %d waits", n)
	}
}

// TestEstimators: what is estimated is what the definition says, a product over the moments at which something ended of the
// share that did not.
func TestEstimators(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var waits []pricing.SpotWait
		var runs []pricing.SpotRun
		for range rapid.IntRange(pricing.FewRuns, 40).Draw(t, "n") {
			lasted, ended := rapid.Int64Range(0, 12).Draw(t, "lasted"), rapid.Bool().Draw(t, "ended")
			w, r := pricing.SpotWait{Bid: 100, Began: 50, Ended: 50 + lasted, Served: ended}, pricing.SpotRun{Bid: 100, Ran: lasted}
			if ended {
				r.By = 110
			}
			waits, runs = append(waits, w), append(runs, r)
		}
		until := rapid.Int64Range(0, 13).Draw(t, "until")
		before, with := 1.0, 1.0
		for at := range until + 1 {
			risk, ends := 0.0, 0.0
			for _, r := range runs {
				if r.Ran >= at {
					risk++
				}
				if r.Ran == at && r.By > 0 {
					ends++
				}
			}
			if risk > 0 {
				with *= 1 - ends/risk
			}
			if at < until {
				before = with
			}
		}
		fill, _, _ := pricing.Fill(waits, 100, until, 1000)
		survival, _, _ := pricing.Survival(runs, 100, until)
		if want := 1e6 * (1 - with); math.Abs(float64(fill)-want) > 1 {
			t.Fatalf("fill %d, want %v", fill, want)
		}
		if want := 1e6 * before; math.Abs(float64(survival)-want) > 1 {
			t.Fatalf("survival %d, want %v", survival, want)
		}
	})
}
