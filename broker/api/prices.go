package api

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"rialto/broker"
	"rialto/pricing"
)

// PriceMarket is the part of the market that knows prices.
type PriceMarket interface {
	// Prices returns what is known now; it is shared and not changed.
	Prices(ctx context.Context) (*broker.PriceBoard, error)
	// PriceHistory returns the rows of a cell's history in [from, to), a step in seconds.
	PriceHistory(ctx context.Context, cell pricing.Cell, q pricing.Quality, step int64, from, to time.Time) ([]pricing.Bar, error)
	// PriceForecast forecasts a cell's index.
	PriceForecast(ctx context.Context, cell pricing.Cell, q pricing.Quality) (pricing.Forecast, error)
	// PriceReceipt returns the receipt of the newest print at a time; the zero time means now.
	PriceReceipt(ctx context.Context, cell pricing.Cell, at time.Time) (pricing.Receipt, error)
	// PriceFit returns the hedonic fit that is in force at a time, and what it looked at; the zero time means now.
	PriceFit(ctx context.Context, cell pricing.Cell, at time.Time) (pricing.Hedonic, []pricing.Observation, error)
	// PriceWash returns what it would take to move a recent print of a cell, and that print.
	PriceWash(ctx context.Context, cell pricing.Cell) (pricing.Wash, pricing.Print, error)
	// PriceChanges returns what changed after a number, the number of the newest change, and a channel that is closed at the
	// next one.
	PriceChanges(after uint64) (events []broker.PriceEvent, seq uint64, changed <-chan struct{})
}

type (
	// taggedAnswer is an answer that stays the same until its tag changes.
	taggedAnswer[T any] struct {
		ETag string `header:"ETag"`
		Body T
	}
	// CellsQuery chooses cells for a route; empty fields take all.
	CellsQuery struct {
		Model  string `query:"model" maxLength:"128" doc:"as a person writes it"`
		Term   string `query:"term" enum:"on_demand,interruptible,reserved"`
		Region string `query:"region" enum:"any,africa,americas,asia,europe,oceania" doc:"a group of countries, or any: the cells of all regions"`
		Tier   string `query:"tier" enum:"simulated,claimed,nvml"`
		Known  string `header:"If-None-Match"`
	}
	// CellQuery names one.
	CellQuery struct {
		Cell    string `query:"cell" required:"true" maxLength:"512" doc:"MODEL:TERM:REGION:TIER"`
		Quality string `query:"quality" enum:"firm,indicative" default:"firm" doc:"they are never mixed"`
		Known   string `header:"If-None-Match"`
	}
)

// tag answers with a tag, or says that the caller knows the answer already.
func tag[T any](name, known string, body func() T) (*taggedAnswer[T], error) {
	etag := strconv.Quote(name)
	for k := range strings.SplitSeq(known, ",") {
		if k = strings.TrimPrefix(strings.TrimSpace(k), "W/"); k == etag || k == "*" {
			return nil, huma.ErrorWithHeaders(huma.Status304NotModified(), http.Header{"ETag": {etag}})
		}
	}
	return &taggedAnswer[T]{ETag: etag, Body: body()}, nil
}

func tagOf(b *broker.PriceBoard) string { return strconv.FormatUint(b.Seq, 10) }

// rows returns the chosen cells.
func (in *CellsQuery) rows(b *broker.PriceBoard) ([]*broker.PriceRow, error) {
	model := in.Model
	if model != "" {
		var offered []string
		for i := range b.Rows {
			offered = append(offered, b.Rows[i].Print.Cell.Model)
		}
		var err error
		if model, err = broker.ParseModel(model, offered...); err != nil {
			return nil, err
		}
	}
	var out []*broker.PriceRow
	for i := range b.Rows {
		c := &b.Rows[i].Print.Cell
		if (model == "" || model == broker.AnyModel || c.Model == model) && (in.Term == "" || string(c.Term) == in.Term) &&
			(in.Region == "" || c.Region == in.Region) && (in.Tier == "" || c.Tier == in.Tier) {
			out = append(out, &b.Rows[i])
		}
	}
	return out, nil
}

