package service

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
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

// benchEnvelope is about what a spec takes on disk, half of it keys, hashes and a signature, which no compression makes less.
func benchEnvelope() []byte {
	p := make([]byte, 600)
	rand.Read(p[:300])
	return p
}

// BenchmarkTransitions takes jobs through a running market on a synced Badger, from submission to receipt, many at once.
// A transition is one event whose effects were on disk when it was answered; envelopes are not checked, as that is
// their senders' work and scales with cores. The CPU time that it reports is the process's, so that of the clients and of
// the collector, too; unlike the rate it says something on a machine that is busy.
func BenchmarkTransitions(b *testing.B) {
	const workers = 512
	s, keys := benchMarket(b, workers)
	var transitions atomic.Int64
	job := func(worker, n int) error {
		step := func(ev broker.Event) error {
			transitions.Add(1)
			return s.event(b.Context(), 600, ev)
		}
		account, id := accountOf(worker), broker.JobID("j-"+randomID())
		if err := step(broker.Submitted{Job: id, Account: account, Spec: benchSpec(s, keys[worker], worker, n), Envelope: benchEnvelope()}); err != nil {
			return err
		}
		l, err := s.Lease(b.Context(), account, id)
		if err != nil {
			return err
		}
		gpus := []broker.GPULease{{UUID: "GPU-" + l.Host + "-0", Epoch: uint64(n + 1)}}
		grant := markettest.Grant(l, gpus...)
		grant.Envelope = benchEnvelope()
		events := []broker.Event{grant, broker.ConfirmAnswered{Lease: l.ID}}
		for seq, phase := range []broker.Phase{broker.PhasePreparing, broker.PhaseReady, broker.PhaseReady, broker.PhaseExited} {
			r := broker.Report{Lease: l.ID, GPUs: gpus, Seq: uint64(seq + 1), Phase: phase, Used: time.Duration(max(0, seq-1)) * time.Millisecond}
			events = append(events, broker.Reported{Provider: l.Provider, Report: r, Envelope: benchEnvelope()})
		}
		for _, ev := range events {
			if err := step(ev); err != nil {
				return err
			}
		}
		return nil
	}
	n := 0
	used := cpuTime(b)
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
	b.ReportMetric(float64((cpuTime(b)-used).Microseconds())/float64(transitions.Load()), "cpu_us")
}

