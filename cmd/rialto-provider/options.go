package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"rialto/blockstore/image"
	"rialto/broker"
	"rialto/cmd/internal/cli"
	"rialto/pricing"
	"rialto/provider/agent"
	"rialto/provider/simgpu"
)

const (
	defaultState = "/var/lib/rialto-provider"
	socketName   = "agent.sock"
	drainName    = "drained"
)

// options are the flags of run, as typed.
type options struct {
	brokers, listen, simulate, advertise, registries []string

	price, minBid, reservedPrice, reservedMin, name, region, state, linger, ports, runc, cache, memory, disk string

	diskPrice, ingressPrice, egressPrice string

	cpus       int
	stopJobs   bool
	dht        bool
	userspace  bool
	logVerbose bool
}

func (o *options) register(f *pflag.FlagSet) {
	f.StringArrayVar(&o.brokers, "broker", nil, "a broker to offer to: its https:// address, or a multiaddr that ends in /p2p/ID (repeatable)")
	f.StringVar(&o.price, "price", "", "price of a GPU, such as 0.40/h")
	f.StringVar(&o.reservedPrice, "reserved-price", "", "price of a GPU for jobs that commit to a term, such as 0.30/h; what of the term they do not use is paid all the same, and kept for them")
	f.StringVar(&o.reservedMin, "reserved-min", "24h", "least term that earns --reserved-price, such as 24h or 7d")
	f.StringVar(&o.minBid, "min-bid", "", "also take interruptible jobs that pay at least this, such as 0.15/h: whoever pays more displaces them")
	f.StringVar(&o.diskPrice, "disk-price", "", "price of each GiB that a job may write, such as 0.15/month (of 720 hours) or 0.0002/h (default: free)")
	f.StringVar(&o.ingressPrice, "ingress-price", "", "price of each GB that reaches a job through its tunnel, such as 0.01; images and weights are not billed (default: free)")
	f.StringVar(&o.egressPrice, "egress-price", "", "price of each GB that leaves a job through its tunnel, such as 0.01 (default: free)")
	f.StringVar(&o.name, "name", "", "name of this host on the market (default: its host name)")
	f.StringVar(&o.region, "region", "", "country of this host, such as DE")
	f.StringVar(&o.state, "state", defaultState, "folder for everything that the agent keeps")
	f.StringArrayVar(&o.listen, "listen", []string{"/ip4/0.0.0.0/udp/7072/quic-v1", "/ip4/0.0.0.0/tcp/7072"}, "where peers and brokers reach this host (repeatable)")
	f.StringArrayVar(&o.advertise, "advertise-ip", nil, "address at which others reach this host, if it is not on an interface (repeatable)")
	f.StringVar(&o.ports, "tunnel-ports", "", "UDP ports for customers' tunnels, such as 51000-51100 (default: any)")
	f.StringArrayVar(&o.simulate, "simulate-gpu", nil, "pretend to have GPUs, such as \"RTX 4090:2\"; labelled as simulated everywhere (repeatable)")
	f.IntVar(&o.cpus, "cpus-per-gpu", 0, "cores that a job gets per GPU (default: this host's, divided)")
	f.StringVar(&o.memory, "memory-per-gpu", "", "memory that a job gets per GPU, such as 32GiB (default: this host's, divided)")
	f.StringVar(&o.disk, "disk-per-job", "10GiB", "most that a job may write to its root file system, if it asks for so much: others have 10GiB; \"unlimited\" on hosts without loop devices")
	f.StringVar(&o.cache, "cache", "", "most disk for images and weights, such as 200GiB (default: what is free, less 2 GiB)")
	f.BoolVar(&o.dht, "dht", true, "tell the market's hosts which images and weights are here, and ask them when the broker names nobody")
	cli.RegistriesFlag(f, &o.registries)
	f.StringVar(&o.linger, "linger", "10m", "how long an ended job's log can be read")
	f.BoolVar(&o.stopJobs, "stop-jobs-on-exit", false, "end all jobs when the agent ends, instead of leaving them to the next one")
	f.StringVar(&o.runc, "runc", "", "the runc to use (default: beside this program, else in PATH)")
	f.BoolVar(&o.userspace, "userspace-wireguard", false, "do not use the kernel's WireGuard")
	f.BoolVarP(&o.logVerbose, "verbose", "v", false, "log more")
}

// settings are the flags of run, understood.
type settings struct {
	brokers   []string
	rate      pricing.Rate
	reserved  pricing.Rate  // zero: none
	term      time.Duration // the least that earns it
	minBid    pricing.Rate  // zero: no interruptible jobs
	tariff    broker.Tariff // of disk and traffic
	name      string
	region    string
	state     string
	listen    []string
	announce  []string
	advertise []netip.Addr
	ports     agent.PortRange
	simulate  []simgpu.Spec
	cpus      int
	memoryMiB uint64
	diskMiB   uint64 // zero: unlimited
	quota     int64
	policy    image.Policy
	linger    time.Duration
	runc      string
}

