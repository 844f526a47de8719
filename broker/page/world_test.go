package page_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"rialto/broker"
	"rialto/broker/api"
	"rialto/broker/ledger"
	"rialto/broker/markettest"
	"rialto/broker/page"
	"rialto/broker/service"
	"rialto/broker/wire"
	"rialto/p2p"
	"rialto/p2p/identity"
	"rialto/pricing"
)

const (
	cent     = pricing.Rate(pricing.USD / 100)
	patience = 20 * time.Second
)

// world is a broker's real service on a memory ledger, whose agents the test plays over signed messages.
type world struct {
	*service.Service
	t        *testing.T
	key      identity.Key
	customer identity.Key
	account  broker.AccountID
	token    string
	store    service.Store
	hub      *hub
	url      string
	jobs     int

	running, done, failed broker.JobID // see work
	gang                  broker.JobID // of three hosts
	lease                 broker.Lease // of running
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return &world{
		t: t, key: newKey(t), customer: newKey(t), store: ledger.Books{Store: new(ledger.Memory)},
		hub: &hub{handlers: map[string]p2p.Handler{}, agents: map[identity.ID]*agent{}},
	}
}

func newKey(t *testing.T) identity.Key {
	t.Helper()
	k, err := identity.Generate()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// run starts the service, which prints prices so often; the returned function ends it.
func (w *world) run(every time.Duration) (stop func()) {
	w.t.Helper()
	s, err := service.New(service.Config{
		Key: w.key, Host: w.hub, Store: w.store, Tick: 100 * time.Millisecond, PrintEvery: every,
		Market: broker.MarketConfig{AllowSimulated: true, FeePPM: 50_000, LeaseTTL: 12 * time.Hour, HoldTTL: time.Minute},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	w.Service = s
	for s.Ready() != nil {
		time.Sleep(10 * time.Millisecond)
	}
	for _, err := s.Prices(w.t.Context()); err != nil; _, err = s.Prices(w.t.Context()) {
		time.Sleep(10 * time.Millisecond)
	}
	return func() {
		cancel()
		if err := <-ended; err != nil {
			w.t.Error(err)
		}
	}
}

// open opens the customer's account.
func (w *world) open() {
	w.t.Helper()
	deposit := 100_000 * pricing.USD
	a, token, err := w.OpenAccount(w.t.Context(), "ada", &deposit)
	if err == nil {
		w.account, w.token = a.ID, token
		_, err = w.BindKey(w.t.Context(), a.ID, broker.PeerID(w.customer.ID()))
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// serve serves API and page as the broker's command does.
func (w *world) serve() {
	w.t.Helper()
	site, err := page.Handler()
	if err != nil {
		w.t.Fatal(err)
	}
	s, err := api.New(api.Config{Market: w.Service, Page: site, Info: func() api.MarketInfo {
		return api.MarketInfo{Broker: string(w.key.ID()), FeePPM: 50_000, AllowSimulated: true, Version: "v0.0.0-test"}
	}})
	if err != nil {
		w.t.Fatal(err)
	}
	srv := httptest.NewServer(s)
	w.t.Cleanup(func() {
		srv.CloseClientConnections() // streams do not end by themselves
		srv.Close()
	})
	w.url = srv.URL
}

// submit asks for GPUs of a provider.
func (w *world) submit(p broker.PeerID, gpus int, change ...func(*broker.JobSpec)) broker.Job {
	w.t.Helper()
	w.jobs++
	spec := markettest.Spec(string(w.customer.ID()), fmt.Sprint(w.jobs))
	spec.Broker, spec.Provider, spec.GPU.Count, spec.Created = broker.PeerID(w.key.ID()), p, gpus, time.Now().UTC()
	spec.Image, spec.Command = "docker.io/library/python:3-slim", []string{"python3", "train.py", "--epochs", "3"}
	spec.MaxRate, spec.MaxCost, spec.MaxDuration = pricing.Rate(100*pricing.USD), 100*pricing.USD, 10*time.Hour
	for _, f := range change {
		f(&spec)
	}
	envelope, err := wire.SealJobSpec(w.customer, spec)
	if err != nil {
		w.t.Fatal(err)
	}
	j, err := w.Submit(w.t.Context(), w.account, fmt.Sprint(w.jobs), envelope)
	if err != nil {
		w.t.Fatal(err)
	}
	return j
}

// granted waits until a job has its GPUs.
func (w *world) granted(id broker.JobID) broker.Lease {
	w.t.Helper()
	for begun := time.Now(); time.Since(begun) < patience; time.Sleep(20 * time.Millisecond) {
		if l, err := w.Lease(w.t.Context(), w.account, id); err == nil && l.State == broker.LeaseActive {
			return l
		}
	}
	w.t.Fatalf("job %s has no lease", id)
	panic("unreachable")
}

// past plays some hours of a market that end now: prices have a history, jobs are over.
func (w *world) past(hours int) {
	w.t.Helper()
	now := time.Now()
	outer := w.t
	synctest.Test(w.t, func(t *testing.T) {
		w.t = t
		time.Sleep(time.Until(now.Add(-time.Duration(hours)*time.Hour - 10*time.Second)))
		stop := w.run(time.Minute)
		w.open()
		random := rand.New(rand.NewPCG(1, 2))
		for _, a := range w.hub.list() {
			a.post(t)
		}
		var running sync.WaitGroup
		for range hours * 6 {
			for _, a := range w.hub.list() {
				if random.IntN(2) == 0 {
					a.offer.Rate = max(a.base*4/5, a.offer.Rate+pricing.Rate(random.IntN(9)-4)*cent/2)
					a.post(t)
				}
				if random.IntN(5) != 0 {
					continue
				}
				d := time.Duration(12+random.IntN(60)) * time.Minute
				if time.Since(now)+d > -2*time.Minute {
					continue
				}
				if a.free() == 0 {
					continue
				}
				l := w.granted(w.submit(a.id(), 1).ID)
				running.Go(func() {
					a.report(t, l, 1, broker.PhaseReady, 0)
					time.Sleep(d)
					a.report(t, l, 2, broker.PhaseExited, d)
				})
				time.Sleep(time.Second)
			}
			time.Sleep(9 * time.Minute)
		}
		running.Wait()
		time.Sleep(time.Until(now))
		stop()
	})
	w.t = outer
}
