package api

import (
	"fmt"
	"time"

	"rialto/pricing"
)

type (
	// PriceReceipt is a print with all that it was computed from.
	PriceReceipt struct {
		Method     string         `json:"method"`
		Params     PriceParams    `json:"params" doc:"of the method; they never change"`
		Cell       string         `json:"cell"`
		At         time.Time      `json:"at" doc:"what was settled before it counts"`
		Hedonic    Hedonic        `json:"hedonic"`
		Trades     []ReceiptTrade `json:"trades" doc:"settled in the window and paid for long enough, by time and id"`
		Asks       []ReceiptAsk   `json:"asks" doc:"that an indicative print depends on, cheapest first"`
		Print      ReceiptPrint   `json:"print"`
		Canonical  string         `json:"canonical" doc:"the inputs as text, one record a line"`
		InputsHash string         `json:"inputs_hash" doc:"SHA-256 of canonical, hexadecimal"`
	}
	// PriceFit is a week's hedonic coefficients with what they were fitted to.
	PriceFit struct {
		Cell         string           `json:"cell"`
		Hedonic      Hedonic          `json:"hedonic"`
		Observations []FitObservation `json:"observations" doc:"the trades of the four weeks before, by rate; no parties, times or ids"`
	}
	// FitObservation is what a fit takes of a trade.
	FitObservation struct {
		RateNanoUSDPerHour int64 `json:"rate_nanousd_per_hour" doc:"per GPU"`
		GPUs               int   `json:"gpus"`
		CPUs               int   `json:"cpus" doc:"per GPU"`
		MemoryMiB          int64 `json:"memory_mib" doc:"per GPU"`
	}
	// PriceWash is what it would take to raise an index by trades with oneself.
	PriceWash struct {
		Cell                string    `json:"cell"`
		At                  time.Time `json:"at" doc:"of the print"`
		Quality             string    `json:"quality" enum:"firm,indicative,stale" doc:"only a firm one can be moved so"`
		IndexNanoUSDPerHour int64     `json:"index_nanousd_per_hour"`
		Operators           int       `json:"operators"`
		GPUSeconds          int64     `json:"gpu_seconds"`
		HHI                 int       `json:"hhi" doc:"concentration of operators, 0 to 10000"`
		SharePPM            int64     `json:"share_ppm" doc:"by which the index is raised"`
		OneNanoUSD          int64     `json:"one_operator_nanousd" doc:"least turnover by one operator, of which he loses the market's fee and what his GPUs would have earned; zero: nothing raises it so far"`
		ThreeNanoUSD        int64     `json:"three_operators_nanousd" doc:"the same by three"`
	}
	// PriceParams are the constants of the index method.
	PriceParams struct {
		WindowSeconds   int64 `json:"window_seconds"`
		HalfLifeSeconds int64 `json:"half_life_seconds"`
		MinPaidSeconds  int64 `json:"min_paid_seconds"`
		ReversalSeconds int64 `json:"reversal_seconds"`
		OperatorCapPPM  int64 `json:"operator_cap_ppm"`
		OutlierPPM      int64 `json:"outlier_ppm" doc:"robust standard deviations, in millionths"`
		MADScalePPM     int64 `json:"mad_scale_ppm"`
		MADFloorPPM     int64 `json:"mad_floor_ppm"`
		TrimPPM         int64 `json:"trim_ppm"`
		MinTrades       int   `json:"min_trades"`
		MinOperators    int   `json:"min_operators"`
		AskGPUs         int   `json:"ask_gpus"`
		MaxAdjustPPM    int64 `json:"max_adjust_ppm"`
	}
	// ReceiptTrade is an executed lease.
	ReceiptTrade struct {
		ID                 string    `json:"id" doc:"the first 16 bytes of SHA-256(\"rialto trade 1\" 0 lease id), hexadecimal: its parties know it"`
		Settled            time.Time `json:"settled"`
		Agreed             time.Time `json:"agreed"`
		GPUs               int       `json:"gpus"`
		RateNanoUSDPerHour int64     `json:"rate_nanousd_per_hour" doc:"per GPU"`
		GPUSeconds         int64     `json:"gpu_seconds" doc:"paid"`
		Provider           string    `json:"provider" doc:"pseudonym"`
		Operator           string    `json:"operator" doc:"pseudonym"`
		Customer           string    `json:"customer" doc:"pseudonym"`
		Canary             bool      `json:"canary" doc:"the market's own probe"`
		CPUs               int       `json:"cpus" doc:"per GPU"`
		MemoryMiB          int64     `json:"memory_mib" doc:"per GPU"`
	}
	// ReceiptAsk is GPUs that could be leased.
	ReceiptAsk struct {
		RateNanoUSDPerHour int64  `json:"rate_nanousd_per_hour" doc:"per GPU"`
		GPUs               int    `json:"gpus"`
		Operator           string `json:"operator" doc:"pseudonym"`
	}
	// ReceiptPrint is what was computed.
	ReceiptPrint struct {
		Quality             string `json:"quality" enum:"firm,indicative,stale"`
		IndexNanoUSDPerHour int64  `json:"index_nanousd_per_hour"`
		P10NanoUSDPerHour   int64  `json:"p10_nanousd_per_hour"`
		P25NanoUSDPerHour   int64  `json:"p25_nanousd_per_hour"`
		P50NanoUSDPerHour   int64  `json:"p50_nanousd_per_hour"`
		P75NanoUSDPerHour   int64  `json:"p75_nanousd_per_hour"`
		P90NanoUSDPerHour   int64  `json:"p90_nanousd_per_hour"`
		Trades              int    `json:"trades" doc:"in the universe"`
		Operators           int    `json:"operators"`
		GPUSeconds          int64  `json:"gpu_seconds"`
		HHI                 int    `json:"hhi"`
		Trimmed             int    `json:"trimmed" doc:"outliers"`
		Related             int    `json:"related" doc:"left out: between related parties"`
		Canaries            int    `json:"canaries" doc:"left out: the market's own"`
		Reversed            int    `json:"reversed" doc:"left out: traded back within two minutes"`
	}
)

