package api

import (
	"fmt"
	"time"

	"rialto/broker"
	"rialto/pricing"
)

// JSON shapes of prices. Rates are per GPU; operators and customers are pseudonyms of a cell and a day.
type (
	// Model is a GPU model and where it has a price.
	Model struct {
		Model         string   `json:"model" doc:"canonical name"`
		MemoryMiB     uint64   `json:"memory_mib,omitempty" doc:"as sold; missing for a model that is not on the market's list"`
		AvailableGPUs int      `json:"available_gpus" doc:"that can be leased now, simulated ones aside"`
		Cells         []string `json:"cells" doc:"in which it has been offered or traded"`
	}
	// Models lists them.
	Models struct {
		AsOf   time.Time `json:"as_of"`
		Seq    uint64    `json:"seq" doc:"of the newest change"`
		Models []Model   `json:"models"`
	}

	// DepthPoint is what the first GPUs cost, cheapest first.
	DepthPoint struct {
		GPUs                int   `json:"gpus"`
		AvgNanoUSDPerHour   int64 `json:"avg_nanousd_per_hour"`
		WorstNanoUSDPerHour int64 `json:"worst_nanousd_per_hour"`
	}
	// Hedonic are the coefficients that rates are adjusted with.
	Hedonic struct {
		FittedAt      *time.Time `json:"fitted_at,omitempty"`
		Trades        int        `json:"trades" doc:"looked at; with less than 30 of 5 operators nothing is adjusted"`
		Operators     int        `json:"operators"`
		Identity      bool       `json:"identity" doc:"nothing is adjusted"`
		BaseGPUs      int64      `json:"base_gpus" doc:"of the base configuration"`
		BaseCPUs      int64      `json:"base_cpus" doc:"per GPU"`
		BaseMemoryMiB int64      `json:"base_memory_mib" doc:"per GPU"`
		GPUsPPM       int64      `json:"gpus_ppm" doc:"elasticity of the rate, in millionths"`
		CPUsPPM       int64      `json:"cpus_ppm"`
		MemoryPPM     int64      `json:"memory_ppm"`
	}
	// PriceFix is a daily fix.
	PriceFix struct {
		At             time.Time `json:"at" doc:"16:00 UTC"`
		NanoUSDPerHour int64     `json:"nanousd_per_hour" doc:"mean of the last 60 firm prints before"`
	}
	// Price is a cell's newest print and what is on offer.
	Price struct {
		Cell      string     `json:"cell" doc:"MODEL:TERM:REGION:TIER"`
		Model     string     `json:"model"`
		Term      string     `json:"term"`
		Region    string     `json:"region"`
		Tier      string     `json:"tier"`
		Simulated bool       `json:"simulated" doc:"no real GPUs: never in one cell with real ones"`
		PrintedAt *time.Time `json:"printed_at,omitempty" doc:"missing: not printed yet"`
		Method    string     `json:"method"`

		Quality             string `json:"quality" enum:"firm,indicative,stale" doc:"firm: executed leases; indicative: asks, because there are too few of them; stale: no price"`
		IndexNanoUSDPerHour int64  `json:"index_nanousd_per_hour" doc:"zero when stale"`
		P10NanoUSDPerHour   int64  `json:"p10_nanousd_per_hour" doc:"of executed leases; zero without"`
		P25NanoUSDPerHour   int64  `json:"p25_nanousd_per_hour"`
		P50NanoUSDPerHour   int64  `json:"p50_nanousd_per_hour"`
		P75NanoUSDPerHour   int64  `json:"p75_nanousd_per_hour"`
		P90NanoUSDPerHour   int64  `json:"p90_nanousd_per_hour"`
		Trades24h           int    `json:"trades_24h" doc:"that count"`
		Operators24h        int    `json:"operators_24h"`
		GPUSeconds24h       int64  `json:"gpu_seconds_24h"`
		HHI                 int    `json:"hhi" doc:"concentration of operators, 0 to 10000"`
		Trimmed             int    `json:"trimmed" doc:"outliers"`
		InputsHash          string `json:"inputs_hash,omitempty" doc:"SHA-256, see the receipt"`

		BestAskNanoUSDPerHour  int64        `json:"best_ask_nanousd_per_hour" doc:"zero: nothing can be leased now; of an interruptible cell, the least bid that takes a free GPU"`
		ClearingNanoUSDPerHour int64        `json:"clearing_nanousd_per_hour,omitempty" doc:"of an interruptible cell: what the newest of its leases that run pays"`
		Survival1h             []Survival   `json:"survival_1h,omitempty" doc:"of an interruptible cell: how likely a lease is not displaced within an hour, for the bids of the last week. Bids that wait are not told"`
		Fill10m                []Fill       `json:"fill_10m,omitempty" doc:"likewise: how likely a job that names the model gets a host within ten minutes"`
		Depth                  []DepthPoint `json:"depth" doc:"for 1, 8, 64 and 256 GPUs, as far as there are as many"`
		Impact                 *DepthPoint  `json:"impact,omitempty" doc:"for the GPUs of the question; missing if there are fewer"`
		AvailableGPUs          int          `json:"available_gpus"`
		TotalGPUs              int          `json:"total_gpus"`
		Offers                 int          `json:"offers"`
		Providers              int          `json:"providers"`
		Hedonic                Hedonic      `json:"hedonic"`
		Fix                    *PriceFix    `json:"fix,omitempty" doc:"the newest daily one"`
	}
	// Prices is one row for each cell.
	Prices struct {
		AsOf   time.Time `json:"as_of" doc:"when offers were read"`
		Seq    uint64    `json:"seq" doc:"of the newest change"`
		Prices []Price   `json:"prices"`
	}

	// PriceBar is one row of a history.
	PriceBar struct {
		Seq                   uint64    `json:"seq,omitempty" doc:"of the row; missing: its interval is not over"`
		Revises               uint64    `json:"revises,omitempty" doc:"the row that this one corrects"`
		Start                 time.Time `json:"start"`
		OpenNanoUSDPerHour    int64     `json:"open_nanousd_per_hour" doc:"of prints; zero without one"`
		HighNanoUSDPerHour    int64     `json:"high_nanousd_per_hour"`
		LowNanoUSDPerHour     int64     `json:"low_nanousd_per_hour"`
		CloseNanoUSDPerHour   int64     `json:"close_nanousd_per_hour"`
		Prints                int       `json:"prints"`
		BestAskNanoUSDPerHour int64     `json:"best_ask_nanousd_per_hour"`
		VWAPNanoUSDPerHour    int64     `json:"vwap_nanousd_per_hour" doc:"of executed leases, by GPU-seconds; zero without one"`
		Trades                int       `json:"trades"`
		GPUSeconds            int64     `json:"gpu_seconds"`
	}
	// PriceHistory is a series of one quality: firm and indicative prices are never mixed.
	PriceHistory struct {
		Cell    string     `json:"cell"`
		Quality string     `json:"quality"`
		Step    string     `json:"step"`
		AsOf    time.Time  `json:"as_of"`
		Seq     uint64     `json:"seq" doc:"of the newest change"`
		Bars    []PriceBar `json:"bars" doc:"as they were appended; a row is never changed, one that revises it comes later"`
	}

	// PriceForecastPoint is one horizon.
	PriceForecastPoint struct {
		Hours              int    `json:"hours" doc:"ahead"`
		Method             string `json:"method" enum:"seasonal,persistence"`
		Why                string `json:"why,omitempty" doc:"why it is persistence"`
		P10NanoUSDPerHour  int64  `json:"p10_nanousd_per_hour" doc:"zero: too few past forecasts to know"`
		P50NanoUSDPerHour  int64  `json:"p50_nanousd_per_hour"`
		P90NanoUSDPerHour  int64  `json:"p90_nanousd_per_hour"`
		BacktestMAPEPPM    int64  `json:"backtest_mape_ppm" doc:"mean absolute error of p50, in millionths"`
		PersistenceMAPEPPM int64  `json:"persistence_mape_ppm" doc:"likewise, of saying that nothing changes"`
		Coverage80PPM      int64  `json:"coverage_80_ppm" doc:"share of values between p10 and p90; 800000 is right"`
		Backtests          int    `json:"backtests"`
	}
	// PriceForecast is what a cell's index is expected to be.
	PriceForecast struct {
		Cell    string               `json:"cell"`
		Quality string               `json:"quality"`
		AsOf    time.Time            `json:"as_of" doc:"the end of the last hour that it knows"`
		Hours   int                  `json:"hours" doc:"of history"`
		Points  []PriceForecastPoint `json:"points"`
	}

	// BookLevel is the GPUs on offer at one rate.
	BookLevel struct {
		NanoUSDPerHour int64 `json:"nanousd_per_hour"`
		GPUs           int   `json:"gpus"`
	}
	// Book is what is on offer in a cell.
	Book struct {
		Cell          string       `json:"cell"`
		Simulated     bool         `json:"simulated"`
		AvailableGPUs int          `json:"available_gpus"`
		Levels        []BookLevel  `json:"levels" doc:"cheapest first, at most 100"`
		LeftOut       int          `json:"left_out" doc:"dearer levels that are not shown"`
		Depth         []DepthPoint `json:"depth"`
		Impact        *DepthPoint  `json:"impact,omitempty" doc:"what qty GPUs cost from the cheapest on; missing if there are fewer"`

		Bids        []BookLevel `json:"bids" doc:"what jobs that wait would pay, in steps of 0.001 USD, the highest first, at most 100. A bid for any model is in the book of each that has the memory"`
		BidGPUs     int         `json:"bid_gpus" doc:"all of them"`
		BidsLeftOut int         `json:"bids_left_out" doc:"lower levels that are not shown"`
		BidImpact   *DepthPoint `json:"bid_impact,omitempty" doc:"what qty GPUs earn from the highest on; missing if fewer are asked for"`
	}
	// Books lists them.
	Books struct {
		AsOf  time.Time `json:"as_of"`
		Seq   uint64    `json:"seq" doc:"of the newest change"`
		Books []Book    `json:"books"`
	}

	// MarketHealth says how the market did in the last 24 hours. What nothing is known of is missing.
	MarketHealth struct {
		AsOf                time.Time `json:"as_of"`
		Holds               int       `json:"holds" doc:"times that a provider was asked for GPUs"`
		FillRatePPM         *int64    `json:"fill_rate_ppm,omitempty" doc:"share of these that were granted, in millionths"`
		StaleOfferPPM       *int64    `json:"stale_offer_ppm,omitempty" doc:"share of these that were refused or not answered: the offer was not what it said"`
		Starts              int       `json:"starts" doc:"leases settled that had become ready"`
		MedianStartMS       *int64    `json:"median_start_ms,omitempty" doc:"from the grant until ready"`
		Interruptions       int       `json:"interruptions" doc:"of the starts: the provider lost or ended them"`
		InterruptionsPerKhr *float64  `json:"interruptions_per_1000_gpu_hours,omitempty"`
		GPUSeconds          int64     `json:"gpu_seconds" doc:"paid"`
		Cells               int       `json:"cells"`
		CellsWithFirmPrices int       `json:"firm_cells"`
	}
)

