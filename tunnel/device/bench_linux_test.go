package device

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"rialto/tunnel"
	"rialto/tunnel/client"
	"rialto/tunnel/tunneltest"
)

// round is how long one measurement sends. The medians of -benchtime=5x take fifteen seconds.
const round = 1500 * time.Millisecond

// BenchmarkThroughput measures one TCP connection between two devices whose sockets meet over a veth pair, and,
// interleaved with it, over the veth pair itself. Both ends and the sender are this process; CPU seconds are
// of all of it. Run it with -benchtime=5x: metrics are medians over the iterations.
func BenchmarkThroughput(b *testing.B) {
	needRoot(b)
	hosts := [2]string{newNetns(b), newNetns(b)}
	under := [2]netip.Addr{netip.MustParseAddr("10.91.0.1"), netip.MustParseAddr("10.91.0.2")}
	veth(b, hosts, under)

	plan, near, far := tunneltest.Configs(b, b.Name())
	near.ListenPort, far.ListenPort = 51820, 51821
	far.Peer.Endpoint = netip.AddrPortFrom(under[0], near.ListenPort)
	jobs := [2]string{newNetns(b), newNetns(b)}
	openOn(b, hosts[0], jobs[0], "rlbench0", near)
	waitHandshake(b, openOn(b, hosts[1], jobs[1], "rlbench1", far))

	var plain, tunnelled samples
	for b.Loop() {
		plain.add(b, hosts, netip.AddrPortFrom(under[1], 5201))
		tunnelled.add(b, jobs, netip.AddrPortFrom(plan.Customer, 5201))
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(plain.gbps), "veth_gbps")
	b.ReportMetric(median(tunnelled.gbps), "tunnel_gbps")
	b.ReportMetric(median(plain.cpu), "veth_cpu_s/GiB")
	b.ReportMetric(median(tunnelled.cpu), "tunnel_cpu_s/GiB")
}

// openOn opens a device whose UDP socket is in the network namespace of a host.
func openOn(b *testing.B, host, job, name string, c tunnel.Config) *Device {
	b.Helper()
	var d *Device
	do(b, host, func() (err error) {
		d, err = Open(b.Context(), Config{Netns: job, Name: name, Tunnel: c})
		return err
	})
	b.Cleanup(func() { d.Close() })
	return d
}

func veth(b *testing.B, at [2]string, addr [2]netip.Addr) {
	b.Helper()
	far, err := netns.GetFromPath(at[1])
	if err != nil {
		b.Fatal(err)
	}
	defer far.Close()
	do(b, at[0], func() error {
		link := netlink.NewVeth(netlink.NewLinkAttrs())
		link.Name, link.PeerName, link.PeerNamespace = "rlv0", "rlv1", netlink.NsFd(far)
		return netlink.LinkAdd(link)
	})
	for i := range at {
		do(b, at[i], func() error {
			link, err := netlink.LinkByName(fmt.Sprintf("rlv%d", i))
			if err != nil {
				return err
			}
			ipnet := &net.IPNet{IP: addr[i].AsSlice(), Mask: net.CIDRMask(24, 32)}
			if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: ipnet}); err != nil {
				return err
			}
			return netlink.LinkSetUp(link)
		})
	}
}

type samples struct{ gbps, cpu []float64 }

// add sends for one round from the first namespace to an address in the second.
func (s *samples) add(b *testing.B, at [2]string, to netip.AddrPort) {
	b.Helper()
	ln := listen(b, at[1], to.String())
	defer ln.Close()
	received := make(chan int64, 1)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			received <- 0
			return
		}
		defer c.Close()
		n, _ := io.CopyBuffer(onlyWriter{}, onlyReader{c}, make([]byte, 256<<10))
		received <- n
	}()
	var conn net.Conn
	do(b, at[0], func() (err error) {
		conn, err = net.Dial("tcp", to.String())
		return err
	})
	start, cpu := time.Now(), cpuTime(b)
	chunk := make([]byte, 256<<10)
	for time.Since(start) < round {
		if _, err := conn.Write(chunk); err != nil {
			b.Fatal(err)
		}
	}
	conn.Close()
	n := <-received
	took, used := time.Since(start), cpuTime(b)-cpu
	s.gbps = append(s.gbps, float64(n)*8/1e9/took.Seconds())
	s.cpu = append(s.cpu, used.Seconds()/(float64(n)/(1<<30)))
}

