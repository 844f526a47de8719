package api_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"rialto/broker"
	"rialto/broker/api"
	"rialto/broker/markettest"
	"rialto/pricing"
)

// hall is a market whose searches are real.
type hall struct {
	market

	world *markettest.World
	seq   uint64
}

func (h *hall) Search(_ context.Context, q broker.Query) (broker.Search, error) {
	return h.world.Market.Search(q)
}

// newHall opens a market with hosts h0, h1… that have 1, 2, 1, 2… GPUs at $0.10, $0.20… an hour.
func newHall(t *testing.T, hosts int) (*hall, string) {
	t.Helper()
	w, err := markettest.NewWorld(broker.MarketConfig{})
	if err != nil {
		t.Fatal(err)
	}
	h := &hall{world: w}
	for i := range hosts {
		h.sell(t, i, pricing.Rate(100_000_000*(i+1)))
	}
	return h, start(t, h, nil)
}

func (h *hall) sell(t *testing.T, host int, rate pricing.Rate) {
	t.Helper()
	o := markettest.Offer(fmt.Sprint("h", host), []string{"RTX 4090", "RTX 3090"}[host%2], 1+host%2, rate)
	h.seq++
	set := broker.OfferSet{Boot: "boot", Seq: h.seq, Offers: []broker.Offer{o}}
	if _, err := h.world.Step(broker.OffersPosted{Provider: o.Provider, Set: set}); err != nil {
		t.Fatal(err)
	}
}

func (h *hall) Quote(_ context.Context, r broker.QuoteRequest) (broker.Quote, error) {
	return h.world.Market.Quote(r)
}

func hosts(offers []api.Offer) string {
	var names []string
	for _, o := range offers {
		names = append(names, o.Host)
	}
	return strings.Join(names, " ")
}

func TestQueryOverHTTP(t *testing.T) {
	_, base := newHall(t, 6)
	c := client(t, base, "")
	got, err := c.Offers(t.Context(), api.Query{Q: "num_gpus=2 price<=0.40/h gpu_name!=RTX_4090"})
	if err != nil || hosts(got.Offers) != "h1 h3" || got.Offers[0].TotalRateNanoUSDPerHour != 400_000_000 || got.Matched != 2 || got.Total != 6 || got.AsOf.IsZero() {
		t.Fatalf("got %+v, %v", got, err)
	}
	if want := []string{"num_gpus=2", "price<=0.40/h", "gpu_name!=RTX_4090", "free>=2"}; !slices.Equal(got.Applied, want) {
		t.Errorf("applied %q, want %q", got.Applied, want)
	}
	if want := []api.Elimination{{"num_gpus=2", 3, "1 on h0"}, {"price<=0.40/h", 1, "$0.60/h on h5"}}; !slices.Equal(got.Eliminated, want) {
		t.Errorf("eliminated %+v, want %+v", got.Eliminated, want)
	}
	if n := got.Nearest; len(n) != 1 || n[0].Offer.Host != "h5" || n[0].Predicate != "price<=0.40/h" || n[0].Admit != "price<=0.60/h" || n[0].Has != "$0.60/h" {
		t.Errorf("nearest %+v", n)
	}
	// Typed parameters and the language hold together, and what was applied can be asked again.
	again, err := c.Offers(t.Context(), api.Query{Q: strings.Join(got.Applied[1:], " "), Count: 2})
	if err != nil || hosts(again.Offers) != "h1 h3" {
		t.Errorf("again %+v, %v", again, err)
	}
	why, err := c.ExplainOffers(t.Context(), api.Query{Q: "price<=0.20/h region=FR"})
	if err != nil || len(why.Predicates) != 3 {
		t.Fatalf("explained %+v, %v", why, err)
	}
	p := why.Predicates[1]
	if p.Predicate != "region=FR" || p.Eliminated != 2 || p.Without != 2 || p.Cheapest == nil || p.Cheapest.Offer.Host != "h0" || p.Cheapest.Admit != "" {
		t.Errorf("explained %+v", p)
	}
}

