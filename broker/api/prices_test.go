package api_test

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"rialto/broker"
	"rialto/broker/api"
	"rialto/pricing"
)

const (
	priceCell = "RTX_4090:on_demand:any:nvml"
	toyCell   = "RTX_4090:on_demand:any:simulated"
	priceTime = 1_800_000_000
)

// priceReceipt is a firm print of six trades, with the asks of three hosts beside.
func priceReceipt() pricing.Receipt {
	cell, err := pricing.ParseCell(priceCell)
	if err != nil {
		panic(err)
	}
	in := pricing.Inputs{Cell: cell, At: priceTime, Hedonic: pricing.Hedonic{FittedAt: pricing.HedonicTime(priceTime), CPUs: 100_000, BaseCPUs: 4}}
	for i := range int64(6) {
		op := fmt.Sprint("op", i%3)
		in.Trades = append(in.Trades, pricing.Trade{
			ID: pricing.TradeID(op), Settled: priceTime - 60*(i+1), Agreed: priceTime - 4000, GPUs: 2, Rate: pricing.Rate(400_000_000 + i*10_000_000),
			GPUSeconds: 7200, Provider: op, Operator: op, Customer: "ada", CPUs: 8, MemoryMiB: 32768,
		})
		in.Trades[i].ID = pricing.TradeID(fmt.Sprint(i))
	}
	return pricing.NewReceipt(in)
}

func (m *market) Prices(context.Context) (*broker.PriceBoard, error) {
	if m.ready != nil {
		return nil, m.ready
	}
	r := priceReceipt()
	toy := r.Cell
	toy.Tier = pricing.TierSimulated
	return &broker.PriceBoard{
		At: time.Unix(priceTime+7, 0), Seq: 41,
		Rows: []broker.PriceRow{
			{
				Print: r.Print, InputsHash: r.InputsHash, Hedonic: r.Hedonic, Offers: 2, Providers: 2, FreeGPUs: 10, GPUs: 12,
				Asks: []pricing.Ask{{Rate: 390_000_000, GPUs: 4, Operator: "a"}, {Rate: 500_000_000, GPUs: 6, Operator: "b"}},
				Bids: []pricing.Level{{Rate: 380_000_000, GPUs: 3}, {Rate: 300_000_000, GPUs: 8}},
			},
			{Print: pricing.Print{Cell: toy, Quality: pricing.Stale}},
		},
		Health: broker.MarketHealth{Holds: 4, Granted: 3, Starts: 3, MedianStart: 1500 * time.Millisecond, Interruptions: 1, GPUSeconds: 7_200_000},
	}, nil
}

func (m *market) PriceHistory(_ context.Context, c pricing.Cell, q pricing.Quality, step int64, from, to time.Time) ([]pricing.Bar, error) {
	if c.String() != priceCell {
		return nil, fmt.Errorf("cell %s: %w", c, broker.ErrNotFound)
	}
	if q != pricing.Firm || step != pricing.FiveMinutes || from.Unix() != 1_700_000_000 || to.Before(time.Unix(priceTime, 0)) {
		return nil, nil
	}
	return []pricing.Bar{{Seq: 1, Start: 1_700_000_100, Open: 1, High: 4, Low: 1, Close: 3, Prints: 5, BestAsk: 2}, {Seq: 2, Revises: 1, Start: 1_700_000_100, Trades: 1}}, nil
}

func (m *market) PriceForecast(_ context.Context, c pricing.Cell, _ pricing.Quality) (pricing.Forecast, error) {
	if c.String() != priceCell {
		return pricing.Forecast{}, fmt.Errorf("cell %s: %w", c, broker.ErrNotFound)
	}
	return pricing.Forecast{At: priceTime, Hours: 9, Points: []pricing.ForecastPoint{
		{Hours: 1, Method: pricing.Persistence, Why: "9 hours of history", P50: 7}, {Hours: 24, Method: pricing.Seasonal, P10: 1, P50: 2, P90: 3, Coverage80: 810_000},
	}}, nil
}

