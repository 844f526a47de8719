package device

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"rialto/tunnel"
	"rialto/tunnel/client"
	"rialto/tunnel/tunneltest"
)

func TestConformanceUserspace(t *testing.T) {
	needRoot(t)
	netns := newNetns(t)
	tunneltest.Device(t, func(t *testing.T, c tunnel.Config) tunnel.Device {
		t.Helper()
		return openDevice(t, netns, "rlconf0", c)
	})
}

func TestConformanceKernel(t *testing.T) {
	needRoot(t)
	if _, err := openKernel(newNetns(t), "rlprobe0"); errors.Is(err, errNoKernel) {
		t.Skip("needs a kernel with wireguard")
	}
	netns := newNetns(t)
	tunneltest.Device(t, func(t *testing.T, c tunnel.Config) tunnel.Device {
		t.Helper()
		d, err := Open(t.Context(), Config{Netns: netns, Name: "rlconf1", Tunnel: c})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { d.Close() })
		return d
	})
}

// job is a device in a namespace with an echo server on port 7 and the customer's configuration for it.
type job struct {
	netns    string
	plan     tunnel.Plan
	config   tunnel.Config
	customer tunnel.Config
	device   *Device
}

func newJob(t *testing.T, name string) *job {
	t.Helper()
	j := &job{netns: newNetns(t)}
	j.plan, j.config, j.customer = tunneltest.Configs(t, t.Name()+name)
	j.device = openDevice(t, j.netns, name, j.config)
	j.customer.Peer.Endpoint = tunneltest.Loopback(t, j.device)
	echo(t, listen(t, j.netns, "[::]:7"))
	return j
}

func (j *job) echoAddress() string { return netip.AddrPortFrom(j.plan.Job, 7).String() }

// echo serves until the test ends.
func echo(t *testing.T, ln net.Listener) {
	t.Helper()
	serve(t, ln, func(c net.Conn) { _, _ = io.Copy(c, c) })
}

// serve serves until the test ends, and then closes its connections too: their peers may be gone unheard.
func serve(t *testing.T, ln net.Listener, handle func(net.Conn)) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wait sync.WaitGroup
	wait.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wait.Go(func() {
				defer c.Close()
				defer context.AfterFunc(ctx, func() { c.Close() })()
				handle(c)
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		cancel()
		wait.Wait()
	})
}

func openClient(t *testing.T, c client.Config) *client.Client {
	t.Helper()
	cl, err := client.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cl.Close() })
	return cl
}

// roundTrip sends n bytes to an echo server, ends the writing side and expects the same bytes back.
func roundTrip(t *testing.T, c net.Conn, n int) {
	t.Helper()
	sent := strings.Repeat("rialto bridge ", n/14+1)[:n]
	go func() {
		_, _ = io.WriteString(c, sent)
		_ = c.(interface{ CloseWrite() error }).CloseWrite()
	}()
	got, err := io.ReadAll(c)
	if err != nil || string(got) != sent {
		t.Fatalf("echo: %d bytes, %v; want the %d that were sent", len(got), err, len(sent))
	}
}

func TestCustomerReachesJob(t *testing.T) {
	needRoot(t)
	j := newJob(t, "rljob0")
	c := openClient(t, client.Config{Tunnel: j.customer})
	conn, err := c.DialContext(t.Context(), "tcp", j.echoAddress())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	roundTrip(t, conn, 1<<20)
}

func TestJobReachesCustomer(t *testing.T) {
	needRoot(t)
	netns := newNetns(t)
	plan, config, customer := tunneltest.Configs(t, t.Name())
	d := openDevice(t, netns, "rlback0", config)
	customer.Peer.Endpoint = tunneltest.Loopback(t, d)
	far := newNetns(t)
	openDevice(t, far, "rlback1", customer)
	echo(t, listen(t, far, "[::]:7"))
	// The customer's end has a keepalive, so the provider learns its endpoint before it has to send.
	waitHandshake(t, d)
	var conn net.Conn
	do(t, netns, func() (err error) {
		conn, err = net.Dial("tcp", netip.AddrPortFrom(plan.Customer, 7).String())
		return err
	})
	defer conn.Close()
	roundTrip(t, conn, 1<<16)
}

func waitHandshake(tb testing.TB, d *Device) {
	tb.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
		s, err := d.Stats()
		if err != nil {
			tb.Fatal(err)
		}
		if !s.LastHandshake.IsZero() {
			return
		}
	}
	tb.Fatal("no handshake")
}

