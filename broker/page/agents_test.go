package page_test

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"rialto/broker"
	"rialto/broker/markettest"
	"rialto/broker/wire"
	"rialto/p2p"
	"rialto/p2p/identity"
	"rialto/pricing"
	"rialto/tunnel"
)

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

// reserved makes an offer cheaper for who commits to two hours.
func reserved(o *broker.Offer) { o.ReservedRate, o.ReservedMin = 55*cent, 2*time.Hour }

// charging makes a host charge for disk, $0.144 for a GiB a month, and traffic.
func charging(o *broker.Offer) {
	o.Tariff = broker.Tariff{Disk: 200_000, Ingress: 5_000_000, Egress: 10_000_000}
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
	r.Traffic = broker.Traffic{Ingress: 1_200_000_000, Egress: 40_000_000} // from its first report on
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
