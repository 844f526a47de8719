package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"

	"rialto/broker"
	"rialto/provider"
	"rialto/tunnel"
	"rialto/tunnel/console"
)

// site is what a workload has on the host. Only the workload's own goroutine uses it.
type site struct {
	*workload
	tasks   *sync.WaitGroup
	box     provider.Sandbox
	device  tunnel.Device
	port    uint16             // UDP port of device
	silence context.CancelFunc // ends the console
	image   provider.Image     // what this agent started the workload from; zero if an earlier one did
}

// open builds or adopts sandbox, tunnel and console. The lease, whose name all of them bear, is in the journal.
func (s *site) open(ctx context.Context) error {
	done := s.step("netns")
	box, err := s.sandbox(ctx)
	if err != nil {
		return err
	}
	done()
	s.setBox(box)
	done = s.step("tunnel")
	if err := s.openTunnel(ctx); err != nil {
		return err
	}
	done()
	return s.openConsole(ctx)
}

// reopen makes an ended workload's log readable again.
func (s *site) reopen(ctx context.Context) error {
	box, err := s.agent.Runtime.Adopt(ctx, s.lease)
	if err != nil {
		return err
	}
	s.setBox(box)
	if err := s.openTunnel(ctx); err != nil {
		return err
	}
	return s.openConsole(ctx)
}

func (s *site) setBox(box provider.Sandbox) {
	s.box = box
	s.workload.setBox(box)
}

func (s *site) sandbox(ctx context.Context) (provider.Sandbox, error) {
	if s.adopted {
		box, err := s.agent.Runtime.Adopt(ctx, s.lease)
		if err == nil || !errors.Is(err, provider.ErrNoSandbox) {
			return box, err
		}
		if s.record().State == provider.StateRunning {
			return nil, fmt.Errorf("the sandbox was lost while no agent ran: %w", err)
		}
		// The earlier agent may have died while it was making one.
		if err := s.agent.Runtime.Remove(ctx, s.lease); err != nil {
			return nil, err
		}
	}
	cpus, memory := s.spec.CPUs, s.spec.MemoryMiB
	if cpus == 0 {
		cpus = s.agent.CPUs * s.spec.GPU.Count
	}
	if memory == 0 {
		memory = s.agent.MemoryMiB * uint64(s.spec.GPU.Count) //nolint:gosec // at least one
	}
	name := strings.TrimPrefix(string(s.lease), "l-")
	return s.agent.Runtime.Prepare(ctx, provider.Launch{
		Lease: s.lease, CPUs: cpus, MemoryMiB: memory, DiskMiB: s.agent.mayWrite(&s.spec), Hostname: "rialto-" + name[:min(8, len(name))],
	})
}

// openTunnel opens the provider's end on a free port, or again on the one that the customer already knows.
func (s *site) openTunnel(ctx context.Context) error {
	r := s.record()
	plan := tunnel.NewPlan(string(s.lease))
	config := tunnel.Config{
		PrivateKey: r.TunnelKey, Address: plan.Job,
		Peer: tunnel.Peer{PublicKey: s.spec.TunnelKey, Address: plan.Customer},
	}
	ports := []uint16{r.TunnelPort}
	if r.TunnelPort == 0 {
		ports = s.agent.freePorts()
	}
	var errs error
	for _, port := range ports {
		config.ListenPort = port
		device, err := s.agent.Tunnels.Open(ctx, s.box.Netns(), deviceName(s.lease), config)
		if err != nil {
			errs = errors.Join(errs, err)
			continue
		}
		s.device = device
		stats, err := device.Stats()
		if err != nil {
			return fmt.Errorf("open tunnel: %w", err)
		}
		s.port = stats.ListenPort
		if s.record().State.Holding() {
			s.traffic.open(device, stats)
		}
		return nil
	}
	return fmt.Errorf("open tunnel: %w", errs)
}

// deviceName names a lease's interface within Linux's 15 bytes.
func deviceName(lease broker.LeaseID) string {
	name := strings.TrimPrefix(string(lease), "l-")
	return "rl" + name[:min(12, len(name))]
}

// maxPortTries bounds how long a hold may look for a port that no stranger took.
const maxPortTries = 16

// freePorts returns the ports to try for a new tunnel, best first.
func (a *Agent) freePorts() []uint16 {
	if a.Ports == (PortRange{}) {
		return []uint16{0}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	taken := make(map[uint16]bool, len(a.workloads))
	for _, w := range a.workloads {
		taken[w.record().TunnelPort] = true
	}
	var ports []uint16
	for p := int(a.Ports.First); p <= int(a.Ports.Last) && len(ports) < maxPortTries; p++ {
		if !taken[uint16(p)] { //nolint:gosec // between two ports
			ports = append(ports, uint16(p)) //nolint:gosec // between two ports
		}
	}
	return ports
}

func (s *site) openConsole(ctx context.Context) error {
	plan := tunnel.NewPlan(string(s.lease))
	listener, err := s.box.Listen(ctx, net.JoinHostPort(plan.Job.String(), strconv.Itoa(tunnel.ConsolePort)))
	if err != nil {
		return fmt.Errorf("open console: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	s.silence = cancel
	s.tasks.Go(func() {
		if err := console.Serve(ctx, listener, plan.Customer, backend{s.box, s.keys}, s.log); err != nil && ctx.Err() == nil {
			s.log.Warn("console ended", slog.Any("err", err))
		}
	})
	return nil
}

// close ends what lives in this process. The sandbox stays.
func (s *site) close() {
	if s.silence != nil {
		s.silence()
		s.silence = nil
	}
	if s.device != nil {
		if err := s.device.Close(); err != nil {
			s.log.Warn("tunnel did not close", slog.Any("err", err))
		}
		s.device = nil
	}
}

// endpoints returns where customers reach a tunnel's port, best first.
func (a *Agent) endpoints(port uint16) []string {
	ips := a.AdvertiseIPs
	if len(ips) == 0 {
		ips = hostIPs(a.Network.Addrs())
	}
	list := make([]string, 0, len(ips))
	for _, ip := range ips {
		list = append(list, netip.AddrPortFrom(ip, port).String())
	}
	return list
}

// hostIPs returns the addresses in multiaddrs, each once, loopback last because only the host itself
// reaches it.
func hostIPs(multiaddrs []string) []netip.Addr {
	var ips []netip.Addr
	for _, m := range multiaddrs {
		parts := strings.Split(m, "/")
		if len(parts) < 3 || (parts[1] != "ip4" && parts[1] != "ip6") {
			continue
		}
		ip, err := netip.ParseAddr(parts[2])
		if err == nil && !ip.IsLinkLocalUnicast() && !slices.Contains(ips, ip) {
			ips = append(ips, ip)
		}
	}
	slices.SortStableFunc(ips, func(x, y netip.Addr) int {
		switch {
		case x.IsLoopback() == y.IsLoopback():
			return 0
		case x.IsLoopback():
			return 1
		default:
			return -1
		}
	})
	return ips[:min(len(ips), 8)]
}
