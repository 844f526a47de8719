// Package p2ptest makes hosts on loopback for tests.
package p2ptest

import (
	"testing"

	"rialto/p2p"
	"rialto/p2p/identity"
)

// New returns a host that listens on loopback and is closed with the test. What c leaves out is filled in,
// and so is a key.
func New(tb testing.TB, c p2p.Config) *p2p.Host {
	tb.Helper()
	if c.Key.IsZero() {
		k, err := identity.Generate()
		if err != nil {
			tb.Fatal(err)
		}
		c.Key = k
	}
	if c.Listen == nil {
		c.Listen = []string{"/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"}
	}
	h, err := p2p.New(c)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := h.Close(); err != nil {
			tb.Error(err)
		}
	})
	return h
}

// Connect connects a to b.
func Connect(tb testing.TB, a, b *p2p.Host) {
	tb.Helper()
	if _, err := a.Connect(tb.Context(), b.Addrs()[0]); err != nil {
		tb.Fatal(err)
	}
}

// Pair returns two connected hosts.
func Pair(tb testing.TB) (a, b *p2p.Host) {
	tb.Helper()
	a, b = New(tb, p2p.Config{}), New(tb, p2p.Config{})
	Connect(tb, a, b)
	return a, b
}
