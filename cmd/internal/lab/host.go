package lab

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"runtime"
	"strings"

	"github.com/vishvananda/netns"
)

// Host is a network namespace with one address on the lab's bridge, or this machine itself.
type Host struct {
	Name  string
	Addr  netip.Addr
	netns string // empty: this machine
	lab   *Lab
}

// Machine is this machine itself with its loopback address, for a market that a person tries by hand.
func (l *Lab) Machine(name string) *Host {
	return &Host{Name: name, Addr: netip.AddrFrom4([4]byte{127, 0, 0, 1}), lab: l}
}

func (l *Lab) switchNS() string { return "rl-" + l.cfg.Name + "-switch" }

func (l *Lab) openSwitch(ctx context.Context) error {
	if err := ip(ctx, "netns", "add", l.switchNS()); err != nil {
		return err
	}
	l.wired = true
	for _, args := range [][]string{
		{"-n", l.switchNS(), "link", "add", "br0", "type", "bridge"},
		{"-n", l.switchNS(), "link", "set", "br0", "up"},
	} {
		if err := ip(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}

// Host adds a host to the lab.
func (l *Lab) Host(ctx context.Context, name string) (*Host, error) {
	if !l.wired {
		if err := l.openSwitch(ctx); err != nil {
			return nil, err
		}
	}
	n := len(l.hosts) + 1
	h := &Host{
		Name:  name,
		Addr:  netip.AddrFrom4([4]byte{10, 77, 0, byte(n)}),
		netns: "rl-" + l.cfg.Name + "-" + name,
		lab:   l,
	}
	if err := ip(ctx, "netns", "add", h.netns); err != nil {
		return nil, err
	}
	l.hosts = append(l.hosts, h)
	port := fmt.Sprintf("p%d", n)
	for _, args := range [][]string{
		{"-n", h.netns, "link", "set", "lo", "up"},
		{"-n", h.netns, "link", "add", "eth0", "type", "veth", "peer", "name", port, "netns", l.switchNS()},
		{"-n", h.netns, "addr", "add", h.Addr.String() + "/24", "dev", "eth0"},
		{"-n", h.netns, "link", "set", "eth0", "up"},
		{"-n", l.switchNS(), "link", "set", port, "master", "br0"},
		{"-n", l.switchNS(), "link", "set", port, "up"},
	} {
		if err := ip(ctx, args...); err != nil {
			return nil, err
		}
	}
	return h, nil
}

// Command prepares a program that runs on the host. It enters only the network namespace: "ip netns exec"
// would hide the cgroup mounts, too.
func (h *Host) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	if h.netns == "" {
		return exec.CommandContext(ctx, name, args...)
	}
	return exec.CommandContext(ctx, "nsenter", append([]string{"--net=/run/netns/" + h.netns, "--", name}, args...)...)
}

func ip(ctx context.Context, args ...string) error {
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, "ip", args...)
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return nil
}

// Dial opens a TCP connection from the host. It moves one thread into the host's namespace, connects
// there and moves it back; the socket keeps the namespace it was made in.
func (h *Host) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	var conn net.Conn
	err := h.inside(func() (err error) {
		conn, err = (&net.Dialer{}).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// inside runs fn on a thread in the host's namespace. fn must not start goroutines that make sockets.
func (h *Host) inside(fn func() error) error {
	if h.netns == "" {
		return fn()
	}
	target, err := netns.GetFromName(h.netns)
	if err != nil {
		return fmt.Errorf("host %s: %w", h.Name, err)
	}
	defer target.Close()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // not unlocked: the thread ends with the goroutine
		if err := netns.Set(target); err != nil {
			done <- fmt.Errorf("host %s: %w", h.Name, err)
			return
		}
		done <- fn()
	}()
	return <-done
}