// TestBriefOverHTTP: brief pages have the offers of explained ones and explain nothing, unless nothing matches.
func TestBriefOverHTTP(t *testing.T) {
	_, base := newHall(t, 6)
	c := client(t, base, "")
	var q api.Query
	p := api.Page{Limit: 2, Brief: true}
	first, err := c.OffersPage(t.Context(), q, p)
	if err != nil || hosts(first.Offers) != "h0 h1" || !first.Brief || first.Matched != 2 || first.Total != 6 || len(first.Eliminated)+len(first.Nearest)+len(first.Busy) > 0 {
		t.Fatalf("got %+v, %v", first, err)
	}
	p.Cursor = first.Next
	if second, err := c.OffersPage(t.Context(), q, p); err != nil || hosts(second.Offers) != "h2 h3" {
		t.Errorf("then %+v, %v", second, err)
	}
	p.Cursor = ""
	if none, err := c.OffersPage(t.Context(), api.Query{Q: "price<0.01/h"}, p); err != nil || none.Brief || len(none.Eliminated) != 1 {
		t.Errorf("where nothing matches: %+v, %v", none, err)
	}
}

// TestExpectedCostOverHTTP: what a search asks with decides what it costs, and a quote asks for its duration.
func TestExpectedCostOverHTTP(t *testing.T) {
	h, base := newHall(t, 1)
	c := client(t, base, "")
	if _, err := h.world.Step(broker.ContentSized{Digest: markettest.Digest("image"), Bytes: 20e9}); err != nil {
		t.Fatal(err)
	}
	q := api.Query{ImageDigest: markettest.Digest("image"), RunMS: 7_200_000, WaitRateNanoUSDPerHour: 1_000_000_000}
	// 20 GB take 320 s, and what a market takes for a host's setup that saw none a second.
	want := api.Cost{RunNanoUSD: 200_000_000, StartNanoUSD: 8_916_667, FailureNanoUSD: 1_092_944, WaitingNanoUSD: 89_166_667, TotalNanoUSD: 299_176_278}
	got, err := c.Offers(t.Context(), q)
	if err != nil || len(got.Offers) != 1 {
		t.Fatal(got, err)
	}
	if o := got.Offers[0]; o.Expected != want || o.ReadyMS != 321_000 || o.MissBytes == nil || *o.MissBytes != 20e9 || o.HeldBytes == nil || *o.HeldBytes != 0 {
		t.Errorf("got %+v, want %+v", o, want)
	}
	q.RunMS = 1
	quote, err := c.Quote(t.Context(), api.QuoteRequest{Query: q, DurationMS: 7_200_000})
	if err != nil || quote.Best.Expected != want || quote.CostNanoUSD != want.RunNanoUSD {
		t.Errorf("quote %+v, %v", quote.Best, err)
	}
	if got, err = c.Offers(t.Context(), api.Query{ImageDigest: markettest.Digest("other")}); err != nil || got.Offers[0].MissBytes != nil || got.Offers[0].ReadyMS != 1000 {
		t.Errorf("of an image that nobody knows: %+v, %v", got, err)
	}
	for _, bad := range []string{"run_ms=-1", "run_ms=2592000001", "wait_rate_nanousd_per_hour=-1", "wait_rate_nanousd_per_hour=100000000000001"} {
		if status, _, p := ask(t, "GET", base+"/v1/offers?"+bad, "", ""); status/100 != 4 {
			t.Errorf("%s: %d %v", bad, status, p)
		}
	}
}

