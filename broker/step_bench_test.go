package broker_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"rialto/broker"
	"rialto/broker/markettest"
	"rialto/pricing"
)

// market returns a market with one customer and offers of one GPU each.
func market(b *testing.B, offers int) *markettest.World {
	b.Helper()
	return marketAt(b, offers, func(i int) pricing.Rate { return pricing.Rate(200_000_000 + 400_000_000/offers*i) })
}

// charges has the hosts of a market charge for disk and traffic, some of them three times what others do.
func charges(b *testing.B, w *markettest.World) {
	b.Helper()
	for i, o := range w.Market.Offers() {
		o.Tariff = broker.Tariff{Disk: pricing.Rate(1+i%3) * 100_000, Egress: pricing.Money(1+i%3) * 10_000_000}
		set := broker.OfferSet{Boot: "boot", Seq: 2, Offers: []broker.Offer{o}}
		if _, err := w.Market.Step(w.Now, broker.OffersPosted{Provider: o.Provider, Set: set}); err != nil {
			b.Fatal(err)
		}
	}
}

func marketAt(b *testing.B, offers int, rate func(i int) pricing.Rate) *markettest.World {
	b.Helper()
	w, err := markettest.NewWorld(broker.MarketConfig{})
	if err != nil {
		b.Fatal(err)
	}
	if err := w.Open("ann", 1_000_000*pricing.USD); err != nil {
		b.Fatal(err)
	}
	for i := range offers {
		o := markettest.Offer(fmt.Sprintf("host%05d", i), "RTX 4090", 1, rate(i))
		set := broker.OfferSet{Boot: "boot", Seq: 1, Offers: []broker.Offer{o}}
		if _, err := w.Market.Step(w.Now, broker.OffersPosted{Provider: o.Provider, Set: set}); err != nil {
			b.Fatal(err)
		}
	}
	return w
}

// BenchmarkJob is a job's whole way: submitted, granted, confirmed, ready, renewed, exited, receipted.
func BenchmarkJob(b *testing.B) {
	for _, offers := range []int{1, 1000, 10_000} {
		b.Run(fmt.Sprintf("offers=%d", offers), func(b *testing.B) {
			w := market(b, offers)
			now := w.Now
			step := func(ev broker.Event) []broker.Effect {
				effects, err := w.Market.Step(now, ev)
				if err != nil {
					b.Fatal(err)
				}
				return effects
			}
			n := 0
			for b.Loop() {
				n++
				id := broker.JobID(fmt.Sprintf("j%d", n))
				step(broker.Submitted{Job: id, Account: "ann", Spec: markettest.Spec("ann", string(id)), Envelope: []byte("spec")})
				j, _ := w.Market.Job(id)
				l, _ := w.Market.Lease(j.Lease)
				gpus := []broker.GPULease{{UUID: "GPU-" + l.Host + "-0", Epoch: uint64(n)}}
				step(markettest.Grant(l, gpus...))
				step(broker.ConfirmAnswered{Lease: l.ID})
				for seq, phase := range []broker.Phase{broker.PhaseReady, broker.PhaseReady, broker.PhaseExited} {
					now = now.Add(15 * time.Second)
					r := broker.Report{Lease: l.ID, GPUs: gpus, Seq: uint64(seq + 1), Phase: phase, Used: time.Duration(seq) * 15 * time.Second}
					step(broker.Reported{Provider: l.Provider, Report: r})
				}
				step(broker.ReceiptSigned{Lease: l.ID, Envelope: []byte("receipt")})
			}
			b.ReportMetric(7*float64(b.N)/b.Elapsed().Seconds(), "steps/s")
		})
	}
}

// BenchmarkSubmit is what the writer does for a job among many offers: an answer and a refusal give the GPUs back.
func BenchmarkSubmit(b *testing.B) {
	for _, spread := range []string{"prices=equal", "prices=many", "prices=many,charged"} {
		for _, offers := range []int{1000, 10_000} {
			b.Run(fmt.Sprintf("%s/offers=%d", spread, offers), func(b *testing.B) {
				w := marketAt(b, offers, func(i int) pricing.Rate {
					if spread == "prices=equal" {
						return 400_000_000
					}
					return pricing.Rate(200_000_000 + 400_000_000/offers*i)
				})
				if spread == "prices=many,charged" {
					charges(b, w)
				}
				n := 0
				for b.Loop() {
					n++
					id := broker.JobID(fmt.Sprintf("j%d", n))
					for _, ev := range []broker.Event{
						broker.Submitted{Job: id, Account: "ann", Spec: markettest.Spec("ann", string(id)), Envelope: []byte("spec")},
						broker.CancelRequested{Job: id},
					} {
						if _, err := w.Market.Step(w.Now, ev); err != nil {
							b.Fatal(err)
						}
					}
				}
			})
		}
	}
}