func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkAccept submits signed specs, 64 at once, and measures the time until each is accepted, which means durable. Each
// is cancelled then. The GPU that it wants is taken, so that it waits: holds that no host answers would pile up by the
// thousand, and their weight would be measured instead.
func BenchmarkAccept(b *testing.B) {
	const workers = 64
	s, keys := benchMarket(b, workers)
	for i := range workers {
		id := broker.JobID("j-" + randomID())
		spec := benchSpec(s, keys[i], i, -1)
		if err := s.event(b.Context(), 600, broker.Submitted{Job: id, Account: accountOf(i), Spec: spec, Envelope: benchEnvelope()}); err != nil {
			b.Fatal(err)
		}
		l, err := s.Lease(b.Context(), accountOf(i), id)
		if err != nil {
			b.Fatal(err)
		}
		grant := markettest.Grant(l, broker.GPULease{UUID: "GPU-" + l.Host + "-0", Epoch: 1})
		grant.Envelope = benchEnvelope()
		if err := s.event(b.Context(), 600, grant); err != nil {
			b.Fatal(err)
		}
	}
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

// BenchmarkRestart opens a store with ended jobs and, a tenth as many, running leases, each on a host of its own, until the
// market is open. RIALTO_JOBS says how many ended jobs: a million takes some minutes and 10 GB to write. RIALTO_STORE names a
// directory where the store is written, unless it is there, and kept.
func BenchmarkRestart(b *testing.B) {
	jobs := 20_000
	if v := os.Getenv("RIALTO_JOBS"); v != "" {
		if _, err := fmt.Sscan(v, &jobs); err != nil {
			b.Fatal(err)
		}
	}
	key, err := identity.Generate()
	if err != nil {
		b.Fatal(err)
	}
	dir := cmp.Or(os.Getenv("RIALTO_STORE"), filepath.Join(b.TempDir(), "store"))
	if _, err := os.Stat(dir); err != nil {
		fillLedger(b, dir, key, jobs, jobs/10)
	}
	b.ResetTimer()
	for b.Loop() {
		store, err := ledger.Open(b.Context(), ledger.Config{Dir: dir})
		if err != nil {
			b.Fatal(err)
		}
		s, err := New(Config{Key: key, Host: silentHost{}, Store: ledger.Books{Store: store}})
		if err != nil {
			b.Fatal(err)
		}
		if _, _, err := s.restore(b.Context()); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		runtime.GC()
		var mem runtime.MemStats
		runtime.ReadMemStats(&mem)
		b.ReportMetric(float64(mem.HeapAlloc)/(1<<20), "heap_MiB")
		runtime.KeepAlive(s)
		if err := store.Close(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	b.ReportMetric(b.Elapsed().Seconds()/float64(b.N), "restart_s")
	b.ReportMetric(float64(jobs), "jobs")
}

// fillLedger writes the last state of ended jobs and of running ones, which is what a restart reads.
func fillLedger(b *testing.B, dir string, self identity.Key, ended, running int) {
	b.Helper()
	store, err := ledger.Open(b.Context(), ledger.Config{Dir: dir})
	if err != nil {
		b.Fatal(err)
	}
	books := ledger.Books{Store: store}
	epoch, err := books.Campaign(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	m, err := broker.NewMarket(broker.MarketConfig{Self: broker.PeerID(self.ID())})
	if err != nil {
		b.Fatal(err)
	}
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var posts, derived []broker.Effect
	last := map[string]broker.Effect{}
	batches := 0
	var over archive
	flush := func() {
		effects := slices.Concat(slices.Collect(maps.Values(last)), posts, derived)
		batches++
		if err := books.Save(b.Context(), epoch, fmt.Sprint(batches), effects, nil, nil); err != nil {
			b.Fatal(err)
		}
		clear(last)
		posts, derived = posts[:0], derived[:0]
		over.add(effects)
		if _, err := m.Step(now, over.take()); err != nil {
			b.Fatal(err)
		}
	}
	step := func(ev broker.Event) {
		effects, err := m.Step(now, ev)
		if err != nil {
			b.Fatal(err)
		}
		for _, e := range effects {
			switch e := e.(type) {
			case broker.SaveAccount:
				last["a"+string(e.Account.ID)] = e
			case broker.SaveJob:
				if old, ok := last["j"+string(e.Job.ID)].(broker.SaveJob); ok {
					e.New = old.New
				}
				last["j"+string(e.Job.ID)] = e
			case broker.SaveLease:
				last["l"+string(e.Lease.ID)] = e
			case broker.Post:
				posts = append(posts, e)
			case broker.SaveDerived:
				derived = append(derived, e)
			case broker.SendHold, broker.SendConfirm, broker.SendRelease, broker.SendRenewal, broker.SignReceipt:
			}
		}
	}
	var customers []identity.Key
	for i := range running/500 + 1 { // an account has at most a thousand open jobs
		k, err := identity.Generate()
		if err != nil {
			b.Fatal(err)
		}
		customers = append(customers, k)
		step(broker.AccountOpened{Account: accountOf(i), Name: "customer"})
		step(broker.KeyBound{Account: accountOf(i), Key: broker.PeerID(k.ID())})
		step(broker.Deposited{Account: accountOf(i), Amount: 1_000_000 * pricing.USD, Ref: fmt.Sprint("first of ", i)})
	}
	for i := range ended + running {
		now = now.Add(time.Millisecond)
		provider := broker.PeerID(fmt.Sprintf("host%07d", max(0, i-ended+1)))
		if i == ended {
			step(broker.ProviderGone{Provider: "host0000000"})
		}
		if i == 0 || i >= ended {
			o := markettest.Offer(string(provider), "RTX 4090", 1, 400_000_000)
			step(broker.OffersPosted{Provider: provider, Set: broker.OfferSet{Boot: "b", Seq: 1, Offers: []broker.Offer{o}}})
		}
		id := broker.JobID("j-" + randomID())
		customer, account := customers[i%len(customers)], accountOf(i%len(customers))
		spec := markettest.Spec(string(customer.ID()), fmt.Sprint(i))
		spec.Broker, spec.MaxDuration = broker.PeerID(self.ID()), time.Minute
		envelope, err := wire.SealJobSpec(customer, spec)
		if err != nil {
			b.Fatal(err)
		}
		step(broker.Submitted{Job: id, Account: account, Spec: spec, Envelope: envelope})
		j, _ := m.Job(id)
		l, _ := m.Lease(j.Lease)
		gpus := []broker.GPULease{{UUID: "GPU-" + string(provider) + "-0", Epoch: uint64(i + 1)}}
		grant := markettest.Grant(l, gpus...)
		grant.Envelope = envelope // about as long
		step(grant)
		phases := []broker.Phase{broker.PhaseReady, broker.PhaseExited}
		if i >= ended {
			phases = phases[:1]
		}
		for seq, phase := range phases {
			r := broker.Report{Lease: l.ID, GPUs: gpus, Seq: uint64(seq + 1), Phase: phase}
			step(broker.Reported{Provider: provider, Report: r, Envelope: envelope})
		}
		if i < ended {
			step(broker.ReceiptSigned{Lease: l.ID, Envelope: envelope})
		} else {
			step(broker.ProviderGone{Provider: provider}) // keeps the search short
		}
		if len(last) > 600 { // with the rest about half of what a batch may have
			flush()
		}
	}
	flush()
	if err := store.Close(); err != nil {
		b.Fatal(err)
	}
}
