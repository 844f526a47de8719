package markettest_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"rialto/broker"
	"rialto/broker/markettest"
	"rialto/pricing"
)

// TestClockJumpsNeverOverbill moves the broker's clock by hours and years, both ways, with and without
// restarts, under a workload that reports its true time. A bill never exceeds what it ran, from the first
// ready report on; a liar gets no more than a lease's TTL for each report.
func TestClockJumpsNeverOverbill(t *testing.T) {
	jumps := []time.Duration{0, 0, 0, time.Hour, -time.Hour, 24 * 365 * time.Hour, -24 * 365 * time.Hour}
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		liar := seed%3 == 0
		w, err := markettest.NewWorld(broker.MarketConfig{})
		if err != nil {
			t.Fatal(err)
		}
		step := func(ev broker.Event) {
			t.Helper()
			if _, err := w.Step(ev); err != nil && !markettest.Refused(err) {
				t.Fatalf("seed %d: %v", seed, err)
			}
		}
		if err := w.Open("ann", 100*pricing.USD); err != nil {
			t.Fatal(err)
		}
		offer := markettest.Offer("alpha", "RTX 4090", 1, pricing.Rate(pricing.USD))
		step(broker.OffersPosted{Provider: "alpha", Set: broker.OfferSet{Boot: "b", Seq: 1, Offers: []broker.Offer{offer}}})
		step(broker.Submitted{Job: "j", Account: "ann", Spec: markettest.Spec("ann", "n"), Envelope: []byte("spec")})
		id := w.Jobs["j"].Lease
		step(markettest.Grant(w.Leases[id], broker.GPULease{UUID: "GPU-alpha-0", Epoch: 1}))
		var ran time.Duration
		const reports = 40
		for seq := uint64(1); seq <= reports; seq++ {
			report := broker.Report{Lease: id, GPUs: w.Leases[id].GPUs, Seq: seq, Phase: broker.PhaseReady, Used: ran}
			if liar {
				report.Used = time.Duration(seq) * 1000 * time.Hour
			}
			if seq == reports {
				report.Phase = broker.PhaseExited
			}
			step(broker.Reported{Provider: "alpha", Report: report, Envelope: []byte("report")})
			lived := time.Duration(r.Int64N(int64(50 * time.Second)))
			ran += lived
			w.Now = w.Now.Add(lived + jumps[r.IntN(len(jumps))])
			if r.IntN(4) == 0 {
				if err := w.Restart(); err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
			}
			if r.IntN(8) == 0 {
				step(broker.Ticked{})
			}
		}
		most := ran
		if liar {
			most = reports * 45 * time.Second
		}
		l := w.Leases[id]
		cost, err := pricing.Rate(pricing.USD).Cost(most)
		if err != nil || l.Billed > most || l.Cost > cost {
			t.Errorf("seed %d: billed %v (%v) of at most %v (%v), %v", seed, l.Billed, l.Cost, most, cost, err)
		}
	}
}
