// Package agent runs a provider: it keeps a connection to each of its brokers, offers the host's GPUs,
// answers holds, and takes each leased workload from preparation to its last report.
//
// One goroutine, [workload.run], owns a workload's life; a second one reports it. Everything that must
// survive a crash is in the journal before it takes effect:
//
//	hold     verify, choose GPUs, raise epochs   -> record "held" -> namespace, tunnel -> signed grant
//	         meanwhile image and weights come
//	confirm  record "confirmed"                  -> start as soon as all is prepared
//	ready    record "running"                    -> the meter runs, reports renew lease and watchdog, and say
//	                                                what the tunnel carried; beyond what is paid it is slow
//	         10 s later, or at the end if sooner: what it read first is told to the broker, once
//	end      stop, free the GPUs, record "ended" -> last report until acknowledged; log, console and
//	                                                tunnel stay for the linger
//	         remove everything, record "gone"
//
// Rules that the order keeps: a GPU is free only when its workload has stopped; a report's sequence is
// in the journal before the report is sent, so sequences never repeat; time in which no agent watched is
// not metered; an agent that is asked to stop leaves workloads to its successor, and what neither
// journal nor successor knows is removed before anything is offered.
package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"rialto/broker"
	"rialto/broker/wire"
	"rialto/p2p"
	"rialto/p2p/identity"
	"rialto/pricing"
	"rialto/provider"
)

var _ Network = (*p2p.Host)(nil)

// Network is the part of the p2p host that the agent uses. Methods are safe for concurrent use.
type Network interface {
	Addrs() []string
	Handle(protocol string, maxRequest int, fn p2p.Handler)
	Request(ctx context.Context, to identity.ID, protocol string, request []byte) ([]byte, error)
	Keep(ctx context.Context, addr string, up func(ctx context.Context, id identity.ID)) error
	OnDisconnect(fn func(identity.ID))
}

// Config is what an agent needs. All collaborators are required.
type Config struct {
	Key       identity.Key
	Network   Network
	Inventory provider.Inventory
	Runtime   provider.Runtime
	Images    provider.Images
	Tunnels   provider.Tunnels
	Journal   provider.Journal

	Brokers      []string // multiaddrs with /p2p/
	Host         string   // display name
	Region       string
	Rate         pricing.Rate // per GPU-hour
	ReservedRate pricing.Rate // for jobs that commit to at least ReservedMin; zero: there is none
	ReservedMin  time.Duration
	MinBid       pricing.Rate  // least price per GPU-hour of an interruptible job; zero: none is taken
	Tariff       broker.Tariff // what is charged for beside GPUs; a price for the disk needs a DiskPerJobMiB of what a job has that says nothing
	CPUs         int           // whole cores per GPU, at least 1
	MemoryMiB    uint64        // host memory per GPU, at least 1
	AdvertiseIPs []netip.Addr  // where customers reach our tunnels; empty: the network's addresses
	Ports        PortRange     // UDP ports of tunnels; zero: any
	Version      string

	// DiskFree returns the free disk in MiB where images and workloads live; nil: not known.
	DiskFree func() (uint64, error)
	// DiskPerJobMiB is the most that a job may write; zero: as much as there is. DiskLeft returns how much of what it may
	// write a lease's workload has not written yet; nil: not known.
	DiskPerJobMiB uint64
	DiskLeft      func(broker.LeaseID) uint64
	// SetAside is told how much the jobs may still write together, in MiB, which images must leave free; nil: nobody.
	SetAside func(mib uint64)
	// Served returns the bytes of blocks served to peers; nil: not known.
	Served func() int64
	// Peers returns who served us and whom we served since the start; nil: not known.
	Peers func() []PeerTraffic

	Linger         time.Duration // how long an ended workload's log stays; zero: 10 minutes, as people look within minutes
	Grace          time.Duration // between SIGTERM and SIGKILL; zero: 10 s, what other runtimes give
	Refresh        time.Duration // between readings of the inventory; zero: 30 s
	MaxHolds       int           // unconfirmed holds at once; zero: 8
	MaxLingering   int           // ended workloads kept for their logs; zero: 16
	MinDiskMiB     uint64        // below this much free disk holds are refused; zero: 1 GiB
	StopJobsOnExit bool          // end all workloads when Run ends, instead of leaving them to the next agent
	DrainFile      string        // exists while the host is drained; empty: a drain ends with the agent
	Clock          Clock         // of leases; zero: one that starts with the agent, and ends all leases of an earlier one
	Logger         *slog.Logger  // nil: discard
}

// PortRange is an inclusive range of ports; the zero range means any port.
type PortRange struct{ First, Last uint16 }

