package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"rialto/blockstore/disk"
	"rialto/blockstore/exchange"
	"rialto/blockstore/image"
	"rialto/broker"
	"rialto/broker/api"
	"rialto/broker/book"
	"rialto/broker/ledger"
	"rialto/broker/page"
	"rialto/broker/service"
	"rialto/broker/vast"
	"rialto/cmd/internal/cli"
	"rialto/p2p"
	"rialto/p2p/identity"
	"rialto/pricing"
)

// runFlags are the flags of `rialto-broker run`.
type runFlags struct {
	state          stateDir
	http           string
	p2pListen      []string
	announce       []string
	allowSimulated bool
	feePPM         int64
	allow          []string
	leaseTTL       time.Duration
	minRun, notice time.Duration
	grant          string
	logFormat      string
	verbose        bool
	tlsCert        string
	tlsKey         string
	insecureHTTP   bool
	minFree        string
	buildImages    bool
	dht            bool
	registries     []string
	vastTerm       time.Duration
}

func runCommand(state *string) *cobra.Command {
	var f runFlags
	c := &cobra.Command{
		Use:   "run",
		Short: "Run the market until SIGTERM or Ctrl-C",
		Example: "  rialto-broker run --state ./market --allow-simulated\n" +
			"  rialto-broker run --http :443 --tls-cert cert.pem --tls-key key.pem",
		Args: cli.Args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			f.state = stateDir(*state)
			return f.run(c.Context(), c.ErrOrStderr())
		},
	}
	fl := c.Flags()
	fl.StringVar(&f.http, "http", "127.0.0.1:7070", "address of the API; port 0 takes a free one")
	fl.StringSliceVar(&f.p2pListen, "p2p-listen", []string{"/ip4/0.0.0.0/udp/7071/quic-v1", "/ip4/0.0.0.0/tcp/7071"}, "multiaddrs at which providers connect")
	fl.StringSliceVar(&f.announce, "announce", nil, "multiaddrs that providers are told instead, if the broker is behind a NAT")
	fl.BoolVar(&f.allowSimulated, "allow-simulated", false, "admit offers of simulated GPUs, for demonstrations and tests")
	fl.Int64Var(&f.feePPM, "fee-ppm", 0, "the market's part of each bill, in millionths")
	fl.StringSliceVar(&f.allow, "provider-allow", nil, "peer ids that may connect; all if not given")
	fl.DurationVar(&f.leaseTTL, "lease-ttl", 0, "a lease that is not renewed for this long ends (default 45s)")
	fl.DurationVar(&f.minRun, "min-run", 0, "an interruptible job that is ready is not displaced before it ran for this long (default 10m)")
	fl.DurationVar(&f.notice, "notice", 0, "an interruptible job that is displaced may still run for this long (default 1m)")
	fl.StringVar(&f.grant, "grant", "0", "dollars that a new account gets when it is created without --deposit, for development")
	fl.StringVar(&f.logFormat, "log-format", "text", "text or json")
	fl.BoolVar(&f.verbose, "verbose", false, "log details too")
	fl.StringVar(&f.tlsCert, "tls-cert", "", "certificate chain of the API, PEM")
	fl.StringVar(&f.tlsKey, "tls-key", "", "key of the certificate, PEM")
	fl.BoolVar(&f.insecureHTTP, "insecure-http", false, "serve plain HTTP on an address that is not loopback: whoever sees the traffic can take the tokens, so only where a TLS proxy or a private network stands in front")
	fl.StringVar(&f.minFree, "min-free", "2GiB", "free disk space below which no new jobs are accepted; an eighth more is kept as ballast beside the ledger")
	fl.BoolVar(&f.buildImages, "build-images", true, "download each image that customers run once, anonymously and without keeping it, and vouch for its root, so that hosts can start it from each other's blocks")
	fl.BoolVar(&f.dht, "dht", true, "join the hosts to a DHT in which they find each other's images and weights, also while the broker is away")
	fl.DurationVar(&f.vastTerm, "vast-term", 24*time.Hour, "how long an instance runs that a client of Vast's starts (see account create --custodial): its price for that long is held")
	cli.RegistriesFlag(fl, &f.registries)
	return c
}

