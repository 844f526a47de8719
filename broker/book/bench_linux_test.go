package book_test

import (
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rialto/broker/book"
	"rialto/broker/book/booktest"
	"rialto/pricing"
)

// The benchmarks measure the CPU time of their thread, not the time of day: other work on the machine does not count.
// Each measures its own number of operations whatever b.N is; run them with -benchtime=1x. Their metrics are named as
// the market's other figures are.

const benchOffers = 1_000_000

type benchMarket struct {
	*booktest.Market
	records []book.Record
	slots   []book.Slot
	index   *book.Index
	bytes   float64 // of the index, per offer
}

var bench = sync.OnceValue(func() *benchMarket {
	m := &benchMarket{Market: booktest.NewMarket(1)}
	m.records = m.Offers(benchOffers)
	m.slots = make([]book.Slot, len(m.records))
	before := heap()
	m.index = book.New()
	for i := range m.records {
		s, err := m.index.Insert(&m.records[i], time.Unix(1<<32, 0))
		if err != nil {
			panic(err)
		}
		m.slots[i] = s
	}
	m.bytes = (heap() - before) / benchOffers
	return m
})

func heap() float64 {
	runtime.GC()
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return float64(s.HeapAlloc)
}

// cpu returns the CPU time of the calling thread.
func cpu() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		panic(err)
	}
	return time.Duration(t.Nano())
}

// measure returns what each of n calls took, sorted.
func measure(n int, f func(i int)) []time.Duration {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	out := make([]time.Duration, n)
	for i := range out {
		from := cpu()
		f(i)
		out[i] = cpu() - from
	}
	slices.Sort(out)
	return out
}

func us(sorted []time.Duration, q float64) float64 {
	return float64(sorted[int(q*float64(len(sorted)-1))].Nanoseconds()) / 1e3
}

func mean(ds []time.Duration) float64 {
	var sum time.Duration
	for _, d := range ds {
		sum += d
	}
	return float64(sum.Nanoseconds()) / 1e3 / float64(len(ds))
}

// queries draws n; class nil: the mix.
func (m *benchMarket) queries(n int, class *booktest.Class) []*book.Query {
	r := rand.New(rand.NewPCG(2, 3))
	out := make([]*book.Query, n)
	for i := range out {
		c := booktest.Mixed(r)
		if class != nil {
			c = *class
		}
		out[i] = m.Query(r, c)
	}
	return out
}

// report asks the queries and reports the percentiles of a metric.
func (m *benchMarket) report(b *testing.B, qs []*book.Query, name string) {
	b.Helper()
	var leaves, records, partial, hits float64
	ask := func(i int) {
		res, err := m.index.Search(qs[i])
		if err != nil {
			b.Fatal(err)
		}
		leaves += float64(res.Leaves)
		records += float64(res.Records)
		hits += float64(len(res.Hits))
		if res.Partial {
			partial++
		}
	}
	var took []time.Duration
	for b.Loop() {
		leaves, records, partial, hits = 0, 0, 0, 0
		took = measure(len(qs), ask)
	}
	n := float64(len(qs))
	b.ReportMetric(us(took, 0.5), name+"_p50_us")
	b.ReportMetric(us(took, 0.99), name+"_p99_us")
	b.ReportMetric(mean(took), name+"_mean_us")
	b.ReportMetric(leaves/n, "leaves")
	b.ReportMetric(records/n, "records")
	b.ReportMetric(hits/n, "hits")
	b.ReportMetric(partial/n, "partial")
	b.ReportMetric(0, "ns/op")
}

func BenchmarkQuery(b *testing.B) { bench().report(b, bench().queries(20_000, nil), "query") }

func BenchmarkClass(b *testing.B) {
	for _, c := range []booktest.Class{
		booktest.Typical, booktest.Heavy, booktest.AnyModel, booktest.ThreeModels, booktest.NoMatchOne,
	} {
		b.Run(c.String(), func(b *testing.B) { bench().report(b, bench().queries(4_000, &c), "class") })
	}
}

func BenchmarkNoMatch(b *testing.B) {
	c := booktest.NoMatchAny
	bench().report(b, bench().queries(1_000, &c), "nomatch")
}

