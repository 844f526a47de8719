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
	if got := survivalsOf(runs[:1]); got != nil {
		t.Errorf("of one: %+v", got)
	}
}
