package page_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http/httptest"
	"net/netip"
	"strings"
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
	"rialto/tunnel"
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

// run starts the service; the returned function ends it.
func (w *world) run() (stop func()) {
	w.t.Helper()
	s, err := service.New(service.Config{
		Key: w.key, Host: w.hub, Store: w.store, Tick: 100 * time.Millisecond,
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
		stop := w.run()
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

// hub is the broker's host: peers are agents of the test.
type hub struct {
	mu       sync.Mutex
	handlers map[string]p2p.Handler
	agents   map[identity.ID]*agent
	order    []*agent
}

func (h *hub) Handle(protocol string, _ int, fn p2p.Handler) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.handlers[protocol] = fn
}

func (*hub) OnDisconnect(func(identity.ID)) {}

func (h *hub) RemoteIP(identity.ID) (netip.Addr, bool) {
	return netip.MustParseAddr("192.0.2.7"), true
}

func (h *hub) Request(_ context.Context, to identity.ID, protocol string, request []byte) ([]byte, error) {
	h.mu.Lock()
	a := h.agents[to]
	h.mu.Unlock()
	if a == nil {
		return nil, errors.New("not connected")
	}
	if protocol != wire.ProtocolHold {
		return nil, nil
	}
	return a.grant(request)
}

func (h *hub) list() []*agent {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]*agent(nil), h.order...)
}

func (h *hub) ask(t *testing.T, from identity.ID, protocol string, request []byte) {
	t.Helper()
	h.mu.Lock()
	fn := h.handlers[protocol]
	h.mu.Unlock()
	if _, err := fn(t.Context(), from, request); err != nil {
		t.Errorf("%s: %v", protocol, err)
	}
}

// agent is a provider with one offer.
type agent struct {
	hub   *hub
	key   identity.Key
	offer broker.Offer
	base  pricing.Rate

	mu     sync.Mutex
	epoch  uint64
	seq    uint64
	leased map[string]bool
}

// agent adds a provider to the world; it posts its offer when told to.
func (w *world) agent(host, model, region string, gpus int, rate pricing.Rate, change ...func(*broker.Offer)) *agent {
	w.t.Helper()
	a := &agent{hub: w.hub, key: newKey(w.t), base: rate, leased: map[string]bool{}}
	a.offer = markettest.Offer(host, model, gpus, rate)
	a.offer.Provider, a.offer.Region, a.offer.CPUs, a.offer.MemoryMiB = a.id(), region, 12, 48<<10
	a.offer.ID, a.offer.Addrs = "o-1", nil
	memory := uint64(24 << 10)
	for _, m := range broker.Models() {
		if m.Name == model {
			memory = m.MemoryMiB
		}
	}
	for i := range a.offer.GPUs {
		g := &a.offer.GPUs[i]
		g.MemoryMiB, g.Driver, g.CUDA, g.ComputeMajor, g.ComputeMinor, g.PowerLimitMW = memory-12, "580.82.07", "13.0", 8, 9, 450_000
		g.DeviceMinor = i
	}
	for _, f := range change {
		f(&a.offer)
	}
	w.hub.agents[a.key.ID()] = a
	w.hub.order = append(w.hub.order, a)
	return a
}

func simulated(o *broker.Offer) {
	for i := range o.GPUs {
		g := &o.GPUs[i]
		g.Simulated, g.Level, g.Driver, g.CUDA, g.DeviceMinor, g.ComputeMajor, g.ComputeMinor, g.PowerLimitMW = true, broker.LevelClaimed, "", "", -1, 0, 0, 0
		g.UUID = "SIM" + strings.TrimPrefix(g.UUID, "GPU")
		o.Free[i] = g.UUID
	}
}

func claimed(o *broker.Offer) {
	for i := range o.GPUs {
		o.GPUs[i].Level = broker.LevelClaimed
	}
}

func (a *agent) id() broker.PeerID { return broker.PeerID(a.key.ID()) }

func (a *agent) free() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.offer.GPUs) - len(a.leased)
}

// post tells the broker what is on offer.
func (a *agent) post(t *testing.T) {
	t.Helper()
	a.tell(t, a.offer)
}

// withdraw tells the broker that nothing is.
func (a *agent) withdraw(t *testing.T) {
	t.Helper()
	a.tell(t)
}

func (a *agent) tell(t *testing.T, offers ...broker.Offer) {
	t.Helper()
	a.mu.Lock()
	a.seq++
	set := broker.OfferSet{Boot: "boot", Seq: a.seq, Offers: offers}
	a.mu.Unlock()
	envelope, err := wire.SealOfferSet(a.key, set)
	if err != nil {
		t.Fatal(err)
	}
	a.hub.ask(t, a.key.ID(), wire.ProtocolOffers, envelope)
}

func (a *agent) grant(request []byte) ([]byte, error) {
	h, _, err := wire.OpenHold(request)
	if err != nil {
		return nil, err
	}
	spec, _, err := wire.OpenJobSpec(h.Spec)
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	g := broker.Grant{Lease: h.Lease, Job: h.Job, TunnelKey: tunnel.Key{2}, Endpoints: []string{"192.0.2.7:7072"}}
	for _, gpu := range a.offer.GPUs {
		if !a.leased[gpu.UUID] && len(g.GPUs) < spec.GPU.Count {
			a.epoch++
			g.GPUs = append(g.GPUs, broker.GPULease{UUID: gpu.UUID, Epoch: a.epoch})
		}
	}
	if len(g.GPUs) < spec.GPU.Count {
		return wire.SealAnswer(a.key, broker.Answer{Lease: h.Lease, Refusal: "no GPU is free"})
	}
	for _, gpu := range g.GPUs {
		a.leased[gpu.UUID] = true
	}
	return wire.SealAnswer(a.key, broker.Answer{Lease: h.Lease, Grant: &g})
}

// report tells the broker how far a lease is.
func (a *agent) report(t *testing.T, l broker.Lease, seq uint64, phase broker.Phase, used time.Duration, change ...func(*broker.Report)) {
	t.Helper()
	r := broker.Report{Lease: l.ID, GPUs: l.GPUs, Seq: seq, Phase: phase, Used: used}
	r.Fetched = broker.Fetched{Local: 21 << 20, Peers: 183 << 20, Registry: 4 << 20, Total: 208 << 20}
	for _, s := range []struct {
		name        string
		start, took int
	}{{"network", 2, 31}, {"tunnel", 8, 44}, {"image", 4, 212}, {"mount", 218, 9}, {"container", 229, 61}, {"probe", 291, 18}} {
		r.Steps = append(r.Steps, broker.Step{Name: s.name, Start: time.Duration(s.start) * time.Millisecond, Took: time.Duration(s.took) * time.Millisecond})
	}
	for _, f := range change {
		f(&r)
	}
	envelope, err := wire.SealReport(a.key, r)
	if err != nil {
		t.Fatal(err)
	}
	a.hub.ask(t, a.key.ID(), wire.ProtocolReport, envelope)
	if phase >= broker.PhaseExited {
		a.mu.Lock()
		defer a.mu.Unlock()
		for _, g := range l.GPUs {
			delete(a.leased, g.UUID)
		}
	}
}
