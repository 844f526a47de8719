package p2p_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	"github.com/multiformats/go-multiaddr"

	"rialto/p2p"
	"rialto/p2p/identity"
	"rialto/p2p/p2ptest"
)

func newKey(t *testing.T) identity.Key {
	t.Helper()
	k, err := identity.Generate()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestGateRefuses(t *testing.T) {
	friend := p2ptest.New(t, p2p.Config{})
	for name, listen := range transports() {
		t.Run(name, func(t *testing.T) {
			refused := make(chan identity.ID, 1)
			server := p2ptest.New(t, p2p.Config{Listen: []string{listen}, Gate: func(id identity.ID) bool {
				if id == friend.ID() {
					return true
				}
				refused <- id
				return false
			}})
			handleEcho(server)
			stranger := p2ptest.New(t, p2p.Config{})
			// The dialler may finish its half of the handshake before it learns of the refusal.
			if _, err := stranger.Connect(t.Context(), server.Addrs()[0]); err == nil {
				_, err = stranger.Request(t.Context(), server.ID(), echo, nil)
				if err == nil {
					t.Error("a stranger's request was served")
				}
			}
			if got := <-refused; got != stranger.ID() {
				t.Errorf("gate was asked for %s, want %s", got, stranger.ID())
			}
			p2ptest.Connect(t, friend, server)
			if _, err := friend.Request(t.Context(), server.ID(), echo, nil); err != nil {
				t.Error(err)
			}
			// Whom the host dials is the host's own choice.
			p2ptest.Connect(t, server, p2ptest.New(t, p2p.Config{}))
		})
	}
}

func TestConnectRefusesAddresses(t *testing.T) {
	h := p2ptest.New(t, p2p.Config{})
	for name, addr := range map[string]string{
		"empty":      "",
		"no peer":    "/ip4/127.0.0.1/tcp/1",
		"an RSA key": "/ip4/127.0.0.1/tcp/1/p2p/QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",
		"host:port":  "127.0.0.1:1",
	} {
		if _, err := h.Connect(t.Context(), addr); err == nil {
			t.Errorf("%s: no error", name)
		}
		if err := h.Keep(t.Context(), addr, nil); err == nil {
			t.Errorf("%s: Keep: no error", name)
		}
	}
}

func TestNobodyAtAddress(t *testing.T) {
	client, server := p2ptest.New(t, p2p.Config{}), p2ptest.New(t, p2p.Config{Listen: []string{"/ip4/127.0.0.1/tcp/0"}})
	addr := server.Addrs()[0]
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	for range 3 { // libp2p would refuse the second attempt by itself
		_, err := client.Connect(t.Context(), addr)
		if !errors.Is(err, syscall.ECONNREFUSED) || strings.Contains(err.Error(), "\n") {
			t.Errorf("got %v, want one line that ends in ECONNREFUSED", err)
		}
	}
}

func TestWrongPeerAtAddress(t *testing.T) {
	client, server := p2ptest.New(t, p2p.Config{}), p2ptest.New(t, p2p.Config{})
	addr := strings.Replace(server.Addrs()[0], string(server.ID()), string(newKey(t).ID()), 1)
	if _, err := client.Connect(t.Context(), addr); err == nil {
		t.Error("connected to another peer than the address names")
	}
}

func TestAddrs(t *testing.T) {
	key := newKey(t)
	h := p2ptest.New(t, p2p.Config{Key: key, Announce: []string{"/dns4/gpu.example/tcp/7072"}})
	if got, want := h.Addrs(), "/dns4/gpu.example/tcp/7072/p2p/"+string(key.ID()); len(got) != 1 || got[0] != want {
		t.Errorf("Addrs() = %q, want %q", got, want)
	}
	if got := h.Libp2p().Addrs(); len(got) != 0 {
		t.Errorf("identify tells peers %v", got)
	}
}

// Keep calls up after each connection, ends its context with the connection, and returns with its own context.
func TestKeep(t *testing.T) {
	c := p2p.Config{Key: newKey(t)}
	server := p2ptest.New(t, c)
	c.Listen = []string{strings.TrimSuffix(server.Addrs()[0], "/p2p/"+string(server.ID()))}
	client := p2ptest.New(t, p2p.Config{RetryMin: time.Millisecond, RetryMax: 10 * time.Millisecond})
	ctx, cancel := context.WithCancel(t.Context())
	ups, downs, done := make(chan identity.ID), make(chan struct{}), make(chan error)
	go func() {
		done <- client.Keep(ctx, server.Addrs()[0], func(ctx context.Context, id identity.ID) {
			ups <- id
			<-ctx.Done()
			downs <- struct{}{}
		})
	}()
	for range 3 {
		if got := <-ups; got != server.ID() {
			t.Errorf("up(%s), want %s", got, server.ID())
		}
		if err := server.Close(); err != nil {
			t.Fatal(err)
		}
		<-downs
		server = p2ptest.New(t, c)
	}
	<-ups
	cancel()
	<-downs
	if err := <-done; err != nil {
		t.Errorf("Keep = %v, want nil", err)
	}
}

// An up that returns at once is still called once for each connection.
func TestKeepCallsUpOnce(t *testing.T) {
	c := p2p.Config{Key: newKey(t)}
	server := p2ptest.New(t, c)
	c.Listen = []string{strings.TrimSuffix(server.Addrs()[0], "/p2p/"+string(server.ID()))}
	client := p2ptest.New(t, p2p.Config{RetryMin: time.Microsecond, RetryMax: time.Microsecond})
	ctx, cancel := context.WithCancel(t.Context())
	ups, done := make(chan struct{}, 1000), make(chan error)
	go func() {
		done <- client.Keep(ctx, server.Addrs()[0], func(context.Context, identity.ID) { ups <- struct{}{} })
	}()
	<-ups
	handleEcho(server)
	for range 10 { // time in which a second call would come
		if _, err := client.Request(ctx, server.ID(), echo, nil); err != nil {
			t.Fatal(err)
		}
	}
	if len(ups) != 0 {
		t.Errorf("up was called %d times more for one connection", len(ups))
	}
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	p2ptest.New(t, c)
	<-ups
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Keep = %v, want nil", err)
	}
}

