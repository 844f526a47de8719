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

// Fill is how likely an interruptible job with a bid gets a host within ten minutes.
type Fill struct {
	BidNanoUSDPerHour int64 `json:"bid_nanousd_per_hour" doc:"per GPU"`
	FillPPM           int64 `json:"fill_ppm" doc:"in millionths, by the Kaplan-Meier estimator"`
	Waits             int   `json:"waits" doc:"of jobs of the last week that bid so much or up to a tenth less, that it rests on; with less than 10 there is no estimate"`
}

const (
	hour       = 3600
	tenMinutes = 600
)

// maxSurvivals bounds the bids of a cell for which an estimate is told.
const maxSurvivals = 8

func survivalAt(runs []pricing.SpotRun, bid pricing.Rate) (Survival, bool) {
	ppm, n, ok := pricing.Survival(runs, bid, hour)
	return Survival{BidNanoUSDPerHour: int64(bid), SurvivalPPM: ppm, Runs: n}, ok
}

// survivalsOf tells the survival of bids that were made.
func survivalsOf(runs []pricing.SpotRun) []Survival {
	var bids []pricing.Rate
	for _, r := range runs {
		bids = append(bids, r.Bid)
	}
	return spread(bids, func(bid pricing.Rate) (Survival, bool) { return survivalAt(runs, bid) })
}

// fillsOf tells how likely bids that were made are served, at a time.
func fillsOf(waits []pricing.SpotWait, now int64) []Fill {
	var bids []pricing.Rate
	for _, w := range waits {
		if w.Ended > 0 { // of those that wait nothing is told
			bids = append(bids, w.Bid)
		}
	}
	return spread(bids, func(bid pricing.Rate) (Fill, bool) { return fillAt(waits, bid, now) })
}

func fillAt(waits []pricing.SpotWait, bid pricing.Rate, now int64) (Fill, bool) {
	ppm, n, ok := pricing.Fill(waits, bid, tenMinutes, now)
	return Fill{BidNanoUSDPerHour: int64(bid), FillPPM: ppm, Waits: n}, ok
}

// spread estimates something for some bids, from the lowest to the highest.
func spread[T any](bids []pricing.Rate, estimate func(pricing.Rate) (T, bool)) []T {
	slices.Sort(bids)
	bids = slices.Compact(bids)
	var out []T
	last := -1
	for i := range maxSurvivals {
		at := i * (len(bids) - 1) / (maxSurvivals - 1)
		if len(bids) == 0 || at == last {
			continue
		}
		last = at
		if s, ok := estimate(bids[at]); ok {
			out = append(out, s)
		}
	}
	return out
}

// outlookOf is how likely a bid on an offer lasts and is served; nil: nobody knows.
func outlookOf(b *broker.PriceBoard, o *broker.Offer, bid pricing.Rate) (*Survival, *Fill) {
	if bid == 0 || b == nil {
		return nil, nil
	}
	tier := o.Level().String()
	if o.Simulated() {
		tier = pricing.TierSimulated
	}
	row, err := b.Row(pricing.Cell{Model: o.GPUs[0].Model, Term: pricing.Interruptible, Region: pricing.AnyRegion, Tier: tier})
	if err != nil {
		return nil, nil
	}
	var survival *Survival
	if s, ok := survivalAt(row.Runs, bid); ok {
		survival = &s
	}
	var fill *Fill
	if f, ok := fillAt(row.Waits, bid, row.WaitsAt); ok {
		fill = &f
	}
	return survival, fill
}
