package book_test

import (
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/btree"
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

// BenchmarkUpdates makes 100,000 changes a second beside 10,000 queries a second: half heartbeats, a fifth each patches
// and new prices, a tenth rents and releases. Both are paced by the millisecond.
func BenchmarkUpdates(b *testing.B) {
	m := bench()
	const seconds = 3
	var made, asked int
	var writer, reader time.Duration
	var took time.Duration
	for b.Loop() {
		made, asked = 0, 0
		stop := make(chan struct{})
		var wg sync.WaitGroup
		start := time.Now()
		wg.Go(func() { // ends when stop is closed
			asked, reader = m.askPaced(stop)
		})
		runtime.LockOSThread()
		from := cpu()
		tick := time.NewTicker(time.Millisecond)
		w := newUpdates(m)
		for time.Since(start) < seconds*time.Second {
			<-tick.C
			for due := int(100_000 * time.Since(start).Seconds()); made+100 <= due; made += 100 {
				w.batch(b)
			}
		}
		tick.Stop()
		writer = cpu() - from
		runtime.UnlockOSThread()
		close(stop)
		wg.Wait()
		took = time.Since(start)
		w.undo(b)
	}
	b.ReportMetric(float64(made)/took.Seconds(), "updates_per_s")
	b.ReportMetric(float64(asked)/took.Seconds(), "queries_per_s")
	b.ReportMetric(writer.Seconds()/took.Seconds(), "update_core_ratio")
	b.ReportMetric(reader.Seconds()/took.Seconds(), "query_core_ratio")
	b.ReportMetric(0, "ns/op")
}

func (m *benchMarket) askPaced(stop <-chan struct{}) (asked int, used time.Duration) {
	qs := m.queries(20_000, nil)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	from, start := cpu(), time.Now()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return asked, cpu() - from
		case <-tick.C:
		}
		for due := int(10_000 * time.Since(start).Seconds()); asked < due; asked++ {
			if _, err := m.index.Search(qs[asked%len(qs)]); err != nil {
				panic(err)
			}
		}
	}
}

type updates struct {
	m      *benchMarket
	rng    *rand.Rand
	rented []book.Slot
	batchd []book.Change
}

func newUpdates(m *benchMarket) *updates { return &updates{m: m, rng: rand.New(rand.NewPCG(10, 11))} }

// batch makes 100 changes.
func (u *updates) batch(b *testing.B) {
	u.batchd = u.batchd[:0]
	for range 100 {
		i := u.rng.IntN(benchOffers)
		s, o := u.m.slots[i], &u.m.records[i]
		switch f := u.rng.IntN(10); {
		case f < 5:
			if err := u.m.index.Touch(s, time.Unix(1<<32, 0)); err != nil {
				b.Fatal(err)
			}
		case f < 7:
			o.Down, o.Ports, o.Hours = o.Down+uint16(u.rng.IntN(41))-20, o.Ports^1, o.Hours-o.Hours/50
			u.batchd = append(u.batchd, book.Change{Op: book.OpPatch, Slot: s, Record: *o})
		case f < 9:
			o.Price = o.Price * pricing.Rate(950+u.rng.IntN(100)) / 1000
			u.batchd = append(u.batchd, book.Change{Op: book.OpReprice, Slot: s, Record: *o})
		case len(u.rented) < 5_000:
			u.rented = append(u.rented, s)
			u.batchd = append(u.batchd, book.Change{Op: book.OpRent, Slot: s})
		default:
			j := u.rng.IntN(len(u.rented))
			u.batchd = append(u.batchd, book.Change{Op: book.OpRelease, Slot: u.rented[j]})
			u.rented[j] = u.rented[len(u.rented)-1]
			u.rented = u.rented[:len(u.rented)-1]
		}
	}
	u.m.index.Apply(u.batchd)
}

func (u *updates) undo(*testing.B) {
	for _, s := range u.rented {
		_ = u.m.index.Release(s) // a slot may have been rented twice: the second time failed, and so does this
	}
}

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