// A peer that no longer answers is disconnected and connected again, long before its connection times out.
func TestKeepProbes(t *testing.T) {
	server := p2ptest.New(t, p2p.Config{})
	client := p2ptest.New(t, p2p.Config{Probe: 50 * time.Millisecond, RetryMin: time.Millisecond, RetryMax: time.Millisecond})
	server.Handle(p2p.ProtocolProbe, 0, func(ctx context.Context, _ identity.ID, _ []byte) ([]byte, error) {
		<-ctx.Done() // of the server's host
		return nil, ctx.Err()
	})
	ctx, cancel := context.WithCancel(t.Context())
	ups, done := make(chan struct{}), make(chan error)
	go func() {
		done <- client.Keep(ctx, server.Addrs()[0], func(context.Context, identity.ID) { ups <- struct{}{} })
	}()
	for range 3 {
		<-ups
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Keep = %v, want nil", err)
	}
}

func TestKeepReturnsWhileDisconnected(t *testing.T) {
	server, client := p2ptest.New(t, p2p.Config{}), p2ptest.New(t, p2p.Config{RetryMin: time.Hour, RetryMax: time.Hour})
	addr := server.Addrs()[0]
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := client.Keep(ctx, addr, func(context.Context, identity.ID) { t.Error("up") }); err != nil {
		t.Error(err)
	}
}

// OnDisconnect is called when the last of two connections has ended, and only then.
func TestOnDisconnect(t *testing.T) {
	client, server := p2ptest.Pair(t)
	id, err := peer.Decode(string(server.ID()))
	if err != nil {
		t.Fatal(err)
	}
	network1 := client.Libp2p().Network()
	me := client.Libp2p().ID()
	type call struct {
		id   identity.ID
		left network.Connectedness
	}
	calls := make(chan call, 4)
	server.OnDisconnect(func(id identity.ID) {
		calls <- call{id, server.Libp2p().Network().Connectedness(me)}
	})
	var open atomic.Int32
	connected, closed := make(chan struct{}, 4), make(chan struct{}, 4)
	server.Libp2p().Network().Notify(&network.NotifyBundle{
		ConnectedF:    func(network.Network, network.Conn) { open.Add(1); connected <- struct{}{} },
		DisconnectedF: func(network.Network, network.Conn) { open.Add(-1); closed <- struct{}{} },
	})

	// A second connection, which the client's swarm would not make.
	swarm1, ok := network1.(*swarm.Swarm)
	if !ok {
		t.Fatalf("network is a %T", network1)
	}
	addr, err := multiaddr.NewMultiaddr(strings.TrimSuffix(server.Addrs()[0], "/p2p/"+string(server.ID())))
	if err != nil {
		t.Fatal(err)
	}
	second, err := swarm1.TransportForDialing(addr).Dial(t.Context(), addr, id)
	if err != nil {
		t.Fatal(err)
	}
	<-connected
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	<-closed
	if err := network1.ClosePeer(id); err != nil {
		t.Fatal(err)
	}
	got := <-calls
	if want := (call{client.ID(), network.NotConnected}); got != want || len(calls) != 0 {
		t.Errorf("got %v and %d more, want %v", got, len(calls), want)
	}
	if _, err := client.Request(t.Context(), server.ID(), echo, nil); !errors.Is(err, p2p.ErrNotConnected) {
		t.Errorf("Request = %v, want ErrNotConnected", err)
	}
}

func TestNewRefusesConfig(t *testing.T) {
	key := newKey(t)
	for name, c := range map[string]p2p.Config{
		"no key":         {},
		"bad listen":     {Key: key, Listen: []string{"0.0.0.0:7071"}},
		"bad announce":   {Key: key, Announce: []string{"gpu.example"}},
		"retry reversed": {Key: key, RetryMin: time.Hour, RetryMax: time.Second},
	} {
		if h, err := p2p.New(c); err == nil {
			t.Errorf("%s: no error", name)
			h.Close()
		}
	}
}
