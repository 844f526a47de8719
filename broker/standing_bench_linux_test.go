package broker_test

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rialto/broker"
	"rialto/broker/markettest"
	"rialto/pricing"
)

// BenchmarkStanding is a step of a market where ten thousand orders stand.
func BenchmarkStanding(b *testing.B) {
	const offers, standing, accounts = 1000, 10_000, 20
	ask := pricing.Rate(400_000_000)
	for _, c := range []struct {
		name  string
		limit pricing.Rate
		where string
		event func(n int) []broker.Event
	}{
		{"below", ask / 2, "", func(n int) []broker.Event { return reprice(n, ask) }},
		{"unlike", ask * 2, "cuda>=99", func(n int) []broker.Event { return reprice(n, ask) }},
		{"elsewhere", ask * 2, "geolocation=DE", func(n int) []broker.Event { return reprice(n, ask) }},
		{"tick", ask / 2, "", func(int) []broker.Event { return []broker.Event{broker.Ticked{}} }},
		// Each takes the GPU that comes, and a new one stands instead.
		{"served", ask / 2, "", func(n int) []broker.Event {
			o := markettest.Offer("cheap", "RTX 4090", 1, ask/4)
			return []broker.Event{
				broker.OffersPosted{Provider: "cheap", Set: broker.OfferSet{Boot: fmt.Sprint(n), Seq: 1, Offers: []broker.Offer{o}}},
				broker.ProviderGone{Provider: "cheap"},
			}
		}},
	} {
		b.Run(c.name, func(b *testing.B) {
			w := marketAt(b, offers, func(int) pricing.Rate { return ask })
			step := func(ev broker.Event) []broker.Effect {
				effects, err := w.Market.Step(w.Now, ev)
				if err != nil {
					b.Fatal(err)
				}
				return effects
			}
			stand := func(i int, id string) {
				name := fmt.Sprint("customer ", i%accounts)
				spec := markettest.Spec(name, id)
				spec.GPU.Model, spec.MaxRate, spec.GoodUntil, spec.Where = "RTX 4090", c.limit, spec.Created.Add(24*time.Hour), c.where
				step(broker.Submitted{Job: broker.JobID(id), Account: broker.AccountID(name), Spec: spec, Envelope: []byte("spec")})
			}
			for i := range accounts {
				if err := w.Open(fmt.Sprint("customer ", i), 1_000_000*pricing.USD); err != nil {
					b.Fatal(err)
				}
			}
			for i := range standing {
				stand(i, fmt.Sprint("s", i))
			}
			runtime.LockOSThread()
			n, steps, start := 0, 0, threadTime(b)
			for b.Loop() {
				n++
				var effects []broker.Effect
				for _, ev := range c.event(n) {
					steps++
					effects = append(effects, step(ev)...)
				}
				for _, e := range effects {
					if e, ok := e.(broker.SendHold); ok {
						step(broker.CancelRequested{Job: e.Hold.Job})
						stand(n, fmt.Sprint("n", n))
						steps += 2
					}
				}
			}
			b.ReportMetric(float64((threadTime(b)-start).Nanoseconds())/float64(steps), "cpu-ns/step")
		})
	}
}

// reprice is a host's new price.
func reprice(n int, ask pricing.Rate) []broker.Event {
	o := markettest.Offer("host00007", "RTX 4090", 1, ask+pricing.Rate(n%100))
	return []broker.Event{broker.OffersPosted{Provider: o.Provider, Set: broker.OfferSet{Boot: "boot", Seq: uint64(n + 1), Offers: []broker.Offer{o}}}}
}

func threadTime(b *testing.B) time.Duration {
	b.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		b.Fatal(err)
	}
	return time.Duration(ts.Nano())
}

// BenchmarkAhead tells a page of jobs, and one job, how many of ten thousand are served before them.
func BenchmarkAhead(b *testing.B) {
	const standing, accounts = 10_000, 20
	w := marketAt(b, 1, func(int) pricing.Rate { return 400_000_000 })
	var ids []broker.JobID
	for i := range standing {
		name, id := fmt.Sprint("customer ", i%accounts), fmt.Sprint("s", i)
		if i < accounts {
			if err := w.Open(name, 1_000_000*pricing.USD); err != nil {
				b.Fatal(err)
			}
		}
		spec := markettest.Spec(name, id)
		spec.MaxRate, spec.GoodUntil = 100_000_000, spec.Created.Add(24*time.Hour)
		ids = append(ids, broker.JobID(id))
		if _, err := w.Market.Step(w.Now, broker.Submitted{Job: ids[i], Account: broker.AccountID(name), Spec: spec, Envelope: []byte("spec")}); err != nil {
			b.Fatal(err)
		}
	}
	for _, page := range []int{1, 500} {
		b.Run(fmt.Sprint("page=", page), func(b *testing.B) {
			runtime.LockOSThread()
			start := threadTime(b)
			for b.Loop() {
				w.Market.Ahead(ids[:page]...)
			}
			b.ReportMetric(float64((threadTime(b)-start).Nanoseconds())/float64(b.N), "cpu-ns/page")
		})
	}
}