func nano(r pricing.Rate) int64 { return int64(r) }

func pointOf(p pricing.DepthPoint) DepthPoint {
	return DepthPoint{GPUs: p.GPUs, AvgNanoUSDPerHour: nano(p.Avg), WorstNanoUSDPerHour: nano(p.Worst)}
}

func depthOf(levels []pricing.Level) []DepthPoint {
	out := []DepthPoint{}
	for _, p := range pricing.Depth(levels) {
		out = append(out, pointOf(p))
	}
	return out
}

// impactOf prices the first n GPUs of levels; nil: there are fewer, or none was asked for.
func impactOf(levels []pricing.Level, n int) *DepthPoint {
	if n == 0 {
		return nil
	}
	p, err := pricing.Impact(levels, n)
	if err != nil {
		return nil
	}
	return new(pointOf(p))
}

func hedonicOf(h pricing.Hedonic) Hedonic {
	return Hedonic{
		FittedAt: stamp(unix(h.FittedAt)), Trades: h.Trades, Operators: h.Operators, Identity: h.IsIdentity(),
		BaseGPUs: h.BaseGPUs, BaseCPUs: h.BaseCPUs, BaseMemoryMiB: h.BaseMemoryMiB, GPUsPPM: h.GPUs, CPUsPPM: h.CPUs, MemoryPPM: h.Memory,
	}
}