func (s *Server) routePrices() {
	huma.Register(s.api, huma.Operation{
		OperationID: "models", Method: http.MethodGet, Path: "/v1/models", Summary: "The GPU models that have names here, and where they have prices",
	}, func(ctx context.Context, in *struct {
		Known string `header:"If-None-Match"`
	},
	) (*taggedAnswer[Models], error) {
		b, err := s.c.Market.Prices(ctx)
		if err != nil {
			return nil, s.failQuery(ctx, err)
		}
		return tag(tagOf(b), in.Known, func() Models { return modelsOf(b) })
	})
	huma.Register(s.api, huma.Operation{
		OperationID: "prices", Method: http.MethodGet, Path: "/v1/prices", Summary: "Prices: the index of executed leases, and what is on offer",
	}, func(ctx context.Context, in *struct {
		CellsQuery
		GPUs int `query:"gpus" minimum:"0" maximum:"1000000" doc:"price so many GPUs on offer, too"`
	},
	) (*taggedAnswer[Prices], error) {
		b, err := s.c.Market.Prices(ctx)
		if err != nil {
			return nil, s.failQuery(ctx, err)
		}
		rows, err := in.rows(b)
		if err != nil {
			return nil, s.failQuery(ctx, err)
		}
		return tag(tagOf(b), in.Known, func() Prices {
			out := Prices{AsOf: b.At, Seq: b.Seq, Prices: []Price{}}
			for _, r := range rows {
				out.Prices = append(out.Prices, priceOf(r, in.GPUs))
			}
			return out
		})
	})
	huma.Register(s.api, huma.Operation{
		OperationID: "book", Method: http.MethodGet, Path: "/v1/book", Summary: "What is on offer in each cell, by price",
	}, func(ctx context.Context, in *struct {
		CellsQuery
		Qty int `query:"qty" minimum:"0" maximum:"1000000" doc:"price so many GPUs, too"`
	},
	) (*taggedAnswer[Books], error) {
		b, err := s.c.Market.Prices(ctx)
		if err != nil {
			return nil, s.failQuery(ctx, err)
		}
		rows, err := in.rows(b)
		if err != nil {
			return nil, s.failQuery(ctx, err)
		}
		return tag(tagOf(b), in.Known, func() Books {
			out := Books{AsOf: b.At, Seq: b.Seq, Books: []Book{}}
			for _, r := range rows {
				out.Books = append(out.Books, bookOf(r, in.Qty))
			}
			return out
		})
	})
	huma.Register(s.api, huma.Operation{
		OperationID: "market-health", Method: http.MethodGet, Path: "/v1/market/health", Summary: "How the market did in the last 24 hours",
	}, func(ctx context.Context, in *struct {
		Known string `header:"If-None-Match"`
	},
	) (*taggedAnswer[MarketHealth], error) {
		b, err := s.c.Market.Prices(ctx)
		if err != nil {
			return nil, s.failQuery(ctx, err)
		}
		return tag(tagOf(b), in.Known, func() MarketHealth { return healthOf(b) })
	})
	s.routeSeries()
}