// TestNoOffer: a refusal carries the search, so that programs can act on it.
func TestNoOffer(t *testing.T) {
	_, base := newHall(t, 3)
	_, err := client(t, base, "").Quote(t.Context(), api.QuoteRequest{Query: api.Query{Q: "price<0.10/h"}, DurationMS: 3_600_000})
	p, ok := errors.AsType[*api.Problem](err)
	if !ok || p.Search == nil || len(p.Search.Nearest) != 3 || p.Search.Nearest[0].Admit != "price<=0.10/h" || p.Search.Eliminated[0].Count != 3 {
		t.Errorf("got %v, %+v", err, p)
	}
}

// TestPages: pages have every offer once in its order, also when offers come and go between them.
func TestPages(t *testing.T) {
	h, base := newHall(t, 9)
	c := client(t, base, "")
	for sort, want := range map[string]string{
		"":                "h0 h1 h2 h3 h4 h5 h6 h7 h8",
		"-price":          "h8 h7 h6 h5 h4 h3 h2 h1 h0",
		"gpu_name,-price": "h7 h5 h3 h1 h8 h6 h4 h2 h0",
	} {
		for limit := 1; limit <= 10; limit++ {
			var got []string
			page := api.Page{Sort: sort, Limit: limit}
			for range 20 {
				offers, err := c.OffersPage(t.Context(), api.Query{}, page)
				if err != nil || offers.Matched != 9 || len(offers.Offers) > limit {
					t.Fatalf("%s by %d: %+v, %v", sort, limit, offers, err)
				}
				got = append(got, hosts(offers.Offers))
				if page.Cursor = offers.Next; page.Cursor == "" {
					break
				}
			}
			if strings.Join(got, " ") != want {
				t.Errorf("%s by %d: %q, want %q", sort, limit, got, want)
			}
		}
	}
	first, err := c.OffersPage(t.Context(), api.Query{}, api.Page{Limit: 3})
	if err != nil {
		t.Fatal(err)
	}
	h.sell(t, 2, 950_000_000) // the last of the page moves behind all others but one
	h.sell(t, 4, 50_000_000)  // one that was not shown moves before it
	rest, err := c.OffersPage(t.Context(), api.Query{}, api.Page{Cursor: first.Next})
	if got := hosts(rest.Offers); err != nil || got != "h3 h5 h6 h7 h8 h2" {
		t.Errorf("after a change: %s, %v", got, err)
	}
	for _, cursor := range []string{"x", "e30", strings.Repeat("A", 4000), first.Next + "A"} {
		status, _, p := ask(t, "GET", base+"/v1/offers?cursor="+url.QueryEscape(cursor)+"&sort=price", "", "")
		if status != http.StatusBadRequest || p["field"] != "cursor" {
			t.Errorf("cursor %.20s: %d %v", cursor, status, p)
		}
	}
}

// TestETag: an answer that has not changed is not sent again, whatever the time.
func TestETag(t *testing.T) {
	h, base := newHall(t, 3)
	status, header, _ := ask(t, "GET", base+"/v1/offers", "", "")
	tag := header.Get("ETag")
	if status != http.StatusOK || !strings.HasPrefix(tag, `"`) {
		t.Fatalf("%d, ETag %q", status, tag)
	}
	h.world.Now = h.world.Now.Add(1e9)
	if _, err := h.world.Step(broker.Ticked{}); err != nil {
		t.Fatal(err)
	}
	for known, want := range map[string]int{tag: 304, "W/" + tag: 304, `"x", ` + tag: 304, "*": 304, `W/"x"`: 200, "": 200} {
		status, header, body := ask(t, "GET", base+"/v1/offers", "", "", "If-None-Match", known)
		if status != want || header.Get("ETag") != tag || (len(body) == 0) != (want == 304) {
			t.Errorf("If-None-Match %s: %d %v, want %d", known, status, body, want)
		}
	}
	h.sell(t, 0, 1)
	if status, _, _ := ask(t, "GET", base+"/v1/offers", "", "", "If-None-Match", tag); status != http.StatusOK {
		t.Errorf("after a change: %d", status)
	}
}
