package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"rialto/broker"
	"rialto/pricing"
)

const (
	// priceGap is the least time between what is sent of one cell: ten times a second.
	priceGap = 100 * time.Millisecond
	// priceLag is how long a reader may take over what it is sent; one that takes longer missed what was in between, and is
	// told so.
	priceLag = 2 * time.Second
	// maxPriceStreams bounds the open price streams of all, and maxAddressStreams those of one address.
	maxPriceStreams   = 1000
	maxAddressStreams = 16
)

type (
	// StreamDepth is what the event "depth" says.
	StreamDepth struct {
		Book
		Seq uint64 `json:"seq"`
	}
	// StreamOffer is what the event "offer" says.
	StreamOffer struct {
		Cell          string `json:"cell"`
		Seq           uint64 `json:"seq"`
		Offers        int    `json:"offers"`
		Providers     int    `json:"providers"`
		AvailableGPUs int    `json:"available_gpus"`
		TotalGPUs     int    `json:"total_gpus"`
	}
	// StreamTrade is what the event "trade" says: the newest settled lease. Trades counts those of the cell since the broker's
	// start: where it grows by more than one, others came so quickly that they were left out.
	StreamTrade struct {
		Cell               string    `json:"cell"`
		Seq                uint64    `json:"seq"`
		ID                 string    `json:"id"`
		Settled            time.Time `json:"settled"`
		GPUs               int       `json:"gpus"`
		RateNanoUSDPerHour int64     `json:"rate_nanousd_per_hour"`
		GPUSeconds         int64     `json:"gpu_seconds"`
		Trades             uint64    `json:"trades"`
	}
)

// priceFilter is what a stream wants; nil takes all.
type priceFilter struct {
	cells []pricing.Cell
	kinds []broker.PriceKind
}

func (f *priceFilter) wants(e *broker.PriceEvent) bool {
	return (f.cells == nil || slices.Contains(f.cells, e.Cell)) && (f.kinds == nil || slices.Contains(f.kinds, e.Kind))
}

func (s *Server) routePriceStream() {
	huma.Register(s.api, huma.Operation{
		OperationID: "stream", Method: http.MethodGet, Path: "/v1/stream", Summary: "Prices as they change, as server-sent events",
		Responses: map[string]*huma.Response{"200": {
			Description: "events named price, depth, trade and offer, at most ten a second of a cell and the newest of each kind; reset means that some were left out and all that is true now follows",
			Content:     map[string]*huma.MediaType{"text/event-stream": {}},
		}},
	}, func(ctx context.Context, in *struct {
		Cells []string `query:"cells" maxItems:"64" doc:"all if missing"`
		Kinds []string `query:"kinds" enum:"price,depth,trade,offer" doc:"all if missing"`
		After uint64   `header:"Last-Event-ID" doc:"resume after this number; without it, what is true now comes first"`
	},
	) (*huma.StreamResponse, error) {
		var f priceFilter
		for _, text := range in.Cells {
			c, err := parseCell("query.cells", text)
			if err != nil {
				return nil, s.failQuery(ctx, err)
			}
			f.cells = append(f.cells, c)
		}
		for _, k := range in.Kinds {
			f.kinds = append(f.kinds, broker.PriceKind(k))
		}
		if _, err := s.c.Market.Prices(ctx); err != nil {
			return nil, s.failQuery(ctx, err)
		}
		return &huma.StreamResponse{Body: func(hc huma.Context) {
			r, w := humago.Unwrap(hc)
			key, limited := addressKey(r.RemoteAddr)
			if !s.watchers.enter(key, limited) {
				p := problem(http.StatusTooManyRequests, "rialto:too-many-requests", "too many price streams are open")
				w.Header().Set("Retry-After", "5")
				s.writeProblem(w, p)
				return
			}
			defer s.watchers.leave(key)
			if err := s.followPrices(ctx, newSSE(w).write, f, in.After); err != nil {
				s.c.Logger.Debug("price stream ended", "err", err)
			}
		}}, nil
	})
}

// followPrices writes what changes after a number until ctx ends or a write fails.
func (s *Server) followPrices(ctx context.Context, write func(format string, args ...any) error, f priceFilter, after uint64) error {
	if err := write(": prices\n\n"); err != nil {
		return err
	}
	if _, seq, _ := s.c.Market.PriceChanges(after); after > seq {
		after = 0 // a number of another broker, or of a clock that was ahead
		if err := write("event: reset\ndata: {}\n\n"); err != nil {
			return err
		}
	}
	gap := time.NewTimer(0)
	defer gap.Stop()
	alive := time.NewTicker(beat)
	defer alive.Stop()
	for {
		select {
		case <-gap.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		events, seq, changed := s.c.Market.PriceChanges(after)
		begun := time.Now()
		for i := range events {
			if err := writePrice(write, &events[i], f); err != nil {
				return err
			}
		}
		after = seq
		if time.Since(begun) > priceLag {
			after = 0
			if err := write("event: reset\ndata: {}\n\n"); err != nil {
				return err
			}
			gap.Reset(priceGap)
			continue
		}
		for waiting := true; waiting; {
			select {
			case <-changed:
				waiting = false
			case <-alive.C:
				if err := write(":\n\n"); err != nil {
					return err
				}
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		gap.Reset(priceGap)
	}
}

// writePrice writes an event that is wanted.
func writePrice(write func(format string, args ...any) error, e *broker.PriceEvent, f priceFilter) error {
	if !f.wants(e) {
		return nil
	}
	var body any
	switch e.Kind {
	case broker.PricePrint:
		body = priceOf(e.Row, 0)
	case broker.PriceDepth:
		body = StreamDepth{Book: bookOf(e.Row, 0), Seq: e.Seq}
	case broker.PriceOffer:
		body = StreamOffer{
			Cell: e.Cell.String(), Seq: e.Seq, Offers: e.Row.Offers, Providers: e.Row.Providers, AvailableGPUs: e.Row.FreeGPUs, TotalGPUs: e.Row.GPUs,
		}
	case broker.PriceTrade:
		t := &e.Trade
		body = StreamTrade{e.Cell.String(), e.Seq, t.ID, unix(t.Settled), t.GPUs, nano(t.Rate), t.GPUSeconds, e.Trades}
	}
	data, err := json.Marshal(body)
	if err != nil {
		return err
	}
	return write("id: %d\nevent: %s\ndata: %s\n\n", e.Seq, e.Kind, data)
}

// watchers counts open price streams. A proxy in front is not limited by its address.
type watchers struct {
	mu    sync.Mutex
	all   int
	by    map[string]int
	limit int // of all
}

func newWatchers(limit int) *watchers { return &watchers{by: map[string]int{}, limit: limit} }

func (w *watchers) enter(address string, limited bool) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.all >= w.limit || limited && w.by[address] >= maxAddressStreams {
		return false
	}
	w.all++
	w.by[address]++
	return true
}

func (w *watchers) leave(address string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all--
	if w.by[address]--; w.by[address] <= 0 {
		delete(w.by, address)
	}
}

// sse writes server-sent events.
type sse struct {
	w       http.ResponseWriter
	control *http.ResponseController
}

func newSSE(w http.ResponseWriter) sse {
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	return sse{w, http.NewResponseController(w)}
}

// write sends an event, or fails when its reader does not read.
func (s sse) write(format string, args ...any) error {
	if err := s.control.SetWriteDeadline(time.Now().Add(streamWrite)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	if _, err := fmt.Fprintf(s.w, format, args...); err != nil {
		return err
	}
	return s.control.Flush()
}