func (m *market) PriceReceipt(_ context.Context, c pricing.Cell, at time.Time) (pricing.Receipt, error) {
	r := priceReceipt()
	if c != r.Cell || !at.IsZero() && at.Unix() < priceTime {
		return pricing.Receipt{}, fmt.Errorf("print of %s: %w", c, broker.ErrNotFound)
	}
	if m.forge {
		r.Print.Index++
	}
	return r, nil
}

func (m *market) PriceFit(_ context.Context, c pricing.Cell, at time.Time) (pricing.Hedonic, []pricing.Observation, error) {
	if c.String() != priceCell {
		return pricing.Hedonic{}, nil, fmt.Errorf("cell %s: %w", c, broker.ErrNotFound)
	}
	var obs []pricing.Observation
	for i := range 40 {
		obs = append(obs, pricing.Observation{Rate: pricing.Rate(400_000_000 + i*7_000_000), GPUs: 1, CPUs: 4 + i/8, MemoryMiB: 32768})
	}
	h := pricing.FitHedonic(obs, 6, pricing.HedonicTime(cmp.Or(max(0, at.Unix()), priceTime)))
	if m.forge {
		h.CPUs += 100
	}
	return h, obs, nil
}

func (m *market) PriceWash(_ context.Context, c pricing.Cell) (pricing.Wash, pricing.Print, error) {
	if c.String() != priceCell {
		return pricing.Wash{}, pricing.Print{}, fmt.Errorf("cell %s: %w", c, broker.ErrNotFound)
	}
	return pricing.Wash{One: 3, Three: 2}, priceReceipt().Print, nil
}

func (m *market) PriceChanges(after uint64) ([]broker.PriceEvent, uint64, <-chan struct{}) {
	b, err := m.Prices(context.Background())
	if err != nil {
		return nil, 0, nil
	}
	var out []broker.PriceEvent
	for i, kind := range []broker.PriceKind{broker.PricePrint, broker.PriceDepth, broker.PriceOffer, broker.PriceTrade} {
		e := broker.PriceEvent{Seq: uint64(38 + i), Kind: kind, Cell: b.Rows[0].Print.Cell, Row: &b.Rows[0], Trades: 9, Trade: pricing.Trade{ID: "t", GPUs: 2, Rate: 5}}
		if e.Seq > after {
			out = append(out, e)
		}
	}
	return out, 41, make(chan struct{})
}

