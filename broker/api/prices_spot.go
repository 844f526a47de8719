package api

import (
	"slices"

	"rialto/broker"
	"rialto/pricing"
)

// Survival is how likely an interruptible lease with a bid is not displaced within an hour.
type Survival struct {
	BidNanoUSDPerHour int64 `json:"bid_nanousd_per_hour" doc:"per GPU"`
	SurvivalPPM       int64 `json:"survival_ppm" doc:"in millionths, by the Kaplan-Meier estimator"`
	Runs              int   `json:"runs" doc:"leases of the last week with this bid or less, that it rests on; with less than 10 there is no estimate"`
}

const hour = 3600

// maxSurvivals bounds the bids of a cell for which survival is told.
const maxSurvivals = 8

func survivalAt(runs []pricing.SpotRun, bid pricing.Rate) (Survival, bool) {
	ppm, n, ok := pricing.Survival(runs, bid, hour)
	return Survival{BidNanoUSDPerHour: int64(bid), SurvivalPPM: ppm, Runs: n}, ok
}

// survivalsOf tells the survival of bids that were made, spread from the lowest to the highest.
func survivalsOf(runs []pricing.SpotRun) []Survival {
	var bids []pricing.Rate
	for _, r := range runs {
		bids = append(bids, r.Bid)
	}
	slices.Sort(bids)
	bids = slices.Compact(bids)
	var out []Survival
	last := -1
	for i := range maxSurvivals {
		at := i * (len(bids) - 1) / (maxSurvivals - 1)
		if len(bids) == 0 || at == last {
			continue
		}
		last = at
		if s, ok := survivalAt(runs, bids[at]); ok {
			out = append(out, s)
		}
	}
	return out
}

// survivalOf is the survival of a bid on an offer; nil: nobody knows.
func survivalOf(b *broker.PriceBoard, o *broker.Offer, bid pricing.Rate) *Survival {
	if bid == 0 || b == nil {
		return nil
	}
	tier := o.Level().String()
	if o.Simulated() {
		tier = pricing.TierSimulated
	}
	row, err := b.Row(pricing.Cell{Model: o.GPUs[0].Model, Term: pricing.Interruptible, Region: pricing.AnyRegion, Tier: tier})
	if err != nil {
		return nil
	}
	s, ok := survivalAt(row.Runs, bid)
	if !ok {
		return nil
	}
	return &s
}
