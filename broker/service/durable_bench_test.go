package service

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"rialto/broker"
	"rialto/broker/ledger"
	"rialto/broker/markettest"
	"rialto/broker/wire"
	"rialto/p2p"
	"rialto/p2p/identity"
	"rialto/pricing"
)

// silentHost is connected to everybody and hears nothing: the benchmark plays the agents itself.
type silentHost struct{}

func (silentHost) Handle(string, int, p2p.Handler) {}

func (silentHost) Request(ctx context.Context, _ identity.ID, _ string, _ []byte) ([]byte, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func (silentHost) OnDisconnect(func(identity.ID)) {}

func (silentHost) RemoteIP(identity.ID) (netip.Addr, bool) { return netip.Addr{}, true }

// benchMarket runs a market on a synced Badger with customers and one provider of one GPU for each.
func benchMarket(b *testing.B, customers int) (s *Service, keys []identity.Key) {
	b.Helper()
	store, err := ledger.Open(b.Context(), ledger.Config{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	key, err := identity.Generate()
	if err != nil {
		b.Fatal(err)
	}
	s, err = New(Config{Key: key, Host: silentHost{}, Store: ledger.Books{Store: store}, SendTimeout: time.Hour})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(b.Context()))
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	b.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			b.Error(err)
		}
		if err := store.Close(); err != nil {
			b.Error(err)
		}
	})
	if err := s.open(b.Context()); err != nil {
		b.Fatal(err)
	}
	for i := range customers {
		k, err := identity.Generate()
		if err != nil {
			b.Fatal(err)
		}
		keys = append(keys, k)
		account := accountOf(i)
		o := markettest.Offer(string(k.ID()), "RTX 4090", 1, 400_000_000) // who buys there sells there
		for _, ev := range []broker.Event{
			broker.AccountOpened{Account: account, Name: string(account)},
			broker.KeyBound{Account: account, Key: broker.PeerID(k.ID())},
			broker.Deposited{Account: account, Amount: 100_000 * pricing.USD, Ref: "first of " + string(account)},
			broker.OffersPosted{Provider: o.Provider, Set: broker.OfferSet{Boot: "b", Seq: 1, Offers: []broker.Offer{o}}},
		} {
			if err := s.event(b.Context(), 0, ev); err != nil {
				b.Fatal(err)
			}
		}
	}
	return s, keys
}

func accountOf(i int) broker.AccountID { return broker.AccountID(fmt.Sprintf("customer%05d", i)) }

func benchSpec(s *Service, key identity.Key, worker, n int) broker.JobSpec {
	spec := markettest.Spec(string(key.ID()), fmt.Sprintf("%d/%d", worker, n))
	spec.Broker = broker.PeerID(s.c.Key.ID())
	spec.Provider = spec.Customer
	return spec
}

// BenchmarkTransitions takes jobs through a running market on a synced Badger, from submission to receipt, many at once.
// A transition is one event whose effects were on disk when it was answered; envelopes are not checked, as that is
// their senders' work and scales with cores.
func BenchmarkTransitions(b *testing.B) {
	const workers = 512
	s, keys := benchMarket(b, workers)
	envelope := make([]byte, 600) // about what a spec takes
	var transitions atomic.Int64
	job := func(worker, n int) error {
		step := func(ev broker.Event) error {
			transitions.Add(1)
			return s.event(b.Context(), len(envelope), ev)
		}
		account, id := accountOf(worker), broker.JobID("j-"+randomID())
		if err := step(broker.Submitted{Job: id, Account: account, Spec: benchSpec(s, keys[worker], worker, n), Envelope: envelope}); err != nil {
			return err
		}
		l, err := s.Lease(b.Context(), account, id)
		if err != nil {
			return err
		}
		gpus := []broker.GPULease{{UUID: "GPU-" + l.Host + "-0", Epoch: uint64(n + 1)}}
		grant := markettest.Grant(l, gpus...)
		grant.Envelope = envelope
		events := []broker.Event{grant, broker.ConfirmAnswered{Lease: l.ID}}
		for seq, phase := range []broker.Phase{broker.PhasePreparing, broker.PhaseReady, broker.PhaseReady, broker.PhaseExited} {
			r := broker.Report{Lease: l.ID, GPUs: gpus, Seq: uint64(seq + 1), Phase: phase, Used: time.Duration(max(0, seq-1)) * time.Millisecond}
			events = append(events, broker.Reported{Provider: l.Provider, Report: r, Envelope: envelope})
		}
		for _, ev := range events {
			if err := step(ev); err != nil {
				return err
			}
		}
		return nil
	}
	n := 0
	b.ResetTimer()
	for b.Loop() {
		var wg sync.WaitGroup
		for i := range workers {
			wg.Go(func() {
				if err := job(i, n); err != nil {
					b.Error(err)
				}
			})
		}
		wg.Wait()
		n++
		if b.Failed() {
			b.FailNow()
		}
	}
	b.ReportMetric(float64(transitions.Load())/b.Elapsed().Seconds(), "durable_per_s")
}

// BenchmarkAccept submits signed specs, 64 at once, and measures the time until each is accepted, which means durable.
func BenchmarkAccept(b *testing.B) {
	const workers = 64
	s, keys := benchMarket(b, workers)
	var mu sync.Mutex
	var took []time.Duration
	n := 0
	b.ResetTimer()
	for b.Loop() {
		b.StopTimer()
		var envelopes [workers][]byte
		for i := range workers {
			var err error
			if envelopes[i], err = wire.SealJobSpec(keys[i], benchSpec(s, keys[i], i, n)); err != nil {
				b.Fatal(err)
			}
		}
		b.StartTimer()
		var wg sync.WaitGroup
		for i := range workers {
			wg.Go(func() {
				begun := time.Now()
				j, err := s.Submit(b.Context(), accountOf(i), fmt.Sprint(n), envelopes[i])
				d := time.Since(begun)
				if err != nil {
					b.Error(err)
					return
				}
				mu.Lock()
				took = append(took, d)
				mu.Unlock()
				if _, err := s.Cancel(b.Context(), accountOf(i), j.ID, "measured"); err != nil {
					b.Error(err)
				}
			})
		}
		wg.Wait()
		n++
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "accept_p50_ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "accept_p99_ms")
}
