package api

import (
	"context"
	"net/url"
	"strconv"
	"time"

	"rialto/pricing"
)

// PriceQuery chooses cells; zero fields take all.
type PriceQuery struct {
	Model  string
	Term   string
	Region string // a group of countries, or "any"
	Tier   string
	GPUs   int // price so many, too
}

func (q PriceQuery) path(path, gpus string) string {
	v := url.Values{}
	for name, s := range map[string]string{"model": q.Model, "term": q.Term, "region": q.Region, "tier": q.Tier} {
		if s != "" {
			v.Set(name, s)
		}
	}
	if q.GPUs > 0 {
		v.Set(gpus, strconv.Itoa(q.GPUs))
	}
	if len(v) > 0 {
		path += "?" + v.Encode()
	}
	return path
}

// Prices returns the prices of cells. It needs no token, nor do the others of prices.
func (c *Client) Prices(ctx context.Context, q PriceQuery) (Prices, error) {
	return get[Prices](ctx, c, q.path("/v1/prices", "gpus"))
}

// Book returns what is on offer in cells.
func (c *Client) Book(ctx context.Context, q PriceQuery) (Books, error) {
	return get[Books](ctx, c, q.path("/v1/book", "qty"))
}

// Models lists GPU models.
func (c *Client) Models(ctx context.Context) (Models, error) {
	return get[Models](ctx, c, "/v1/models")
}

// MarketHealth returns how the market did in the last 24 hours.
func (c *Client) MarketHealth(ctx context.Context) (MarketHealth, error) {
	return get[MarketHealth](ctx, c, "/v1/market/health")
}

// PriceHistory returns a cell's prices of one quality from a time on; step is "1m", "5m", "1h" or "1d".
func (c *Client) PriceHistory(ctx context.Context, cell string, q pricing.Quality, step string, from time.Time) (PriceHistory, error) {
	v := url.Values{"cell": {cell}, "quality": {string(q)}, "step": {step}}
	if !from.IsZero() {
		v.Set("from", from.UTC().Format(time.RFC3339))
	}
	return get[PriceHistory](ctx, c, "/v1/prices/history?"+v.Encode())
}

// PriceForecast forecasts a cell's index of one quality.
func (c *Client) PriceForecast(ctx context.Context, cell string, q pricing.Quality) (PriceForecast, error) {
	return get[PriceForecast](ctx, c, "/v1/prices/forecast?"+url.Values{"cell": {cell}, "quality": {string(q)}}.Encode())
}

// PriceReceipt returns the receipt of a cell's newest print at a time; the zero time means now. Verify it.
func (c *Client) PriceReceipt(ctx context.Context, cell string, at time.Time) (PriceReceipt, error) {
	path := "/v1/prices/" + cell + "/receipt"
	if !at.IsZero() {
		path += "?" + url.Values{"t": {at.UTC().Format(time.RFC3339)}}.Encode()
	}
	return get[PriceReceipt](ctx, c, path)
}

// PriceFit returns the hedonic fit of a cell that is in force at a time, with what it looked at; the zero time means now.
// Verify it.
func (c *Client) PriceFit(ctx context.Context, cell string, at time.Time) (PriceFit, error) {
	path := "/v1/prices/" + cell + "/hedonic"
	if !at.IsZero() {
		path += "?" + url.Values{"t": {at.UTC().Format(time.RFC3339)}}.Encode()
	}
	return get[PriceFit](ctx, c, path)
}
