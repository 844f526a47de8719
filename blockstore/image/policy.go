package image

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"
)

// ErrForbidden reports a registry at an address that this host does not allow.
var ErrForbidden = errors.New("registry address is not allowed")

// Policy says which registries may be reached. A customer names the registry, and this host
// must not become a way into its own network: the zero value allows public unicast addresses on ports 80
// and 443 only. What counts is the address that is connected to, after names were resolved, and
// it counts for every redirect again.
type Policy struct {
	Networks []netip.Prefix // allowed as well, on any port
	Hosts    []string       // allowed as well whatever their address: "host" or "host:port", as in an image's name
}

// Transport reaches what the policy allows. It ignores proxies of the environment.
func (p Policy) Transport() http.RoundTripper {
	guarded := &net.Dialer{Timeout: 10 * time.Second, ControlContext: p.control}
	free := &net.Dialer{Timeout: 10 * time.Second}
	return &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			if p.hostAllowed(address) {
				return free.DialContext(ctx, network, address)
			}
			return guarded.DialContext(ctx, network, address)
		},
		ForceAttemptHTTP2:     true,
		MaxIdleConnsPerHost:   4,
		IdleConnTimeout:       30 * time.Second,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: 30 * time.Second,
		// Layers are compressed already.
		DisableCompression: true,
	}
}

func (p Policy) hostAllowed(address string) bool {
	host, _, err := net.SplitHostPort(address)
	return slices.ContainsFunc(p.Hosts, func(allowed string) bool {
		return strings.EqualFold(allowed, address) || err == nil && strings.EqualFold(allowed, host)
	})
}

// control sees each address just before it is connected to.
func (p Policy) control(_ context.Context, _, address string, _ syscall.RawConn) error {
	a, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("%w: %q", ErrForbidden, address)
	}
	ip := a.Addr().WithZone("").Unmap()
	if slices.ContainsFunc(p.Networks, func(n netip.Prefix) bool { return n.Contains(ip) }) {
		return nil
	}
	if !public(ip) {
		return fmt.Errorf("%w: %v is not a public address", ErrForbidden, ip)
	}
	if a.Port() != 80 && a.Port() != 443 {
		return fmt.Errorf("%w: port %d", ErrForbidden, a.Port())
	}
	return nil
}

// public reports whether an address belongs to a host on the internet, as far as its number tells.
func public(ip netip.Addr) bool {
	if !ip.IsGlobalUnicast() || ip.IsPrivate() || ip.IsLoopback() {
		return false
	}
	for _, s := range []string{
		// IANA's special-purpose registries, as far as the methods above leave them in.
		"0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15",
		"198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4",
		// Teredo, documentation, 6to4: the first and the last hide an IPv4 address.
		"2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20",
	} {
		if netip.MustParsePrefix(s).Contains(ip) {
			return false
		}
	}
	return ip.Is4() || netip.MustParsePrefix("2000::/3").Contains(ip)
}
