package broker_test

import (
	"fmt"
	"testing"
	"time"

	"rialto/broker"
	"rialto/broker/markettest"
	"rialto/pricing"
)

// market returns a market with one customer and offers of one GPU each.
func market(b *testing.B, offers int) *markettest.World {
	b.Helper()
	w, err := markettest.NewWorld(broker.MarketConfig{})
	if err != nil {
		b.Fatal(err)
	}
	if err := w.Open("ann", 1_000_000*pricing.USD); err != nil {
		b.Fatal(err)
	}
	for i := range offers {
		o := markettest.Offer(fmt.Sprintf("host%05d", i), "RTX 4090", 1, pricing.Rate(400_000_000+i))
		set := broker.OfferSet{Boot: "boot", Seq: 1, Offers: []broker.Offer{o}}
		if _, err := w.Market.Step(w.Now, broker.OffersPosted{Provider: o.Provider, Set: set}); err != nil {
			b.Fatal(err)
		}
	}
	return w
}

// BenchmarkJob is a job's whole way: submitted, granted, confirmed, ready, renewed, exited, receipted.
func BenchmarkJob(b *testing.B) {
	for _, offers := range []int{1, 1000} {
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
