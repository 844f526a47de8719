package device

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"rialto/tunnel"
)

// Device is the provider's end of one tunnel. Methods are safe for concurrent use.
type Device struct {
	name   string
	netns  string
	kernel bool
	engine engine

	mu     sync.Mutex
	closed bool
}

var _ tunnel.Device = (*Device)(nil)

// engine is what moves the packets: the kernel or wireguard-go.
type engine struct {
	start func() error // opens the UDP socket; nil: the kernel does so when the link goes up
	shut  func() error // removes everything
}

// Open makes the interface, configures it and brings it up. On an error nothing is left behind.
func Open(ctx context.Context, c Config) (*Device, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	log := c.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	d, err := open(ctx, c, log)
	if err != nil {
		return nil, fmt.Errorf("open tunnel %s: %w", c.Name, err)
	}
	return d, nil
}

func open(ctx context.Context, c Config, log *slog.Logger) (*Device, error) {
	d := &Device{name: c.Name, netns: c.Netns}
	var err error
	if !c.Userspace {
		d.engine, err = openKernel(c.Netns, c.Name)
		d.kernel = err == nil
	}
	if c.Userspace || errors.Is(err, errNoKernel) {
		d.engine, err = openUser(ctx, c.Netns, c.Name, log)
	}
	if err != nil {
		return nil, err
	}
	if err := d.start(c.Tunnel); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// start configures before it opens the socket, so that a given port is bound at once and never another.
func (d *Device) start(t tunnel.Config) error {
	if err := d.configure(t); err != nil {
		return fmt.Errorf("configure: %w", err)
	}
	if err := bringUp(d.netns, d.name, t); err != nil {
		return err
	}
	if d.engine.start == nil {
		return nil
	}
	return d.engine.start()
}

// configure sets keys and peer, the same way for both kinds of device.
func (d *Device) configure(t tunnel.Config) error {
	port := int(t.ListenPort)
	private := wgtypes.Key(t.PrivateKey)
	peer := wgtypes.PeerConfig{
		PublicKey:         wgtypes.Key(t.Peer.PublicKey),
		ReplaceAllowedIPs: true,
		AllowedIPs:        []net.IPNet{{IP: t.Peer.Address.AsSlice(), Mask: net.CIDRMask(128, 128)}},
	}
	if t.Peer.Endpoint.IsValid() {
		peer.Endpoint = net.UDPAddrFromAddrPort(t.Peer.Endpoint)
	}
	if t.Peer.Keepalive > 0 {
		peer.PersistentKeepaliveInterval = &t.Peer.Keepalive
	}
	return d.control(func(c *wgctrl.Client) error {
		return c.ConfigureDevice(d.name, wgtypes.Config{
			PrivateKey:   &private,
			ListenPort:   &port,
			ReplacePeers: true,
			Peers:        []wgtypes.PeerConfig{peer},
		})
	})
}

// control runs fn with a client that sees the device: a kernel device is seen only from inside its network
// namespace, the socket of a userspace one from anywhere.
func (d *Device) control(fn func(*wgctrl.Client) error) error {
	with := func() error {
		c, err := wgctrl.New()
		if err != nil {
			return err
		}
		return errors.Join(fn(c), c.Close())
	}
	if d.kernel {
		return inNetns(d.netns, with)
	}
	return with()
}

// Name is the interface's name inside the network namespace.
func (d *Device) Name() string { return d.name }

// Stats reports what the device knows of its peer, and the UDP port that it listens on.
func (d *Device) Stats() (tunnel.Stats, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return tunnel.Stats{}, fmt.Errorf("tunnel %s: %w", d.name, net.ErrClosed)
	}
	s := tunnel.Stats{Kernel: d.kernel}
	err := d.control(func(c *wgctrl.Client) error {
		w, err := c.Device(d.name)
		if err != nil {
			return err
		}
		s.ListenPort = uint16(w.ListenPort)
		for _, p := range w.Peers {
			s.ReceivedBytes, s.SentBytes = p.ReceiveBytes, p.TransmitBytes
			if !p.LastHandshakeTime.IsZero() && !p.LastHandshakeTime.Equal(time.Unix(0, 0)) {
				s.LastHandshake = p.LastHandshakeTime
			}
		}
		return nil
	})
	if err != nil {
		return tunnel.Stats{}, fmt.Errorf("stats of tunnel %s: %w", d.name, err)
	}
	return s, nil
}

// Close removes the interface, its sockets and its goroutines. It is idempotent, and finds nothing wrong with
// a namespace that is gone already.
func (d *Device) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	d.closed = true
	if err := d.engine.shut(); err != nil {
		return fmt.Errorf("close tunnel %s: %w", d.name, err)
	}
	return nil
}
