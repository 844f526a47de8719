//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"rialto/broker"
	"rialto/broker/api"
	"rialto/broker/ledger"
	"rialto/broker/service"
	"rialto/p2p"
	"rialto/p2p/identity"
	"rialto/pricing"
	"rialto/provider/agent"
	"rialto/provider/simgpu"
)

// world is a broker and agents in this process: the real market behind the real API, real agents, real
// tunnels over the loopback interface. Peers are joined by function calls, and a container is a process of
// this machine.
type world struct {
	net    *network
	broker *node
	api    *httptest.Server
	market *service.Service
	token  string
	agents map[string]*testAgent
	images images // what all agents have
	blocks blocks // what customers uploaded

	mu   sync.Mutex
	away bool
	mute int // how many answers to submissions get lost
	lie  bool
}

func newWorld(tb testing.TB) *world {
	tb.Helper()
	w := &world{net: &network{nodes: map[identity.ID]*node{}}, agents: map[string]*testAgent{}}
	w.images.blocks = &w.blocks
	key := generate(tb)
	w.broker = w.net.join(key.ID())
	w.images.from = []broker.PeerBytes{{Peer: broker.PeerID(key.ID()), Bytes: 200 << 20}}
	var err error
	w.market, err = service.New(service.Config{
		Key: key, Host: brokerNode{w.broker}, Store: ledger.Books{Store: &ledger.Memory{}},
		Market: broker.MarketConfig{AllowSimulated: true, FeePPM: 50_000, LeaseTTL: 2 * time.Second}, Tick: 20 * time.Millisecond,
		Builder: builder{}, PrintEvery: time.Second,
	})
	if err != nil {
		tb.Fatal(err)
	}
	start(tb, w.market.Run)
	server, err := api.New(api.Config{
		Market: w.market,
		Info: func() api.MarketInfo {
			return api.MarketInfo{Broker: string(key.ID()), AllowSimulated: true, FeePPM: 50_000, Addrs: []string{}, Version: "test"}
		},
		Blocks: &w.blocks,
	})
	if err != nil {
		tb.Fatal(err)
	}
	w.api = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		away, lie := w.away, w.lie
		mute := w.mute > 0 && r.Method == http.MethodPost && r.URL.Path == "/v1/jobs"
		if mute {
			w.mute--
		}
		w.mu.Unlock()
		if mute {
			server.ServeHTTP(httptest.NewRecorder(), r)
			panic(http.ErrAbortHandler)
		}
		if lie && strings.HasSuffix(r.URL.Path, "/receipt") {
			forged := httptest.NewRecorder()
			server.ServeHTTP(forged, r)
			rw.Header().Set("Content-Type", "application/json")
			fmt.Fprint(rw, strings.Replace(forged.Body.String(), `"quality":"indicative","index_nanousd_per_hour":4`, `"quality":"indicative","index_nanousd_per_hour":3`, 1))
			return
		}
		if away {
			panic(http.ErrAbortHandler) // the connection breaks, as a dead broker's does
		}
		server.ServeHTTP(rw, r)
	}))
	tb.Cleanup(func() {
		w.api.CloseClientConnections()
		w.api.Close()
	})
	eventually(tb, "the market is ready", func() bool { return w.market.Ready() == nil })
	deposit := 10 * pricing.USD
	_, w.token, err = w.market.OpenAccount(tb.Context(), "ada", &deposit)
	if err != nil {
		tb.Fatal(err)
	}
	return w
}

// setAway makes the broker's API unreachable, or reachable again.
func (w *world) setAway(away bool) {
	w.mu.Lock()
	w.away = away
	w.mu.Unlock()
	if away {
		w.api.CloseClientConnections()
	}
}

// loseAnswers makes the answers to the next submission get lost, after the job was accepted: more of them
// than the HTTP client asks again for by itself.
func (w *world) loseAnswers() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mute = 4
}

// setLie makes the broker lower the index in its receipts.
func (w *world) setLie() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lie = true
}

// offered waits until the market shows some number of offers.
func (w *world) offered(tb testing.TB, n int) {
	tb.Helper()
	eventually(tb, fmt.Sprintf("%d offers", n), func() bool {
		s, err := w.market.Search(tb.Context(), broker.Query{GPU: broker.GPURequest{Model: broker.AnyModel, Count: 1}})
		return err == nil && s.Offers == n
	})
}

// testAgent is a provider.
type testAgent struct {
	node *node
	stop func()
}