func (c Config) withDefaults() (Config, error) {
	switch {
	case c.Network == nil || c.Inventory == nil || c.Runtime == nil || c.Images == nil || c.Tunnels == nil || c.Journal == nil:
		return c, errors.New("agent: a collaborator is missing")
	case c.CPUs < 1 || c.MemoryMiB < 1:
		return c, errors.New("agent: a job needs at least one core and one MiB per GPU")
	case c.Rate < 0:
		return c, errors.New("agent: negative price")
	case c.ReservedRate != 0 && (c.ReservedRate < 0 || c.ReservedRate >= c.Rate || c.ReservedMin < time.Second || c.ReservedMin > broker.MaxTerm):
		return c, fmt.Errorf("agent: a reserved price of %v from %v on: want less than %v, from 1s to %v on", c.ReservedRate, c.ReservedMin, c.Rate, broker.MaxTerm)
	case c.MinBid < 0 || c.MinBid > c.Rate:
		return c, fmt.Errorf("agent: the least bid of %v is above the price of %v", c.MinBid, c.Rate)
	case c.Tariff.Disk > 0 && c.DiskPerJobMiB > 0 && c.DiskPerJobMiB < broker.UsualDiskMiB:
		return c, fmt.Errorf("agent: a job that does not say pays for %d MiB of disk, and may write %d MiB", broker.UsualDiskMiB, c.DiskPerJobMiB)
	case c.Ports.First > c.Ports.Last:
		return c, fmt.Errorf("agent: port range %d-%d is empty", c.Ports.First, c.Ports.Last)
	}
	if err := c.Tariff.Validate(); err != nil {
		return c, fmt.Errorf("agent: %w", err)
	}
	if c.Clock.Now == nil {
		c.Clock = ownClock()
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	c.Linger = orDefault(c.Linger, 10*time.Minute)
	c.Grace = orDefault(c.Grace, 10*time.Second)
	c.Refresh = orDefault(c.Refresh, 30*time.Second)
	c.MaxHolds = orDefault(c.MaxHolds, 8)
	c.MaxLingering = orDefault(c.MaxLingering, 16)
	c.MinDiskMiB = orDefault(c.MinDiskMiB, 1024)
	return c, nil
}

func orDefault[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

// Agent is a running provider. Its methods are safe for concurrent use.
type Agent struct {
	Config

	self    broker.PeerID
	boot    string
	changed chan struct{} // what we offer changed; capacity 1
	freed   chan struct{} // GPUs became free; capacity 1
	fatal   chan error    // the journal failed; capacity 1
	poisons chan broker.PoisonReport

	drains sync.Mutex   // held while a drain begins or ends
	handed atomic.Int32 // workloads that Run left to the next agent

	mu        sync.Mutex // guards what follows
	authority *provider.Authority
	workloads map[broker.LeaseID]*workload
	gpus      []broker.GPU
	brokers   map[string]*home // by configured address
	setSeq    uint64
	news      bool // what we offer changed since the last set was made
	draining  bool
	stopping  bool
}

// Left returns how many workloads Run left to the next agent: they run on.
func (a *Agent) Left() int { return int(a.handed.Load()) }

// home is one broker that the agent belongs to.
type home struct {
	addr      string
	id        identity.ID // empty: never connected
	connected bool
	stale     bool // has not seen our present offers
	since     time.Time

	advises    bool      // answers offers with advice
	due        time.Time // when it is asked for the next one
	accusers   int       // hosts that it says accuse us
	distrusted time.Time // until when it names us as no source of blocks; zero: it does
}

// New checks a configuration. It starts nothing.
func New(c Config) (*Agent, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	a := &Agent{
		Config: c, self: broker.PeerID(c.Key.ID()), boot: rand.Text(),
		changed: make(chan struct{}, 1), freed: make(chan struct{}, 1), fatal: make(chan error, 1),
		poisons:   make(chan broker.PoisonReport, maxPoisons),
		workloads: make(map[broker.LeaseID]*workload), brokers: make(map[string]*home),
	}
	for _, addr := range c.Brokers {
		a.brokers[addr] = &home{addr: addr, stale: true}
	}
	return a, nil
}

// Run adopts what an earlier agent left, then serves until ctx ends. It returns nil when ctx ended it.
func (a *Agent) Run(ctx context.Context) error {
	records, err := a.restore(ctx)
	if err != nil {
		return err
	}
	if err := a.refresh(ctx); err != nil {
		a.Logger.Error("GPUs are unavailable", slog.Any("err", err))
	}
	g, ctx := errgroup.WithContext(ctx)
	spawn := func(w *workload) bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.stopping {
			return false
		}
		a.workloads[w.lease] = w
		g.Go(func() error { w.run(ctx); return nil })
		return true
	}
	g.Go(func() error { // keeps the group alive until no handler can add to it
		<-ctx.Done()
		a.mu.Lock()
		defer a.mu.Unlock()
		a.stopping = true
		return nil
	})
	var running []*workload
	for i := range records {
		w := a.adopt(records[i])
		if spawn(w) && records[i].State == provider.StateRunning {
			running = append(running, w)
		}
	}
	g.Go(func() error { a.settle(ctx, running); return nil })
	a.Network.OnDisconnect(a.disconnected)
	a.Network.Handle(wire.ProtocolHold, wire.MaxHold, func(ctx context.Context, from identity.ID, request []byte) ([]byte, error) {
		return a.hold(ctx, spawn, from, request)
	})
	a.Network.Handle(wire.ProtocolConfirm, wire.MaxConfirm, a.confirm)
	a.Network.Handle(wire.ProtocolRelease, wire.MaxRelease, a.release)
	for _, addr := range a.Brokers {
		g.Go(func() error {
			return ended(ctx, a.Network.Keep(ctx, addr, func(_ context.Context, id identity.ID) { a.connected(addr, id) }))
		})
	}
	g.Go(func() error { return a.advertise(ctx) })
	g.Go(func() error { return a.watchInventory(ctx) })
	g.Go(func() error { return a.watchAdvice(ctx) })
	g.Go(func() error { return a.accuseAll(ctx) })
	g.Go(func() error {
		select {
		case err := <-a.fatal:
			return err
		case <-ctx.Done():
			return nil
		}
	})
	return g.Wait()
}

// settle lets go of the images that an earlier agent showed, once the workloads that it left have theirs again.
func (a *Agent) settle(ctx context.Context, left []*workload) {
	for _, w := range left {
		select {
		case <-w.fetched:
		case <-w.gone:
		case <-ctx.Done():
			return
		}
	}
	if err := a.Images.Settle(ctx); err != nil && ctx.Err() == nil {
		a.Logger.Warn("images of an earlier agent stay", slog.Any("err", err))
	}
}

// ended hides the error of something that ctx ended.
func ended(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return err
	}
	return nil
}