// BenchmarkHeartbeat is a provider's offers once more, unchanged or with another price, while jobs wait for something else.
func BenchmarkHeartbeat(b *testing.B) {
	const offers, waiting = 10_000, 1000
	for _, change := range []bool{false, true} {
		b.Run(fmt.Sprintf("changed=%v/offers=%d/queued=%d", change, offers, waiting), func(b *testing.B) {
			w := market(b, offers)
			for i := range waiting {
				id := broker.JobID(fmt.Sprintf("j%d", i))
				spec := markettest.Spec("ann", string(id))
				spec.GPU.Model, spec.MaxRate, spec.GoodUntil = "RTX 4090", 100_000_000, spec.Created.Add(time.Hour)
				if _, err := w.Market.Step(w.Now, broker.Submitted{Job: id, Account: "ann", Spec: spec, Envelope: []byte("spec")}); err != nil {
					b.Fatal(err)
				}
			}
			n := uint64(1)
			for b.Loop() {
				n++
				o := markettest.Offer("host00007", "RTX 4090", 1, 200_280_000)
				if change {
					o.Rate += pricing.Rate(n % 100)
				}
				set := broker.OfferSet{Boot: "boot", Seq: n, Offers: []broker.Offer{o}}
				if _, err := w.Market.Step(w.Now, broker.OffersPosted{Provider: o.Provider, Set: set}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkTick lets time pass for a thousand running jobs.
func BenchmarkTick(b *testing.B) {
	w := market(b, 1000)
	for i := range 1000 {
		id := broker.JobID(fmt.Sprintf("j%d", i))
		for _, ev := range []broker.Event{
			broker.Submitted{Job: id, Account: "ann", Spec: markettest.Spec("ann", string(id))},
		} {
			if _, err := w.Market.Step(w.Now, ev); err != nil {
				b.Fatal(err)
			}
		}
		j, _ := w.Market.Job(id)
		l, _ := w.Market.Lease(j.Lease)
		for _, ev := range []broker.Event{
			markettest.Grant(l, broker.GPULease{UUID: "GPU-" + l.Host + "-0", Epoch: 1}),
			broker.ConfirmAnswered{Lease: l.ID},
		} {
			if _, err := w.Market.Step(w.Now, ev); err != nil {
				b.Fatal(err)
			}
		}
	}
	for b.Loop() {
		if _, err := w.Market.Step(w.Now, broker.Ticked{}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSearch is the dearest search that a stranger can ask for: 128 values, nothing eliminated, sorted by all
// that it may be sorted by.
func BenchmarkSearch(b *testing.B) {
	for _, offers := range []int{100, 10_000} {
		for name, q := range map[string]string{
			"simple": "gpu_ram>=24 price<=0.4000001/h",
			"worst":  "host notin [" + strings.Repeat("host_00000x,", 63) + "x] provider notin [" + strings.Repeat("host_00000x,", 62) + "x]",
		} {
			b.Run(fmt.Sprintf("%s/offers=%d", name, offers), func(b *testing.B) {
				w := market(b, offers)
				where, err := broker.ParseFilter(q)
				if err != nil {
					b.Fatal(err)
				}
				query := broker.Query{Where: where, Limit: 100}
				if name == "worst" {
					if query.Order, err = broker.ParseOrder("gpu_name,gpu_ram,cpus,memory,level,driver,cuda,-price"); err != nil {
						b.Fatal(err)
					}
				}
				for b.Loop() {
					if _, err := w.Market.Search(query); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkGang asks eight of many hosts at once, and lets them go.
func BenchmarkGang(b *testing.B) {
	for _, offers := range []int{1000, 10_000} {
		for _, sameRegion := range []bool{false, true} {
			b.Run(fmt.Sprintf("offers=%d/same_region=%v", offers, sameRegion), func(b *testing.B) {
				w := market(b, 0)
				for i := range offers {
					o := markettest.Offer(fmt.Sprintf("host%05d", i), "RTX 4090", 1, pricing.Rate(200_000_000+400_000_000/offers*i))
					o.Region = []string{"DE", "FR", "US", "SE", "NO"}[i%5]
					set := broker.OfferSet{Boot: "boot", Seq: 1, Offers: []broker.Offer{o}}
					if _, err := w.Market.Step(w.Now, broker.OffersPosted{Provider: o.Provider, Set: set}); err != nil {
						b.Fatal(err)
					}
				}
				n := 0
				for b.Loop() {
					n++
					id := broker.JobID(fmt.Sprintf("j%d", n))
					spec := markettest.Spec("ann", string(id))
					spec.Nodes, spec.SameRegion = 8, sameRegion
					for _, ev := range []broker.Event{
						broker.Submitted{Job: id, Account: "ann", Spec: spec, Envelope: []byte("spec")}, broker.CancelRequested{Job: id},
					} {
						if _, err := w.Market.Step(w.Now, ev); err != nil {
							b.Fatal(err)
						}
					}
				}
			})
		}
	}
}

// BenchmarkSurvey explains a search that a fifth of 10,000 offers match, and times its calls: the market stands still during
// each of them.
func BenchmarkSurvey(b *testing.B) {
	w := market(b, 10_000)
	where, err := broker.ParseFilter("gpu_ram>=24 price<=0.28/h region!=US")
	if err != nil {
		b.Fatal(err)
	}
	var calls []time.Duration
	timed := func(call func()) {
		begun := time.Now()
		call()
		calls = append(calls, time.Since(begun))
	}
	for b.Loop() {
		s, err := w.Market.Survey(broker.Query{Where: where, Limit: 20})
		if err != nil {
			b.Fatal(err)
		}
		for done := false; !done; {
			timed(func() { done = s.Look(256) })
		}
		timed(func() { _, err = s.Search() })
		if err != nil {
			b.Fatal(err)
		}
	}
	slices.Sort(calls)
	b.ReportMetric(float64(calls[len(calls)/2].Microseconds()), "call_p50_us")
	b.ReportMetric(float64(calls[len(calls)*99/100].Microseconds()), "call_p99_us")
}