// unix is the zero time for zero.
func unix(seconds int64) time.Time {
	if seconds == 0 {
		return time.Time{}
	}
	return time.Unix(seconds, 0).UTC()
}

func priceOf(r *broker.PriceRow, gpus int) Price {
	p := &r.Print
	levels, _ := pricing.Levels(r.Asks)
	out := Price{
		Cell: p.Cell.String(), Model: p.Cell.Model, Term: string(p.Cell.Term), Region: p.Cell.Region, Tier: p.Cell.Tier,
		Simulated: p.Cell.Tier == pricing.TierSimulated, PrintedAt: stamp(unix(p.At)), Method: pricing.IndexMethod,
		Quality: string(p.Quality), IndexNanoUSDPerHour: nano(p.Index),
		P10NanoUSDPerHour: nano(p.P10), P25NanoUSDPerHour: nano(p.P25), P50NanoUSDPerHour: nano(p.P50),
		P75NanoUSDPerHour: nano(p.P75), P90NanoUSDPerHour: nano(p.P90),
		Trades24h: p.Trades, Operators24h: p.Operators, GPUSeconds24h: p.GPUSeconds, HHI: p.HHI, Trimmed: p.Trimmed, InputsHash: r.InputsHash,
		Depth: depthOf(levels), Impact: impactOf(levels, gpus), AvailableGPUs: r.FreeGPUs, TotalGPUs: r.GPUs,
		Offers: r.Offers, Providers: r.Providers, Hedonic: hedonicOf(r.Hedonic),
	}
	if len(r.Asks) > 0 {
		out.BestAskNanoUSDPerHour = nano(r.Asks[0].Rate)
	}
	out.ClearingNanoUSDPerHour, out.Survival1h, out.Fill10m = nano(r.Clearing), survivalsOf(r.Runs), fillsOf(r.Waits, r.WaitsAt)
	if !r.Fix.At.IsZero() {
		out.Fix = &PriceFix{At: r.Fix.At, NanoUSDPerHour: nano(r.Fix.Value)}
	}
	return out
}

