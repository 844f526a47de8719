package api

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"rialto/pricing"
)

// routeEvidence adds what a cell's index rests on.
func (s *Server) routeEvidence() {
	huma.Register(s.api, huma.Operation{
		OperationID: "price-receipt", Method: http.MethodGet, Path: "/v1/prices/{cell}/receipt",
		Summary: "A print with all that it was computed from: compute it again",
	}, func(ctx context.Context, in *struct {
		Cell  string    `path:"cell" maxLength:"512" doc:"MODEL:TERM:REGION:TIER"`
		At    time.Time `query:"t" doc:"RFC 3339: the newest print then; now if missing"`
		Known string    `header:"If-None-Match"`
	},
	) (*taggedAnswer[PriceReceipt], error) {
		cell, err := parseCell("path.cell", in.Cell)
		if err != nil {
			return nil, s.failQuery(ctx, err)
		}
		r, err := s.c.Market.PriceReceipt(ctx, cell, in.At)
		if err != nil {
			return nil, s.failQuery(ctx, err)
		}
		return tag(r.InputsHash, in.Known, func() PriceReceipt { return priceReceiptOf(&r) })
	})
	huma.Register(s.api, huma.Operation{
		OperationID: "price-fit", Method: http.MethodGet, Path: "/v1/prices/{cell}/hedonic",
		Summary: "The week's hedonic coefficients with all that they were fitted to: fit them again",
	}, func(ctx context.Context, in *struct {
		Cell  string    `path:"cell" maxLength:"512" doc:"MODEL:TERM:REGION:TIER"`
		At    time.Time `query:"t" doc:"RFC 3339: the fit in force then; now if missing"`
		Known string    `header:"If-None-Match"`
	},
	) (*taggedAnswer[PriceFit], error) {
		cell, err := parseCell("path.cell", in.Cell)
		if err != nil {
			return nil, s.failQuery(ctx, err)
		}
		h, obs, err := s.c.Market.PriceFit(ctx, cell, in.At)
		if err != nil {
			return nil, s.failQuery(ctx, err)
		}
		return tag(in.Cell+" "+strconv.FormatInt(h.FittedAt, 10), in.Known, func() PriceFit { return priceFitOf(cell, h, obs) })
	})
	huma.Register(s.api, huma.Operation{
		OperationID: "price-wash", Method: http.MethodGet, Path: "/v1/prices/{cell}/wash",
		Summary: "What it would take to move a cell's index by trades with oneself; made once an hour",
	}, func(ctx context.Context, in *struct {
		Cell  string `path:"cell" maxLength:"512" doc:"MODEL:TERM:REGION:TIER"`
		Known string `header:"If-None-Match"`
	},
	) (*taggedAnswer[PriceWash], error) {
		cell, err := parseCell("path.cell", in.Cell)
		if err != nil {
			return nil, s.failQuery(ctx, err)
		}
		w, p, err := s.c.Market.PriceWash(ctx, cell)
		if err != nil {
			return nil, s.failQuery(ctx, err)
		}
		return tag(in.Cell+" "+string(p.Quality)+" "+strconv.FormatInt(p.At, 10), in.Known, func() PriceWash {
			return PriceWash{
				Cell: in.Cell, At: unix(p.At), Quality: string(p.Quality), IndexNanoUSDPerHour: nano(p.Index), HHI: p.HHI, Operators: p.Operators, GPUSeconds: p.GPUSeconds,
				SharePPM: pricing.WashShare, OneNanoUSD: int64(w.One), ThreeNanoUSD: int64(w.Three),
			}
		})
	})
}