// run wires the parts and runs them until ctx ends.
func (f *runFlags) run(ctx context.Context, stderr io.Writer) (err error) {
	log, err := f.logger(stderr)
	if err != nil {
		return err
	}
	grant, err := pricing.ParseMoney(f.grant)
	if err != nil {
		return fmt.Errorf("--grant: %w", err)
	}
	minFree, err := cli.ParseMiB(f.minFree)
	if err != nil {
		return fmt.Errorf("--min-free: %w", err)
	}
	gate, err := f.gate()
	if err != nil {
		return err
	}
	policy, err := cli.ParseRegistries(f.registries)
	if err != nil {
		return err
	}
	key, err := f.state.key()
	if err != nil {
		return err
	}
	token, err := f.state.adminToken()
	if err != nil {
		return err
	}
	listener, url, err := f.listen(ctx)
	if err != nil {
		return err
	}
	served := false // api.Server closes the listener that it serves
	defer func() {
		if !served {
			err = errors.Join(err, listener.Close())
		}
	}()
	store, err := ledger.Open(ctx, ledger.Config{
		Dir: f.state.ledger(), MinFree: minFree << 20, Ballast: minFree << 20 / 8, Logger: log.With("part", "ledger"),
	})
	if err != nil {
		return openHint(err)
	}
	defer closing(&err, store)
	blocks, err := disk.Open(ctx, disk.Config{Dir: f.state.blocks(), Reserve: int64(minFree << 20), Logger: log.With("part", "blocks")})
	if err != nil {
		return openHint(err)
	}
	defer closing(&err, blocks)
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	host, err := p2p.New(p2p.Config{ //nolint:contextcheck // it lives until it is closed
		Key: key, Listen: f.p2pListen, Announce: f.announce, Gate: gate, Limits: p2p.BrokerLimits(), Tell: f.dht,
		Metrics: reg, Logger: log.With("part", "p2p"),
	})
	if err != nil {
		return err
	}
	defer closing(&err, host)
	swap, err := exchange.New(exchange.Config{Host: host.Libp2p(), Store: blocks, Logger: log.With("part", "blocks")})
	if err != nil {
		return err
	}
	var roots *p2p.Roots
	if f.dht {
		if roots, err = p2p.NewRoots(p2p.RootsConfig{Host: host, Passive: true, Logger: log.With("part", "p2p")}); err != nil {
			return err
		}
	}
	var images service.Builder
	if f.buildImages {
		b, err := newBuilder(policy, f.state.scratch())
		if err != nil {
			return fmt.Errorf("scratch directory: %w", err)
		}
		defer closing(&err, b)
		images = b
	}
	market, err := service.New(service.Config{
		Key: key, Host: host, Store: ledger.Books{Store: store}, Grant: grant,
		Market: broker.MarketConfig{
			AllowSimulated: f.allowSimulated, FeePPM: f.feePPM, LeaseTTL: f.leaseTTL, MinRun: f.minRun, Notice: f.notice,
			NewIndex: func() broker.Index { return book.NewOffers() },
		},
		Source: func() broker.BlockSource {
			return broker.BlockSource{Peer: broker.PeerID(key.ID()), Addrs: host.Addrs()}
		},
		Builder: images, Metrics: reg, Logger: log.With("part", "market"),
	})
	if err != nil {
		return err
	}
	site, err := page.Handler()
	if err != nil {
		return err
	}
	server, err := api.New(api.Config{
		Page: site, Market: market, Blocks: blocks, AdminToken: token, Metrics: reg, Logger: log.With("part", "api"),
		Info: func() api.MarketInfo {
			return api.MarketInfo{
				Broker: string(key.ID()), FeePPM: f.feePPM, AllowSimulated: f.allowSimulated, Addrs: host.Addrs(), Version: cli.Version(),
			}
		},
	})
	if err != nil {
		return err
	}
	keeper := newCustodian(market, key, image.Registry{Transport: policy.Transport()})
	defer closing(&err, keeper)
	compat, err := vast.New(vast.Config{
		Market: market, Custodian: keeper, Hosts: market, Admit: server.Admit, Term: f.vastTerm, Logger: log.With("part", "vast"),
	})
	if err != nil {
		return err
	}
	server.Handle("/api/", compat)
	if err := f.state.writeAdmin(admin{URL: url, Token: token}); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	if roots != nil {
		g.Go(func() error { return roots.Run(ctx) })
	}
	g.Go(func() error { return market.Run(ctx) })
	g.Go(func() error { return swap.Run(ctx) })
	g.Go(func() error { return server.Serve(ctx, listener) })
	served = true
	log.Info("broker is up", "id", key.ID(), "http", url, "p2p", host.Addrs(), "version", cli.Version())
	if f.allowSimulated {
		log.Warn("simulated GPUs are admitted: this market is for demonstrations and tests")
	}
	err = g.Wait()
	log.Info("broker is down")
	if errors.Is(err, ledger.ErrNoSpace) {
		return openHint(err)
	}
	return err
}

