package p2p

import (
	"context"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"rialto/p2p/identity"
)

func newHost(t *testing.T) *Host {
	t.Helper()
	key, err := identity.Generate()
	if err != nil {
		t.Fatal(err)
	}
	h, err := New(Config{Key: key, Listen: []string{"/ip4/127.0.0.1/tcp/0"}, Tell: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

// What was dialed for a question is closed when it has been idle from one look to the next, unless Keep wants it.
func TestRootsCloseIdleConnections(t *testing.T) {
	h, other := newHost(t), newHost(t)
	r, err := NewRoots(RootsConfig{Host: h})
	if err != nil {
		t.Fatal(err)
	}
	d := dialer{h.host, r}
	connect := func() {
		t.Helper()
		if err := d.Connect(t.Context(), peer.AddrInfo{ID: other.host.ID(), Addrs: other.host.Addrs()}); err != nil {
			t.Fatal(err)
		}
	}
	look := func() bool {
		t.Helper()
		r.closeIdleNow()
		r.closeIdleNow()
		return h.host.Network().Connectedness(other.host.ID()) == network.Connected
	}
	// Identify has streams of its own for a moment.
	quiet := func() {
		t.Helper()
		for _, c := range h.host.Network().ConnsToPeer(other.host.ID()) {
			for len(c.GetStreams()) > 0 {
				time.Sleep(time.Millisecond)
			}
		}
	}
	connect()
	quiet()
	r.closeIdleNow() // idle now, and not at the next look
	s, err := d.NewStream(t.Context(), other.host.ID(), ProtocolProbe)
	if err != nil {
		t.Fatal(err)
	}
	if !look() {
		t.Error("a connection with a stream was closed")
	}
	if err := s.Reset(); err != nil {
		t.Fatal(err)
	}
	quiet()
	if look() {
		t.Error("an idle connection was not closed")
	}

	// Somebody else's connection is left alone, and so is one that Keep took over.
	if _, err := h.Connect(t.Context(), other.Addrs()[0]); err != nil {
		t.Fatal(err)
	}
	quiet()
	connect() // finds it there
	if !look() {
		t.Error("a connection that was there before was closed")
	}
	r.dials(other.host.ID())
	ctx, cancel := context.WithCancel(t.Context())
	up, done := make(chan struct{}), make(chan error, 1)
	go func() {
		done <- h.Keep(ctx, other.Addrs()[0], func(ctx context.Context, _ identity.ID) { close(up); <-ctx.Done() })
	}()
	<-up
	if !look() {
		t.Error("a connection that Keep holds was closed")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A passive host dials nobody.
func TestPassiveRootsDoNotDial(t *testing.T) {
	h, other := newHost(t), newHost(t)
	r, err := NewRoots(RootsConfig{Host: h, Passive: true})
	if err != nil {
		t.Fatal(err)
	}
	h.host.Peerstore().AddAddrs(other.host.ID(), other.host.Addrs(), time.Minute)
	if err := (dialer{h.host, r}).Connect(t.Context(), peer.AddrInfo{ID: other.host.ID()}); err == nil {
		t.Error("it connected")
	}
	if _, err := (dialer{h.host, r}).NewStream(t.Context(), other.host.ID(), ProtocolProbe); err == nil {
		t.Error("it opened a stream")
	}
}

func TestIsAt(t *testing.T) {
	told := []string{"/ip4/192.0.2.7/tcp/7072", "/ip6/2001:db8::7/udp/7072/quic-v1", "/dns4/gpu.example/tcp/7072"}
	for from, want := range map[string]bool{
		"/ip4/192.0.2.7/tcp/40000":                   true,
		"/ip6/2001:db8::7/udp/40000/quic-v1":         true,
		"/ip4/127.0.0.1/tcp/40000":                   true,
		"/ip4/203.0.113.1/tcp/7072":                  false, // behind a NAT
		"/dns4/gpu.example/tcp/7072":                 false,
		"/ip6/2001:db8::8/udp/7072/quic-v1":          false,
		"/ip6/::ffff:192.0.2.7/tcp/40000":            true,
		"/ip4/192.0.2.8/udp/7072/quic-v1":            false,
		"/ip4/10.0.0.1/udp/7072/quic-v1/p2p-circuit": false,
	} {
		var addrs []multiaddr.Multiaddr
		for _, a := range told {
			addrs = append(addrs, multiaddr.StringCast(a))
		}
		if got := isAt(multiaddr.StringCast(from), addrs); got != want {
			t.Errorf("from %s: %v, want %v", from, got, want)
		}
	}
}

func TestPlausible(t *testing.T) {
	for _, announce := range []string{"", "/ip4/192.0.2.1/tcp/7072"} {
		key, err := identity.Generate()
		if err != nil {
			t.Fatal(err)
		}
		c := Config{Key: key, Listen: []string{"/ip4/127.0.0.1/tcp/0"}, Tell: true}
		if announce != "" {
			c.Announce = []string{announce}
		}
		h, err := New(c)
		if err != nil {
			t.Fatal(err)
		}
		defer h.Close()
		r, err := NewRoots(RootsConfig{Host: h})
		if err != nil {
			t.Fatal(err)
		}
		for addr, want := range map[string]bool{
			"/ip4/192.0.2.7/tcp/7072":          true,
			"/ip4/10.0.0.7/udp/7072/quic-v1":   true, // a market may be in one building
			"/ip6/2001:db8::7/tcp/7072":        true,
			"/ip4/127.0.0.1/tcp/22":            announce == "",
			"/ip6/::1/tcp/22":                  announce == "",
			"/ip4/169.254.169.254/tcp/80":      false,
			"/ip6/fe80::1/tcp/80":              false,
			"/ip4/0.0.0.0/tcp/80":              false,
			"/ip4/224.0.0.1/udp/1900/quic-v1":  false,
			"/dns4/metadata.internal/tcp/80":   false,
			"/ip6/::ffff:127.0.0.1/tcp/22":     announce == "",
			"/ip6/::ffff:169.254.0.1/tcp/8080": false,
		} {
			if got := r.plausible([]multiaddr.Multiaddr{multiaddr.StringCast(addr)}); len(got) == 1 != want {
				t.Errorf("announcing %q: %s kept: %v, want %v", announce, addr, len(got) == 1, want)
			}
		}
	}
}
