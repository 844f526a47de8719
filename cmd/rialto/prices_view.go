package main

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"rialto/broker/api"
	"rialto/cmd/internal/cli"
	"rialto/pricing"
)

// priceText is a rate per GPU-hour for a table; a dash for none.
func priceText(nanoPerHour int64) string {
	if nanoPerHour == 0 {
		return "–"
	}
	return pricing.Money(roundRate(nanoPerHour)).String()
}

// roundRate rounds to a hundredth of a cent, so that a mean of many prices fits a table. JSON has all of it.
func roundRate(nano int64) int64 {
	const unit = 100_000
	return (nano + unit/2) / unit * unit
}

func qualityTone(quality string) cli.Tone {
	switch quality {
	case string(pricing.Firm):
		return cli.Good
	case string(pricing.Indicative):
		return cli.Warn
	}
	return cli.Dim
}

func tierText(tier string) string {
	if tier == pricing.TierSimulated {
		return simulated
	}
	return tier
}

// writePrices draws a row for each cell.
func writePrices(w io.Writer, prices api.Prices, f pricesFlags, trends map[string][]api.PriceBar) error {
	if len(prices.Prices) == 0 {
		_, err := fmt.Fprintln(w, "No prices: nothing like that was offered or traded yet.")
		return err
	}
	t := cli.Table{Columns: []cli.Column{
		{Title: "GPU"},
		{Title: "REGION"},
		{Title: "PROOF", Tone: proofTone},
		{Title: "INDEX", Align: cli.Decimal, Tone: func(string) cli.Tone { return cli.Strong }},
		{Title: "QUALITY", Tone: qualityTone},
		{Title: "BEST ASK", Align: cli.Decimal},
		{Title: "8 GPUS", Align: cli.Decimal},
		{Title: "64 GPUS", Align: cli.Decimal, Drop: true},
		{Title: "FREE", Align: cli.Right, Tone: freeTone},
		{Title: "TRADES", Align: cli.Right, Drop: true},
		{Title: "LAST DAY"},
	}}
	if f.gpus > 0 {
		t.Columns = append(t.Columns, cli.Column{Title: fmt.Sprintf("%d GPUS NOW", f.gpus), Align: cli.Decimal})
	}
	for _, p := range prices.Prices {
		at := map[int]int64{}
		for _, d := range p.Depth {
			at[d.GPUs] = d.AvgNanoUSDPerHour
		}
		row := []string{
			p.Model, p.Region, tierText(p.Tier), priceText(p.IndexNanoUSDPerHour), p.Quality, priceText(p.BestAskNanoUSDPerHour),
			priceText(at[8]), priceText(at[64]), fmt.Sprintf("%d/%d", p.AvailableGPUs, p.TotalGPUs), strconv.Itoa(p.Trades24h), sparkline(trends[p.Cell]),
		}
		if f.gpus > 0 {
			text := "not that many"
			if p.Impact != nil {
				text = priceText(p.Impact.AvgNanoUSDPerHour)
			}
			row = append(row, text)
		}
		t.Add(row...)
	}
	if err := t.Write(w); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "Dollars per GPU-hour; 8, 64: the average of so many. %s UTC.\nTrades: those of 24 h that count.\n", prices.AsOf.UTC().Format(time.DateTime))
	return err
}

// sparkline draws closing prices; an hour without one is a gap.
func sparkline(bars []api.PriceBar) string {
	const marks = "▁▂▃▄▅▆▇█"
	steps := []rune(marks)
	latest := map[int64]int64{}
	var low, high, first, last int64
	for _, b := range bars {
		if b.Prints == 0 {
			continue
		}
		hour, v := b.Start.Unix()/3600, b.CloseNanoUSDPerHour
		if len(latest) == 0 {
			low, high, first, last = v, v, hour, hour
		}
		latest[hour] = v
		low, high, first, last = min(low, v), max(high, v), min(first, hour), max(last, hour)
	}
	if len(latest) == 0 {
		return ""
	}
	var s strings.Builder
	for hour := max(first, last-47); hour <= last; hour++ {
		v, ok := latest[hour]
		switch {
		case !ok:
			s.WriteByte(' ')
		case high == low:
			s.WriteRune(steps[3])
		default:
			s.WriteRune(steps[int(float64(v-low)/float64(high-low)*float64(len(steps)-1)+0.5)])
		}
	}
	return s.String()
}