func TestPriceRoutes(t *testing.T) {
	url := start(t, &market{}, nil)
	for _, c := range []struct {
		path, field, nearest string
		status               int
		want                 []string
	}{
		{path: "/v1/models", status: 200, want: []string{`"cells":["RTX_4090:on_demand:any:nvml","RTX_4090:on_demand:any:simulated"]`, `"available_gpus":10`}},
		{path: "/v1/prices?model=rtx4090&tier=nvml&gpus=8", status: 200, want: []string{
			`"seq":41`, `"as_of":"2027-01-15T08:00:07Z"`, `"quality":"firm"`, `"trades_24h":6`, `"operators_24h":3`,
			`"depth":[{"gpus":1,"avg_nanousd_per_hour":390000000,"worst_nanousd_per_hour":390000000},{"gpus":8,"avg_nanousd_per_hour":445000000,`,
			`"impact":{"gpus":8,"avg_nanousd_per_hour":445000000,"worst_nanousd_per_hour":500000000}`, `"best_ask_nanousd_per_hour":390000000`,
			`"method":"rialto-index/1"`, `"printed_at":"2027-01-15T08:00:00Z"`, `"simulated":false`,
		}},
		{path: "/v1/prices?tier=simulated", status: 200, want: []string{`"prices":[{"cell":"RTX_4090:on_demand:any:simulated"`, `"simulated":true`, `"quality":"stale"`}},
		{path: "/v1/prices?region=asia", status: 200, want: []string{`"prices":[]`}},
		{path: "/v1/prices?modell=x", status: 400, field: "query.modell", nearest: "model"},
		{path: "/v1/prices?model=RTX+409", status: 400, field: "gpu.model", nearest: "RTX 4090"},
		{path: "/v1/prices?tier=gold", status: 400, field: "query.tier"},
		{path: "/v1/prices?gpus=-1", status: 400, field: "query.gpus"},
		{path: "/v1/book?qty=11", status: 200, want: []string{`"levels":[{"nanousd_per_hour":390000000,"gpus":4},{"nanousd_per_hour":500000000,"gpus":6}]`, `"left_out":0`, `"available_gpus":10`, `"bids":[{"nanousd_per_hour":380000000,"gpus":3},{"nanousd_per_hour":300000000,"gpus":8}]`, `"bid_gpus":11`, `"bid_impact":{"gpus":11,"avg_nanousd_per_hour":321818182,"worst_nanousd_per_hour":300000000}`}},
		{path: "/v1/market/health", status: 200, want: []string{`"fill_rate_ppm":750000`, `"stale_offer_ppm":250000`, `"median_start_ms":1500`, `"interruptions_per_1000_gpu_hours":0.5`, `"firm_cells":1`}},
		{path: "/v1/prices/history?cell=" + priceCell + "&step=5m&from=2023-11-14T22:13:20Z", status: 200, want: []string{
			`"bars":[{"seq":1,"start":"2023-11-14T22:15:00Z","open_nanousd_per_hour":1,"high_nanousd_per_hour":4`, `"seq":2,"revises":1`,
		}},
		{path: "/v1/prices/history?cell=" + priceCell, status: 200, want: []string{`"bars":[]`, `"step":"1h"`, `"quality":"firm"`}},
		{path: "/v1/prices/history?cell=" + toyCell, status: 404},
		{path: "/v1/prices/history?cell=RTX", status: 400, field: "query.cell"},
		{path: "/v1/prices/history", status: 400, field: "query.cell"},
		{path: "/v1/prices/history?cell=" + priceCell + "&step=2m", status: 400, field: "query.step"},
		{path: "/v1/prices/history?cell=" + priceCell + "&quality=stale", status: 400, field: "query.quality"},
		{path: "/v1/prices/history?cell=" + priceCell + "&from=yesterday", status: 400, field: "query.from"},
		{path: "/v1/prices/forecast?cell=" + priceCell + "&h=24", status: 200, want: []string{`"points":[{"hours":24,"method":"seasonal","p10_nanousd_per_hour":1`, `"coverage_80_ppm":810000`}},
		{path: "/v1/prices/forecast?cell=" + priceCell, status: 200, want: []string{`"why":"9 hours of history"`}},
		{path: "/v1/prices/forecast?cell=" + priceCell + "&h=2", status: 400, field: "query.h"},
		{path: "/v1/prices/" + priceCell + "/receipt", status: 200, want: []string{`"canonical":"rialto-index/1\ncell RTX_4090:on_demand:any:nvml\nat 1800000000\n`, `"operator_cap_ppm":200000`, `"inputs_hash":"`}},
		{path: "/v1/prices/" + priceCell + "/receipt?t=2020-01-01T00:00:00Z", status: 404},
		{path: "/v1/prices/" + priceCell + "/wash", status: 200, want: []string{`"at":"2027-01-15T08:00:00Z","quality":"firm"`, `"hhi":`, `"share_ppm":10000,"one_operator_nanousd":3,"three_operators_nanousd":2}`}},
		{path: "/v1/prices/" + toyCell + "/wash", status: 404},
		{path: "/v1/prices/x/wash", status: 400, field: "path.cell"},
		{path: "/v1/prices/x/receipt", status: 400, field: "path.cell"},
		{path: "/v1/stream?cells=x", status: 400, field: "query.cells"},
		{path: "/v1/stream?kinds=gossip", status: 400, field: "query.kinds[0]"},
	} {
		t.Run(c.path, func(t *testing.T) {
			resp := fetch(t, url+c.path)
			status, _, body := ask(t, "GET", url+c.path, "", "")
			if status != c.status || resp.status != c.status {
				t.Fatalf("status %d, want %d: %s", status, c.status, resp.body)
			}
			if c.status == 200 {
				for _, w := range c.want {
					if !strings.Contains(resp.body, w) {
						t.Errorf("no %s in %s", w, resp.body)
					}
				}
				return
			}
			if field, _ := body["field"].(string); c.field != "" && field != c.field {
				t.Errorf("field %q, want %q: %s", field, c.field, resp.body)
			}
			if nearest, _ := body["nearest"].(string); nearest != c.nearest {
				t.Errorf("nearest %q, want %q", nearest, c.nearest)
			}
		})
	}
}