// routeSeries adds what is about one cell.
func (s *Server) routeSeries() {
	huma.Register(s.api, huma.Operation{
		OperationID: "price-history", Method: http.MethodGet, Path: "/v1/prices/history",
		Summary: "A cell's prices over time; the newest 2000 rows of each step are kept",
	}, func(ctx context.Context, in *struct {
		CellQuery
		Step string    `query:"step" enum:"1m,5m,1h,1d" default:"1h"`
		From time.Time `query:"from" doc:"RFC 3339; all if missing"`
		To   time.Time `query:"to" doc:"RFC 3339, not included; now if missing"`
	},
	) (*taggedAnswer[PriceHistory], error) {
		b, cell, err := s.cell(ctx, in.Cell)
		if err != nil {
			return nil, s.failQuery(ctx, err)
		}
		to := in.To
		if to.IsZero() {
			to = b.At.AddDate(0, 0, 2)
		}
		q := pricing.Quality(in.Quality)
		rows, err := s.c.Market.PriceHistory(ctx, cell, q, steps()[in.Step], in.From, to)
		if err != nil {
			return nil, s.failQuery(ctx, err)
		}
		return tag(tagOf(b), in.Known, func() PriceHistory {
			out := PriceHistory{Cell: in.Cell, Quality: in.Quality, Step: in.Step, AsOf: b.At, Seq: b.Seq, Bars: []PriceBar{}}
			for _, r := range rows {
				out.Bars = append(out.Bars, barOf(r))
			}
			return out
		})
	})
	huma.Register(s.api, huma.Operation{
		OperationID: "price-forecast", Method: http.MethodGet, Path: "/v1/prices/forecast",
		Summary: "What a cell's index is expected to be, and how wrong such forecasts were",
	}, func(ctx context.Context, in *struct {
		CellQuery
		Hours int `query:"h" doc:"this horizon only: 1, 6, 24 or 168; all if missing"`
	},
	) (*taggedAnswer[PriceForecast], error) {
		_, cell, err := s.cell(ctx, in.Cell)
		if err == nil && in.Hours != 0 && !slices.Contains(pricing.Horizons(), in.Hours) {
			err = &broker.FieldError{Field: "query.h", Problem: "want 1, 6, 24 or 168"}
		}
		if err != nil {
			return nil, s.failQuery(ctx, err)
		}
		q := pricing.Quality(in.Quality)
		f, err := s.c.Market.PriceForecast(ctx, cell, q)
		if err != nil {
			return nil, s.failQuery(ctx, err)
		}
		return tag(in.Cell+" "+in.Quality+" "+strconv.FormatInt(f.At, 10), in.Known, func() PriceForecast {
			out := forecastOf(cell, q, f)
			out.Points = slices.DeleteFunc(out.Points, func(p PriceForecastPoint) bool { return in.Hours != 0 && p.Hours != in.Hours })
			return out
		})
	})
	s.routeEvidence()
}

// steps are a history's steps by their names.
func steps() map[string]int64 {
	return map[string]int64{"1m": pricing.Minute, "5m": pricing.FiveMinutes, "1h": pricing.Hour, "1d": pricing.Day}
}

// cell returns the board and a cell that a query names.
func (s *Server) cell(ctx context.Context, text string) (*broker.PriceBoard, pricing.Cell, error) {
	cell, err := parseCell("query.cell", text)
	if err != nil {
		return nil, cell, err
	}
	b, err := s.c.Market.Prices(ctx)
	return b, cell, err
}

// modelsOf lists the market's models and those that have cells besides.
func modelsOf(b *broker.PriceBoard) Models {
	models := map[string]*Model{}
	for _, m := range broker.Models() {
		models[m.Name] = &Model{Model: m.Name, MemoryMiB: m.MemoryMiB, Cells: []string{}}
	}
	for i := range b.Rows {
		r := &b.Rows[i]
		c := r.Print.Cell
		m := models[c.Model]
		if m == nil {
			m = &Model{Model: c.Model}
			models[c.Model] = m
		}
		m.Cells = append(m.Cells, c.String())
		if c.Term == pricing.OnDemand && c.Region == pricing.AnyRegion && c.Tier != pricing.TierSimulated {
			m.AvailableGPUs += r.FreeGPUs
		}
	}
	out := Models{AsOf: b.At, Seq: b.Seq, Models: []Model{}}
	for _, name := range slices.Sorted(maps.Keys(models)) {
		out.Models = append(out.Models, *models[name])
	}
	return out
}
