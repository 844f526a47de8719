package device

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"rialto/tunnel"
	"rialto/tunnel/internal/userspace"
	"rialto/tunnel/tunneltest"
)

// slow is the limit of these tests in bytes per second, and bulk what they send under it: 3 s of that.
const (
	slow = 125_000
	bulk = 3 * slow
)

func TestLimitUserspace(t *testing.T) {
	needRoot(t)
	needLimit(t)
	testLimit(t, newJob(t, "rlslow0"))
}

func TestLimitKernel(t *testing.T) {
	needRoot(t)
	needLimit(t)
	if _, err := openKernel(newNetns(t), "rlprobe0"); errors.Is(err, errNoKernel) {
		t.Skip("needs a kernel with wireguard")
	}
	j := &job{netns: newNetns(t)}
	j.plan, j.config, j.customer = tunneltest.Configs(t, t.Name())
	var err error
	if j.device, err = Open(t.Context(), Config{Netns: j.netns, Name: "rlslow1", Tunnel: j.config}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.device.Close() })
	j.customer.Peer.Endpoint = tunneltest.Loopback(t, j.device)
	echo(t, listen(t, j.netns, "[::]:7"))
	testLimit(t, j)
}

func needLimit(t *testing.T) {
	t.Helper()
	if err := CheckLimit(); errors.Is(err, ErrNoLimit) {
		t.Skip("needs sch_tbf, sch_ingress, cls_u32, act_mirred and ifb: ", err)
	} else if err != nil {
		t.Fatal(err)
	}
}

// testLimit sends bulk in each direction before the limit, under it, and after it. No bound depends on the machine's
// speed, except that without a limit it must be faster than with one: it is some hundred times.
func testLimit(t *testing.T, j *job) {
	t.Helper()
	end := tunneltest.Open(t, j.customer)
	drain := listen(t, j.netns, "[::]:9")
	source := listen(t, j.netns, "[::]:19")
	serve(t, drain, func(c net.Conn) { // counts until the customer ends, and says so with one byte
		if _, err := io.Copy(io.Discard, c); err == nil {
			_, _ = c.Write([]byte{1})
		}
	})
	serve(t, source, func(c net.Conn) { _, _ = c.Write(make([]byte, bulk)) })
	// One after the other: beside a slow direction the other's acknowledgements are late, and it is slow by that alone.
	both := func() (in, out time.Duration) { return upload(t, end, j), download(t, end, j) }

	// Of what the limit takes, a burst and a queue's length may be on their way when the clock starts or stops.
	const least = bulk/slow*time.Second - time.Second
	if in, out := both(); in > least || out > least {
		t.Fatalf("without a limit %d bytes take %v in and %v out", bulk, in, out)
	}
	if err := j.device.Limit(slow); err != nil {
		t.Fatal(err)
	}
	if err := j.device.Limit(slow); err != nil {
		t.Fatal("again:", err) // as after a restart over a kernel's device
	}
	if in, out := both(); in < least || out < least {
		t.Errorf("limited to %d bytes/s, %d bytes take %v in and %v out; want %v at least", slow, bulk, in, out, least)
	}
	testLimitLeavesRoom(t, end, j)
	if err := j.device.Limit(0); err != nil {
		t.Fatal(err)
	}
	if in, out := both(); in > least || out > least {
		t.Errorf("the limit is lifted, and %d bytes take %v in and %v out", bulk, in, out)
	}
	do(t, j.netns, func() error {
		links, err := netlink.LinkList()
		if len(links) != 2 {
			t.Errorf("%d links are left, want lo and the tunnel", len(links))
		}
		return err
	})
}

// testLimitLeavesRoom shows that small requests and a new handshake get through beside bulk in both directions.
func testLimitLeavesRoom(t *testing.T, end *userspace.End, j *job) {
	t.Helper()
	for _, port := range []uint16{9, 19} {
		c := dial(t, end, j, port)
		if c == nil {
			return
		}
		defer c.Close()
		if port == 9 {
			go func() { _, _ = io.Copy(c, zeros{}) }() // ends when c is closed
		} else {
			go func() { _, _ = io.Copy(io.Discard, c) }()
		}
	}
	before := stats(t, j.device)
	for s := before; s.ReceivedBytes-before.ReceivedBytes < slow/2 || s.SentBytes-before.SentBytes < slow/2; s = stats(t, j.device) {
		if t.Context().Err() != nil {
			t.Fatal("nothing flows")
		}
	}
	request := func() {
		if c := dial(t, end, j, 7); c != nil {
			defer c.Close()
			roundTrip(t, c, 1000)
		}
	}
	request()
	if err := end.Rekey(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for !stats(t, j.device).LastHandshake.After(before.LastHandshake) {
		if ctx.Err() != nil {
			t.Fatal("no new handshake beside the bulk")
		}
	}
	request()
}

func stats(t *testing.T, d *Device) tunnel.Stats {
	t.Helper()
	s, err := d.Stats()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func dial(t *testing.T, end *userspace.End, j *job, port uint16) net.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := end.DialContext(ctx, "tcp", netip.AddrPortFrom(j.plan.Job, port).String())
	if err != nil {
		t.Error(err)
		return nil
	}
	return c
}

// upload sends bulk into the job and returns how long it took until all of it was there.
func upload(t *testing.T, end *userspace.End, j *job) time.Duration {
	t.Helper()
	start := time.Now()
	c := dial(t, end, j, 9)
	if c == nil {
		return 0
	}
	defer c.Close()
	_, err := c.Write(make([]byte, bulk))
	err = errors.Join(err, c.(interface{ CloseWrite() error }).CloseWrite())
	if _, end := io.ReadFull(c, make([]byte, 1)); err != nil || end != nil {
		t.Error("upload:", err, end)
	}
	return time.Since(start)
}

// download takes bulk out of the job.
func download(t *testing.T, end *userspace.End, j *job) time.Duration {
	t.Helper()
	start := time.Now()
	c := dial(t, end, j, 19)
	if c == nil {
		return 0
	}
	defer c.Close()
	if n, err := io.Copy(io.Discard, c); err != nil || n != bulk {
		t.Errorf("download: %d bytes, %v", n, err)
	}
	return time.Since(start)
}

func TestLimitErrors(t *testing.T) {
	needRoot(t)
	_, config, _ := tunneltest.Configs(t, t.Name())
	d := openDevice(t, newNetns(t), "rlslow2", config)
	for _, rate := range []int64{-1, 1, limitMin - 1, 1 << 32} {
		if err := d.Limit(rate); err == nil || !strings.Contains(err.Error(), "want 0, or 32768 to 4294967295") {
			t.Errorf("%d: %v", rate, err)
		}
	}
	if err := d.Limit(0); err != nil {
		t.Error("no limit to lift:", err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if err := d.Limit(slow); !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
	if err := lacks("ifb", unix.EOPNOTSUPP); !errors.Is(err, ErrNoLimit) || !strings.Contains(err.Error(), "ifb") {
		t.Error(err)
	}
}
