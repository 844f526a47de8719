package service_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"rialto/broker"
	"rialto/broker/ledger"
	"rialto/broker/service"
	"rialto/broker/wire"
	"rialto/p2p"
	"rialto/p2p/identity"
	"rialto/p2p/p2ptest"
	"rialto/pricing"
	"rialto/tunnel"
)

const (
	digest   = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	root     = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"
	patience = 20 * time.Second // a test that waits longer hangs
)

func newKey(t *testing.T) identity.Key {
	t.Helper()
	k, err := identity.Generate()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// world is a broker on a store, to be started and stopped, and a customer.
type world struct {
	t        *testing.T
	key      identity.Key
	store    service.Store
	customer identity.Key
	source   func() broker.BlockSource
	builder  service.Builder

	*service.Service
	host    *p2p.Host
	stop    context.CancelFunc
	ended   chan error
	account broker.AccountID
	token   string
}

func newWorld(t *testing.T, store service.Store, configure ...func(*world)) *world {
	t.Helper()
	w := &world{t: t, key: newKey(t), customer: newKey(t), store: store}
	for _, f := range configure {
		f(w)
	}
	w.start()
	t.Cleanup(func() { w.stop() })
	deposit := 10 * pricing.USD
	a, token, err := w.OpenAccount(t.Context(), "ada", &deposit)
	if err != nil {
		t.Fatalf("open account: %v", err)
	}
	w.account, w.token = a.ID, token
	if _, err := w.BindKey(t.Context(), a.ID, broker.PeerID(w.customer.ID())); err != nil {
		t.Fatalf("bind key: %v", err)
	}
	return w
}

func memory() service.Store { return ledger.Books{Store: new(ledger.Memory)} }

// start starts the broker and waits until the market is open.
func (w *world) start() {
	w.t.Helper()
	w.host = p2ptest.New(w.t, p2p.Config{Key: w.key})
	s, err := service.New(service.Config{
		Key: w.key, Host: w.host, Store: w.store, Market: broker.MarketConfig{AllowSimulated: true, FeePPM: 100_000},
		Source: w.source, Builder: w.builder, Tick: 10 * time.Millisecond,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	w.Service, w.ended = s, ended
	go func() { ended <- s.Run(ctx) }()
	host := w.host
	w.stop = func() {
		cancel()
		<-ended
		ended <- nil // may be called again
		if err := host.Close(); err != nil {
			w.t.Error(err)
		}
	}
	w.eventually("the market is open", func() bool { return s.Ready() == nil })
}

// eventually waits for a condition that nothing signals.
func (w *world) eventually(what string, ok func() bool) {
	w.t.Helper()
	dead := time.NewTimer(patience)
	defer dead.Stop()
	again := time.NewTicker(2 * time.Millisecond)
	defer again.Stop()
	for !ok() {
		select {
		case <-again.C:
		case <-dead.C:
			w.t.Fatalf("never: %s", what)
		}
	}
}

// spec is a job for any GPU.
func (w *world) spec() broker.JobSpec {
	return broker.JobSpec{
		Image: "registry/app:1", Digest: digest, Command: []string{"true"}, GPU: broker.GPURequest{Model: "any", Count: 1},
		MaxRate: pricing.Rate(pricing.USD), MaxCost: pricing.USD, MaxDuration: time.Hour, TunnelKey: tunnel.Key{1},
		Customer: broker.PeerID(w.customer.ID()), Broker: broker.PeerID(w.key.ID()), Created: time.Now().Round(0).UTC(),
		Nonce: fmt.Sprint(time.Now().UnixNano()),
	}
}

func (w *world) seal(spec broker.JobSpec) []byte {
	w.t.Helper()
	envelope, err := wire.SealJobSpec(w.customer, spec)
	if err != nil {
		w.t.Fatalf("seal spec: %v", err)
	}
	return envelope
}

func (w *world) submit(key string) broker.Job {
	w.t.Helper()
	j, err := w.Submit(w.t.Context(), w.account, key, w.seal(w.spec()))
	if err != nil {
		w.t.Fatalf("submit: %v", err)
	}
	return j
}

// until follows a job's events up to a state and returns their texts.
func (w *world) until(id broker.JobID, want broker.JobState) []string {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	var texts []string
	for e, err := range w.Events(ctx, w.account, id, 0) {
		if err != nil {
			w.t.Fatalf("job never became %v: %v after %q", want, err, texts)
		}
		if e.Seq != uint64(len(texts))+1 {
			w.t.Fatalf("event %d follows %d", e.Seq, len(texts))
		}
		texts = append(texts, e.Text)
		if e.State == want {
			return texts
		}
	}
	w.t.Fatalf("job ended without becoming %v: %q", want, texts)
	return nil
}

// agent is a provider with one simulated GPU that does what it is told.
type agent struct {
	t        *testing.T
	w        *world
	key      identity.Key
	host     *p2p.Host
	refuse   string
	holds    chan broker.Hold
	confirms chan broker.Confirm
	releases chan broker.Release
	epoch    uint64
	seq      uint64
}

func newAgent(t *testing.T, w *world) *agent {
	t.Helper()
	a := &agent{
		t: t, w: w, key: newKey(t), holds: make(chan broker.Hold, 8),
		confirms: make(chan broker.Confirm, 8), releases: make(chan broker.Release, 8),
	}
	a.host = p2ptest.New(t, p2p.Config{Key: a.key})
	a.host.Handle(wire.ProtocolHold, wire.MaxHold, a.hold)
	a.host.Handle(wire.ProtocolConfirm, wire.MaxConfirm, func(_ context.Context, _ identity.ID, request []byte) ([]byte, error) {
		c, _, err := wire.OpenConfirm(request)
		a.confirms <- c
		return nil, err
	})
	a.host.Handle(wire.ProtocolRelease, wire.MaxRelease, func(_ context.Context, _ identity.ID, request []byte) ([]byte, error) {
		r, _, err := wire.OpenRelease(request)
		a.releases <- r
		return nil, err
	})
	return a
}

func (a *agent) id() broker.PeerID { return broker.PeerID(a.key.ID()) }

func (a *agent) hold(_ context.Context, from identity.ID, request []byte) ([]byte, error) {
	h, signer, err := wire.OpenHold(request)
	if err != nil || string(signer) != string(from) {
		return nil, errors.New("bad hold")
	}
	spec, customer, err := wire.OpenJobSpec(h.Spec)
	if err != nil || customer != broker.PeerID(a.w.customer.ID()) {
		return nil, errors.New("bad spec")
	}
	a.holds <- h
	if a.refuse != "" {
		return wire.SealAnswer(a.key, broker.Answer{Lease: h.Lease, Refusal: a.refuse})
	}
	a.epoch++
	g := &broker.Grant{Lease: h.Lease, Job: h.Job, GPUs: a.gpus(), TunnelKey: tunnel.Key{2}, Endpoints: []string{"127.0.0.1:7072"}}
	if spec.Firm > 0 {
		g.Rate, g.Firm = h.Rate, spec.Firm
	}
	return wire.SealAnswer(a.key, broker.Answer{Lease: h.Lease, Grant: g})
}

func (a *agent) gpus() []broker.GPULease {
	return []broker.GPULease{{UUID: a.uuid(), Epoch: a.epoch}}
}

func (a *agent) uuid() string { return "SIM-" + strings.ToLower(string(a.id()[len(a.id())-12:])) }

// offer connects and posts the agent's offer, and returns the advice that came back.
func (a *agent) offer(change ...func(*broker.Offer)) broker.Advice {
	a.t.Helper()
	p2ptest.Connect(a.t, a.host, a.w.host)
	a.seq++
	o := broker.Offer{
		ID: "o-1", Provider: a.id(), Host: "alpha", Rate: pricing.Rate(pricing.USD) / 2, CPUs: 4, MemoryMiB: 8192, DiskMiB: 10_000,
		Free: []string{a.uuid()},
		GPUs: []broker.GPU{{UUID: a.uuid(), Model: "RTX 4090", MemoryMiB: 24564, Simulated: true, DeviceMinor: -1}},
	}
	for _, f := range change {
		f(&o)
	}
	envelope, err := wire.SealOfferSet(a.key, broker.OfferSet{Boot: "boot", Seq: a.seq, Offers: []broker.Offer{o}})
	if err != nil {
		a.t.Fatalf("seal offers: %v", err)
	}
	reply, err := a.host.Request(a.t.Context(), a.w.key.ID(), wire.ProtocolOffers, envelope)
	if err != nil {
		a.t.Fatalf("offers: %v", err)
	}
	advice, signer, err := wire.OpenAdvice(reply)
	if err != nil || string(signer) != string(a.w.key.ID()) || advice.Boot != "boot" || advice.Seq != a.seq || advice.TTL <= 0 {
		a.t.Fatalf("advice %+v by %s: %v", advice, signer, err)
	}
	return advice
}

// holding is an offer of a host in a region that holds images with these roots.
func holding(region string, roots ...string) func(*broker.Offer) {
	return func(o *broker.Offer) {
		o.Region, o.Addrs = region, []string{"/ip4/127.0.0.1/tcp/1"}
		for _, r := range roots {
			o.Images = append(o.Images, broker.ImageHeld{Digest: digest, Root: r})
		}
	}
}

// report sends a report and returns the renewal.
func (a *agent) report(r broker.Report) (broker.Renewal, error) {
	a.t.Helper()
	a.seq++
	r.Seq, r.GPUs = a.seq, a.gpus()
	envelope, err := wire.SealReport(a.key, r)
	if err != nil {
		a.t.Fatalf("seal report: %v", err)
	}
	reply, err := a.host.Request(a.t.Context(), a.w.key.ID(), wire.ProtocolReport, envelope)
	if err != nil {
		return broker.Renewal{}, err
	}
	renewal, signer, err := wire.OpenRenewal(reply)
	if err != nil || string(signer) != string(a.w.key.ID()) || renewal.Seq != r.Seq {
		a.t.Fatalf("renewal %+v by %s: %v", renewal, signer, err)
	}
	return renewal, nil
}

func (a *agent) mustReport(r broker.Report) broker.Renewal {
	a.t.Helper()
	renewal, err := a.report(r)
	if err != nil {
		a.t.Fatalf("report: %v", err)
	}
	return renewal
}

// next receives from a channel of the agent.
func next[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("no %s came", what)
		panic("unreachable")
	}
}