func BenchmarkRanked(b *testing.B) {
	for _, c := range []struct {
		name  string
		class booktest.Class
	}{{"ranked", booktest.Typical}, {"ranked_any", booktest.AnyModel}} {
		b.Run(c.name, func(b *testing.B) {
			m := bench()
			r := rand.New(rand.NewPCG(4, 5))
			var jobs []*book.Job
			for range 200 {
				jobs = append(jobs, m.Job(r, m.slots))
			}
			qs := m.queries(10_000, &c.class)
			for i, q := range qs {
				q.Job = jobs[i%len(jobs)]
			}
			m.report(b, qs, c.name)
		})
	}
}

func BenchmarkGang8(b *testing.B) {
	m := bench()
	r := rand.New(rand.NewPCG(6, 7))
	qs := make([]*book.Query, 5_000)
	for i := range qs {
		qs[i] = m.Node(r)
	}
	var found, records, partial float64
	var took []time.Duration
	for b.Loop() {
		found, records, partial = 0, 0, 0
		took = measure(len(qs), func(i int) {
			g, err := m.index.Gang(8, qs[i])
			if err != nil {
				b.Fatal(err)
			}
			found += float64(min(len(g.Slots), 1))
			records += float64(g.Records)
			if g.Partial {
				partial++
			}
		})
	}
	b.ReportMetric(us(took, 0.5)/1e3, "gang8_p50_ms")
	b.ReportMetric(us(took, 0.99)/1e3, "gang8_p99_ms")
	b.ReportMetric(found/float64(len(qs)), "found")
	b.ReportMetric(records/float64(len(qs)), "records")
	b.ReportMetric(partial/float64(len(qs)), "partial")
	b.ReportMetric(0, "ns/op")
}

func BenchmarkReserve(b *testing.B) {
	m := bench()
	qs := m.queries(20_000, nil)
	var took []time.Duration
	var hits []book.Slot
	for b.Loop() {
		hits = hits[:0]
		took = measure(len(qs), func(i int) {
			res, ok, err := m.index.Reserve(qs[i])
			if err != nil {
				b.Fatal(err)
			}
			if ok {
				hits = append(hits, res.Hits[0].Slot)
			}
		})
		for _, s := range hits {
			if err := m.index.Release(s); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(1e6/mean(took), "reserve_per_s")
	b.ReportMetric(float64(len(hits))/float64(len(qs)), "found")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkExplain counts what each predicate of the mix's queries eliminates.
func BenchmarkExplain(b *testing.B) {
	m := bench()
	qs := m.queries(100, nil)
	var took []time.Duration
	for b.Loop() {
		took = measure(len(qs), func(i int) {
			if _, err := m.index.Explain(qs[i], 10); err != nil {
				b.Fatal(err)
			}
		})
	}
	b.ReportMetric(us(took, 0.5)/1e3, "explain_p50_ms")
	b.ReportMetric(us(took, 0.99)/1e3, "explain_p99_ms")
	b.ReportMetric(0, "ns/op")
}

func BenchmarkBytes(b *testing.B) {
	m := bench()
	for b.Loop() {
		_ = m
	}
	b.ReportMetric(m.bytes, "bytes_per_offer")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkChange measures each change alone.
func BenchmarkChange(b *testing.B) {
	m := bench()
	r := rand.New(rand.NewPCG(8, 9))
	const n = 50_000
	for _, c := range []struct {
		name string
		f    func(s book.Slot, o *book.Record) error
	}{
		{"touch", func(s book.Slot, _ *book.Record) error { return m.index.Touch(s, time.Unix(1<<32, 0)) }},
		{"reprice", func(s book.Slot, o *book.Record) error {
			o.Price = o.Price * pricing.Rate(900+r.IntN(200)) / 1000
			return m.index.Reprice(s, o.Price)
		}},
		{"patch", func(s book.Slot, o *book.Record) error {
			o.Down, o.Hours, o.Disk = o.Down*7/8, o.Hours-o.Hours/50, o.Disk/8*7
			return m.index.Patch(s, o)
		}},
		{"rent and release", func(s book.Slot, _ *book.Record) error {
			if err := m.index.Rent(s); err != nil {
				return err
			}
			return m.index.Release(s)
		}},
	} {
		b.Run(c.name, func(b *testing.B) {
			var took []time.Duration
			for b.Loop() {
				took = measure(n, func(int) {
					i := r.IntN(benchOffers)
					o := m.records[i]
					if err := c.f(m.slots[i], &o); err != nil {
						b.Fatal(err)
					}
					m.records[i] = o
				})
			}
			b.ReportMetric(mean(took), "us/change")
			b.ReportMetric(0, "ns/op")
		})
	}
}
