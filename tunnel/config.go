package tunnel

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// maxKeepalive is what WireGuard's interfaces can carry: 16 bits of seconds.
const maxKeepalive = 65535 * time.Second

// Validate reports the first field that no tunnel could work with.
func (c Config) Validate() error {
	switch {
	case c.PrivateKey == PrivateKey{}:
		return errors.New("tunnel config: no private key")
	case c.Peer.PublicKey.IsZero():
		return errors.New("tunnel config: no public key of the peer")
	case !inner(c.Address):
		return fmt.Errorf("tunnel config: address %v is not a unique local IPv6 address", c.Address)
	case !inner(c.Peer.Address):
		return fmt.Errorf("tunnel config: peer address %v is not a unique local IPv6 address", c.Peer.Address)
	case c.Address == c.Peer.Address:
		return fmt.Errorf("tunnel config: both ends have the address %v", c.Address)
	case c.Peer.Keepalive < 0 || c.Peer.Keepalive > maxKeepalive || c.Peer.Keepalive%time.Second != 0:
		return fmt.Errorf("tunnel config: keepalive %v is not a whole number of seconds up to %v", c.Peer.Keepalive, maxKeepalive)
	}
	if c.Peer.Endpoint != (netip.AddrPort{}) {
		if err := checkEndpoint(c.Peer.Endpoint); err != nil {
			return fmt.Errorf("tunnel config: %w", err)
		}
	}
	if public, err := c.PrivateKey.Public(); err != nil {
		return err
	} else if public == c.Peer.PublicKey {
		return errors.New("tunnel config: the peer has our own key")
	}
	return nil
}

// inner reports whether a is what plans are made of: fc00::/7, no zone.
func inner(a netip.Addr) bool {
	return a.Is6() && !a.Is4In6() && a.IsPrivate() && a.Zone() == ""
}

// ParseEndpoint reads a UDP endpoint of the underlay, "192.0.2.1:51820" or "[2001:db8::1]:51820".
// It takes no host names: an endpoint is signed by the provider, a name's address is not.
func ParseEndpoint(s string) (netip.AddrPort, error) {
	ap, err := netip.ParseAddrPort(s)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("endpoint %q: want an IP address and a port", s)
	}
	ap = netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	return ap, checkEndpoint(ap)
}

func checkEndpoint(ap netip.AddrPort) error {
	a := ap.Addr()
	if !a.IsValid() || a.IsUnspecified() || a.IsMulticast() || a.Zone() != "" || ap.Port() == 0 {
		return fmt.Errorf("endpoint %v: not a unicast address with a port", ap)
	}
	return nil
}

// WireGuardConf writes the customer's end of a tunnel as a file for wg-quick and the official clients.
// The result holds the private key. The customer has to be told the provider's endpoint, since only the
// customer initiates.
func WireGuardConf(c Config) (string, error) {
	if err := c.Validate(); err != nil {
		return "", err
	}
	if !c.Peer.Endpoint.IsValid() {
		return "", errors.New("tunnel config: no endpoint of the peer")
	}
	keepalive := c.Peer.Keepalive
	if keepalive == 0 {
		keepalive = Keepalive
	}
	var b strings.Builder
	fmt.Fprintf(&b, "[Interface]\nPrivateKey = %s\nAddress = %s/128\nMTU = %d\n", c.PrivateKey.Base64(), c.Address, MTU)
	if c.ListenPort != 0 {
		fmt.Fprintf(&b, "ListenPort = %d\n", c.ListenPort)
	}
	fmt.Fprintf(&b, "\n[Peer]\nPublicKey = %s\nEndpoint = %s\nAllowedIPs = %s/128\nPersistentKeepalive = %d\n",
		c.Peer.PublicKey, c.Peer.Endpoint, c.Peer.Address, keepalive/time.Second)
	return b.String(), nil
}