// onlyWriter and onlyReader keep io.Copy from splicing inside the kernel.
type onlyWriter struct{}

func (onlyWriter) Write(p []byte) (int, error) { return len(p), nil }

type onlyReader struct{ io.Reader }

func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func median(v []float64) float64 {
	slices.Sort(v)
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// BenchmarkCustomer measures the userspace customer's end against a device: pull is the job's output.
func BenchmarkCustomer(b *testing.B) {
	needRoot(b)
	job := newNetns(b)
	plan, near, customer := tunneltest.Configs(b, b.Name())
	customer.Peer.Endpoint = tunneltest.Loopback(b, openDevice(b, job, "rlbench2", near))
	c, err := client.Open(client.Config{Tunnel: customer})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	ln := listen(b, job, netip.AddrPortFrom(plan.Job, 5201).String())
	const size = 32 << 20
	for _, pull := range []bool{true, false} {
		b.Run(fmt.Sprintf("pull=%t", pull), func(b *testing.B) {
			b.SetBytes(size)
			for b.Loop() {
				near, err := c.DialContext(b.Context(), "tcp", ln.Addr().String())
				if err != nil {
					b.Fatal(err)
				}
				far, err := ln.Accept()
				if err != nil {
					b.Fatal(err)
				}
				from, to := far, near
				if !pull {
					from, to = near, far
				}
				go func() {
					_, _ = io.CopyN(from, zeros{}, size)
					from.Close()
				}()
				if n, err := io.CopyBuffer(onlyWriter{}, onlyReader{to}, make([]byte, 64<<10)); n != size {
					b.Fatalf("%d bytes, %v", n, err)
				}
				to.Close()
			}
		})
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// BenchmarkOpenClose is what one tunnel costs the agent.
func BenchmarkOpenClose(b *testing.B) {
	needRoot(b)
	job := newNetns(b)
	_, config, _ := tunneltest.Configs(b, b.Name())
	var opened, closed []float64
	for b.Loop() {
		start := time.Now()
		d, err := Open(b.Context(), Config{Netns: job, Name: "rlbench3", Tunnel: config})
		if err != nil {
			b.Fatal(err)
		}
		opened = append(opened, float64(time.Since(start).Microseconds())/1e3)
		start = time.Now()
		if err := d.Close(); err != nil {
			b.Fatal(err)
		}
		closed = append(closed, float64(time.Since(start).Microseconds())/1e3)
	}
	b.ReportMetric(median(opened), "open_ms")
	b.ReportMetric(median(closed), "close_ms")
}

// BenchmarkHandshake is how long a customer waits from Open to the provider's answer.
func BenchmarkHandshake(b *testing.B) {
	needRoot(b)
	job := newNetns(b)
	_, near, customer := tunneltest.Configs(b, b.Name())
	device := openDevice(b, job, "rlbench4", near)
	customer.Peer.Endpoint = tunneltest.Loopback(b, device)
	var took []float64
	for b.Loop() {
		start := time.Now()
		c, err := client.Open(client.Config{Tunnel: customer})
		if err != nil {
			b.Fatal(err)
		}
		if err := c.Handshake(b.Context()); err != nil {
			b.Fatal(err)
		}
		took = append(took, float64(time.Since(start).Microseconds())/1e3)
		c.Close()
		// The provider refuses a second initiation within 20 ms of the last as a flood.
		b.StopTimer()
		<-time.After(25 * time.Millisecond)
		b.StartTimer()
	}
	b.ReportMetric(median(took), "handshake_ms")
}
