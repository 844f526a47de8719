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
		{Title: "LASTS AN HOUR"},
	}}
	for _, p := range prices.Prices {
		t.Add(p.Model, p.Region, tierText(p.Tier), priceText(p.ClearingNanoUSDPerHour), priceText(p.BestAskNanoUSDPerHour),
			priceText(p.IndexNanoUSDPerHour), p.Quality, fmt.Sprintf("%d/%d", p.AvailableGPUs, p.TotalGPUs), strconv.Itoa(p.Trades24h), survivals(p.Survival1h))
	}
	if err := t.Write(w); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "Dollars per GPU-hour. Clears at: what the newest lease pays; least bid: of a GPU that is free; lasts an hour: how many\n"+
		"leases with such a bid are not displaced before. Bids that wait are not shown. %s UTC.\n", prices.AsOf.UTC().Format(time.DateTime))
	return err
}

func survivals(all []api.Survival) string {
	if len(all) == 0 {
		return "not known yet"
	}
	parts := make([]string, len(all))
	for i, s := range all {
		parts[i] = fmt.Sprintf("%s %.0f%%", priceText(s.BidNanoUSDPerHour), float64(s.SurvivalPPM)/1e4)
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
	if s := q.Survival1h; s != nil {
		fmt.Fprintf(w, "%.0f%% of leases with such a bid are not displaced within an hour, by %d of the last week.\n", float64(s.SurvivalPPM)/1e4, s.Runs)
	} else {
		fmt.Fprintln(w, "How likely it is not displaced is not known: too few such leases have run.")
	}
	fmt.Fprintln(w)
}
