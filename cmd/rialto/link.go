package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"rialto/broker"
	"rialto/broker/api"
	"rialto/cmd/internal/tenant"
	"rialto/tunnel/client"
)

// tunnelConfig builds the customer's end of a lease's tunnel.
func tunnelConfig(r record, lease api.Lease) (client.Config, error) {
	key, err := r.tunnelKey()
	if err != nil {
		return client.Config{}, err
	}
	return tenant.TunnelConfig(tenant.Lease{
		ID: broker.LeaseID(lease.ID), Job: broker.JobID(r.Job), Provider: broker.PeerID(lease.Provider), Host: lease.Host, Answer: lease.Answer,
	}, key)
}

// link is the way into a job. A WireGuard key has one end at a time, so of several commands that
// reach into one job, the first holds the tunnel and the others pass through its socket; when the
// holder ends, the next dial of another takes its place.
//
// On the socket a connection begins with the wanted TCP port (2 bytes, big endian); the answer is a
// line, empty when connected and the error otherwise; then bytes flow both ways.
type link struct {
	config client.Config
	socket string // empty: not shared

	mu     sync.Mutex
	own    *client.Client
	door   net.Listener
	evict  context.CancelFunc // ends all guests
	guests sync.WaitGroup
}

func newLink(h home, r record, lease api.Lease) (*link, error) {
	c, err := tunnelConfig(r, lease)
	if err != nil {
		return nil, err
	}
	l := &link{config: c, socket: h.path("jobs", r.Job+".sock")}
	if len(l.socket) > maxSocketPath {
		l.socket = filepath.Join(os.TempDir(), "rialto-"+r.Job[:10]+".sock")
	}
	return l, nil
}

// maxSocketPath is what the narrowest system (macOS) takes as a socket's name.
const maxSocketPath = 100

// job is the job's address inside the tunnel.
func (l *link) job() netip.Addr { return l.config.Tunnel.Peer.Address }

// DialContext connects to a TCP port of the job.
func (l *link) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	own, err := l.holder(ctx)
	if err != nil {
		return nil, err
	}
	if own != nil {
		return own.DialContext(ctx, network, address)
	}
	return l.dialSocket(ctx, address)
}

// holder returns our end of the tunnel, or nil if another command holds it.
func (l *link) holder(ctx context.Context) (*client.Client, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.own != nil {
		return l.own, nil
	}
	if c, err := l.knock(ctx); err == nil {
		c.Close()
		return nil, nil //nolint:nilnil // no holder here is an answer, not an error
	}
	own, err := client.Open(l.config) //nolint:contextcheck // the tunnel outlives the dial that opens it
	if err != nil {
		return nil, err
	}
	l.own = own
	l.open(context.WithoutCancel(ctx), own)
	return own, nil
}

func (l *link) knock(ctx context.Context) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "unix", l.socket)
}

// open lets other commands share the tunnel. Where that is not possible, the tunnel works without.
func (l *link) open(ctx context.Context, own *client.Client) {
	_ = os.Remove(l.socket) // a dead holder's, or none
	var lc net.ListenConfig
	door, err := lc.Listen(ctx, "unix", l.socket)
	if err != nil {
		return
	}
	if err := os.Chmod(l.socket, 0o600); err != nil {
		door.Close()
		return
	}
	ctx, evict := context.WithCancel(ctx)
	l.door, l.evict = door, evict
	l.guests.Go(func() { // ends when Close closes the door
		for {
			guest, err := door.Accept()
			if err != nil {
				return
			}
			l.guests.Go(func() { l.serve(ctx, own, guest) }) // ends with the tunnel at the latest
		}
	})
}

// serve connects one guest.
func (l *link) serve(ctx context.Context, own *client.Client, guest net.Conn) {
	defer guest.Close()
	defer context.AfterFunc(ctx, func() { guest.Close() })()
	var port [2]byte
	if err := guest.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		return
	}
	if _, err := io.ReadFull(guest, port[:]); err != nil {
		return
	}
	if err := guest.SetReadDeadline(time.Time{}); err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	address := netip.AddrPortFrom(l.job(), binary.BigEndian.Uint16(port[:]))
	conn, err := own.DialContext(ctx, "tcp", address.String())
	if err != nil {
		fmt.Fprintln(guest, strings.ReplaceAll(err.Error(), "\n", " "))
		return
	}
	if _, err := guest.Write([]byte("\n")); err != nil {
		conn.Close()
		return
	}
	pipe(guest, conn)
}

// dialSocket connects through the command that holds the tunnel.
func (l *link) dialSocket(ctx context.Context, address string) (net.Conn, error) {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, err
	}
	c, err := l.knock(ctx)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	if _, err = c.Write(binary.BigEndian.AppendUint16(nil, to.Port())); err != nil {
		c.Close()
		return nil, err
	}
	line, err := readLine(c)
	if err == nil && line != "" {
		err = errors.New(line)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// readLine reads a short line byte by byte, so that nothing behind it is swallowed.
func readLine(r io.Reader) (string, error) {
	var line []byte
	b := make([]byte, 1)
	for len(line) < 1024 {
		if _, err := io.ReadFull(r, b); err != nil {
			return "", err
		}
		if b[0] == '\n' {
			return string(line), nil
		}
		line = append(line, b[0])
	}
	return "", errors.New("line too long")
}

// Close ends our end of the tunnel, if we hold it, and with it every connection of our guests.
func (l *link) Close() error {
	l.mu.Lock()
	own, door, evict := l.own, l.door, l.evict
	l.own, l.door, l.evict = nil, nil, nil
	l.mu.Unlock()
	var errs []error
	if door != nil {
		errs = append(errs, door.Close())
		evict()
	}
	if own != nil {
		errs = append(errs, own.Close())
	}
	l.guests.Wait()
	return errors.Join(errs...)
}

// pipe copies both ways until both directions have ended, passing half-closes on.
func pipe(a, b net.Conn) {
	var wg sync.WaitGroup
	wg.Go(func() { half(a, b) })
	wg.Go(func() { half(b, a) })
	wg.Wait()
	a.Close()
	b.Close()
}

func half(to, from net.Conn) {
	_, err := io.Copy(to, from)
	if w, ok := to.(interface{ CloseWrite() error }); ok && err == nil && w.CloseWrite() == nil {
		return
	}
	to.Close()
	from.Close()
}
