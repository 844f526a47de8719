package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"rialto/broker"
	"rialto/broker/api"
	"rialto/cmd/internal/cli"
	"rialto/pricing"
)

// pricesFlags are the flags of `rialto prices`.
type pricesFlags struct {
	region   string
	tier     string
	gpus     int
	reserved bool
	spot     bool
	depth    bool
	history  bool
	step     string
	quality  string
}

func (a *app) pricesCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "prices [MODEL]",
		Short: "Show what GPUs cost: the index, what is on offer, and how it moved",
		Long: "Show what GPUs cost. The index comes from leases that were executed and paid (firm), or, where there are\n" +
			"too few, from the asks (indicative); the two are never mixed, and simulated GPUs have prices of their own, as have\n" +
			"leases whose customers commit to a term (--reserved).\n" +
			"`rialto prices verify` computes an index again.",
		Example: "  rialto prices\n" +
			"  rialto prices 'RTX 4090' --history --step 1h\n" +
			"  rialto prices 'H100 SXM' --depth --gpus 8",
		Args: cli.Args(0, 1),
	}
	var f pricesFlags
	fl := c.Flags()
	fl.StringVar(&f.region, "region", pricing.AnyRegion, "any (all regions in one), a group such as europe, or all (each by itself)")
	fl.StringVar(&f.tier, "tier", "", "simulated, claimed or nvml; all if not given")
	fl.IntVar(&f.gpus, "gpus", 0, "price so many GPUs at once, too")
	fl.BoolVar(&f.reserved, "reserved", false, "for who commits to a term, see rialto run --reserve; unless given, on demand")
	fl.BoolVar(&f.spot, "interruptible", false, "for who bids, see rialto run --bid: what clears, and how likely a bid lasts; unless given, on demand")
	fl.BoolVar(&f.depth, "depth", false, "show the GPUs on offer by price")
	fl.BoolVar(&f.history, "history", false, "show how prices moved")
	f.series(c)
	c.MarkFlagsMutuallyExclusive("depth", "history")
	c.MarkFlagsMutuallyExclusive("reserved", "interruptible")
	p := a.jsonFlag(c)
	c.ValidArgsFunction = a.completeModels
	c.RunE = func(c *cobra.Command, args []string) error {
		m, err := a.connect()
		if err != nil {
			return err
		}
		q, err := f.query(args)
		if err != nil {
			return err
		}
		switch {
		case f.depth:
			b, err := m.Book(c.Context(), q)
			if err != nil {
				return explain(err)
			}
			return p.Print(b, func(w io.Writer) error { return writeBooks(w, b, f.gpus) })
		case f.history:
			all, err := f.histories(c.Context(), m, q)
			if err != nil {
				return err
			}
			return p.Print(all, func(w io.Writer) error { return writeHistories(w, all) })
		}
		prices, err := m.Prices(c.Context(), q)
		if err != nil {
			return explain(err)
		}
		return p.Print(prices, func(w io.Writer) error {
			if f.spot {
				return writeSpotPrices(w, prices)
			}
			return writePrices(w, prices, f, a.trends(c.Context(), m, prices.Prices))
		})
	}
	c.AddCommand(a.verifyPriceCommand(), a.forecastCommand())
	return c
}

// series adds the flags that choose a series of a cell.
func (f *pricesFlags) series(c *cobra.Command) {
	c.Flags().StringVar(&f.quality, "quality", "", "firm or indicative; what the cell has now if not given")
	c.Flags().StringVar(&f.step, "step", "1h", "of the history: 1m, 5m, 1h or 1d")
}

// query checks the flags.
func (f *pricesFlags) query(args []string) (api.PriceQuery, error) {
	q := api.PriceQuery{Term: string(pricing.OnDemand), Region: f.region, Tier: f.tier, GPUs: f.gpus}
	if f.reserved {
		q.Term = string(pricing.Reserved)
	}
	if f.spot {
		q.Term = string(pricing.Interruptible)
	}
	if len(args) > 0 {
		q.Model = args[0]
	}
	if f.region == "all" {
		q.Region = ""
	}
	for _, v := range []struct {
		flag, value string
		among       []string
	}{
		{"--region", f.region, append([]string{"all", pricing.AnyRegion}, pricing.RegionGroups()...)},
		{"--tier", f.tier, []string{"", pricing.TierSimulated, pricing.TierClaimed, pricing.TierNVML}},
		{"--quality", f.quality, []string{"", string(pricing.Firm), string(pricing.Indicative)}},
		{"--step", f.step, []string{"1m", "5m", "1h", "1d"}},
	} {
		if slices.Contains(v.among, v.value) {
			continue
		}
		err := fmt.Errorf("%s: %q is not known, want %s", v.flag, v.value, strings.Join(slices.DeleteFunc(v.among, func(s string) bool { return s == "" }), ", "))
		if near, ok := cli.Nearest(v.value, v.among); ok {
			return q, cli.Hint(err, "did you mean %s?", near)
		}
		return q, err
	}
	if f.gpus < 0 || f.gpus > 1_000_000 {
		return q, fmt.Errorf("--gpus: %d: want 1 to 1000000", f.gpus)
	}
	return q, nil
}

