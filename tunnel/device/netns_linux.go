package device

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"

	"rialto/tunnel"
)

// inNetns runs fn on a thread inside the network namespace at path. The goroutine ends while it is locked to
// the thread, so the runtime destroys the thread: no other goroutine ever runs on it.
func inNetns(path string, fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		done <- func() error {
			ns, err := netns.GetFromPath(path)
			if err != nil {
				return fmt.Errorf("network namespace %s: %w", path, err)
			}
			defer ns.Close()
			if err := netns.Set(ns); err != nil {
				return fmt.Errorf("enter network namespace %s: %w", path, err)
			}
			return fn()
		}()
	}()
	return <-done
}

// bringUp gives the interface its MTU, its address and the route to the peer.
func bringUp(path, name string, t tunnel.Config) error {
	return inNetns(path, func() error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return fmt.Errorf("find interface: %w", err)
		}
		if err := netlink.LinkSetMTU(link, tunnel.MTU); err != nil {
			return fmt.Errorf("set mtu: %w", err)
		}
		// No link-local address: nothing but the plan's two addresses can pass the tunnel anyway.
		if err := netlink.LinkSetIP6AddrGenMode(link, nl.IN6_ADDR_GEN_MODE_NONE); err != nil {
			return fmt.Errorf("set address mode: %w", err)
		}
		// There is no neighbour to ask whether the address is taken.
		own := &netlink.Addr{IPNet: netlink.NewIPNet(t.Address.AsSlice()), Flags: ifaNoDAD}
		if err := netlink.AddrReplace(link, own); err != nil {
			return fmt.Errorf("add address %v: %w", t.Address, err)
		}
		if err := netlink.LinkSetUp(link); err != nil {
			return fmt.Errorf("bring up: %w", err)
		}
		route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: netlink.NewIPNet(t.Peer.Address.AsSlice())}
		if err := netlink.RouteReplace(route); err != nil {
			return fmt.Errorf("add route to %v: %w", t.Peer.Address, err)
		}
		return nil
	})
}

// ifaNoDAD is IFA_F_NODAD: use the address at once, without duplicate address detection.
const ifaNoDAD = 0x02

// removeLink deletes the interface if it, and its namespace, still exist.
func removeLink(path, name string) error {
	return inNetns(path, func() error {
		link, err := netlink.LinkByName(name)
		if gone := (netlink.LinkNotFoundError{}); errors.As(err, &gone) {
			return nil
		}
		if err != nil {
			return err
		}
		return netlink.LinkDel(link)
	})
}
