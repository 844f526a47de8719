package book_test

import (
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"time"

	"rialto/broker/book"
	"rialto/pricing"
)

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
		w.undo()
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
	m       *benchMarket
	rng     *rand.Rand
	rented  []book.Slot
	changes []book.Change
}

func newUpdates(m *benchMarket) *updates { return &updates{m: m, rng: rand.New(rand.NewPCG(10, 11))} }

// batch makes 100 changes.
func (u *updates) batch(b *testing.B) {
	b.Helper()
	u.changes = u.changes[:0]
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
			u.changes = append(u.changes, book.Change{Op: book.OpPatch, Slot: s, Record: *o})
		case f < 9:
			o.Price = o.Price * pricing.Rate(950+u.rng.IntN(100)) / 1000
			u.changes = append(u.changes, book.Change{Op: book.OpReprice, Slot: s, Record: *o})
		case len(u.rented) < 5_000:
			u.rented = append(u.rented, s)
			u.changes = append(u.changes, book.Change{Op: book.OpRent, Slot: s})
		default:
			j := u.rng.IntN(len(u.rented))
			u.changes = append(u.changes, book.Change{Op: book.OpRelease, Slot: u.rented[j]})
			u.rented[j] = u.rented[len(u.rented)-1]
			u.rented = u.rented[:len(u.rented)-1]
		}
	}
	u.m.index.Apply(u.changes)
}

func (u *updates) undo() {
	for _, s := range u.rented {
		_ = u.m.index.Release(s) // a slot may have been rented twice: the second time failed, and so does this
	}
}
