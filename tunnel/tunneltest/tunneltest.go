// Package tunneltest joins two userspace ends in one process, so that what runs over a tunnel can be tested
// without root, and holds the conformance test of [tunnel.Device].
package tunneltest

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"rialto/tunnel"
	"rialto/tunnel/internal/userspace"
)

// Pair is a tunnel with both ends in this process, over the loopback interface. Its handshake is done.
type Pair struct {
	Plan     tunnel.Plan
	Job      *userspace.End // has Listen and DialContext
	Customer *userspace.End
}

// New opens a pair that is closed when the test ends.
func New(tb testing.TB) *Pair {
	tb.Helper()
	plan, job, customer := Configs(tb, tb.Name())
	far := Open(tb, job)
	customer.Peer.Endpoint = Loopback(tb, far)
	near := Open(tb, customer)
	Handshake(tb, near)
	return &Pair{Plan: plan, Job: far, Customer: near}
}

// Configs makes both ends of a lease with fresh keys. The customer's lacks the endpoint.
func Configs(tb testing.TB, lease string) (plan tunnel.Plan, job, customer tunnel.Config) {
	tb.Helper()
	plan = tunnel.NewPlan(lease)
	jobKey, jobPublic := key(tb)
	customerKey, customerPublic := key(tb)
	job = tunnel.Config{
		PrivateKey: jobKey,
		Address:    plan.Job,
		Peer:       tunnel.Peer{PublicKey: customerPublic, Address: plan.Customer},
	}
	customer = tunnel.Config{
		PrivateKey: customerKey,
		Address:    plan.Customer,
		Peer:       tunnel.Peer{PublicKey: jobPublic, Address: plan.Job, Keepalive: tunnel.Keepalive},
	}
	return plan, job, customer
}

func key(tb testing.TB) (tunnel.PrivateKey, tunnel.Key) {
	tb.Helper()
	k, err := tunnel.NewPrivateKey()
	if err != nil {
		tb.Fatal(err)
	}
	p, err := k.Public()
	if err != nil {
		tb.Fatal(err)
	}
	return k, p
}

// Open opens one end that is closed when the test ends.
func Open(tb testing.TB, c tunnel.Config) *userspace.End {
	tb.Helper()
	e, err := userspace.Open(userspace.Config{Tunnel: c})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := e.Close(); err != nil {
			tb.Error(err)
		}
	})
	return e
}

// Loopback is where an end or a device listens, seen from this machine.
func Loopback(tb testing.TB, d interface{ Stats() (tunnel.Stats, error) }) netip.AddrPort {
	tb.Helper()
	s, err := d.Stats()
	if err != nil {
		tb.Fatal(err)
	}
	if s.ListenPort == 0 {
		tb.Fatal("no listen port")
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), s.ListenPort)
}

// Handshake waits until the peer has answered.
func Handshake(tb testing.TB, e interface{ Handshake(context.Context) error }) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), 30*time.Second)
	defer cancel()
	if err := e.Handshake(ctx); err != nil {
		tb.Fatal(err)
	}
}

// Device checks what every provider's end must do. Open makes one whose socket is on this machine's loopback.
func Device(t *testing.T, open func(t *testing.T, c tunnel.Config) tunnel.Device) {
	t.Helper()
	t.Run("handshake", func(t *testing.T) { deviceHandshake(t, open) })
	t.Run("stranger", func(t *testing.T) { deviceStranger(t, open) })
	t.Run("reopen", func(t *testing.T) { deviceReopen(t, open) })
}

func deviceHandshake(t *testing.T, openDevice func(t *testing.T, c tunnel.Config) tunnel.Device) {
	t.Helper()
	_, job, customer := Configs(t, t.Name())
	d := openDevice(t, job)
	if n := len(d.Name()); n == 0 || n > 15 {
		t.Errorf("name %q", d.Name())
	}
	customer.Peer.Endpoint = Loopback(t, d)
	if s, err := d.Stats(); err != nil || !s.LastHandshake.IsZero() || s.SentBytes != 0 {
		t.Errorf("before the customer came: %+v, %v; want no handshake and nothing sent", s, err)
	}
	Handshake(t, Open(t, customer))
	if s := confirmed(t, d); s.ReceivedBytes == 0 || s.SentBytes == 0 {
		t.Errorf("after the handshake: %+v", s)
	}
	for range 2 {
		if err := d.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}
	if _, err := d.Stats(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("stats after close: %v, want %v", err, net.ErrClosed)
	}
}

// deviceStranger lets the true customer in after a stranger has knocked; the stranger must have got nothing,
// and what came in until then is the stranger's only.
func deviceStranger(t *testing.T, openDevice func(t *testing.T, c tunnel.Config) tunnel.Device) {
	t.Helper()
	_, job, customer := Configs(t, t.Name())
	d := openDevice(t, job)
	customer.Peer.Endpoint = Loopback(t, d)
	stranger := customer
	stranger.PrivateKey, _ = key(t)
	end := Open(t, stranger)
	Handshake(t, Open(t, customer))
	s, err := end.Stats()
	if err != nil || !s.LastHandshake.IsZero() || s.ReceivedBytes != 0 || s.SentBytes == 0 {
		t.Errorf("stranger: %+v, %v; want initiations without an answer", s, err)
	}
}

func deviceReopen(t *testing.T, openDevice func(t *testing.T, c tunnel.Config) tunnel.Device) {
	t.Helper()
	_, job, customer := Configs(t, t.Name())
	d := openDevice(t, job)
	customer.Peer.Endpoint = Loopback(t, d)
	end := Open(t, customer)
	Handshake(t, end)
	job.ListenPort = customer.Peer.Endpoint.Port()
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	d = openDevice(t, job)
	if got := Loopback(t, d); got != customer.Peer.Endpoint {
		t.Fatalf("listens on %v, want %v", got, customer.Peer.Endpoint)
	}
	if err := end.Rekey(); err != nil {
		t.Fatal(err)
	}
	confirmed(t, d)
}

// confirmed waits for the customer's first packet under the new keys: with it the handshake is done for the
// provider too.
func confirmed(t *testing.T, d tunnel.Device) tunnel.Stats {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		s, err := d.Stats()
		if err != nil {
			t.Fatal(err)
		}
		if !s.LastHandshake.IsZero() {
			return s
		}
		if ctx.Err() != nil {
			t.Fatal("no customer came")
		}
	}
}