type fetched struct {
	status int
	header http.Header
	body   string
}

func fetch(t *testing.T, url string, header ...string) fetched {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var b strings.Builder
	if _, err := bufio.NewReader(resp.Body).WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	return fetched{resp.StatusCode, resp.Header, b.String()}
}

func TestPricesAreTagged(t *testing.T) {
	url := start(t, &market{}, nil)
	for _, path := range []string{
		"/v1/models", "/v1/prices", "/v1/book", "/v1/prices/history?cell=" + priceCell, "/v1/prices/forecast?cell=" + priceCell,
		"/v1/prices/" + priceCell + "/receipt",
	} {
		first := fetch(t, url+path)
		etag := first.header.Get("ETag")
		if first.status != 200 || len(etag) < 4 {
			t.Errorf("%s: status %d, ETag %q", path, first.status, etag)
		}
		for _, known := range []string{etag, `"x", W/` + etag, "*"} {
			if again := fetch(t, url+path, "If-None-Match", known); again.status != http.StatusNotModified || again.body != "" || again.header.Get("ETag") != etag {
				t.Errorf("%s, known as %s: status %d, ETag %q, body %q", path, known, again.status, again.header.Get("ETag"), again.body)
			}
		}
		if other := fetch(t, url+path, "If-None-Match", `"x"`); other.status != 200 {
			t.Errorf("%s, another known: status %d", path, other.status)
		}
	}
	if loading := fetch(t, start(t, &market{ready: fmt.Errorf("not open: %w", broker.ErrUnavailable)}, nil)+"/v1/prices"); loading.status != 503 || loading.header.Get("Retry-After") == "" {
		t.Errorf("not open: %+v", loading)
	}
}

