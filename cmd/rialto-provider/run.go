package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"rialto/blockstore"
	"rialto/blockstore/disk"
	"rialto/blockstore/exchange"
	"rialto/blockstore/mount"
	"rialto/broker"
	"rialto/broker/api"
	"rialto/cmd/internal/cli"
	"rialto/p2p"
	"rialto/p2p/identity"
	"rialto/provider"
	"rialto/provider/agent"
	"rialto/provider/images"
	"rialto/provider/journal"
	"rialto/provider/nvml"
	"rialto/provider/sandbox"
	"rialto/provider/simgpu"
	"rialto/tunnel/device"
)

func runCommand() *cobra.Command {
	var o options
	c := &cobra.Command{
		Use:   "run",
		Short: "Run the agent",
		Long: "Run the agent until it is told to stop (Ctrl-C, SIGTERM). Jobs that run then are left to the next\n" +
			"agent, so that an upgrade costs no customer anything; --stop-jobs-on-exit ends them instead.",
		Example: "  rialto-provider run --broker https://broker.example --price 0.40/h\n" +
			"  rialto-provider run --broker http://127.0.0.1:7070 --price 0.40/h --simulate-gpu 'RTX 4090:2'",
		Args: cli.Args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := o.parse()
			if err != nil {
				return err
			}
			return serve(c.Context(), &o, s, c.ErrOrStderr())
		},
	}
	o.register(c.Flags())
	completeModels(c)
	return c
}

// completeModels lets a shell complete the models that can be simulated.
func completeModels(c *cobra.Command) {
	names := make([]string, 0, len(broker.Models()))
	for _, m := range broker.Models() {
		names = append(names, m.Name)
	}
	// It fails only for a flag that does not exist.
	_ = c.RegisterFlagCompletionFunc("simulate-gpu", cobra.FixedCompletions(names, cobra.ShellCompDirectiveNoFileComp))
}