func priceReceiptOf(r *pricing.Receipt) PriceReceipt {
	v, p := pricing.ParamsV1(), &r.Print
	out := PriceReceipt{
		Method: pricing.IndexMethod, Cell: r.Cell.String(), At: unix(r.At), Hedonic: hedonicOf(r.Hedonic), Trades: []ReceiptTrade{}, Asks: []ReceiptAsk{},
		Params: PriceParams{
			v.Window, v.HalfLife, v.MinPaid, v.Reversal, v.OperatorCap, v.Outlier, v.MADScale, v.MADFloor, v.Trim,
			v.MinTrades, v.MinOperator, v.AskGPUs, v.MaxAdjust,
		},
		Print: ReceiptPrint{
			Quality: string(p.Quality), IndexNanoUSDPerHour: nano(p.Index), P10NanoUSDPerHour: nano(p.P10), P25NanoUSDPerHour: nano(p.P25),
			P50NanoUSDPerHour: nano(p.P50), P75NanoUSDPerHour: nano(p.P75), P90NanoUSDPerHour: nano(p.P90), Trades: p.Trades, Operators: p.Operators,
			GPUSeconds: p.GPUSeconds, HHI: p.HHI, Trimmed: p.Trimmed, Related: p.Related, Canaries: p.Canaries, Reversed: p.Reversed,
		},
		Canonical: string(r.Canonical()), InputsHash: r.InputsHash,
	}
	for _, t := range r.Trades {
		out.Trades = append(out.Trades, ReceiptTrade{
			t.ID, unix(t.Settled), unix(t.Agreed), t.GPUs, nano(t.Rate), t.GPUSeconds, t.Provider, t.Operator, t.Customer, t.Canary, t.CPUs, t.MemoryMiB,
		})
	}
	for _, a := range r.Asks {
		out.Asks = append(out.Asks, ReceiptAsk{nano(a.Rate), a.GPUs, a.Operator})
	}
	return out
}

func priceFitOf(cell pricing.Cell, h pricing.Hedonic, obs []pricing.Observation) PriceFit {
	out := PriceFit{Cell: cell.String(), Hedonic: hedonicOf(h), Observations: []FitObservation{}}
	for _, o := range obs {
		out.Observations = append(out.Observations, FitObservation{nano(o.Rate), o.GPUs, o.CPUs, o.MemoryMiB})
	}
	return out
}

