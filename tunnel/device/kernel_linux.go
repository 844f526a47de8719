package device

import (
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// errNoKernel reports a kernel without WireGuard.
var errNoKernel = errors.New("kernel has no wireguard")

// openKernel makes a kernel interface here and moves it into the namespace at path; its socket stays here.
// One that an earlier agent process left there is taken over.
func openKernel(path, name string) (engine, error) {
	kernel := engine{shut: func() error {
		if err := removeLink(path, name); !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return nil
	}}
	kind := ""
	err := inNetns(path, func() error {
		link, err := netlink.LinkByName(name)
		if err == nil {
			kind = link.Type()
		}
		if gone := (netlink.LinkNotFoundError{}); errors.As(err, &gone) {
			return nil
		}
		return err
	})
	switch {
	case err != nil:
		return engine{}, err
	case kind == "wireguard":
		return kernel, nil
	case kind != "":
		return engine{}, fmt.Errorf("an interface of type %q has that name", kind)
	}
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return engine{}, fmt.Errorf("network namespace %s: %w", path, err)
	}
	defer ns.Close()
	link := &netlink.Wireguard{LinkAttrs: netlink.NewLinkAttrs()}
	link.Name = name
	if err := netlink.LinkAdd(link); errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENODEV) {
		return engine{}, errNoKernel
	} else if err != nil {
		return engine{}, fmt.Errorf("create kernel interface: %w", err)
	}
	if err := netlink.LinkSetNsFd(link, int(ns)); err != nil {
		return engine{}, errors.Join(fmt.Errorf("move kernel interface: %w", err), netlink.LinkDel(link))
	}
	return kernel, nil
}
