package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"rialto/broker/api"
	"rialto/cmd/internal/cli"
	"rialto/pricing"
)

// writeSpotPrices draws a row for each interruptible cell.
func writeSpotPrices(w io.Writer, prices api.Prices) error {
	if len(prices.Prices) == 0 {
		_, err := fmt.Fprintln(w, "No interruptible prices: no host takes bids now, and none was paid lately.")
		return err
	}
	t := cli.Table{Columns: []cli.Column{
		{Title: "GPU"},
		{Title: "REGION"},
		{Title: "PROOF", Tone: proofTone},
		{Title: "CLEARS AT", Align: cli.Decimal, Tone: func(string) cli.Tone { return cli.Strong }},
		{Title: "LEAST BID", Align: cli.Decimal},
		{Title: "INDEX", Align: cli.Decimal},
		{Title: "QUALITY", Tone: qualityTone},
		{Title: "FREE", Align: cli.Right, Tone: freeTone},
		{Title: "TRADES", Align: cli.Right},
		{Title: "SERVED IN 10 MIN"},
		{Title: "LASTS AN HOUR"},
	}}
	for _, p := range prices.Prices {
		t.Add(p.Model, p.Region, tierText(p.Tier), priceText(p.ClearingNanoUSDPerHour), priceText(p.BestAskNanoUSDPerHour),
			priceText(p.IndexNanoUSDPerHour), p.Quality, fmt.Sprintf("%d/%d", p.AvailableGPUs, p.TotalGPUs), strconv.Itoa(p.Trades24h), fills(p.Fill10m), survivals(p.Survival1h))
	}
	if err := t.Write(w); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "Dollars per GPU-hour. Clears at: what the newest lease pays; least bid: of a GPU that is free; served in 10 min: how\n"+
		"many jobs with such a bid got a GPU by then; lasts an hour: how many leases with it are not displaced before. Bids that wait are not shown. %s UTC.\n", prices.AsOf.UTC().Format(time.DateTime))
	return err
}

func survivals(all []api.Survival) string {
	return shares(all, func(s api.Survival) (bid, ppm int64) { return s.BidNanoUSDPerHour, s.SurvivalPPM })
}

func fills(all []api.Fill) string {
	return shares(all, func(f api.Fill) (bid, ppm int64) { return f.BidNanoUSDPerHour, f.FillPPM })
}

func shares[T any](all []T, of func(T) (bid, ppm int64)) string {
	if len(all) == 0 {
		return "not known yet"
	}
	parts := make([]string, len(all))
	for i, x := range all {
		bid, ppm := of(x)
		parts[i] = fmt.Sprintf("%s %.0f%%", priceText(bid), float64(ppm)/1e4)
	}
	return strings.Join(parts, " · ")
}

// writeSurvival says what a bid means beside its price.
func writeSurvival(w io.Writer, q api.Quote, r *request) {
	if r.bid == 0 {
		return
	}
	fmt.Fprintf(w, "Interruptible: it pays %s per GPU or a tick more than the highest bid that loses, never more than the %s that you bid.\n",
		pricing.Rate(q.Best.MinBidNanoUSDPerHour), r.bid)
	if f := q.Fill10m; f != nil {
		fmt.Fprintf(w, "%.0f%% of jobs with such a bid are served within ten minutes, by %d of the last week.\n", float64(f.FillPPM)/1e4, f.Waits)
	}
	if s := q.Survival1h; s != nil {
		fmt.Fprintf(w, "%.0f%% of leases with such a bid are not displaced within an hour, by %d of the last week.\n", float64(s.SurvivalPPM)/1e4, s.Runs)
	} else {
		fmt.Fprintln(w, "How likely it is not displaced is not known: too few such leases have run.")
	}
	fmt.Fprintln(w)
}