func (f *runFlags) logger(w io.Writer) (*slog.Logger, error) {
	o := &slog.HandlerOptions{Level: slog.LevelInfo}
	if f.verbose {
		o.Level = slog.LevelDebug
	}
	switch f.logFormat {
	case "text":
		return slog.New(slog.NewTextHandler(w, o)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, o)), nil
	}
	err := fmt.Errorf("--log-format: %q is not known, want text or json", f.logFormat)
	if near, ok := cli.Nearest(f.logFormat, []string{"text", "json"}); ok {
		return nil, cli.Hint(err, "did you mean %s?", near)
	}
	return nil, err
}

// gate lets the allowed providers connect; nil lets all.
func (f *runFlags) gate() (func(identity.ID) bool, error) {
	if len(f.allow) == 0 {
		return nil, nil
	}
	allowed := map[identity.ID]bool{}
	for _, text := range f.allow {
		id, err := identity.ParseID(text)
		if err != nil {
			return nil, cli.Hint(fmt.Errorf("--provider-allow: %w", err), "`rialto-provider id` prints a provider's peer id")
		}
		allowed[id] = true
	}
	return func(id identity.ID) bool { return allowed[id] }, nil
}

// listen opens the API's listener and returns its URL. Tokens cross the API, so that plain HTTP is for
// loopback unless the operator insists.
func (f *runFlags) listen(ctx context.Context) (net.Listener, string, error) {
	if (f.tlsCert == "") != (f.tlsKey == "") {
		return nil, "", errors.New("--tls-cert and --tls-key go together")
	}
	secure := f.tlsCert != ""
	if !secure && !f.insecureHTTP && !isLoopback(f.http) {
		return nil, "", cli.Hint(fmt.Errorf("--http %s: plain HTTP is served on loopback only, because tokens cross it", f.http),
			"give --tls-cert and --tls-key, or --insecure-http if a TLS proxy or a private network stands in front")
	}
	var conf *tls.Config
	if secure {
		cert, err := tls.LoadX509KeyPair(f.tlsCert, f.tlsKey)
		if err != nil {
			return nil, "", fmt.Errorf("--tls-cert: %w", err)
		}
		conf = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13, NextProtos: []string{"h2", "http/1.1"}}
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", f.http)
	if err != nil {
		return nil, "", cli.Hint(fmt.Errorf("--http: %w", err), "is another broker running? --http 127.0.0.1:0 takes a free port")
	}
	if secure {
		return tls.NewListener(l, conf), "https://" + l.Addr().String(), nil
	}
	return l, "http://" + l.Addr().String(), nil
}

func isLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// closing closes c at the end of a function and keeps the error.
func closing(err *error, c io.Closer) {
	*err = errors.Join(*err, c.Close())
}

// openHint says what to do about a database that cannot be opened or written.
func openHint(err error) error {
	switch {
	case errors.Is(err, ledger.ErrNoSpace):
		return cli.Hint(err, "free some disk space; nothing that was acknowledged is lost")
	case errors.Is(err, ledger.ErrCorrupt):
		return cli.Hint(err, "keep a copy of the state directory before you try anything")
	}
	return cli.Hint(err, "only one process can use a state directory: is another broker running there?")
}