// Verify fits the coefficients again. The error matches [pricing.ErrReceipt].
func (f *PriceFit) Verify() error {
	h := f.Hedonic.pricing()
	var obs []pricing.Observation
	for _, o := range f.Observations {
		obs = append(obs, pricing.Observation{Rate: pricing.Rate(o.RateNanoUSDPerHour), GPUs: o.GPUs, CPUs: o.CPUs, MemoryMiB: o.MemoryMiB})
	}
	return h.Verify(obs)
}

func (h *Hedonic) pricing() pricing.Hedonic {
	out := pricing.Hedonic{
		Trades: h.Trades, Operators: h.Operators, BaseGPUs: h.BaseGPUs, BaseCPUs: h.BaseCPUs, BaseMemoryMiB: h.BaseMemoryMiB,
		GPUs: h.GPUsPPM, CPUs: h.CPUsPPM, Memory: h.MemoryPPM,
	}
	if h.FittedAt != nil {
		out.FittedAt = h.FittedAt.Unix()
	}
	return out
}

// Wash computes what it would take to move the index of a receipt that holds.
func (r *PriceReceipt) Wash() pricing.Wash {
	again, err := r.receipt()
	if err != nil {
		return pricing.Wash{}
	}
	return pricing.Washed(again.Inputs)
}

// Verify computes the receipt again, from its fields alone, and compares everything. The error matches
// [pricing.ErrReceipt] and says what differs.
func (r *PriceReceipt) Verify() error {
	if r.Method != pricing.IndexMethod {
		return fmt.Errorf("%w: it was made by method %.40q, this program knows %s", pricing.ErrReceipt, r.Method, pricing.IndexMethod)
	}
	again, err := r.receipt()
	if err != nil {
		return err
	}
	if err := pricing.Verify(again); err != nil {
		return err
	}
	if whole := priceReceiptOf(&again); whole.Canonical != r.Canonical || whole.Params != r.Params || whole.Hedonic.Identity != r.Hedonic.Identity {
		return fmt.Errorf("%w: its parameters or its canonical text are not those of its inputs", pricing.ErrReceipt)
	}
	return nil
}

// receipt is what the fields say.
func (r *PriceReceipt) receipt() (pricing.Receipt, error) {
	cell, err := pricing.ParseCell(r.Cell)
	if err != nil {
		return pricing.Receipt{}, fmt.Errorf("%w: %w", pricing.ErrReceipt, err)
	}
	again := pricing.Receipt{Inputs: pricing.Inputs{Cell: cell, At: r.At.Unix()}, InputsHash: r.InputsHash}
	again.Hedonic = r.Hedonic.pricing()
	for _, t := range r.Trades {
		again.Trades = append(again.Trades, pricing.Trade{
			ID: t.ID, Settled: t.Settled.Unix(), Agreed: t.Agreed.Unix(), GPUs: t.GPUs, Rate: pricing.Rate(t.RateNanoUSDPerHour),
			GPUSeconds: t.GPUSeconds, Provider: t.Provider, Operator: t.Operator, Customer: t.Customer, Canary: t.Canary, CPUs: t.CPUs, MemoryMiB: t.MemoryMiB,
		})
	}
	for _, a := range r.Asks {
		again.Asks = append(again.Asks, pricing.Ask{Rate: pricing.Rate(a.RateNanoUSDPerHour), GPUs: a.GPUs, Operator: a.Operator})
	}
	p := &r.Print
	again.Print = pricing.Print{
		Cell: cell, At: again.At, Quality: pricing.Quality(p.Quality), Index: pricing.Rate(p.IndexNanoUSDPerHour),
		P10: pricing.Rate(p.P10NanoUSDPerHour), P25: pricing.Rate(p.P25NanoUSDPerHour), P50: pricing.Rate(p.P50NanoUSDPerHour),
		P75: pricing.Rate(p.P75NanoUSDPerHour), P90: pricing.Rate(p.P90NanoUSDPerHour), Trades: p.Trades, Operators: p.Operators,
		GPUSeconds: p.GPUSeconds, HHI: p.HHI, Trimmed: p.Trimmed, Related: p.Related, Canaries: p.Canaries, Reversed: p.Reversed,
	}
	return again, nil
}
