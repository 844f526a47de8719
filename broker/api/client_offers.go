package api

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
)

// Offers explains which live offers match a query, all of them. It needs no token.
func (c *Client) Offers(ctx context.Context, q Query) (Offers, error) {
	return c.SortedOffers(ctx, q, "")
}

// SortedOffers is Offers in another order than by price.
func (c *Client) SortedOffers(ctx context.Context, q Query, sort string) (Offers, error) {
	page := Page{Sort: sort}
	all, err := c.OffersPage(ctx, q, page)
	for next := all.Next; err == nil && next != "" && next != page.Cursor; {
		page.Cursor = next
		var more Offers
		more, err = c.OffersPage(ctx, q, page)
		all.Offers = append(all.Offers, more.Offers...)
		next = more.Next
	}
	all.Next = ""
	return all, err
}

// OffersPage is one page of them. A limit of zero is the broker's.
func (c *Client) OffersPage(ctx context.Context, q Query, p Page) (Offers, error) {
	v := q.values()
	if p.Sort != "" {
		v.Set("sort", p.Sort)
	}
	if p.Limit > 0 {
		v.Set("limit", strconv.Itoa(p.Limit))
	}
	if p.Cursor != "" {
		v.Set("cursor", p.Cursor)
	}
	if p.Brief {
		v.Set("brief", "true")
	}
	path := "/v1/offers"
	if len(v) > 0 {
		path += "?" + v.Encode()
	}
	return get[Offers](ctx, c, path)
}

// ExplainOffers says what each predicate of a query does. It needs no token.
func (c *Client) ExplainOffers(ctx context.Context, q Query) (Explanation, error) {
	var e Explanation
	err := c.call(ctx, http.MethodPost, "/v1/offers:explain", nil, q, &e)
	return e, err
}

// values is the query as URL parameters, named like the JSON fields.
func (q Query) values() url.Values {
	v := url.Values{}
	text := func(name, s string) {
		if s != "" {
			v.Set(name, s)
		}
	}
	number := func(name string, n uint64) {
		if n != 0 {
			v.Set(name, strconv.FormatUint(n, 10))
		}
	}
	text("q", q.Q)
	text("model", q.Model)
	number("count", uint64(max(q.Count, 0)))
	number("min_gpu_memory_mib", q.MinGPUMemoryMiB)
	number("memory_mib", q.MemoryMiB)
	number("cpus", uint64(max(q.CPUs, 0)))
	number("max_rate_nanousd_per_hour", uint64(max(q.MaxRateNanoUSDPerHour, 0)))
	number("bid_nanousd_per_hour", uint64(max(q.BidNanoUSDPerHour, 0)))
	text("region", q.Region)
	text("provider", q.Provider)
	text("image_digest", q.ImageDigest)
	number("run_ms", uint64(max(q.RunMS, 0)))
	number("reserve_ms", uint64(max(q.ReserveMS, 0)))
	number("disk_mib", q.DiskMiB)
	number("traffic_bytes", uint64(max(q.TrafficBytes, 0)))
	number("wait_rate_nanousd_per_hour", uint64(max(q.WaitRateNanoUSDPerHour, 0)))
	if len(q.WeightRoots) > 0 {
		v["weight_roots"] = q.WeightRoots
	}
	return v
}