// qualityOf is the series to show of a cell.
func (f *pricesFlags) qualityOf(p *api.Price) pricing.Quality {
	switch {
	case f.quality != "":
		return pricing.Quality(f.quality)
	case p.Quality == string(pricing.Indicative):
		return pricing.Indicative
	}
	return pricing.Firm
}

// maxTrends bounds the cells whose history is fetched for a table.
const maxTrends = 20

// histories fetches the history of each cell.
func (f *pricesFlags) histories(ctx context.Context, m *market, q api.PriceQuery) ([]api.PriceHistory, error) {
	prices, err := m.Prices(ctx, q)
	if err != nil {
		return nil, explain(err)
	}
	if len(prices.Prices) > maxTrends {
		return nil, cli.Hint(fmt.Errorf("%d cells are too many to show the history of, at most %d", len(prices.Prices), maxTrends), "name a model, or --tier")
	}
	all := []api.PriceHistory{}
	for i := range prices.Prices {
		p := &prices.Prices[i]
		h, err := m.PriceHistory(ctx, p.Cell, f.qualityOf(p), f.step, time.Time{})
		if err != nil {
			return nil, explain(err)
		}
		all = append(all, h)
	}
	return all, nil
}

// trends fetches the last day of the first cells, by cell. What cannot be fetched is left out: the table stands without.
func (a *app) trends(ctx context.Context, m *market, prices []api.Price) map[string][]api.PriceBar {
	out := map[string][]api.PriceBar{}
	var f pricesFlags
	for i := range prices[:min(len(prices), maxTrends)] {
		p := &prices[i]
		h, err := m.PriceHistory(ctx, p.Cell, f.qualityOf(p), "1h", time.Now().Add(-24*time.Hour))
		if err != nil {
			break
		}
		out[p.Cell] = h.Bars
	}
	return out
}

// cell finds what a person names: a cell, or a model that has one cell of all regions on demand.
func (m *market) cell(ctx context.Context, name string) (*api.Price, error) {
	q := api.PriceQuery{Model: name, Term: string(pricing.OnDemand), Region: pricing.AnyRegion}
	if c, err := pricing.ParseCell(name); err == nil {
		q = api.PriceQuery{Model: c.Model, Term: string(c.Term), Region: c.Region, Tier: c.Tier}
	} else if strings.Contains(name, ":") {
		return nil, err
	}
	prices, err := m.Prices(ctx, q)
	if err != nil {
		return nil, explain(err)
	}
	switch found := prices.Prices; len(found) {
	case 1:
		return &found[0], nil
	case 0:
		return nil, cli.Hint(fmt.Errorf("%s: nothing was offered or traded: %w", cli.Clean(name), broker.ErrNotFound), "`rialto prices` shows what there is")
	default:
		var cells []string
		for i := range found {
			cells = append(cells, cli.Clean(found[i].Cell))
		}
		return nil, cli.Hint(fmt.Errorf("%s has %d prices", cli.Clean(name), len(found)), "name one of %s", strings.Join(cells, ", "))
	}
}

// verified is what `rialto prices verify` found.
type verified struct {
	Holds   bool             `json:"holds"`
	Problem string           `json:"problem,omitempty"`
	Receipt api.PriceReceipt `json:"receipt"`
	Fit     api.PriceFit     `json:"fit"` // of the receipt's coefficients
	// Wash is what it would take to move the index, computed here; nil unless it is firm.
	Wash *washed `json:"wash,omitempty"`
}

// washed is the turnover of trades with oneself that would raise an index by a share.
type washed struct {
	OneNanoUSD   int64 `json:"one_operator_nanousd"` // zero: none would
	ThreeNanoUSD int64 `json:"three_operators_nanousd"`
	SharePPM     int64 `json:"share_ppm"`
}

func (a *app) verifyPriceCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "verify CELL",
		Short: "Compute an index again from its receipt",
		Long: "Fetch the receipt of an index and compute it again on this machine: which trades count, their weights, what\n" +
			"was trimmed, the value, and the hash of it all; and fit the week's hedonic coefficients again. CELL is a cell of `rialto prices --json`, or a model that has one.",
		Example: "  rialto prices verify 'RTX 4090'\n  rialto prices verify RTX_4090:on_demand:any:nvml --at 2026-03-01T16:00:00Z",
		Args:    cli.Args(1, 1),
	}
	var at string
	c.Flags().StringVar(&at, "at", "", "the newest index at this time (RFC 3339), or so long ago (such as 2h); now if not given")
	p := a.jsonFlag(c)
	c.ValidArgsFunction = a.completeModels
	c.RunE = func(c *cobra.Command, args []string) error {
		when, err := parseAt(at, time.Now())
		if err != nil {
			return err
		}
		m, err := a.connect()
		if err != nil {
			return err
		}
		shown, err := m.cell(c.Context(), args[0])
		if err != nil {
			return err
		}
		r, err := m.PriceReceipt(c.Context(), shown.Cell, when)
		if err != nil {
			return explain(err)
		}
		v := verified{Receipt: r}
		if at := r.Hedonic.FittedAt; at != nil {
			if v.Fit, err = m.PriceFit(c.Context(), shown.Cell, *at); err != nil {
				return explain(err)
			}
		}
		problem := cmp.Or(checkPrice(&r, shown, when), checkFit(&v))
		if v.Holds = problem == nil; v.Holds && r.Print.Quality == string(pricing.Firm) {
			w := r.Wash()
			v.Wash = &washed{int64(w.One), int64(w.Three), pricing.WashShare}
		}
		if problem != nil {
			v.Problem = problem.Error()
		}
		err = p.Print(v, func(w io.Writer) error { return writeVerified(w, v) })
		if problem != nil {
			return cli.Hint(fmt.Errorf("DO NOT TRUST THIS PRICE: %w", problem), "keep what `rialto prices verify --json` prints: it shows what the broker said")
		}
		return err
	}
	return c
}

