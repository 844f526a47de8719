// Package device is the provider's end of a tunnel: a WireGuard interface inside the job's network namespace
// whose UDP socket stays in the agent's, so that the job sees only decrypted packets of its customer and
// never the underlay.
//
// Where the kernel has WireGuard, the interface is created in the agent's namespace and moved (its socket
// remains where it was created). Elsewhere wireguard-go runs in the agent's process over a TUN interface that
// is created inside the namespace. wgctrl configures both: the kernel's over netlink, wireguard-go over a
// socket /var/run/wireguard/NAME.sock, so that the stock tool `wg show NAME` reads either.
//
// Only the customer initiates (see package tunnel), so the provider gives the peer neither endpoint nor
// keepalive. After a restart of the agent, Open with the same key and port lets the customer go on: a kernel
// device survives and is taken over, a TUN ended with the old process and is made anew. Removing the network namespace
// removes either kind of interface.
//
// A tunnel can be slowed down while it is open, by the kernel's traffic control on either kind of interface, see
// [Device.Limit].
//
// wireguard-go pools 64 KiB buffers without a bound of its own: 1 MiB when idle, up to 300 MiB on a saturated
// tunnel. The agent runs under a memory limit of its own.
package device

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"rialto/tunnel"
)

// maxName is what the kernel allows an interface name, and what keeps the control socket's path valid.
const maxName = 15

// ErrUnsupported reports an operating system without network namespaces.
var ErrUnsupported = errors.New("tunnel devices need Linux")

// Config describes a device to open.
type Config struct {
	Netns     string // path of the job's network namespace
	Name      string // interface name: 1 to 15 of a-z 0-9 - _, unique on the host
	Tunnel    tunnel.Config
	Userspace bool         // do not try the kernel's WireGuard
	Logger    *slog.Logger // nil: discard
}

func (c Config) validate() error {
	if c.Netns == "" {
		return errors.New("open tunnel: no network namespace")
	}
	if err := checkName(c.Name); err != nil {
		return err
	}
	return c.Tunnel.Validate()
}

// checkName keeps the name from meaning anything in a path.
func checkName(name string) error {
	if len(name) == 0 || len(name) > maxName {
		return fmt.Errorf("open tunnel: interface name %q is not 1 to %d characters", name, maxName)
	}
	for _, r := range name {
		if (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '_' {
			return fmt.Errorf("open tunnel: interface name %q has a character other than a-z 0-9 - _", name)
		}
	}
	return nil
}

// Opener opens devices with one logger.
type Opener struct {
	Userspace bool         // do not try the kernel's WireGuard
	Logger    *slog.Logger // nil: discard
}

// Open opens a device; see [Open].
func (o Opener) Open(ctx context.Context, netns, name string, c tunnel.Config) (tunnel.Device, error) {
	d, err := Open(ctx, Config{Netns: netns, Name: name, Tunnel: c, Userspace: o.Userspace, Logger: o.Logger})
	if err != nil {
		return nil, err
	}
	return d, nil
}

// Remove deletes the control socket that a process left when it died; the interface itself went with the
// process or goes with its namespace. A socket that answers stays.
func (Opener) Remove(ctx context.Context, name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	return removeSocket(ctx, name)
}