// serve wires the agent's parts and runs them until ctx ends.
func serve(ctx context.Context, o *options, s settings, stderr io.Writer) (err error) {
	level := slog.LevelInfo
	if o.logVerbose {
		level = slog.LevelDebug
	}
	limitMemory()
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level}))
	if os.Geteuid() != 0 {
		return cli.Hint(errors.New("the agent needs root: it makes network namespaces, cgroups and mounts"), "try `sudo rialto-provider run …`, and `rialto-provider doctor`")
	}
	if _, err := sandbox.CheckRunc(ctx, s.runc); err != nil {
		return cli.Hint(err, "name a newer one with --runc; `rialto-provider doctor` shows what else is needed")
	}
	if err := os.MkdirAll(s.state, 0o700); err != nil {
		return err
	}
	if s.diskMiB > 0 {
		if err := sandbox.CheckDisk(ctx, s.state); err != nil {
			return cli.Hint(err, "`rialto-provider doctor` says what is missing; --disk-per-job unlimited does without")
		}
	}
	if s.tariff.Ingress > 0 || s.tariff.Egress > 0 {
		if err := device.CheckLimit(); err != nil {
			return cli.Hint(err, "`rialto-provider doctor` says what is missing; a host that asks no price for traffic does without")
		}
	}
	key, err := identity.LoadOrCreate(filepath.Join(s.state, "identity.key"))
	if err != nil {
		return err
	}
	records, err := journal.Open(journal.Config{Dir: filepath.Join(s.state, "journal"), Logger: log})
	if err != nil {
		return cli.Hint(err, "is another rialto-provider running with --state %s?", s.state)
	}
	defer func() { err = errors.Join(err, records.Close()) }()
	if err := records.Forget(ctx, 10_000); err != nil {
		return err
	}
	host, err := p2p.New(p2p.Config{Key: key, Listen: s.listen, Announce: s.announce, Limits: p2p.ProviderLimits(), Tell: o.dht, Logger: log}) //nolint:contextcheck // the host lives until Close, longer than ctx
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, host.Close()) }()
	store, err := disk.Open(ctx, disk.Config{Dir: filepath.Join(s.state, "blocks"), Quota: s.quota, Logger: log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	var a *agent.Agent // made below; nothing changes and nothing is fetched before it runs
	blocks, err := exchange.New(exchange.Config{
		Host: host.Libp2p(), Store: store, Logger: log, Poisoned: func(p exchange.Poison) { accuse(a, p) },
	})
	if err != nil {
		return err
	}
	mounts, err := openMounts(ctx, s.state, log)
	if err != nil {
		return err
	}
	parts := []func(context.Context) error{blocks.Run, mounts.Run}
	shared := &sharing{store: store, files: blocks, log: log, changed: make(chan struct{}, 1), shared: make(map[blockstore.CID]struct{})}
	var hosts images.Finder
	if o.dht {
		roots, err := p2p.NewRoots(p2p.RootsConfig{Host: host, Logger: log})
		if err != nil {
			return err
		}
		hosts, shared.provide = finder{roots}, roots.Provide
		parts = append(parts, roots.Run)
	}
	library, err := images.New(ctx, images.Config{
		Dir: filepath.Join(s.state, "images"), Store: store, Peers: blocks, Finder: hosts, Mounts: mounts, Policy: s.policy,
		Changed: func() { a.Touch(); shared.touch() }, Logger: log,
	})
	if err != nil {
		return err
	}
	shared.held = library
	parts = append(parts, shared.run)
	self := broker.PeerID(key.ID())
	boxes, err := sandbox.New(sandbox.Config{
		StateDir: filepath.Join(s.state, "sandboxes"), RuncPath: s.runc, Tag: tag(self),
		DiskMiB: s.diskMiB, UnlimitedDisk: s.diskMiB == 0, Logger: log,
	})
	if err != nil {
		return err
	}
	inventory, gpus, err := openInventory(ctx, self, s.simulate)
	if err != nil {
		return err
	}
	brokers, err := resolveBrokers(ctx, s.brokers, len(s.simulate) > 0, log)
	if err != nil {
		return err
	}
	clock, err := hostClock()
	if err != nil {
		return err
	}
	cpus, memory := share(s, gpus)
	a, err = agent.New(agent.Config{
		Key: key, Network: host, Inventory: inventory, Runtime: boxes, Images: library,
		Tunnels: device.Opener{Userspace: o.userspace, Logger: log}, Journal: records,
		Brokers: brokers, Host: s.name, Region: s.region, Rate: s.rate, MinBid: s.minBid, ReservedRate: s.reserved, ReservedMin: s.term, Tariff: s.tariff, CPUs: cpus, MemoryMiB: memory,
		AdvertiseIPs: s.advertise, Ports: s.ports, Version: cli.Version(), Linger: s.linger, StopJobsOnExit: o.stopJobs, Clock: clock,
		DrainFile:     filepath.Join(s.state, drainName),
		DiskFree:      func() (uint64, error) { return diskFree(s.state) },
		DiskPerJobMiB: s.diskMiB, DiskLeft: boxes.DiskLeft, SetAside: func(mib uint64) { store.SetAside(int64(mib) << 20) }, //nolint:gosec // of a disk
		Served: func() int64 { return blocks.Stats().ServedBytes },
		Peers:  func() []agent.PeerTraffic { return traffic(blocks.Stats()) },
		Logger: log,
	})
	if err != nil {
		return err
	}
	price := s.rate.String()
	if more := formatTariff(s.tariff); more != "" {
		price += ", " + more
	}
	log.Info("provider starts", slog.String("peer", string(self)), slog.Int("gpus", gpus), slog.String("price", price))
	control, err := listenControl(ctx, filepath.Join(s.state, socketName))
	if err != nil {
		return err
	}
	parts = append(parts, func(ctx context.Context) error { return serveControl(ctx, control, a.Handler()) })
	err = together(ctx, a, library, parts...)
	return errors.Join(err, closeMounts(mounts, a.Left())) //nolint:contextcheck // ctx is over
}

// together runs the agent, and the parts that it needs for as long as it runs.
func together(ctx context.Context, a *agent.Agent, library *images.Images, parts ...func(context.Context) error) error {
	// The parts outlive the agent, which may still stop jobs and report them after ctx ended.
	support, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g := new(errgroup.Group)
	for _, part := range parts {
		g.Go(func() error { defer cancel(); return part(support) })
	}
	g.Go(func() error {
		defer stop()
		return errors.Join(a.Run(ctx), library.Close())
	})
	return g.Wait()
}

// openMounts finds out how this host can show images, and takes over what an earlier agent showed.
func openMounts(ctx context.Context, state string, log *slog.Logger) (*mount.Mounts, error) {
	dir := filepath.Join(state, "mounts")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	can, err := mount.Probe(ctx, dir, "rialto-provider", mountVerb)
	if err != nil {
		return nil, err
	}
	tier, err := can.Lazy()
	if err != nil {
		return nil, cli.Hint(fmt.Errorf("images cannot be mounted: %w", err), "`rialto-provider doctor` shows what is missing")
	}
	log.InfoContext(ctx, "images are mounted", "tier", string(tier), "host", can.String())
	return mount.New(mount.Config{Dir: dir, Can: can, Args: []string{"rialto-provider", mountVerb}, Logger: log})
}

// closeMounts takes all images away, unless containers that run on need them; the next agent finds them then.
func closeMounts(mounts *mount.Mounts, left int) error {
	if left > 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return mounts.Close(ctx)
}

// tag tells this agent's sandboxes from another's on the same host.
func tag(self broker.PeerID) string {
	sum := sha256.Sum256([]byte(self))
	return hex.EncodeToString(sum[:4])
}

func openInventory(ctx context.Context, self broker.PeerID, simulate []simgpu.Spec) (provider.Inventory, int, error) {
	if len(simulate) > 0 {
		inventory, err := simgpu.New(self, simulate)
		if err != nil {
			return nil, 0, err
		}
		gpus, err := inventory.GPUs(ctx)
		return inventory, len(gpus), err
	}
	inventory, err := nvml.New(nvml.Config{})
	if err != nil {
		return nil, 0, err
	}
	gpus, err := inventory.GPUs(ctx)
	if err != nil {
		return nil, 0, cli.Hint(err, "without a GPU, try it with --simulate-gpu 'RTX 4090:2'")
	}
	if len(gpus) == 0 {
		return nil, 0, cli.Hint(errors.New("the NVIDIA driver reports no GPU"), "`nvidia-smi -L` should list them")
	}
	return inventory, len(gpus), nil
}

const (
	// memoryLimit is what the agent's heap should stay below. At rest it is far below; but each tunnel in user
	// space pools packet buffers without a bound of its own, up to 300 MiB when saturated, which the garbage
	// collector empties only when it runs. Three such tunnels fit; more cost collections, not the host's memory.
	memoryLimit = 1 << 30
	// gcPercent is how much garbage the heap may hold. While an image comes it is blocks of 1 MiB without a pointer
	// in them: collecting them early costs next to nothing, and keeps the agent's peak at 240 MB instead of 340.
	gcPercent = 40
)

// limitMemory has the garbage collector run early, and more often near memoryLimit, or near a quarter of a small host's
// memory, for the rest is the customers'. It ends nothing: the limit is soft. GOMEMLIMIT and GOGC override it.
func limitMemory() {
	limit := int64(memoryLimit)
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		limit = min(limit, int64(info.Totalram*uint64(info.Unit)/4)) //nolint:gosec // a host's memory fits
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(limit)
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
}

// share divides the host among its GPUs, less a tenth of the memory for the host itself.
func share(s settings, gpus int) (cpus int, memoryMiB uint64) {
	cpus, memoryMiB = s.cpus, s.memoryMiB
	if cpus == 0 {
		cpus = max(1, runtime.NumCPU()/max(gpus, 1))
	}
	var info unix.Sysinfo_t
	if memoryMiB == 0 && unix.Sysinfo(&info) == nil {
		total := info.Totalram * uint64(info.Unit) >> 20
		memoryMiB = max(1, total*9/10/uint64(max(gpus, 1))) //nolint:gosec // at least one
	}
	return cpus, max(1, memoryMiB)
}

func diskFree(dir string) (uint64, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return 0, fmt.Errorf("free disk of %s: %w", dir, err)
	}
	return fs.Bavail * uint64(fs.Bsize) >> 20, nil //nolint:gosec // a block has a size
}

