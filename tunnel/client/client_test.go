package client

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"rialto/tunnel/internal/userspace"
	"rialto/tunnel/tunneltest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// far is the provider's end with an echo server on port 7.
func far(t *testing.T, c userspace.Config) *userspace.End {
	t.Helper()
	e, err := userspace.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	ln, err := e.Listen(netip.AddrPortFrom(c.Tunnel.Address, 7))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
				_ = c.(interface{ CloseWrite() error }).CloseWrite()
			}()
		}
	}()
	return e
}

func openClient(t *testing.T, c Config) *Client {
	t.Helper()
	cl, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cl.Close() })
	return cl
}

// echo sends text, ends its writing side and wants the text back.
func echo(t *testing.T, c net.Conn, text string) {
	t.Helper()
	go func() {
		_, _ = io.WriteString(c, text)
		_ = c.(interface{ CloseWrite() error }).CloseWrite()
	}()
	if got, err := io.ReadAll(c); err != nil || string(got) != text {
		t.Errorf("echo: %d bytes, %v; want %d", len(got), err, len(text))
	}
}

// The best endpoint is dead, and so is the second: the third answers the first handshake.
func TestEndpointsAreRaced(t *testing.T) {
	plan, job, customer := tunneltest.Configs(t, t.Name())
	e := far(t, userspace.Config{Tunnel: job})
	dead, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer dead.Close()
	c := openClient(t, Config{Tunnel: customer, Endpoints: []netip.AddrPort{
		dead.LocalAddr().(*net.UDPAddr).AddrPort(), netip.MustParseAddrPort("127.0.0.1:1"), tunneltest.Loopback(t, e),
	}})
	tunneltest.Handshake(t, c)
	conn, err := c.DialContext(t.Context(), "tcp", netip.AddrPortFrom(plan.Job, 7).String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	echo(t, conn, "over the third")
}

// The customer is often earlier than the provider. WireGuard alone would try again after five seconds.
func TestProviderComesLater(t *testing.T) {
	plan, job, customer := tunneltest.Configs(t, t.Name())
	early, err := userspace.Open(userspace.Config{Tunnel: job}) // finds a free port
	if err != nil {
		t.Fatal(err)
	}
	customer.Peer.Endpoint = tunneltest.Loopback(t, early)
	early.Close()
	c := openClient(t, Config{Tunnel: customer})
	dialled := make(chan net.Conn)
	go func() {
		conn, err := c.DialContext(t.Context(), "tcp", netip.AddrPortFrom(plan.Job, 7).String())
		if err != nil {
			t.Error(err)
		}
		dialled <- conn
	}()
	for sent := int64(0); sent == 0; { // the first initiation is lost
		s, err := c.Stats()
		if err != nil {
			t.Fatal(err)
		}
		sent = s.SentBytes
	}
	job.ListenPort = customer.Peer.Endpoint.Port()
	e := far(t, userspace.Config{Tunnel: job})
	if conn := <-dialled; conn != nil {
		echo(t, conn, "late but well")
		conn.Close()
	}
	s, err := e.Stats()
	if err != nil || s.LastHandshake.IsZero() {
		t.Errorf("%+v, %v", s, err)
	}
}

// lossy carries datagrams to a port and back, but loses some until there is a second initiation.
func lossy(t *testing.T, to netip.AddrPort, loses func(datagram []byte, answer bool) bool) (at netip.AddrPort, initiations func() int) {
	t.Helper()
	front, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	back, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var seen []string // the initiations, each once
	var customer netip.AddrPort
	var wait sync.WaitGroup
	wait.Go(func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := front.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			mu.Lock()
			if customer = from; buf[0] == 1 && !slices.Contains(seen, string(buf[:n])) {
				seen = append(seen, string(buf[:n]))
			}
			drop := len(seen) < 2 && loses(buf[:n], false)
			mu.Unlock()
			if !drop {
				_, _ = back.Write(buf[:n])
			}
		}
	})
	wait.Go(func() {
		buf := make([]byte, 2048)
		for {
			n, err := back.Read(buf)
			if err != nil {
				return
			}
			mu.Lock()
			to, drop := customer, len(seen) < 2 && loses(buf[:n], true)
			mu.Unlock()
			if !drop {
				_, _ = front.WriteToUDPAddrPort(buf[:n], to)
			}
		}
	})
	t.Cleanup(func() {
		front.Close()
		back.Close()
		wait.Wait()
	})
	return front.LocalAddr().(*net.UDPAddr).AddrPort(), func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(seen)
	}
}

