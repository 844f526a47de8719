package cli

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"rialto/blockstore/image"
)

// RegistriesFlag declares --allow-registry, whose values [ParseRegistries] reads.
func RegistriesFlag(f *pflag.FlagSet, list *[]string) {
	f.StringArrayVar(list, "allow-registry", nil, "registry that customers' images may come from though it is not on the internet: HOST, HOST:PORT or a network such as 10.0.0.0/8 (repeatable)")
}

// ParseRegistries reads the values of --allow-registry: a host, a host and its port, an address or a network each.
func ParseRegistries(list []string) (image.Policy, error) {
	var p image.Policy
	for _, s := range list {
		if strings.Contains(s, "/") {
			network, err := netip.ParsePrefix(s)
			if err != nil {
				return p, fmt.Errorf("--allow-registry %q: want HOST, HOST:PORT or a network such as 10.0.0.0/8", s)
			}
			p.Networks = append(p.Networks, network.Masked())
			continue
		}
		if ip, err := netip.ParseAddr(s); err == nil {
			p.Networks = append(p.Networks, netip.PrefixFrom(ip, ip.BitLen()))
			continue
		}
		host := s
		if h, port, err := net.SplitHostPort(s); err == nil {
			if _, err := strconv.ParseUint(port, 10, 16); err != nil {
				return p, fmt.Errorf("--allow-registry %q: bad port %q", s, port)
			}
			host = h
		}
		if host == "" || strings.ContainsAny(host, " :@") {
			return p, fmt.Errorf("--allow-registry %q: want HOST, HOST:PORT or a network such as 10.0.0.0/8", s)
		}
		p.Hosts = append(p.Hosts, s)
	}
	return p, nil
}