func TestReopenedDeviceIsFoundByOpenClient(t *testing.T) {
	needRoot(t)
	j := newJob(t, "rlagain0")
	c := openClient(t, client.Config{Tunnel: j.customer})
	conn, err := c.DialContext(t.Context(), "tcp", j.echoAddress())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "before "); err != nil {
		t.Fatal(err)
	}
	if got := readN(t, conn, 7); got != "before " {
		t.Fatal(got)
	}
	j.config.ListenPort = j.customer.Peer.Endpoint.Port()
	if err := j.device.Close(); err != nil {
		t.Fatal(err)
	}
	j.device = openDevice(t, j.netns, "rlagain0", j.config)
	other, err := c.DialContext(t.Context(), "tcp", j.echoAddress())
	if err != nil {
		t.Fatal("dial after the agent's restart:", err)
	}
	defer other.Close()
	roundTrip(t, other, 1<<10)
	// The address moved to a new interface of the same namespace: the old connection is alive as well.
	if _, err := io.WriteString(conn, "after"); err != nil {
		t.Fatal(err)
	}
	if got := readN(t, conn, 5); got != "after" {
		t.Fatal(got)
	}
}

func readN(t *testing.T, r io.Reader, n int) string {
	t.Helper()
	buf := make([]byte, n)
	if _, err := io.ReadFull(r, buf); err != nil {
		t.Fatal(err)
	}
	return string(buf)
}

func TestCloseLeavesNothing(t *testing.T) {
	needRoot(t)
	netns := newNetns(t)
	_, config, _ := tunneltest.Configs(t, t.Name())
	for i := range 5 {
		d, err := Open(t.Context(), Config{Netns: netns, Name: "rlclean0", Tunnel: config, Userspace: true})
		if err != nil {
			t.Fatalf("open %d: %v", i, err)
		}
		config.ListenPort = tunneltest.Loopback(t, d).Port()
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		if files, _ := os.ReadDir(socketDir); len(files) != 0 {
			t.Fatalf("left in %s: %v", socketDir, files)
		}
		do(t, netns, func() error {
			if link, err := netlink.LinkByName("rlclean0"); err == nil {
				return fmt.Errorf("left behind: %v", link.Attrs())
			}
			return nil
		})
	}
}

// A sandbox may be gone before its tunnel is closed.
func TestCloseAfterLinkIsGone(t *testing.T) {
	needRoot(t)
	netns := newNetns(t)
	_, config, _ := tunneltest.Configs(t, t.Name())
	d := openDevice(t, netns, "rlgone0", config)
	do(t, netns, func() error {
		link, err := netlink.LinkByName("rlgone0")
		if err != nil {
			return err
		}
		return netlink.LinkDel(link)
	})
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if files, _ := os.ReadDir(socketDir); len(files) != 0 {
		t.Errorf("left in %s: %v", socketDir, files)
	}
}

func TestOpenErrors(t *testing.T) {
	needRoot(t)
	netns := newNetns(t)
	_, config, _ := tunneltest.Configs(t, t.Name())
	busy, err := net.ListenUDP("udp4", &net.UDPAddr{})
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	taken := config
	taken.ListenPort = uint16(busy.LocalAddr().(*net.UDPAddr).Port)
	openDevice(t, netns, "rlbusy0", config)
	for _, tt := range []struct {
		name string
		c    Config
		want string
	}{
		{"no namespace", Config{Netns: "/nonexistent", Name: "rlerr0", Tunnel: config}, "/nonexistent"},
		{"long name", Config{Netns: netns, Name: "abcdefghijklmnop", Tunnel: config}, "1 to 15"},
		{"path in name", Config{Netns: netns, Name: "../x", Tunnel: config}, "character"},
		{"no key", Config{Netns: netns, Name: "rlerr0"}, "private key"},
		{"port in use", Config{Netns: netns, Name: "rlerr0", Tunnel: taken, Userspace: true}, "address already in use"},
		{"name in use", Config{Netns: netns, Name: "rlbusy0", Tunnel: config, Userspace: true}, "in use"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Open(t.Context(), tt.c)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
		})
	}
	if files, _ := os.ReadDir(socketDir); len(files) != 1 {
		t.Errorf("in %s: %v, want only rlbusy0", socketDir, files)
	}
}

func TestStaleSocketIsReplaced(t *testing.T) {
	needRoot(t)
	if err := os.MkdirAll(socketDir, 0o700); err != nil {
		t.Fatal(err)
	}
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: socketDir + "/rlstale0.sock", Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false) // as after a crash
	stale.Close()
	_, config, _ := tunneltest.Configs(t, t.Name())
	openDevice(t, newNetns(t), "rlstale0", config)
	info, err := os.Stat(socketDir + "/rlstale0.sock")
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("control socket: %v, %v; want mode 0600", info, err)
	}
}

func TestRemove(t *testing.T) {
	needRoot(t)
	_, config, _ := tunneltest.Configs(t, t.Name())
	openDevice(t, newNetns(t), "rlalive0", config)
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: socketPath("rlstale1"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false) // as after a crash
	stale.Close()
	for _, name := range []string{"rlalive0", "rlstale1", "rlstale1", "rlnever0"} {
		if err := (Opener{}).Remove(t.Context(), name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if files, _ := os.ReadDir(socketDir); len(files) != 1 || files[0].Name() != "rlalive0.sock" {
		t.Errorf("in %s: %v, want only rlalive0.sock", socketDir, files)
	}
	if err := (Opener{}).Remove(t.Context(), "../../etc/x"); err == nil {
		t.Error("removed by a path")
	}
}