// Without the answers to the first initiation, its copies are dropped as replays.
func TestLostAnswer(t *testing.T) {
	plan, job, customer := tunneltest.Configs(t, t.Name())
	answers := func(_ []byte, answer bool) bool { return answer }
	endpoint, initiations := lossy(t, tunneltest.Loopback(t, far(t, userspace.Config{Tunnel: job})), answers)
	customer.Peer.Endpoint = endpoint
	c := openClient(t, Config{Tunnel: customer})
	tunneltest.Handshake(t, c)
	if n := initiations(); n != 2 {
		t.Errorf("%d initiations, want 2", n)
	}
	conn, err := c.DialContext(t.Context(), "tcp", netip.AddrPortFrom(plan.Job, 7).String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	echo(t, conn, "after a loss")
}

// A session that begins with a connection attempt and carries nothing is replaced while the attempt waits.
func TestFirstSessionIsDead(t *testing.T) {
	plan, job, customer := tunneltest.Configs(t, t.Name())
	const transport = 4
	data := func(datagram []byte, _ bool) bool { return datagram[0] == transport }
	customer.Peer.Endpoint, _ = lossy(t, tunneltest.Loopback(t, far(t, userspace.Config{Tunnel: job})), data)
	c := openClient(t, Config{Tunnel: customer})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	conn, err := c.DialContext(ctx, "tcp", netip.AddrPortFrom(plan.Job, 7).String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	echo(t, conn, "in the second session")
}

func TestDialOnlyTheJob(t *testing.T) {
	p := tunneltest.New(t)
	for _, address := range []string{"[2001:db8::1]:80", "127.0.0.1:80", "example.org:80", p.Plan.Customer.String() + ":80", ""} {
		if _, err := p.Customer.DialContext(t.Context(), "tcp", address); err == nil || !strings.Contains(err.Error(), "leads only to") {
			t.Errorf("dial %q: %v", address, err)
		}
	}
	if _, err := p.Customer.DialContext(t.Context(), "udp", netip.AddrPortFrom(p.Plan.Job, 7).String()); err == nil {
		t.Error("dialled udp")
	}
}

func TestOpenNeedsAnEndpoint(t *testing.T) {
	_, _, customer := tunneltest.Configs(t, t.Name())
	if _, err := Open(Config{Tunnel: customer}); err == nil {
		t.Error("opened a tunnel that nobody can start")
	}
	customer.Address = netip.Addr{}
	if _, err := Open(Config{Tunnel: customer, Endpoints: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:9")}}); err == nil {
		t.Error("opened a tunnel without an address")
	}
}

// Closing while connections are busy must neither hang nor panic.
func TestCloseWhileBusy(t *testing.T) {
	for range 5 {
		plan, job, customer := tunneltest.Configs(t, t.Name())
		e := far(t, userspace.Config{Tunnel: job})
		customer.Peer.Endpoint = tunneltest.Loopback(t, e)
		c := openClient(t, Config{Tunnel: customer})
		conn, err := c.DialContext(t.Context(), "tcp", netip.AddrPortFrom(plan.Job, 7).String())
		if err != nil {
			t.Fatal(err)
		}
		flowing, ended := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(ended)
			for {
				if _, err := conn.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
		}()
		go func() {
			var once bool
			buf := make([]byte, 64<<10)
			for {
				if _, err := conn.Read(buf); err != nil {
					return
				}
				if !once {
					once = true
					close(flowing)
				}
			}
		}()
		<-flowing
		for range 2 {
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
		}
		<-ended
		e.Close()
		if err := c.end.Rekey(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("rekey after close: %v", err)
		}
	}
}