// checkPrice computes a receipt again, and holds it to what was asked for and to the price that was shown.
func checkPrice(r *api.PriceReceipt, shown *api.Price, when time.Time) error {
	if err := r.Verify(); err != nil {
		return err
	}
	switch {
	case r.Cell != shown.Cell:
		return fmt.Errorf("%w: it is of cell %q", pricing.ErrReceipt, cli.Clean(r.Cell))
	case !when.IsZero() && r.At.After(when):
		return fmt.Errorf("%w: it is of %s, which is later", pricing.ErrReceipt, r.At.Format(time.RFC3339))
	case shown.PrintedAt == nil || !shown.PrintedAt.Equal(r.At):
		return nil // another print than the one that was shown
	case shown.InputsHash != r.InputsHash || shown.IndexNanoUSDPerHour != r.Print.IndexNanoUSDPerHour || shown.Quality != r.Print.Quality:
		return fmt.Errorf("%w: the price that is shown is %v (%s, inputs %.12s…), its receipt is of %v (%s, inputs %.12s…)", pricing.ErrReceipt,
			pricing.Rate(shown.IndexNanoUSDPerHour), cli.Clean(shown.Quality), cli.Clean(shown.InputsHash),
			pricing.Rate(r.Print.IndexNanoUSDPerHour), cli.Clean(r.Print.Quality), r.InputsHash)
	}
	return nil
}

// checkFit fits a receipt's coefficients again.
func checkFit(v *verified) error {
	says, shows := v.Receipt.Hedonic, v.Fit.Hedonic
	if says.FittedAt == nil {
		if !says.Identity {
			return fmt.Errorf("%w: it has coefficients that were never fitted", pricing.ErrReceipt)
		}
		return nil
	}
	if shows.FittedAt == nil || !shows.FittedAt.Equal(*says.FittedAt) {
		return fmt.Errorf("%w: its coefficients were fitted at %s, and what they were fitted to is of another time", pricing.ErrReceipt, says.FittedAt.Format(time.RFC3339))
	}
	if shows.FittedAt = says.FittedAt; shows != says {
		return fmt.Errorf("%w: its coefficients are not those of the fit of %s", pricing.ErrReceipt, says.FittedAt.Format(time.RFC3339))
	}
	return v.Fit.Verify()
}

// parseAt reads a time, or how long ago; empty is the zero time.
func parseAt(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return t, nil
	}
	if ago, err := time.ParseDuration(s); err == nil && ago >= 0 {
		return now.Add(-ago), nil
	}
	return time.Time{}, fmt.Errorf("--at: %q: want a time such as %s, or how long ago, such as 2h", s, now.UTC().Format(time.RFC3339))
}

func (a *app) forecastCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "forecast CELL",
		Short: "Forecast an index, and show how wrong such forecasts were",
		Long: "Forecast an index 1, 6, 24 and 168 hours ahead, with a band that should hold four values of five. Where the forecast\n" +
			"was no better in the past than to say that nothing changes, that is what is said.",
		Example: "  rialto prices forecast 'RTX 4090'\n  rialto prices forecast RTX_4090:on_demand:europe:nvml --json",
		Args:    cli.Args(1, 1),
	}
	var f pricesFlags
	f.series(c)
	if err := c.Flags().MarkHidden("step"); err != nil {
		panic(err) // a flag that series does not declare
	}
	f.region = pricing.AnyRegion
	p := a.jsonFlag(c)
	c.ValidArgsFunction = a.completeModels
	c.RunE = func(c *cobra.Command, args []string) error {
		if _, err := f.query(nil); err != nil {
			return err
		}
		m, err := a.connect()
		if err != nil {
			return err
		}
		shown, err := m.cell(c.Context(), args[0])
		if err != nil {
			return err
		}
		forecast, err := m.PriceForecast(c.Context(), shown.Cell, f.qualityOf(shown))
		if errors.Is(err, broker.ErrNotFound) {
			return cli.Hint(err, "a forecast needs an hour of prices; `rialto prices --history` shows what there is")
		}
		if err != nil {
			return explain(err)
		}
		return p.Print(forecast, func(w io.Writer) error { return writeForecast(w, forecast) })
	}
	return c
}
