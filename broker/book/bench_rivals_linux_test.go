package book_test

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/btree"

	"rialto/broker/book"
	"rialto/pricing"
)

// BenchmarkNaive reads all records for each query.
func BenchmarkNaive(b *testing.B) {
	m := bench()
	qs := m.queries(200, nil)
	var took []time.Duration
	for b.Loop() {
		took = measure(len(qs), func(i int) { m.naive(qs[i]) })
	}
	b.ReportMetric(us(took, 0.5), "naive_p50_us")
	b.ReportMetric(us(took, 0.99), "naive_p99_us")
	b.ReportMetric(0, "ns/op")
}

// naive returns the prices of the cheapest offers.
func (m *benchMarket) naive(q *book.Query) (best []pricing.Rate) {
	for i := range m.records {
		if r := &m.records[i]; (len(best) < q.K || r.Price < best[len(best)-1]) && q.Matches(r) {
			best = keep(best, r.Price, q.K)
		}
	}
	return best
}

func keep(best []pricing.Rate, p pricing.Rate, k int) []pricing.Rate {
	i, _ := slices.BinarySearch(best, p)
	best = slices.Insert(best, i, p)
	return best[:min(len(best), k)]
}

type item struct {
	price pricing.Rate
	at    int32
}

// BenchmarkBTree keeps a B-tree by price for each model and GPU count, and looks at the records in its order.
func BenchmarkBTree(b *testing.B) {
	m := bench()
	type cell struct {
		model uint16
		gpus  uint8
	}
	trees := make(map[cell]*btree.BTreeG[item])
	for i := range m.records {
		c := cell{m.records[i].Model, m.records[i].GPUs}
		if trees[c] == nil {
			trees[c] = btree.NewG(64, func(a, b item) bool { return a.price < b.price || a.price == b.price && a.at < b.at })
		}
		trees[c].ReplaceOrInsert(item{m.records[i].Price, int32(i)})
	}
	ask := func(q *book.Query) (best []pricing.Rate) {
		for c, t := range trees {
			if !q.GPUs.Has(c.gpus) || len(q.Models) > 0 && !slices.Contains(q.Models, c.model) {
				continue
			}
			t.Ascend(func(it item) bool {
				if len(best) == q.K && it.price >= best[q.K-1] {
					return false
				}
				if q.Matches(&m.records[it.at]) {
					best = keep(best, it.price, q.K)
				}
				return true
			})
		}
		return best
	}
	qs := m.queries(4_000, nil)
	for _, q := range qs[:50] {
		if got, want := ask(q), m.naive(q); !slices.Equal(got, want) {
			b.Fatalf("got %v, want %v", got, want)
		}
	}
	var took []time.Duration
	for b.Loop() {
		took = measure(len(qs), func(i int) { ask(qs[i]) })
	}
	b.ReportMetric(us(took, 0.5), "btree_p50_us")
	b.ReportMetric(us(took, 0.99), "btree_p99_us")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkPrice compares the price found with the least there is, and with the best of some that match.
func BenchmarkPrice(b *testing.B) {
	m := bench()
	r := rand.New(rand.NewPCG(12, 13))
	var exact, of2, of100, n float64
	for b.Loop() {
		exact, of2, of100, n = 0, 0, 0, 0
		for _, q := range m.queries(400, nil) {
			var all []pricing.Rate
			for i := range m.records {
				if q.Matches(&m.records[i]) {
					all = append(all, m.records[i].Price)
				}
			}
			if len(all) < 200 {
				continue
			}
			least := float64(slices.Min(all))
			sample := func(k int) float64 {
				best := all[r.IntN(len(all))]
				for range k - 1 {
					best = min(best, all[r.IntN(len(all))])
				}
				return float64(best) / least
			}
			res, err := m.index.Search(q)
			if err != nil || res.Partial {
				b.Fatal(res, err)
			}
			n++
			exact += float64(res.Hits[0].Price) / least
			of2 += sample(2)
			of100 += sample(100)
		}
	}
	b.ReportMetric(exact/n, "price_ratio")
	b.ReportMetric(of2/n, "price_ratio_best2")
	b.ReportMetric(of100/n, "price_ratio_best100")
	b.ReportMetric(n, "queries")
	b.ReportMetric(0, "ns/op")
}