const (
	brokerRetryMin = 500 * time.Millisecond
	brokerRetryMax = 15 * time.Second
)

// resolveBrokers asks brokers that are named by their HTTP address where agents reach them, and waits
// for those that are not there yet.
func resolveBrokers(ctx context.Context, list []string, simulated bool, log *slog.Logger) ([]string, error) {
	addrs := make([]string, 0, len(list))
	for _, b := range list {
		if strings.HasPrefix(b, "/") {
			addrs = append(addrs, b)
			continue
		}
		client, err := api.NewClient(b, "", nil)
		if err != nil {
			return nil, fmt.Errorf("--broker: %w", err)
		}
		market, err := awaitMarket(ctx, client, log)
		client.Close()
		if err != nil {
			return nil, err
		}
		if simulated && !market.AllowSimulated {
			return nil, cli.Hint(fmt.Errorf("the broker at %s does not take simulated GPUs", b), "its operator can start it with --allow-simulated")
		}
		where, err := url.Parse(b)
		if err != nil {
			return nil, fmt.Errorf("--broker: %w", err)
		}
		addr, ok := nearestAddr(market.Addrs, where.Hostname())
		if !ok {
			return nil, fmt.Errorf("the broker at %s has no address for agents", b)
		}
		addrs = append(addrs, addr)
	}
	return addrs, nil
}

func awaitMarket(ctx context.Context, client *api.Client, log *slog.Logger) (api.MarketInfo, error) {
	for pause := brokerRetryMin; ; pause = min(2*pause, brokerRetryMax) {
		market, err := client.Market(ctx)
		if _, away := errors.AsType[*api.UnreachableError](err); !away || ctx.Err() != nil {
			return market, err
		}
		log.Warn("waiting for the broker", slog.Any("err", err))
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return market, ctx.Err()
		}
	}
}

// nearestAddr prefers the address that we know to reach, which is the host of the broker's URL, and
// QUIC to TCP.
func nearestAddr(addrs []string, host string) (string, bool) {
	best, score := "", -1
	for _, a := range addrs {
		s := 0
		if parts := strings.Split(a, "/"); len(parts) > 2 && parts[2] == host {
			s += 2
		}
		if strings.Contains(a, "/quic-v1") {
			s++
		}
		if s > score {
			best, score = a, s
		}
	}
	return best, score >= 0
}