func (o *options) parse() (settings, error) {
	s := settings{region: strings.ToUpper(o.region), listen: o.listen, cpus: o.cpus, name: o.name}
	var err error
	if s.state, err = filepath.Abs(o.state); err != nil {
		return s, fmt.Errorf("--state: %w", err)
	}
	if s.brokers, err = parseBrokers(o.brokers); err != nil {
		return s, err
	}
	if o.price == "" {
		return s, cli.Hint(errors.New("--price is missing"), "for example --price 0.40/h")
	}
	if s.rate, err = pricing.ParseRate(o.price); err != nil {
		return s, fmt.Errorf("--price: %w", err)
	}
	if o.reservedPrice != "" {
		if s.reserved, err = pricing.ParseRate(o.reservedPrice); err != nil {
			return s, fmt.Errorf("--reserved-price: %w", err)
		}
		if s.reserved <= 0 || s.reserved >= s.rate {
			return s, fmt.Errorf("--reserved-price %v: want more than nothing and less than the --price of %v", s.reserved, s.rate)
		}
		if s.term, err = cli.ParseDuration(o.reservedMin); err != nil {
			return s, fmt.Errorf("--reserved-min: %w", err)
		}
		if s.term < time.Second || s.term > broker.MaxTerm {
			return s, fmt.Errorf("--reserved-min %s: want 1s to %s", o.reservedMin, cli.FormatDuration(broker.MaxTerm))
		}
	}
	if o.minBid != "" {
		if s.minBid, err = pricing.ParseRate(o.minBid); err != nil {
			return s, fmt.Errorf("--min-bid: %w", err)
		}
		if s.minBid <= 0 || s.minBid > s.rate {
			return s, fmt.Errorf("--min-bid %v: want more than nothing and at most the price of %v", s.minBid, s.rate)
		}
	}
	if s.name == "" {
		if s.name, err = os.Hostname(); err != nil {
			return s, cli.Hint(err, "name this host with --name")
		}
	}
	if s.region != "" && (len(s.region) != 2 || strings.Trim(s.region, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "") {
		return s, fmt.Errorf("--region %q: want a country's two letters, such as DE", o.region)
	}
	for _, text := range o.simulate {
		spec, err := simgpu.Parse(text)
		if err != nil {
			return s, fmt.Errorf("--simulate-gpu: %w", err)
		}
		s.simulate = append(s.simulate, spec)
	}
	for _, text := range o.advertise {
		ip, err := netip.ParseAddr(text)
		if err != nil || ip.IsUnspecified() {
			return s, fmt.Errorf("--advertise-ip %q: want an IP address", text)
		}
		s.advertise = append(s.advertise, ip)
	}
	s.announce = announce(o.listen, s.advertise)
	if s.ports, err = parsePorts(o.ports); err != nil {
		return s, err
	}
	if o.memory != "" {
		if s.memoryMiB, err = cli.ParseMiB(o.memory); err != nil {
			return s, fmt.Errorf("--memory-per-gpu: %w", err)
		}
	}
	if o.disk != "unlimited" {
		if s.diskMiB, err = cli.ParseMiB(o.disk); err != nil {
			return s, fmt.Errorf("--disk-per-job: %w", err)
		}
	}
	if s.tariff, err = o.parseTariff(s.diskMiB); err != nil {
		return s, err
	}
	if o.cpus < 0 {
		return s, fmt.Errorf("--cpus-per-gpu %d: want at least 1", o.cpus)
	}
	if o.cache != "" {
		mib, err := cli.ParseMiB(o.cache)
		if err != nil || mib > 1<<40 {
			return s, fmt.Errorf("--cache %q: %w", o.cache, err)
		}
		s.quota = int64(mib) << 20 //nolint:gosec // bounded above
	}
	if s.linger, err = cli.ParseDuration(o.linger); err != nil {
		return s, fmt.Errorf("--linger: %w", err)
	}
	if s.policy, err = cli.ParseRegistries(o.registries); err != nil {
		return s, err
	}
	s.runc = o.runc
	if s.runc == "" {
		s.runc = findRunc()
	}
	return s, nil
}

func parseBrokers(list []string) ([]string, error) {
	if len(list) == 0 {
		return nil, cli.Hint(errors.New("--broker is missing"), "for example --broker https://broker.example")
	}
	for _, b := range list {
		switch {
		case strings.HasPrefix(b, "http://"), strings.HasPrefix(b, "https://"):
		case strings.HasPrefix(b, "/") && strings.Contains(b, "/p2p/"):
		default:
			return nil, cli.Hint(fmt.Errorf("--broker %q: not an address of a broker", b),
				"want https://HOST, http://HOST:PORT, or a multiaddr such as /ip4/192.0.2.1/udp/7071/quic-v1/p2p/ID")
		}
	}
	return list, nil
}

// announce puts the advertised addresses in place of the ones that we listen on.
func announce(listen []string, ips []netip.Addr) []string {
	var list []string
	for _, ip := range ips {
		family := "ip4"
		if ip.Is6() {
			family = "ip6"
		}
		for _, l := range listen {
			parts := strings.Split(l, "/")
			if len(parts) < 5 || parts[4] == "0" {
				continue
			}
			parts[1], parts[2] = family, ip.String()
			list = append(list, strings.Join(parts, "/"))
		}
	}
	return list
}

func parsePorts(s string) (agent.PortRange, error) {
	if s == "" {
		return agent.PortRange{}, nil
	}
	low, high, ok := strings.Cut(s, "-")
	if !ok {
		high = low
	}
	first, err1 := strconv.ParseUint(low, 10, 16)
	last, err2 := strconv.ParseUint(high, 10, 16)
	if err1 != nil || err2 != nil || first == 0 || last < first {
		return agent.PortRange{}, fmt.Errorf("--tunnel-ports %q: want a range such as 51000-51100", s)
	}
	return agent.PortRange{First: uint16(first), Last: uint16(last)}, nil
}

// findRunc prefers the runc that was built with this program to one that happens to be installed.
func findRunc() string {
	if exe, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(exe), "runc")
		if info, err := os.Stat(beside); err == nil && info.Mode().IsRegular() {
			return beside
		}
	}
	if path, err := exec.LookPath("runc"); err == nil {
		return path
	}
	return "runc"
}
