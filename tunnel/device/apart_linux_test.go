package device

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"rialto/tunnel"
	"rialto/tunnel/client"
	"rialto/tunnel/tunneltest"
)

// The customer of one job must not reach another, nor may a job reach anything but its customer.
func TestJobsAreApart(t *testing.T) {
	needRoot(t)
	a, b := newJob(t, "rljob1"), newJob(t, "rljob2")
	c := openClient(t, client.Config{Tunnel: a.customer})
	if _, err := c.DialContext(t.Context(), "tcp", b.echoAddress()); err == nil {
		t.Error("a customer dialled another job's address")
	}
	do(t, a.netns, func() error {
		for _, to := range []string{b.echoAddress(), "[2001:db8::1]:7", "127.0.0.2:9", "192.0.2.1:7"} {
			conn, err := net.DialTimeout("tcp", to, 5*time.Second)
			if err == nil {
				conn.Close()
			}
			if !errors.Is(err, syscall.ENETUNREACH) && !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("from inside job a, dial %s: %v; want no route", to, err)
			}
		}
		links, err := netlink.LinkList()
		if err != nil {
			return err
		}
		if len(links) != 2 {
			t.Errorf("job a sees %d links, want lo and its tunnel", len(links))
		}
		return nil
	})
}

// A customer who holds a valid key but writes another source address is not heard. The right customer of the
// same tunnel proves that packets flow at all.
func TestSpoofedSourceIsDropped(t *testing.T) {
	needRoot(t)
	j := newJob(t, "rlspoof0")
	spoof := j.customer
	spoof.Address = tunnel.NewPlan("someone else").Customer
	seen := make(chan netip.AddrPort, 16)
	var pc net.PacketConn
	do(t, j.netns, func() (err error) {
		pc, err = net.ListenPacket("udp6", netip.AddrPortFrom(j.plan.Job, 9).String())
		return err
	})
	defer pc.Close()
	go func() {
		buf := make([]byte, 64)
		for {
			_, from, err := pc.ReadFrom(buf)
			if err != nil {
				close(seen)
				return
			}
			seen <- from.(*net.UDPAddr).AddrPort()
		}
	}()

	far := newNetns(t)
	d := openDevice(t, far, "rlspoof1", spoof)
	waitHandshake(t, d)
	// The same end then gets its true address too, and sends from both, the false one first: a tunnel keeps
	// the order.
	do(t, far, func() error {
		link, err := netlink.LinkByName(d.Name())
		if err != nil {
			return err
		}
		own := &netlink.Addr{IPNet: netlink.NewIPNet(j.plan.Customer.AsSlice()), Flags: ifaNoDAD}
		if err := netlink.AddrAdd(link, own); err != nil {
			return err
		}
		for _, from := range []netip.Addr{spoof.Address, j.plan.Customer} {
			c, err := net.DialUDP("udp6", net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0)),
				net.UDPAddrFromAddrPort(netip.AddrPortFrom(j.plan.Job, 9)))
			if err != nil {
				return err
			}
			for range 3 {
				if _, err := c.Write([]byte("canary")); err != nil {
					return err
				}
			}
			c.Close()
		}
		return nil
	})
	if from := <-seen; from.Addr() != j.plan.Customer {
		t.Errorf("first packet heard is from %v, want %v only", from.Addr(), j.plan.Customer)
	}
}

// The stock tool takes the customer's .conf over our control socket, and the tunnel it makes works.
func TestStockToolConfiguresCustomer(t *testing.T) {
	needRoot(t)
	for _, tool := range []string{"wg", "wg-quick"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip("needs ", tool)
		}
	}
	j := newJob(t, "rlstock0")
	conf, err := tunnel.WireGuardConf(j.customer)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "rlstock1.conf")
	if err := os.WriteFile(path, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	stripped, err := exec.Command("wg-quick", "strip", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, stripped, 0o600); err != nil {
		t.Fatal(err)
	}
	_, blank, _ := tunneltest.Configs(t, "blank") // an interface that has everything to learn from the file
	blank.Address, blank.Peer.Address, blank.Peer.Keepalive = j.plan.Customer, j.plan.Job, 0
	far := newNetns(t)
	d := openDevice(t, far, "rlstock1", blank)
	if out, err := exec.Command("wg", "setconf", d.Name(), path).CombinedOutput(); err != nil {
		t.Fatalf("wg setconf: %v\n%s", err, out)
	}
	waitHandshake(t, d)
	var conn net.Conn
	do(t, far, func() (err error) {
		conn, err = net.Dial("tcp", j.echoAddress())
		return err
	})
	defer conn.Close()
	roundTrip(t, conn, 1<<16)
	out, err := exec.Command("wg", "show", "rlstock0", "allowed-ips").Output()
	if err != nil || !strings.Contains(string(out), j.plan.Customer.String()+"/128") {
		t.Errorf("wg show: %q, %v", out, err)
	}
}

// What crosses the underlay is ciphertext: a canary that the tunnel carries is seen inside and not outside.
func TestUnderlayShowsNoPlaintext(t *testing.T) {
	needRoot(t)
	const canary = "the-doge-keeps-a-secret-0123456789"
	j := newJob(t, "rlspy0")
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(htons(unix.ETH_P_ALL)))
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 200_000}); err != nil {
		t.Fatal(err)
	}
	c := openClient(t, client.Config{Tunnel: j.customer})
	conn, err := c.DialContext(t.Context(), "tcp", j.echoAddress())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for range 20 {
		if _, err := io.WriteString(conn, canary); err != nil {
			t.Fatal(err)
		}
		if got := readN(t, conn, len(canary)); got != canary {
			t.Fatal(got)
		}
	}
	buf := make([]byte, 64<<10)
	packets := 0
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if errors.Is(err, unix.EAGAIN) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		packets++
		if strings.Contains(string(buf[:n]), "doge") {
			t.Fatal("the canary crossed the underlay in the clear")
		}
	}
	if packets < 40 {
		t.Errorf("captured %d packets, want at least 40", packets)
	}
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }
