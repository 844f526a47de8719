// Package userspace is one end of a tunnel without the operating system's help: wireguard-go on one side,
// a TCP/IP stack on the other, joined in memory. It needs no root and runs on Linux, macOS and Windows.
//
// The end with endpoints initiates at once and keeps sending its initiation until the peer answers, because
// the customer often knows of a lease before the provider's end is open and WireGuard itself would
// wait five seconds.
package userspace

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"

	"rialto/tunnel"
)

const (
	nudgeFirst = 25 * time.Millisecond // WireGuard takes initiations that come within 20 ms for a flood
	nudgeMax   = time.Second
	// nudgeAnew is when a fresh initiation replaces the first: if the answer to that was lost, its copies are
	// replays. It is longer than any round trip.
	nudgeAnew = 1500 * time.Millisecond
)

// Config describes one end.
type Config struct {
	Tunnel    tunnel.Config
	Endpoints []netip.AddrPort // where the peer may be, besides Tunnel.Peer.Endpoint
	Logger    *slog.Logger     // nil: discard
}

// End is one end of a tunnel. Methods are safe for concurrent use.
type End struct {
	link   *link
	device *device.Device
	bind   *raceBind
	peer   netip.Addr
	stop   context.CancelFunc
	wait   sync.WaitGroup

	mu     sync.Mutex // held while the device goes down and up
	closed bool
}

// Open makes an end and, if it knows an endpoint, starts the handshake.
func Open(c Config) (*End, error) {
	if err := c.Tunnel.Validate(); err != nil {
		return nil, err
	}
	endpoints := c.Endpoints
	if first := c.Tunnel.Peer.Endpoint; first.IsValid() {
		endpoints = append([]netip.AddrPort{first}, endpoints...)
	}
	bind, err := newRaceBind(conn.NewDefaultBind(), endpoints)
	if err != nil {
		return nil, fmt.Errorf("tunnel endpoint: %w", err)
	}
	l, err := newLink(c.Tunnel.Address)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	e := &End{
		link:   l,
		device: device.NewDevice(l, bind, logger(c.Logger)),
		bind:   bind,
		peer:   c.Tunnel.Peer.Address,
		stop:   stop,
	}
	if err := e.configure(c.Tunnel, endpoints); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	if len(endpoints) > 0 {
		e.wait.Go(func() { e.nudge(ctx) })
	}
	return e, nil
}

func (e *End) configure(c tunnel.Config, endpoints []netip.AddrPort) error {
	var b strings.Builder
	fmt.Fprintf(&b, "private_key=%s\nlisten_port=%d\nreplace_peers=true\n", hex.EncodeToString(c.PrivateKey[:]), c.ListenPort)
	fmt.Fprintf(&b, "public_key=%s\nallowed_ip=%s/128\n", hex.EncodeToString(c.Peer.PublicKey[:]), c.Peer.Address)
	if len(endpoints) > 0 {
		fmt.Fprintf(&b, "endpoint=%s\n", endpoints[0])
	}
	fmt.Fprintf(&b, "persistent_keepalive_interval=%d\n", c.Peer.Keepalive/time.Second)
	if err := e.device.IpcSet(b.String()); err != nil {
		return fmt.Errorf("configure tunnel: %w", err)
	}
	if err := e.device.Up(); err != nil {
		return fmt.Errorf("open tunnel's socket: %w", err)
	}
	return nil
}

// nudge repeats the initiation until the first handshake is done.
func (e *End) nudge(ctx context.Context) {
	delay, anew := nudgeFirst, time.Now().Add(nudgeAnew)
	timer := time.NewTimer(delay)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		if s, err := e.Stats(); err != nil || !s.LastHandshake.IsZero() {
			return
		}
		if now := time.Now(); now.After(anew) {
			anew = now.Add(time.Hour) // once: from then on WireGuard itself makes fresh ones, every five seconds
			_ = e.Rekey()             // without a socket there is nothing to nudge
		} else {
			e.bind.again()
		}
		delay = min(delay*3/2, nudgeMax)
		timer.Reset(delay)
	}
}

// Handshake waits for the first handshake.
func (e *End) Handshake(ctx context.Context) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		s, err := e.Stats()
		if err != nil {
			return err
		}
		if !s.LastHandshake.IsZero() {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("tunnel handshake: %w", ctx.Err())
		case <-tick.C:
		}
	}
}

// Rekey forgets the session and starts a new handshake on the same port; connections of the stack live on.
// It is for a peer that lost its state, which WireGuard itself notices only after fifteen seconds.
func (e *End) Rekey() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return net.ErrClosed
	}
	if err := e.device.Down(); err != nil {
		return fmt.Errorf("close tunnel's socket: %w", err)
	}
	if err := e.device.Up(); err != nil {
		return fmt.Errorf("reopen tunnel's socket: %w", err)
	}
	return nil
}

// DialContext connects to a TCP port of the peer, the only address that the tunnel leads to.
func (e *End) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if network != "tcp" && network != "tcp6" {
		return nil, fmt.Errorf("dial %s %s: tunnel carries only tcp", network, address)
	}
	ap, err := netip.ParseAddrPort(address)
	if err != nil || ap.Addr() != e.peer {
		return nil, fmt.Errorf("dial %s: tunnel leads only to %s", address, e.peer)
	}
	c, err := gonet.DialContextTCP(ctx, e.link.stack, full(ap), ipv6.ProtocolNumber)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// Listen accepts TCP connections that come through the tunnel.
func (e *End) Listen(address netip.AddrPort) (net.Listener, error) {
	return gonet.ListenTCP(e.link.stack, full(address), ipv6.ProtocolNumber)
}

func full(ap netip.AddrPort) tcpip.FullAddress {
	return tcpip.FullAddress{NIC: nicID, Addr: tcpip.AddrFromSlice(ap.Addr().AsSlice()), Port: ap.Port()}
}

// Stats reports what the device knows of its peer.
func (e *End) Stats() (tunnel.Stats, error) {
	text, err := e.device.IpcGet()
	if err != nil {
		return tunnel.Stats{}, fmt.Errorf("tunnel stats: %w", err)
	}
	var s tunnel.Stats
	var sec, nsec int64
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			continue
		}
		switch key {
		case "listen_port":
			s.ListenPort = uint16(n)
		case "last_handshake_time_sec":
			sec = n
		case "last_handshake_time_nsec":
			nsec = n
		case "rx_bytes":
			s.ReceivedBytes = n
		case "tx_bytes":
			s.SentBytes = n
		}
	}
	if sec != 0 || nsec != 0 {
		s.LastHandshake = time.Unix(sec, nsec)
	}
	return s, nil
}

// Close ends the tunnel and every connection in it. It is idempotent.
func (e *End) Close() error {
	e.stop()
	e.wait.Wait()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil
	}
	e.closed = true
	e.device.Close()
	return nil
}

func logger(l *slog.Logger) *device.Logger {
	if l == nil {
		l = slog.New(slog.DiscardHandler)
	}
	return &device.Logger{
		Verbosef: device.DiscardLogf,
		Errorf: func(format string, args ...any) {
			l.Debug("wireguard", "detail", fmt.Sprintf(format, args...))
		},
	}
}
