package vast_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"rialto/broker"
	"rialto/broker/api"
	"rialto/broker/ledger"
	"rialto/broker/service"
	"rialto/broker/vast"
	"rialto/broker/wire"
	"rialto/p2p"
	"rialto/p2p/identity"
	"rialto/p2p/p2ptest"
	"rialto/pricing"
	"rialto/tunnel"
)

const (
	digest   = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	patience = 20 * time.Second // a test that waits longer hangs
)

// world is a running market behind its HTTP API, with providers that do what they are told, and a custodial account.
type world struct {
	t       *testing.T
	key     identity.Key
	host    *p2p.Host
	market  *service.Service
	keeper  *keeper
	url     string
	account broker.Account
	token   string
}

func newWorld(t *testing.T, configure ...func(*api.Config)) *world {
	t.Helper()
	w := &world{t: t, key: newKey(t)}
	w.host = p2ptest.New(t, p2p.Config{Key: w.key})
	var err error
	w.market, err = service.New(service.Config{
		Key: w.key, Host: w.host, Store: ledger.Books{Store: new(ledger.Memory)}, Tick: 10 * time.Millisecond,
		Market: broker.MarketConfig{AllowSimulated: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.market.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	w.eventually("the market is open", func() bool { return w.market.Ready() == nil })
	w.keeper = &keeper{w: w, logs: "one\ntwo\nthree\n"}
	c := api.Config{Market: w.market, AdminToken: "admin", Info: func() api.MarketInfo { return api.MarketInfo{} }}
	for _, f := range configure {
		f(&c)
	}
	server, err := api.New(c)
	if err != nil {
		t.Fatal(err)
	}
	v, err := vast.New(vast.Config{Market: w.market, Custodian: w.keeper, Hosts: w.market, Admit: server.Admit})
	if err != nil {
		t.Fatal(err)
	}
	server.Handle("/api/", v)
	srv := httptest.NewServer(server)
	t.Cleanup(srv.Close)
	w.url = srv.URL
	deposit := 25 * pricing.USD
	if w.account, w.token, err = w.market.OpenCustodial(t.Context(), "vera", &deposit); err != nil {
		t.Fatal(err)
	}
	return w
}

func newKey(t *testing.T) identity.Key {
	t.Helper()
	k, err := identity.Generate()
	if err != nil {
		t.Fatal(err)
	}
	return k
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

// reply is an answer over HTTP.
type reply struct {
	t      *testing.T
	status int
	header http.Header
	text   string
}

// call sends a request as a client of Vast does, with a key unless it is empty.
func (w *world) call(key, method, path, body string) reply {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), method, w.url+path, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	if key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return reply{w.t, resp.StatusCode, resp.Header, string(text)}
}

// ok is call for one that must succeed.
func (w *world) ok(method, path, body string) map[string]any {
	w.t.Helper()
	r := w.call(w.token, method, path, body)
	if r.status != http.StatusOK || r.header.Get("Content-Type") != "application/json" {
		w.t.Fatalf("%s %s %s: status %d, %s: %s", method, path, body, r.status, r.header.Get("Content-Type"), r.text)
	}
	return r.object()
}

// refused is call for one that must fail with a status, and with texts in its message.
func (w *world) refused(key, method, path, body string, status int, want ...string) {
	w.t.Helper()
	r := w.call(key, method, path, body)
	o := r.object()
	msg, _ := o["msg"].(string)
	if r.status != status || o["success"] != false || o["error"] == "" {
		w.t.Errorf("%s %s %s: status %d, want %d: %s", method, path, body, r.status, status, r.text)
	}
	for _, text := range want {
		if !strings.Contains(msg+fmt.Sprint(o["nearest"]), text) {
			w.t.Errorf("%s %s %s: %q does not say %q", method, path, body, msg, text)
		}
	}
}

func (r reply) object() map[string]any {
	r.t.Helper()
	var o map[string]any
	if err := json.Unmarshal([]byte(r.text), &o); err != nil {
		r.t.Fatalf("status %d: %v: %s", r.status, err, r.text)
	}
	return o
}

func list(v any) []map[string]any {
	items, _ := v.([]any)
	out := make([]map[string]any, len(items))
	for i := range items {
		out[i], _ = items[i].(map[string]any)
	}
	return out
}

// id writes an id that came as a JSON number.
func id(v any) string {
	f, _ := v.(float64)
	return fmt.Sprintf("%.0f", f)
}

// keeper is the custodian without registries and tunnels: it signs and submits, and answers what it is told to.
type keeper struct {
	w *world

	mu    sync.Mutex
	order vast.Order // the last one
	logs  string
	err   error
}

func (k *keeper) Start(ctx context.Context, o vast.Order) (broker.Job, error) {
	key, err := k.w.market.Custody(ctx, o.Account)
	if err != nil {
		return broker.Job{}, err
	}
	k.mu.Lock()
	k.order = o
	k.mu.Unlock()
	spec := o.Spec
	spec.Digest, spec.TunnelKey = digest, tunnel.Key{1}
	spec.Customer, spec.Broker = broker.PeerID(key.ID()), broker.PeerID(k.w.key.ID())
	spec.Created, spec.Nonce = time.Now().UTC(), fmt.Sprint(time.Now().UnixNano())
	envelope, err := wire.SealJobSpec(key, spec)
	if err != nil {
		return broker.Job{}, err
	}
	return k.w.market.SubmitTagged(ctx, o.Account, spec.Nonce, envelope, o.Tag)
}

func (k *keeper) Bid(ctx context.Context, j broker.Job, bid pricing.Rate) (broker.Job, error) {
	key, err := k.w.market.Custody(ctx, j.Account)
	if err != nil {
		return broker.Job{}, err
	}
	envelope, err := wire.SealBidChange(key, broker.BidChange{
		Customer: j.Spec.Customer, Broker: j.Spec.Broker, Nonce: j.Spec.Nonce, Bid: bid, MaxCost: j.Spec.MaxCost, Created: time.Now().UTC(),
	})
	if err != nil {
		return broker.Job{}, err
	}
	return k.w.market.ChangeBid(ctx, j.Account, j.ID, envelope)
}

func (k *keeper) last() vast.Order {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.order
}

func (k *keeper) say(logs string, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.logs, k.err = logs, err
}

func (k *keeper) Logs(_ context.Context, _ broker.AccountID, _ broker.JobID, sink func([]byte) error) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return errors.Join(sink([]byte(k.logs)), k.err)
}

func (k *keeper) Exec(_ context.Context, _ broker.AccountID, _ broker.JobID, args []string, sink func([]byte) error) (int, error) {
	return 3, sink(fmt.Appendf(nil, "%q", args))
}

// provider is a host with GPUs.
type provider struct {
	w     *world
	key   identity.Key
	host  *p2p.Host
	offer broker.Offer
	seq   uint64

	mu     sync.Mutex
	refuse string
	rate   pricing.Rate  // of the last hold
	tariff broker.Tariff // likewise
	given  int           // GPUs granted so far, each once
}

// gpu is a real one, as NVML describes it.
func gpu(model string, mib uint64) broker.GPU {
	return broker.GPU{
		Model: model, MemoryMiB: mib, Driver: "535.86.05", CUDA: "12.8", ComputeMajor: 8, ComputeMinor: 9, PowerLimitMW: 450_000, Level: broker.LevelNVML,
	}
}

// provider puts a host with n GPUs on the market.
func (w *world) provider(name, region string, n int, g broker.GPU, rate string) *provider {
	w.t.Helper()
	p := &provider{w: w, key: newKey(w.t)}
	p.host = p2ptest.New(w.t, p2p.Config{Key: p.key})
	p.host.Handle(wire.ProtocolHold, wire.MaxHold, p.hold)
	p.host.Handle(wire.ProtocolConfirm, wire.MaxConfirm, p.confirm)
	p.host.Handle(wire.ProtocolRelease, wire.MaxRelease, p.release)
	price, err := pricing.ParseRate(rate)
	if err != nil {
		w.t.Fatal(err)
	}
	p.offer = broker.Offer{
		ID: broker.OfferID("o-" + name), Provider: p.id(), Host: name, Region: region, Rate: price, CPUs: 8, MemoryMiB: 32_000, DiskMiB: 100_000,
		ReservedRate: price * 9 / 10, ReservedMin: 24 * time.Hour,
	}
	for i := range n {
		g.UUID = fmt.Sprintf("GPU-%s-%d", name, i)
		if g.Simulated {
			g.UUID = fmt.Sprintf("SIM-%s-%d", name, i)
		}
		p.offer.GPUs, p.offer.Free = append(p.offer.GPUs, g), append(p.offer.Free, g.UUID)
	}
	p2ptest.Connect(w.t, p.host, w.host)
	p.post()
	return p
}

func (p *provider) id() broker.PeerID { return broker.PeerID(p.key.ID()) }

func (p *provider) post() {
	p.w.t.Helper()
	p.seq++
	envelope, err := wire.SealOfferSet(p.key, broker.OfferSet{Boot: "boot", Seq: p.seq, Offers: []broker.Offer{p.offer}})
	if err != nil {
		p.w.t.Fatal(err)
	}
	if _, err := p.host.Request(p.w.t.Context(), p.w.key.ID(), wire.ProtocolOffers, envelope); err != nil {
		p.w.t.Fatal(err)
	}
}

func (p *provider) hold(_ context.Context, _ identity.ID, request []byte) ([]byte, error) {
	h, _, err := wire.OpenHold(request)
	if err != nil {
		return nil, err
	}
	spec, _, err := wire.OpenJobSpec(h.Spec)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rate, p.tariff = h.Rate, h.Tariff
	if p.refuse != "" {
		return wire.SealAnswer(p.key, broker.Answer{Lease: h.Lease, Refusal: p.refuse})
	}
	g := broker.Grant{Lease: h.Lease, Job: h.Job, TunnelKey: tunnel.Key{2}, Endpoints: []string{"127.0.0.1:7072"}}
	for range spec.GPU.Count {
		g.GPUs = append(g.GPUs, broker.GPULease{UUID: p.offer.GPUs[p.given%len(p.offer.GPUs)].UUID, Epoch: 1})
		p.given++
	}
	return wire.SealAnswer(p.key, broker.Answer{Lease: h.Lease, Grant: &g})
}

func (p *provider) confirm(_ context.Context, _ identity.ID, request []byte) ([]byte, error) {
	_, _, err := wire.OpenConfirm(request)
	return nil, err
}

func (p *provider) release(_ context.Context, _ identity.ID, request []byte) ([]byte, error) {
	_, _, err := wire.OpenRelease(request)
	return nil, err
}

// report tells how the only lease is, with its GPUs.
func (p *provider) report(lease broker.Lease, r broker.Report) {
	p.w.t.Helper()
	p.seq++
	r.Seq, r.Lease, r.GPUs = p.seq, lease.ID, lease.GPUs
	envelope, err := wire.SealReport(p.key, r)
	if err != nil {
		p.w.t.Fatal(err)
	}
	if _, err := p.host.Request(p.w.t.Context(), p.w.key.ID(), wire.ProtocolReport, envelope); err != nil {
		p.w.t.Fatal(err)
	}
}

// job returns the job with the id that an instance says, and its lease.
func (w *world) job(instance map[string]any) (broker.Job, broker.Lease) {
	w.t.Helper()
	name, _ := instance["job"].(string)
	j, err := w.market.Job(w.t.Context(), w.account.ID, broker.JobID(name))
	if err != nil {
		w.t.Fatal(err)
	}
	l, err := w.market.Lease(w.t.Context(), w.account.ID, j.ID)
	if err != nil {
		w.t.Fatal(err)
	}
	return j, l
}
