package device

import (
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"runtime"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// limitBurst is for how long an idle tunnel saves up what it may carry, and limitQueue how long a packet waits at
	// most for its turn: long enough for TCP to keep its rate, short enough for a request beside a bulk transfer.
	limitBurst = 125 * time.Millisecond
	limitQueue = 250 * time.Millisecond
	// limitMin lets a burst hold a few packets of a full MTU.
	limitMin = 32 << 10
	// limitName is the interface in the job's namespace through which a limited tunnel's incoming packets pass. No tunnel
	// has a name with a dot.
	limitName = "rl.slow"
)

// ErrNoLimit reports a kernel that lacks what a limit needs.
var ErrNoLimit = errors.New("the kernel cannot slow traffic down")

// Limit slows the tunnel down to so many bytes per second in each direction, at least 32 KiB; zero lifts the limit.
// It counts packets as the job sees them, so handshakes and keepalives always pass and the session lives. What is
// above the limit waits a quarter of a second at most, and is dropped behind that: TCP adapts. A limit ends with its
// device; only a kernel's device that outlives the process keeps it.
//
// The kernel does it, for its own WireGuard as for wireguard-go: a token bucket where packets leave the job, and a
// second one on an intermediate device (ifb) that takes what the tunnel decrypted. ErrNoLimit: it has no such things.
func (d *Device) Limit(bytesPerSecond int64) error {
	if bytesPerSecond != 0 && (bytesPerSecond < limitMin || bytesPerSecond > math.MaxUint32) {
		return fmt.Errorf("limit of tunnel %s: %d bytes per second: want 0, or %d to %d", d.name, bytesPerSecond, limitMin, uint32(math.MaxUint32))
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return fmt.Errorf("limit of tunnel %s: %w", d.name, net.ErrClosed)
	}
	err := inNetns(d.netns, func() error { return limitLink(d.name, uint64(bytesPerSecond)) })
	if err != nil {
		return fmt.Errorf("limit of tunnel %s: %w", d.name, err)
	}
	return nil
}

// CheckLimit tries in a namespace of its own whether this kernel can limit a tunnel; ErrNoLimit: it cannot.
func CheckLimit() error {
	result := make(chan error, 1)
	go func() { // its thread is thrown away with the namespace
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			result <- fmt.Errorf("network namespace: %w", err)
			return
		}
		result <- limitLink("lo", limitMin)
	}()
	return <-result
}

// limitLink limits an interface of the calling thread's namespace. On an error nothing is limited.
func limitLink(name string, rate uint64) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find interface: %w", err)
	}
	if err := liftLimit(link); err != nil || rate == 0 {
		return err
	}
	if err := addLimit(link, rate); err != nil {
		return errors.Join(err, liftLimit(link))
	}
	return nil
}

func addLimit(link netlink.Link, rate uint64) error {
	if err := addBucket(link, rate); err != nil {
		return err
	}
	middle := &netlink.Ifb{LinkAttrs: netlink.NewLinkAttrs()}
	middle.Name = limitName
	if err := netlink.LinkAdd(middle); err != nil {
		return lacks("ifb", err)
	}
	if err := addBucket(middle, rate); err != nil {
		return err
	}
	if err := netlink.LinkSetUp(middle); err != nil {
		return fmt.Errorf("bring up %s: %w", limitName, err)
	}
	if err := netlink.QdiscAdd(ingress(link)); err != nil {
		return lacks("sch_ingress", err)
	}
	err := netlink.FilterAdd(&netlink.U32{ // without a selector it takes every packet
		FilterAttrs: netlink.FilterAttrs{LinkIndex: link.Attrs().Index, Parent: ingress(link).Handle, Priority: 1, Protocol: unix.ETH_P_ALL},
		Actions:     []netlink.Action{netlink.NewMirredAction(middle.Attrs().Index)},
	})
	return lacks("cls_u32, act_mirred", err)
}

// addBucket has an interface send no more than rate bytes per second.
func addBucket(link netlink.Link, rate uint64) error {
	share := func(d time.Duration) uint32 { return uint32(rate * uint64(d) / uint64(time.Second)) } //nolint:gosec // less than rate, which fits
	err := netlink.QdiscAdd(&netlink.Tbf{
		QdiscAttrs: bucketAttrs(link),
		Rate:       rate, Buffer: netlink.Xmittime(rate, share(limitBurst)), Limit: share(limitQueue),
	})
	return lacks("sch_tbf", err)
}

func bucketAttrs(link netlink.Link) netlink.QdiscAttrs {
	return netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT}
}

func ingress(link netlink.Link) *netlink.Ingress {
	return &netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: link.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_INGRESS,
	}}
}

// liftLimit removes what addLimit made, or as much of it as there is.
func liftLimit(link netlink.Link) error {
	for _, q := range []netlink.Qdisc{ingress(link), &netlink.Tbf{QdiscAttrs: bucketAttrs(link)}} {
		err := netlink.QdiscDel(q)
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EOPNOTSUPP) {
			return fmt.Errorf("lift the limit: %w", err)
		}
	}
	middle, err := netlink.LinkByName(limitName)
	if gone := (netlink.LinkNotFoundError{}); errors.As(err, &gone) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find %s: %w", limitName, err)
	}
	if err := netlink.LinkDel(middle); err != nil {
		return fmt.Errorf("remove %s: %w", limitName, err)
	}
	return nil
}

// lacks says which module an error about an unknown kind of thing is about.
func lacks(module string, err error) error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w: it lacks %s (%w)", ErrNoLimit, module, err)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", module, err)
	}
	return nil
}
