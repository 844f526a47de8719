package api_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"syscall"
	"testing"
	"time"

	"rialto/broker"
	"rialto/broker/api"
	"rialto/broker/book"
	"rialto/broker/markettest"
	"rialto/pricing"
)

// stocked is a market whose searches are real.
type stocked struct {
	market

	core *broker.Market
}

func (s *stocked) Search(_ context.Context, q broker.Query) (broker.Search, error) {
	return s.core.Search(q)
}

// stock offers GPUs of several models in several countries, at prices that differ.
func stock(b *testing.B, offers int) *broker.Market {
	b.Helper()
	m, err := broker.NewMarket(broker.MarketConfig{Self: "broker", NewIndex: func() broker.Index { return book.NewOffers() }})
	if err != nil {
		b.Fatal(err)
	}
	models := []string{"RTX 4090", "RTX 3090", "A100 SXM 80GB", "H100 SXM", "L40S"}
	countries := []string{"DE", "US", "SE", "JP", "FR", "CA"}
	for i := range offers {
		o := markettest.Offer(fmt.Sprintf("host%06d", i), models[i%len(models)], 1+i%4, pricing.Rate(200_000_000+i*7919%1_000_000*600))
		o.Region = countries[i/5%len(countries)]
		o.Tariff = broker.Tariff{ // $0.05 to $0.20 per GiB-month, and up to $0.02 per GB
			Disk: pricing.Rate(70_000 + i*104729%210_000), Ingress: pricing.Money(i * 15485863 % 20_000_000), Egress: pricing.Money(i * 32452843 % 20_000_000),
		}
		set := broker.OfferSet{Boot: "boot", Seq: 1, Offers: []broker.Offer{o}}
		if _, err := m.Step(time.Unix(1_800_000_000, 0), broker.OffersPosted{Provider: o.Provider, Set: set}); err != nil {
			b.Fatal(err)
		}
	}
	return m
}

// BenchmarkHTTPOffers asks a real server on loopback, over one connection, for the 20 best offers of different queries:
// briefly, through the index, and explained, by a scan of all offers, for each is counted.
func BenchmarkHTTPOffers(b *testing.B) {
	for _, offers := range []int{1000, 10_000, 100_000, 1_000_000} {
		b.Run(fmt.Sprintf("offers=%d", offers), func(b *testing.B) {
			s, err := api.New(api.Config{Market: &stocked{core: stock(b, offers)}, Info: func() api.MarketInfo { return api.MarketInfo{} }})
			if err != nil {
				b.Fatal(err)
			}
			srv := httptest.NewServer(s)
			defer srv.Close()
			b.Run("brief", func(b *testing.B) { askOffers(b, srv, "brief=true&", "http_offers") })
			if offers <= 10_000 {
				b.Run("explained", func(b *testing.B) { askOffers(b, srv, "", "http_explained") })
			}
		})
	}
}

func askOffers(b *testing.B, srv *httptest.Server, how, figure string) {
	b.Helper()
	var took []time.Duration
	used := cpuTime(b)
	for n := 0; b.Loop(); n++ {
		q := url.Values{"limit": {"20"}, "q": {fmt.Sprintf("gpu_ram>=24 region=EU price<=0.%d/h", 40+n%50)}}
		begin := time.Now()
		r, err := srv.Client().Get(srv.URL + "/v1/offers?" + how + q.Encode())
		if err != nil {
			b.Fatal(err)
		}
		text, err := io.ReadAll(r.Body)
		_ = r.Body.Close() // read to its end
		took = append(took, time.Since(begin))
		if err != nil || r.StatusCode != http.StatusOK {
			b.Fatalf("%d %v: %s", r.StatusCode, err, text)
		}
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), figure+"_p50_us")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), figure+"_p99_us")
	b.ReportMetric(float64((cpuTime(b)-used).Microseconds())/float64(len(took)), figure+"_cpu_us") // the client's, too
}

func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