// restore reads the journal and removes from the host everything that the journal does not know.
func (a *Agent) restore(ctx context.Context) ([]provider.Record, error) {
	epochs, err := a.Journal.Epochs(ctx)
	if err != nil {
		return nil, err
	}
	records, err := a.Journal.Records(ctx)
	if err != nil {
		return nil, err
	}
	authority := provider.NewAuthority(epochs)
	known := make(map[broker.LeaseID]bool, len(records))
	for i := range records {
		r := &records[i]
		known[r.Lease] = true
		if !r.State.Holding() {
			continue
		}
		claim := provider.Claim{
			Lease: r.Lease, Owner: r.Broker, GPUs: r.GPUs,
			Confirmed: r.State != provider.StateHeld, Deadline: a.Clock.moment(r.Deadline),
		}
		if err := authority.Restore(claim); err != nil {
			return nil, fmt.Errorf("adopt: %w", err)
		}
	}
	found, err := a.Runtime.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("look for leftovers: %w", err)
	}
	for _, lease := range found {
		if known[lease] {
			continue
		}
		a.Logger.Warn("removing leftovers that the journal does not know", slog.String("lease", string(lease)))
		if err := a.erase(ctx, lease); err != nil {
			return nil, fmt.Errorf("remove leftovers of %s: %w", lease, err)
		}
	}
	drained := false
	if a.DrainFile != "" {
		if _, err := os.Stat(a.DrainFile); err == nil {
			drained = true
			a.Logger.Warn("the host is drained and takes no jobs")
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("look for a drain: %w", err)
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.authority, a.draining = authority, drained
	return records, nil
}

// erase removes all that a lease owns on the host.
func (a *Agent) erase(ctx context.Context, lease broker.LeaseID) error {
	return errors.Join(a.Runtime.Remove(ctx, lease), a.Tunnels.Remove(ctx, deviceName(lease)))
}

// save makes a record durable. If the disk fails, the agent ends: what reached it is unknown.
func (a *Agent) save(ctx context.Context, r provider.Record) error {
	err := a.Journal.Save(context.WithoutCancel(ctx), r)
	if err != nil && !errors.Is(err, provider.ErrTooLarge) {
		select {
		case a.fatal <- err:
		default:
		}
	}
	return err
}

// isHome reports whether a peer is one of our brokers.
func (a *Agent) isHome(id identity.ID) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, h := range a.brokers {
		if h.id == id {
			return true
		}
	}
	return false
}

// lingering returns the ended workloads, the one to go first in front.
func (a *Agent) lingering() []*workload {
	a.mu.Lock()
	defer a.mu.Unlock()
	var list []*workload
	for _, w := range a.workloads {
		if r := w.record(); r.State == provider.StateEnded {
			list = append(list, w)
		}
	}
	slices.SortFunc(list, func(x, y *workload) int { return x.record().Linger.Compare(y.record().Linger) })
	return list
}