// writeBooks draws what is on offer in each cell.
func writeBooks(w io.Writer, books api.Books, gpus int) error {
	if len(books.Books) == 0 {
		_, err := fmt.Fprintln(w, "Nothing like that is or was on offer.")
		return err
	}
	for i, b := range books.Books {
		if i > 0 {
			fmt.Fprintln(w)
		}
		mark := ""
		if b.Simulated {
			mark = " " + cli.Paint(w, cli.Warn, simulated)
		}
		fmt.Fprintf(w, "%s%s: %d free, %d bid for\n", cli.Clean(b.Cell), mark, b.AvailableGPUs, b.BidGPUs)
		if err := writeLadder(w, &b); err != nil {
			return err
		}
		for _, d := range b.Depth {
			fmt.Fprintf(w, "first %d: %s on average, %s at most\n", d.GPUs, priceText(d.AvgNanoUSDPerHour), priceText(d.WorstNanoUSDPerHour))
		}
		switch {
		case gpus > 0 && b.Impact == nil:
			fmt.Fprintf(w, "%d at once: there are not that many\n", gpus)
		case gpus > 0:
			fmt.Fprintf(w, "%d at once: %s on average, %s at most\n", gpus, priceText(b.Impact.AvgNanoUSDPerHour), priceText(b.Impact.WorstNanoUSDPerHour))
		}
		if b.BidImpact != nil {
			fmt.Fprintf(w, "%d sold at once: %s on average, %s at least\n", gpus, priceText(b.BidImpact.AvgNanoUSDPerHour), priceText(b.BidImpact.WorstNanoUSDPerHour))
		}
	}
	return nil
}

// writeLadder draws the asks, the dearest on top, and below them the bids, the highest on top: where they come near each
// other is the market.
func writeLadder(w io.Writer, b *api.Book) error {
	t := cli.Table{Columns: []cli.Column{
		{Title: "", Tone: sideTone}, {Title: "GPU-HOUR", Align: cli.Decimal}, {Title: "GPUS", Align: cli.Right}, {Title: "TOGETHER", Align: cli.Right}, {Title: ""},
	}}
	most := 1
	for _, l := range slices.Concat(b.Levels, b.Bids) {
		most = max(most, l.GPUs)
	}
	row := func(side string, l api.BookLevel, together int) {
		t.Add(side, pricing.Money(l.NanoUSDPerHour).String(), strconv.Itoa(l.GPUs), strconv.Itoa(together), strings.Repeat("▇", max(1, 24*l.GPUs/most)))
	}
	together := 0
	for _, l := range b.Levels {
		together += l.GPUs
	}
	for _, l := range slices.Backward(b.Levels) {
		row("ask", l, together)
		together -= l.GPUs
	}
	for _, l := range b.Bids {
		together += l.GPUs
		row("bid", l, together)
	}
	if len(b.Levels)+len(b.Bids) > 0 {
		if err := t.Write(w); err != nil {
			return err
		}
	}
	if b.LeftOut > 0 {
		fmt.Fprintf(w, "%d dearer asks are left out\n", b.LeftOut)
	}
	if b.BidsLeftOut > 0 {
		fmt.Fprintf(w, "%d lower bids are left out\n", b.BidsLeftOut)
	}
	return nil
}

func sideTone(side string) cli.Tone {
	if side == "bid" {
		return cli.Good
	}
	return cli.Bad
}

// shownBars is how many rows of a history a person gets to see.
const shownBars = 48

// writeHistories draws the newest rows of each history.
func writeHistories(w io.Writer, all []api.PriceHistory) error {
	if len(all) == 0 {
		_, err := fmt.Fprintln(w, "No prices: nothing like that was offered or traded yet.")
		return err
	}
	for i, h := range all {
		if i > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "%s, %s, by %s\n", cli.Clean(h.Cell), cli.Clean(h.Quality), cli.Clean(h.Step))
		t := cli.Table{Columns: []cli.Column{
			{Title: "FROM (UTC)"},
			{Title: "OPEN", Align: cli.Decimal},
			{Title: "HIGH", Align: cli.Decimal},
			{Title: "LOW", Align: cli.Decimal},
			{Title: "CLOSE", Align: cli.Decimal, Tone: func(string) cli.Tone { return cli.Strong }},
			{Title: "PAID", Align: cli.Decimal},
			{Title: "TRADES", Align: cli.Right},
			{Title: "BEST ASK", Align: cli.Decimal},
			{Title: ""},
		}}
		for _, b := range h.Bars[max(0, len(h.Bars)-shownBars):] {
			note := ""
			switch {
			case b.Revises != 0:
				note = fmt.Sprintf("corrects row %d", b.Revises)
			case b.Seq == 0:
				note = "so far"
			}
			t.Add(b.Start.UTC().Format("2006-01-02 15:04"), priceText(b.OpenNanoUSDPerHour), priceText(b.HighNanoUSDPerHour), priceText(b.LowNanoUSDPerHour),
				priceText(b.CloseNanoUSDPerHour), priceText(b.VWAPNanoUSDPerHour), strconv.Itoa(b.Trades), priceText(b.BestAskNanoUSDPerHour), note)
		}
		if len(h.Bars) == 0 {
			fmt.Fprintln(w, "nothing was printed yet")
			continue
		}
		if err := t.Write(w); err != nil {
			return err
		}
		if hidden := len(h.Bars) - shownBars; hidden > 0 {
			fmt.Fprintf(w, "%d earlier rows: --json has them\n", hidden)
		}
	}
	return nil
}

