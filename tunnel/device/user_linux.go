package device

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
	wg "golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"

	"rialto/tunnel"
)

// socketDir is where wgctrl and the stock tools look for userspace devices.
const socketDir = "/var/run/wireguard"

// openUser starts wireguard-go over a TUN interface inside the namespace at path. Its UDP socket is opened
// here when it is configured.
func openUser(ctx context.Context, path, name string, log *slog.Logger) (engine, error) {
	ln, err := listenControl(ctx, name)
	if err != nil {
		return engine{}, err
	}
	var t tun.Device
	if err := inNetns(path, func() (err error) {
		t, err = createTUN(name)
		return err
	}); err != nil {
		return engine{}, errors.Join(err, ln.Close())
	}
	dev := wg.NewDevice(newSteadyTUN(t), conn.NewDefaultBind(), &wg.Logger{
		Verbosef: wg.DiscardLogf,
		Errorf: func(format string, args ...any) {
			log.Debug("wireguard", "tunnel", name, "detail", fmt.Sprintf(format, args...))
		},
	})
	control := &control{ln: ln, conns: map[net.Conn]struct{}{}}
	control.wait.Go(func() { control.serve(dev.IpcHandle) })
	return engine{
		start: dev.Up,
		shut: func() error {
			err := control.close()
			dev.Close()
			return err
		},
	}, nil
}

// createTUN makes a TUN interface in the calling thread's network namespace. It lives as long as its file.
func createTUN(name string) (tun.Device, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	if err := attachTUN(fd, name); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	// The poller takes the file only now: before it is attached it would report an error for ever.
	file := os.NewFile(uintptr(fd), "/dev/net/tun")
	t, err := tun.CreateTUNFromFile(file, tunnel.MTU)
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return t, nil
}

func attachTUN(fd int, name string) error {
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR | unix.IFF_TUN_EXCL)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		return fmt.Errorf("create interface: %w", err)
	}
	return unix.SetNonblock(fd, true)
}

// steadyTUN answers for an interface in another network namespace. There wireguard-go's question about the
// MTU finds nothing, and it would assume 1420. The interface's events are dropped: the first ones say
// that it is not up yet, and wireguard-go would close the UDP socket that Open has just made.
type steadyTUN struct {
	tun.Device
	events chan tun.Event
}

func newSteadyTUN(inner tun.Device) *steadyTUN {
	t := &steadyTUN{Device: inner, events: make(chan tun.Event)}
	go func() { // ends when inner is closed
		for range inner.Events() {
		}
		close(t.events)
	}()
	return t
}

func (*steadyTUN) MTU() (int, error)          { return tunnel.MTU, nil }
func (t *steadyTUN) Events() <-chan tun.Event { return t.events }

// control is the socket over which wgctrl and `wg` configure one userspace device.
type control struct {
	ln   net.Listener
	wait sync.WaitGroup

	mu     sync.Mutex
	conns  map[net.Conn]struct{}
	closed bool
}

// errInUse reports a control socket that answers.
var errInUse = errors.New("control socket is in use")

func socketPath(name string) string { return filepath.Join(socketDir, name+".sock") }

// removeStale removes a device's control socket unless somebody answers there.
func removeStale(ctx context.Context, name string) error {
	path := socketPath(name)
	if c, err := new(net.Dialer).DialContext(ctx, "unix", path); err == nil {
		c.Close()
		return fmt.Errorf("%s: %w", path, errInUse)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("stale control socket: %w", err)
	}
	return nil
}

// removeSocket is removeStale for who does not need the name.
func removeSocket(ctx context.Context, name string) error {
	if err := removeStale(ctx, name); !errors.Is(err, errInUse) {
		return err
	}
	return nil
}

// listenControl takes the device's control socket. One that a crashed process left is removed, by its exact
// name, since a single dead socket makes wgctrl fail for every device; one that answers is in use.
func listenControl(ctx context.Context, name string) (net.Listener, error) {
	if err := os.MkdirAll(socketDir, 0o700); err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	if err := removeStale(ctx, name); err != nil {
		return nil, err
	}
	path := socketPath(name)
	ln, err := new(net.ListenConfig).Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("control socket: %w", err), ln.Close())
	}
	return ln, nil
}

func (c *control) serve(handle func(net.Conn)) {
	for {
		conn, err := c.ln.Accept()
		if err != nil {
			return
		}
		c.mu.Lock()
		if c.closed {
			c.mu.Unlock()
			conn.Close()
			return
		}
		c.conns[conn] = struct{}{}
		c.mu.Unlock()
		c.wait.Go(func() {
			handle(conn)
			c.mu.Lock()
			delete(c.conns, conn)
			c.mu.Unlock()
		})
	}
}

// close removes the socket, ends its connections and waits for them.
func (c *control) close() error {
	c.mu.Lock()
	c.closed = true
	for conn := range c.conns {
		conn.Close()
	}
	c.mu.Unlock()
	err := c.ln.Close()
	c.wait.Wait()
	return err
}