// maxLevels bounds the levels of a book that are shown.
const maxLevels = 100

func bookOf(r *broker.PriceRow, qty int) Book {
	levels, gpus := pricing.Levels(r.Asks)
	out := Book{
		Cell: r.Print.Cell.String(), Simulated: r.Print.Cell.Tier == pricing.TierSimulated, AvailableGPUs: gpus,
		LeftOut: max(0, len(levels)-maxLevels), Depth: depthOf(levels), Impact: impactOf(levels, qty), Levels: levelsOf(levels),
		Bids: levelsOf(r.Bids), BidsLeftOut: max(0, len(r.Bids)-maxLevels), BidImpact: impactOf(r.Bids, qty),
	}
	for _, l := range r.Bids {
		out.BidGPUs += l.GPUs
	}
	return out
}

func levelsOf(levels []pricing.Level) []BookLevel {
	out := []BookLevel{}
	for _, l := range levels[:min(len(levels), maxLevels)] {
		out = append(out, BookLevel{NanoUSDPerHour: nano(l.Rate), GPUs: l.GPUs})
	}
	return out
}

func barOf(b pricing.Bar) PriceBar {
	return PriceBar{
		Seq: b.Seq, Revises: b.Revises, Start: unix(b.Start), OpenNanoUSDPerHour: nano(b.Open), HighNanoUSDPerHour: nano(b.High),
		LowNanoUSDPerHour: nano(b.Low), CloseNanoUSDPerHour: nano(b.Close), Prints: b.Prints, BestAskNanoUSDPerHour: nano(b.BestAsk),
		VWAPNanoUSDPerHour: nano(b.VWAP), Trades: b.Trades, GPUSeconds: b.GPUSeconds,
	}
}

func forecastOf(cell pricing.Cell, q pricing.Quality, f pricing.Forecast) PriceForecast {
	out := PriceForecast{Cell: cell.String(), Quality: string(q), AsOf: unix(f.At), Hours: f.Hours, Points: []PriceForecastPoint{}}
	for _, p := range f.Points {
		out.Points = append(out.Points, PriceForecastPoint{
			Hours: p.Hours, Method: string(p.Method), Why: p.Why, P10NanoUSDPerHour: nano(p.P10), P50NanoUSDPerHour: nano(p.P50),
			P90NanoUSDPerHour: nano(p.P90), BacktestMAPEPPM: p.MAPE, PersistenceMAPEPPM: p.PersistenceMAPE, Coverage80PPM: p.Coverage80, Backtests: p.Backtests,
		})
	}
	return out
}

func healthOf(b *broker.PriceBoard) MarketHealth {
	h := &b.Health
	out := MarketHealth{AsOf: b.At, Holds: h.Holds, Starts: h.Starts, Interruptions: h.Interruptions, GPUSeconds: h.GPUSeconds, Cells: len(b.Rows)}
	for i := range b.Rows {
		if b.Rows[i].Print.Quality == pricing.Firm {
			out.CellsWithFirmPrices++
		}
	}
	if h.Holds > 0 {
		filled := int64(h.Granted) * 1_000_000 / int64(h.Holds)
		out.FillRatePPM, out.StaleOfferPPM = &filled, new(1_000_000-filled)
	}
	if h.Starts > 0 {
		out.MedianStartMS = new(h.MedianStart.Milliseconds())
	}
	if h.GPUSeconds > 0 {
		out.InterruptionsPerKhr = new(float64(h.Interruptions) * 3_600_000 / float64(h.GPUSeconds))
	}
	return out
}

// parseCell reads a cell that a caller names.
func parseCell(field, text string) (pricing.Cell, error) {
	c, err := pricing.ParseCell(text)
	if err != nil {
		return c, &broker.FieldError{Field: field, Problem: fmt.Sprint(err)}
	}
	return c, nil
}