// writeVerified says what was computed again. What does not hold is the command's error.
func writeVerified(w io.Writer, v verified) error {
	if !v.Holds {
		return nil
	}
	r, p := &v.Receipt, &v.Receipt.Print
	value := "no price"
	if p.IndexNanoUSDPerHour > 0 {
		value = pricing.Rate(p.IndexNanoUSDPerHour).String() + " per GPU"
	}
	fmt.Fprintf(w, "%s %s at %s: %s, %s\n", cli.Paint(w, cli.Good, "HOLDS"), r.Cell, r.At.UTC().Format(time.RFC3339), value, p.Quality)
	switch pricing.Quality(p.Quality) {
	case pricing.Firm:
		fmt.Fprintf(w, "Computed again on this machine from %d trades of %d operators, %d more left out, %d trimmed as outliers.\n",
			p.Trades, p.Operators, p.Related+p.Canaries+p.Reversed, p.Trimmed)
	case pricing.Indicative:
		gpus := 0
		for _, a := range r.Asks {
			gpus += a.GPUs
		}
		fmt.Fprintf(w, "Computed again on this machine from the %d cheapest GPUs on offer: %d trades of %d operators are too few.\n", gpus, p.Trades, p.Operators)
	case pricing.Stale:
	}
	if v.Wash != nil {
		fmt.Fprintf(w, "Raising it by 1%% would take trades with oneself of %s by one operator, of %s by three; operators' concentration (HHI) is %d of 10000.\n",
			washText(v.Wash.OneNanoUSD), washText(v.Wash.ThreeNanoUSD), p.HHI)
	}
	writeFit(w, &r.Hedonic)
	_, err := fmt.Fprintf(w, "Method %s, SHA-256 of the inputs %s\n", r.Method, r.InputsHash)
	return err
}

// washText is a turnover to the cent: it is found within a hundredth.
func washText(nanos int64) string {
	if nanos == 0 {
		return "more than any"
	}
	const cent = int64(pricing.USD / 100)
	return pricing.Money((nanos + cent/2) / cent * cent).String()
}

// writeFit says to what rates were adjusted, and that it was fitted again.
func writeFit(w io.Writer, h *api.Hedonic) {
	switch {
	case h.FittedAt == nil:
	case h.Identity && (h.Trades < pricing.HedonicTrades || h.Operators < pricing.HedonicOperators):
		fmt.Fprintf(w, "Not adjusted for what comes with a GPU: the four weeks before %s had %d trades of %d operators, fewer than %d of %d.\n",
			h.FittedAt.UTC().Format(time.DateOnly), h.Trades, h.Operators, pricing.HedonicTrades, pricing.HedonicOperators)
	default:
		fmt.Fprintf(w, "Adjusted to %d CPUs and %s for each GPU of %d, by elasticities of %+.4f, %+.4f and %+.4f, fitted again from %d trades of %d operators.\n",
			h.BaseCPUs, cli.FormatMiB(uint64(max(0, h.BaseMemoryMiB))), h.BaseGPUs, //nolint:gosec // not negative
			float64(h.CPUsPPM)/1e6, float64(h.MemoryPPM)/1e6, float64(h.GPUsPPM)/1e6, h.Trades, h.Operators)
	}
}

// writeForecast draws a row for each horizon.
func writeForecast(w io.Writer, f api.PriceForecast) error {
	fmt.Fprintf(w, "%s, %s, from %d hours up to %s UTC\n", cli.Clean(f.Cell), cli.Clean(f.Quality), f.Hours, f.AsOf.UTC().Format("2006-01-02 15:04"))
	t := cli.Table{Columns: []cli.Column{
		{Title: "IN", Align: cli.Right},
		{Title: "LOW", Align: cli.Decimal},
		{Title: "MIDDLE", Align: cli.Decimal, Tone: func(string) cli.Tone { return cli.Strong }},
		{Title: "HIGH", Align: cli.Decimal},
		{Title: "METHOD"},
		{Title: "ERROR", Align: cli.Decimal},
		{Title: "UNCHANGED", Align: cli.Decimal},
		{Title: "IN BAND", Align: cli.Right},
		{Title: "TRIED", Align: cli.Right},
	}}
	percent := func(ppm int64, tried int) string {
		if tried == 0 {
			return "–"
		}
		return fmt.Sprintf("%.2f%%", float64(ppm)/10_000)
	}
	var why []string
	for _, p := range f.Points {
		banded := p.Backtests
		if p.P10NanoUSDPerHour == 0 {
			banded = 0
		}
		t.Add(fmt.Sprintf("%d h", p.Hours), priceText(p.P10NanoUSDPerHour), priceText(p.P50NanoUSDPerHour), priceText(p.P90NanoUSDPerHour), p.Method,
			percent(p.BacktestMAPEPPM, p.Backtests), percent(p.PersistenceMAPEPPM, p.Backtests), percent(p.Coverage80PPM, banded), strconv.Itoa(p.Backtests))
		if p.Why != "" {
			why = append(why, fmt.Sprintf("%d h: persistence, because: %s", p.Hours, cli.Clean(p.Why)))
		}
	}
	if err := t.Write(w); err != nil {
		return err
	}
	for _, line := range why {
		fmt.Fprintln(w, line)
	}
	_, err := fmt.Fprintln(w, "Error: the mean absolute one of past forecasts, beside that of saying \"unchanged\". In band: should be 80%.")
	return err
}