// TestReceiptCrossesTheWire: what arrives verifies, and what was forged on the way or at the broker does not.
func TestReceiptCrossesTheWire(t *testing.T) {
	r, err := client(t, start(t, &market{}, nil), "").PriceReceipt(t.Context(), priceCell, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Verify(); err != nil {
		t.Error(err)
	}
	for name, forge := range map[string]func(r *api.PriceReceipt){
		"canonical text": func(r *api.PriceReceipt) { r.Canonical += "ask 1 1 x\n" },
		"parameters":     func(r *api.PriceReceipt) { r.Params.MinTrades = 1 },
		"method":         func(r *api.PriceReceipt) { r.Method = "rialto-index/2" },
		"cell":           func(r *api.PriceReceipt) { r.Cell = toyCell },
		"no cell":        func(r *api.PriceReceipt) { r.Cell = "" },
		"identity":       func(r *api.PriceReceipt) { r.Hedonic.Identity = true },
		"coefficient":    func(r *api.PriceReceipt) { r.Hedonic.CPUsPPM = 0 },
		"trade":          func(r *api.PriceReceipt) { r.Trades[0].GPUSeconds++ },
		"index":          func(r *api.PriceReceipt) { r.Print.IndexNanoUSDPerHour-- },
	} {
		x := r
		x.Trades = append([]api.ReceiptTrade(nil), r.Trades...)
		forge(&x)
		if err := x.Verify(); !errors.Is(err, pricing.ErrReceipt) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	for forge, want := range map[bool]error{false: nil, true: pricing.ErrReceipt} {
		f, err := client(t, start(t, &market{forge: forge}, nil), "").PriceFit(t.Context(), priceCell, time.Unix(priceTime, 0))
		if err != nil || len(f.Observations) != 40 || f.Hedonic.CPUsPPM == 0 || f.Hedonic.FittedAt.Unix() != pricing.HedonicTime(priceTime) {
			t.Fatalf("fit %+v, %v", f, err)
		}
		if err := f.Verify(); !errors.Is(err, want) || (err == nil) != (want == nil) {
			t.Errorf("a fit, forged %v: %v", forge, err)
		}
	}
	forged, err := client(t, start(t, &market{forge: true}, nil), "").PriceReceipt(t.Context(), priceCell, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	if err := forged.Verify(); !errors.Is(err, pricing.ErrReceipt) || !strings.Contains(err.Error(), "computed again the index is") {
		t.Errorf("a forged print: %v", err)
	}
}

func TestPriceClient(t *testing.T) {
	c := client(t, start(t, &market{}, nil), "")
	p, err := c.Prices(t.Context(), api.PriceQuery{Model: "RTX 4090", Region: "any", Tier: "nvml", GPUs: 11})
	if err != nil || len(p.Prices) != 1 || p.Prices[0].Impact != nil || p.Prices[0].Cell != priceCell {
		t.Errorf("prices: %+v, %v", p, err)
	}
	b, err := c.Book(t.Context(), api.PriceQuery{Tier: "nvml", GPUs: 10})
	if err != nil || len(b.Books) != 1 || b.Books[0].Impact == nil || b.Books[0].Impact.WorstNanoUSDPerHour != 500_000_000 {
		t.Errorf("book: %+v, %v", b, err)
	}
	h, err := c.PriceHistory(t.Context(), priceCell, pricing.Firm, "5m", time.Unix(1_700_000_000, 0))
	if err != nil || len(h.Bars) != 2 {
		t.Errorf("history: %+v, %v", h, err)
	}
	if f, err := c.PriceForecast(t.Context(), priceCell, pricing.Firm); err != nil || len(f.Points) != 2 {
		t.Errorf("forecast: %+v, %v", f, err)
	}
	if _, err := c.PriceReceipt(t.Context(), priceCell, time.Unix(7, 0)); !errors.Is(err, broker.ErrNotFound) {
		t.Errorf("an old receipt: %v", err)
	}
	if m, err := c.Models(t.Context()); err != nil || len(m.Models) != len(broker.Models()) {
		t.Errorf("models: %d, %v", len(m.Models), err)
	}
	if m, err := c.MarketHealth(t.Context()); err != nil || m.Starts != 3 {
		t.Errorf("health: %+v, %v", m, err)
	}
}

// TestPriceStream reads a stream as a browser does: from the start, resumed, resumed after a number that nobody knows.
func TestPriceStream(t *testing.T) {
	url := start(t, &market{}, nil)
	read := func(query, last string, lines int) string {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/v1/stream"+query, nil)
		if err != nil {
			t.Fatal(err)
		}
		if last != "" {
			req.Header.Set("Last-Event-ID", last)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/event-stream" {
			t.Fatalf("status %d, %v", resp.StatusCode, resp.Header)
		}
		var got []string
		for s := bufio.NewScanner(resp.Body); len(got) < lines && s.Scan(); {
			if line, _, _ := strings.Cut(s.Text(), "{"); line != "" {
				got = append(got, strings.TrimSpace(line))
			}
		}
		return strings.Join(got, " ")
	}
	for _, c := range []struct {
		query, last string
		want        string
	}{
		{"", "", ": prices id: 38 event: price data: id: 39 event: depth data: id: 40 event: offer data: id: 41 event: trade data:"},
		{"", "40", ": prices id: 41 event: trade data:"},
		{"", "99", ": prices event: reset data: id: 38 event: price data:"},
		{"?kinds=depth,trade&cells=" + priceCell, "", ": prices id: 39 event: depth data: id: 41 event: trade data:"},
	} {
		if got := read(c.query, c.last, 1+strings.Count(c.want, "id:")+strings.Count(c.want, "event:")+strings.Count(c.want, "data:")); got != c.want {
			t.Errorf("%s after %q:\ngot  %s\nwant %s", c.query, c.last, got, c.want)
		}
	}
}