// addAgent starts a provider with simulated GPUs.
func (w *world) addAgent(tb testing.TB, host, gpus, rate string, change ...func(*agent.Config)) {
	tb.Helper()
	key := generate(tb)
	n := w.net.join(key.ID())
	spec, err := simgpu.Parse(gpus)
	if err != nil {
		tb.Fatal(err)
	}
	inventory, err := simgpu.New(broker.PeerID(key.ID()), []simgpu.Spec{spec})
	if err != nil {
		tb.Fatal(err)
	}
	price, err := pricing.ParseRate(rate)
	if err != nil {
		tb.Fatal(err)
	}
	ends := &ends{t: tb}
	c := agent.Config{
		Key: key, Network: agentNode{n, w.broker.id}, Inventory: inventory, Runtime: &processes{ends: ends}, Images: &w.images,
		Tunnels: ends, Journal: &journal{}, Brokers: []string{"/ip4/127.0.0.1/tcp/7071/p2p/" + string(w.broker.id)},
		Host: host, Region: "DE", Rate: price, CPUs: 8, MemoryMiB: 32 << 10, Version: "test", StopJobsOnExit: true,
		AdvertiseIPs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, Grace: time.Second,
	}
	for _, f := range change {
		f(&c)
	}
	a, err := agent.New(c)
	if err != nil {
		tb.Fatal(err)
	}
	w.agents[host] = &testAgent{node: n, stop: start(tb, a.Run)}
}

// lose cuts an agent off from the broker and from its customers.
func (w *world) lose(host string) { w.net.leave(w.agents[host].node) }

// start runs something until the test ends; the function that it returns stops it sooner.
func start(tb testing.TB, run func(context.Context) error) func() {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			tb.Error(err)
		}
	})
	tb.Cleanup(stop)
	return stop
}

func generate(tb testing.TB) identity.Key {
	tb.Helper()
	k, err := identity.Generate()
	if err != nil {
		tb.Fatal(err)
	}
	return k
}

// eventually polls, because a market settles when it settles; only a broken one runs into the limit.
func eventually(tb testing.TB, what string, done func() bool) {
	tb.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !done() {
		if time.Now().After(deadline) {
			tb.Fatalf("never: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// network joins peers in this process.
type network struct {
	mu    sync.Mutex
	nodes map[identity.ID]*node
}

type node struct {
	net *network
	id  identity.ID

	mu       sync.Mutex
	handlers map[string]p2p.Handler
	gone     []func(identity.ID)
}

func (n *network) join(id identity.ID) *node {
	p := &node{net: n, id: id, handlers: map[string]p2p.Handler{}}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.nodes[id] = p
	return p
}

func (n *network) leave(p *node) {
	n.mu.Lock()
	delete(n.nodes, p.id)
	var others []*node
	for _, o := range n.nodes {
		others = append(others, o)
	}
	n.mu.Unlock()
	for _, o := range others {
		o.mu.Lock()
		gone := o.gone
		o.mu.Unlock()
		for _, fn := range gone {
			fn(p.id)
		}
	}
}

func (p *node) handle(protocol string, fn p2p.Handler) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.handlers[protocol] = fn
}

// Request implements the hosts' method.
func (p *node) Request(ctx context.Context, to identity.ID, protocol string, request []byte) ([]byte, error) {
	p.net.mu.Lock()
	other, here := p.net.nodes[to], p.net.nodes[p.id]
	p.net.mu.Unlock()
	if other == nil || here == nil {
		return nil, p2p.ErrNotConnected
	}
	other.mu.Lock()
	fn := other.handlers[protocol]
	other.mu.Unlock()
	if fn == nil {
		return nil, fmt.Errorf("nobody listens on %s", protocol)
	}
	return fn(ctx, p.id, request)
}

// OnDisconnect implements the hosts' method.
func (p *node) OnDisconnect(fn func(identity.ID)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gone = append(p.gone, fn)
}

type brokerNode struct{ *node }

func (b brokerNode) Handle(protocol string, _ int, fn p2p.Handler) {
	b.handle(protocol, fn)
}

func (b brokerNode) RemoteIP(id identity.ID) (netip.Addr, bool) {
	b.net.mu.Lock()
	defer b.net.mu.Unlock()
	return netip.MustParseAddr("127.0.0.1"), b.net.nodes[id] != nil
}

type agentNode struct {
	*node
	broker identity.ID
}

func (a agentNode) Addrs() []string { return []string{"/ip4/127.0.0.1/tcp/7072/p2p/" + string(a.id)} }

func (a agentNode) Handle(protocol string, _ int, fn p2p.Handler) { a.handle(protocol, fn) }

func (a agentNode) Keep(ctx context.Context, addr string, up func(context.Context, identity.ID)) error {
	if !strings.HasSuffix(addr, string(a.broker)) {
		return fmt.Errorf("no such peer: %s", addr)
	}
	up(ctx, a.broker)
	<-ctx.Done()
	return nil
}
