// Package client is the customer's end of a tunnel. It needs no root and no interface of the operating
// system: wireguard-go and a TCP/IP stack run inside the process, on Linux, macOS and Windows.
package client

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"rialto/tunnel"
	"rialto/tunnel/internal/userspace"
)

const (
	// dialPatience is how long a connection attempt may hang, and how old its session must be, before the session is
	// suspected: one lost SYN is sent again after a second.
	dialPatience = 2 * time.Second
	// dialPace is how often that is looked at from then on: a session that began after the attempt is younger than it.
	dialPace = dialPatience / 8
	// rekeyPause is the least time between two new sessions: WireGuard's own pause between handshakes.
	rekeyPause = 5 * time.Second
)

// Config describes the customer's end. Tunnel.Peer.Endpoint or one of Endpoints must be given.
type Config struct {
	Tunnel    tunnel.Config    // Peer.Keepalive zero means tunnel.Keepalive
	Endpoints []netip.AddrPort // where the provider may be, best first; all are tried at once
	Logger    *slog.Logger     // nil: discard
}

// Client is an open tunnel to one job. Methods are safe for concurrent use.
type Client struct {
	end *userspace.End

	mu    sync.Mutex
	rekey time.Time // when a hanging dial last asked for a new session
}

// Open opens the tunnel and sends the first handshake; it does not wait for the answer.
func Open(c Config) (*Client, error) {
	if !c.Tunnel.Peer.Endpoint.IsValid() && len(c.Endpoints) == 0 {
		return nil, errors.New("open tunnel: no endpoint of the provider")
	}
	if c.Tunnel.Peer.Keepalive == 0 {
		c.Tunnel.Peer.Keepalive = tunnel.Keepalive
	}
	end, err := userspace.Open(userspace.Config{Tunnel: c.Tunnel, Endpoints: c.Endpoints, Logger: c.Logger})
	if err != nil {
		return nil, err
	}
	return &Client{end: end}, nil
}

// Handshake waits until the provider has answered.
func (c *Client) Handshake(ctx context.Context) error { return c.end.Handshake(ctx) }

// DialContext connects to a TCP port on the job's address, "[fd52:…::1]:80". An attempt that hangs starts a
// new session, in case the provider's end was restarted; connections that are open stay so.
func (c *Client) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	dialling, done := context.WithCancel(ctx)
	defer done()
	go c.watch(dialling) // ends with the attempt
	return c.end.DialContext(ctx, network, address)
}

// watch suspects the session for as long as an attempt hangs.
func (c *Client) watch(dialling context.Context) {
	for wait := dialPatience; ; wait = dialPace {
		select {
		case <-time.After(wait):
			c.suspect()
		case <-dialling.Done():
			return
		}
	}
}

func (c *Client) suspect() {
	s, err := c.end.Stats()
	now := time.Now()
	if err != nil || s.LastHandshake.IsZero() || now.Sub(s.LastHandshake) < dialPatience {
		return // the first handshake is still tried, or a new session is no remedy
	}
	c.mu.Lock()
	soon := now.Sub(c.rekey) < rekeyPause
	if !soon {
		c.rekey = now
	}
	c.mu.Unlock()
	if !soon {
		_ = c.end.Rekey() // fails only when closed or out of sockets, and then the dial tells
	}
}

// Stats reports what is known of the provider's end.
func (c *Client) Stats() (tunnel.Stats, error) { return c.end.Stats() }

// Close ends the tunnel and every connection in it. It is idempotent.
func (c *Client) Close() error { return c.end.Close() }
