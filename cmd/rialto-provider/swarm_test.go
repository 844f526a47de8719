//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"rialto/blockstore"
	"rialto/blockstore/disk"
	"rialto/blockstore/exchange"
	"rialto/blockstore/mount"
	"rialto/broker"
	"rialto/broker/ledger"
	"rialto/broker/service"
	"rialto/broker/wire"
	"rialto/p2p"
	"rialto/p2p/identity"
	"rialto/p2p/p2ptest"
	"rialto/pricing"
	"rialto/provider"
	"rialto/provider/agent"
	"rialto/provider/images"
	"rialto/provider/journal"
	"rialto/provider/simgpu"
	"rialto/tunnel"
)

// market is a real broker and its customer, on a libp2p host of its own.
type market struct {
	*service.Service
	key, customer identity.Key
	host          *p2p.Host
	account       broker.AccountID
}

func openMarket(t *testing.T) *market {
	t.Helper()
	m := &market{key: someKey(t), customer: someKey(t)}
	m.host = p2ptest.New(t, p2p.Config{Key: m.key})
	var err error
	m.Service, err = service.New(service.Config{
		Key: m.key, Host: m.host, Store: ledger.Books{Store: new(ledger.Memory)},
		Market: broker.MarketConfig{AllowSimulated: true}, Tick: 10 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	background(t, m.Run)
	await(t, "the market is open", func() bool { return m.Ready() == nil })
	deposit := 10 * pricing.USD
	a, _, err := m.OpenAccount(t.Context(), "ada", &deposit)
	if err == nil {
		m.account = a.ID
		_, err = m.BindKey(t.Context(), a.ID, broker.PeerID(m.customer.ID()))
	}
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// submit sends a job with an image that no registry has to a provider.
func (m *market) submit(t *testing.T, root string, to broker.PeerID) {
	t.Helper()
	nonce := fmt.Sprint(time.Now().UnixNano())
	spec := broker.JobSpec{
		Image: broker.LocalImage("app"), Digest: blockstore.Sum(nil).Digest().String(), Root: root, Provider: to,
		GPU: broker.GPURequest{Model: broker.AnyModel, Count: 1}, MaxCost: pricing.USD, MaxDuration: time.Hour, TunnelKey: tunnel.Key{1},
		Customer: broker.PeerID(m.customer.ID()), Broker: broker.PeerID(m.key.ID()), Created: time.Now().Round(0).UTC(), Nonce: nonce,
	}
	envelope, err := wire.SealJobSpec(m.customer, spec)
	if err == nil {
		_, err = m.Submit(t.Context(), m.account, nonce, envelope)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// offer posts the offer of a provider that holds an image, and returns the advice.
func (m *market) offer(t *testing.T, k identity.Key, h *p2p.Host, seq uint64, held ...broker.ImageHeld) broker.Advice {
	t.Helper()
	id := broker.PeerID(k.ID())
	uuid := "SIM-" + string(id[len(id)-12:])
	envelope, err := wire.SealOfferSet(k, broker.OfferSet{Boot: "boot", Seq: seq, Offers: []broker.Offer{{
		ID: "o-1", Provider: id, Host: "by-hand", Region: "DE", Rate: pricing.Rate(pricing.USD) / 2, CPUs: 1, MemoryMiB: 1024, DiskMiB: 1,
		Free: []string{uuid}, Images: held, Addrs: h.Addrs(),
		GPUs: []broker.GPU{{UUID: uuid, Model: "L4", MemoryMiB: 24000, Simulated: true, DeviceMinor: -1}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	reply, err := h.Request(t.Context(), m.key.ID(), wire.ProtocolOffers, envelope)
	if err != nil {
		t.Fatal(err)
	}
	advice, _, err := wire.OpenAdvice(reply)
	if err != nil {
		t.Fatal(err)
	}
	return advice
}

// accused returns how many accusations of a peer count, and whether it is distrusted.
func (m *market) accused(t *testing.T, p broker.PeerID) (accusers int, distrusted bool) {
	t.Helper()
	list, err := m.Accused(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range list {
		if a.Peer == p {
			return a.Accusers, !a.Until.IsZero()
		}
	}
	return 0, false
}

func someKey(t *testing.T) identity.Key {
	t.Helper()
	k, err := identity.Generate()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// background runs something until the test ends.
func background(t *testing.T, run func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// await waits for a condition that nothing signals.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for until := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("never: %s", what)
		}
	}
}

// liar is a store that has everything, with other bytes.
type liar struct{ blockstore.Memory }

func (*liar) Has(context.Context, blockstore.CID) (bool, error) { return true, nil }
func (*liar) Size(context.Context, blockstore.CID) (int, error) { return 4000, nil }
func (*liar) Get(_ context.Context, c blockstore.CID) (blockstore.Block, error) {
	return blockstore.NewBlock(bytes.Repeat(c[:4], 1000))
}

// nowhere stands in for containers, mounts and tunnels, which need root.
type nowhere struct{ images.Mounts }

func (nowhere) List(context.Context) ([]mount.Mounted, error) { return nil, nil }

type boxes struct{ provider.Runtime }

func (boxes) List(context.Context) ([]broker.LeaseID, error) { return nil, nil }
func (boxes) Remove(context.Context, broker.LeaseID) error   { return nil }
func (boxes) Prepare(context.Context, provider.Launch) (provider.Sandbox, error) {
	return sandboxed{}, nil
}

type sandboxed struct{ provider.Sandbox }

func (sandboxed) Netns() string                { return "nowhere" }
func (sandboxed) Started() bool                { return false }
func (sandboxed) Delete(context.Context) error { return nil }
func (sandboxed) Listen(context.Context, string) (net.Listener, error) {
	return net.Listen("tcp", "127.0.0.1:0")
}
func (sandboxed) Stop(context.Context, time.Duration, string) error { return nil }
func (sandboxed) Extend(context.Context, time.Duration) error       { return nil }
func (sandboxed) Notify(context.Context, string, []byte) error      { return nil }
func (sandboxed) Wait(ctx context.Context) (provider.Exit, error) {
	<-ctx.Done()
	return provider.Exit{}, ctx.Err()
}

func (sandboxed) Start(context.Context, provider.Program) error {
	return errors.New("nothing runs here")
}

type tunnels struct{}

func (tunnels) Open(context.Context, string, string, tunnel.Config) (tunnel.Device, error) {
	return wireless{}, nil
}
func (tunnels) Remove(context.Context, string) error { return nil }

type wireless struct{}

func (wireless) Name() string                 { return "rl0" }
func (wireless) Stats() (tunnel.Stats, error) { return tunnel.Stats{ListenPort: 7}, nil }
func (wireless) Limit(int64) error            { return nil }
func (wireless) Close() error                 { return nil }

// addHost starts an agent with all that has to do with blocks, wired as `rialto-provider run` does.
func (m *market) addHost(t *testing.T, name string) *agent.Agent {
	t.Helper()
	key, dir := someKey(t), t.TempDir()
	host := p2ptest.New(t, p2p.Config{Key: key})
	store, err := disk.Open(t.Context(), disk.Config{Dir: filepath.Join(dir, "blocks"), Reserve: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	var a *agent.Agent
	blocks, err := exchange.New(exchange.Config{Host: host.Libp2p(), Store: store, Poisoned: func(p exchange.Poison) { accuse(a, p) }})
	if err != nil {
		t.Fatal(err)
	}
	library, err := images.New(t.Context(), images.Config{Dir: dir, Store: store, Peers: blocks, Mounts: nowhere{}, Changed: func() { a.Touch() }})
	if err != nil {
		t.Fatal(err)
	}
	records, err := journal.Open(journal.Config{Dir: filepath.Join(dir, "journal")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { records.Close() })
	spec, err := simgpu.Parse("L4")
	if err != nil {
		t.Fatal(err)
	}
	inventory, err := simgpu.New(broker.PeerID(key.ID()), []simgpu.Spec{spec})
	if err != nil {
		t.Fatal(err)
	}
	a, err = agent.New(agent.Config{
		Key: key, Network: host, Inventory: inventory, Runtime: boxes{}, Images: library, Tunnels: tunnels{}, Journal: records,
		Brokers: m.host.Addrs()[:1], Host: name, Region: "DE", Rate: pricing.Rate(pricing.USD) / 2, CPUs: 1, MemoryMiB: 1024, Version: "test",
		AdvertiseIPs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, StopJobsOnExit: true,
		Peers: func() []agent.PeerTraffic { return traffic(blocks.Stats()) },
	})
	if err != nil {
		t.Fatal(err)
	}
	background(t, func(ctx context.Context) error { return together(ctx, a, library, blocks.Run) })
	return a
}

// TestPoisonerIsNotNamedAnyMore takes wrong blocks from a peer over real connections to the broker that named it, by two
// hosts, and from there to the next hold, which does not name it, and to the poisoner itself.
func TestPoisonerIsNotNamedAnyMore(t *testing.T) {
	m := openMarket(t)
	image := broker.ImageHeld{Digest: blockstore.Sum(nil).Digest().String(), Root: blockstore.Sum([]byte("root")).String()}
	badKey, good := someKey(t), someKey(t)
	bad, next := p2ptest.New(t, p2p.Config{Key: badKey}), p2ptest.New(t, p2p.Config{Key: good})
	x, err := exchange.New(exchange.Config{Host: bad.Libp2p(), Store: new(liar)})
	if err != nil {
		t.Fatal(err)
	}
	background(t, x.Run)
	p2ptest.Connect(t, bad, m.host)
	m.offer(t, badKey, bad, 1, image)
	accused := broker.PeerID(badKey.ID())

	holds := make(chan broker.Hold, 8)
	next.Handle(wire.ProtocolHold, wire.MaxHold, func(_ context.Context, _ identity.ID, request []byte) ([]byte, error) {
		h, _, err := wire.OpenHold(request)
		if err != nil {
			return nil, err
		}
		holds <- h
		return wire.SealAnswer(good, broker.Answer{Lease: h.Lease, Refusal: "only looking"})
	})
	p2ptest.Connect(t, next, m.host)
	named := func(seq uint64) bool {
		t.Helper()
		m.offer(t, good, next, seq)
		m.submit(t, image.Root, broker.PeerID(good.ID()))
		h := <-holds
		return slices.ContainsFunc(h.Sources, func(s broker.BlockSource) bool { return s.Peer == accused })
	}
	if !named(1) {
		t.Fatal("the poisoner is not named as a source before anybody accuses it")
	}
	for i, name := range []string{"first", "second"} {
		a := m.addHost(t, name)
		self := a.Status().Peer
		await(t, name+" offers its GPU", func() bool {
			s, err := m.Search(t.Context(), broker.Query{GPU: broker.GPURequest{Model: broker.AnyModel, Count: 1}, Provider: self})
			return err == nil && len(s.Matches) == 1
		})
		m.submit(t, image.Root, self)
		await(t, fmt.Sprintf("%d accuse", i+1), func() bool { n, _ := m.accused(t, accused); return n == i+1 })
		if _, distrusted := m.accused(t, accused); distrusted != (i == 1) {
			t.Errorf("distrusted after %d accusers: %v", i+1, distrusted)
		}
	}
	if named(2) {
		t.Error("the poisoner is named as a source")
	}
	if advice := m.offer(t, badKey, bad, 2, image); advice.Accusers != 2 || advice.Distrusted <= 0 {
		t.Errorf("the poisoner is told %+v", advice)
	}
}
