package api

import (
	"testing"

	"rialto/pricing"
)

// TestSurvivals: a cell tells the survival of some of the bids that were made, from the lowest that has an estimate.
func TestSurvivals(t *testing.T) {
	var runs []pricing.SpotRun
	for i := range 100 {
		r := pricing.SpotRun{Bid: pricing.Rate(1 + i/2), Ran: 1800}
		if i%2 == 0 {
			r.By = 1000
		}
		runs = append(runs, r)
	}
	got := survivalsOf(runs)
	if len(got) != maxSurvivals-1 || got[0].Runs < pricing.FewRuns || got[len(got)-1].BidNanoUSDPerHour != 50 || got[len(got)-1].Runs != 100 {
		t.Errorf("got %+v", got)
	}
	for _, s := range got {
		if s.SurvivalPPM != 500_000 {
			t.Errorf("got %+v, half of all were displaced", s)
		}
	}
	if got := survivalsOf(runs[:3]); got != nil {
		t.Errorf("of three runs: %+v", got)
	}
	waits := make([]pricing.SpotWait, 20) // ten that bid 50 and wait, ten that bid 100 and are served at once
	for i := range waits {
		waits[i] = pricing.SpotWait{Began: 1000, Ended: 1000, Bid: 100, Served: true}
		if i < 10 {
			waits[i] = pricing.SpotWait{Began: 1000, Bid: 50}
		}
	}
	if got := fillsOf(waits, 5000); len(got) != 1 || got[0] != (Fill{BidNanoUSDPerHour: 100, FillPPM: 1e6, Waits: 10}) {
		t.Errorf("got %+v: nothing is told of bids that wait", got)
	}
	for i := range waits[:10] {
		waits[i].Ended = 5000
	}
	if got := fillsOf(waits, 5000); len(got) != 2 || got[0] != (Fill{BidNanoUSDPerHour: 50, Waits: 10}) {
		t.Errorf("got %+v, of the lower bids none was served", got)
	}
	if got := survivalsOf(runs[:1]); got != nil {
		t.Errorf("of one: %+v", got)
	}
}
