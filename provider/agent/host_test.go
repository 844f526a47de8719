package agent

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"rialto/blockstore"
	"rialto/broker"
	"rialto/provider"
	"rialto/tunnel"
)

// fakeRuntime is a host: its sandboxes outlive agents.
type fakeRuntime struct {
	mu      sync.Mutex
	boxes   map[broker.LeaseID]*fakeBox
	removed []broker.LeaseID
	fail    error // of Prepare
	start   error // of Start
}

func (r *fakeRuntime) Prepare(_ context.Context, l provider.Launch) (provider.Sandbox, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fail != nil {
		return nil, r.fail
	}
	b := &fakeBox{runtime: r, launch: l, exited: make(chan struct{})}
	r.boxes[l.Lease] = b
	return b, nil
}

func (r *fakeRuntime) Adopt(_ context.Context, lease broker.LeaseID) (provider.Sandbox, error) {
	if b := r.box(lease); b != nil {
		return b, nil
	}
	return nil, provider.ErrNoSandbox
}

func (r *fakeRuntime) List(context.Context) ([]broker.LeaseID, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Sorted(maps.Keys(r.boxes)), nil
}

func (r *fakeRuntime) Remove(_ context.Context, lease broker.LeaseID) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.boxes, lease)
	r.removed = append(r.removed, lease)
	return nil
}

// list is List as a test reads it.
func (r *fakeRuntime) list() []broker.LeaseID {
	leases, _ := r.List(context.Background())
	return leases
}

// wasRemoved reports whether a lease's things were removed.
func (r *fakeRuntime) wasRemoved(lease broker.LeaseID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Contains(r.removed, lease)
}

func (r *fakeRuntime) box(lease broker.LeaseID) *fakeBox {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.boxes[lease]
}

type fakeBox struct {
	runtime *fakeRuntime
	launch  provider.Launch
	exited  chan struct{}

	mu       sync.Mutex
	started  bool
	program  provider.Program
	exit     provider.Exit
	extended time.Duration
	stopped  string
	asked    time.Time // to stop
	notices  map[string]string
	busy     bool // it hears that it should stop, and goes on
	lost     bool // nobody knows how it ended
}

func (b *fakeBox) Netns() string { return "/run/netns/" + string(b.launch.Lease) }

func (b *fakeBox) Start(_ context.Context, p provider.Program) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.runtime != nil && b.runtime.start != nil {
		return b.runtime.start
	}
	b.started, b.program = true, p
	return nil
}

func (b *fakeBox) Started() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.started
}

func (*fakeBox) Exec(context.Context, provider.ExecRequest) (int, error) { return 0, nil }

func (*fakeBox) Logs(context.Context, bool, provider.LogSink) error { return nil }

func (*fakeBox) Dial(context.Context, uint16) (net.Conn, error) { return nil, errors.New("nobody") }

func (*fakeBox) Listen(context.Context, string) (net.Listener, error) {
	return &idleListener{closed: make(chan struct{})}, nil
}

// watch returns for how long the workload may go on by itself, as the agent said last.
func (b *fakeBox) watch() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return cmp.Or(b.extended, b.program.Deadline)
}

func (b *fakeBox) Extend(_ context.Context, d time.Duration) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.extended = d
	return nil
}

func (b *fakeBox) Notify(_ context.Context, name string, content []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.notices == nil {
		b.notices = map[string]string{}
	}
	b.notices[name] = string(content)
	return nil
}

func (b *fakeBox) Stop(_ context.Context, grace time.Duration, reason string) error {
	b.mu.Lock()
	b.stopped, b.asked = reason, time.Now()
	busy := b.busy
	b.mu.Unlock()
	if busy {
		select {
		case <-b.exited:
			return nil
		case <-time.After(grace):
			b.finish(provider.Exit{Code: 137, Reason: "stopped"})
		}
	}
	b.finish(provider.Exit{Code: 143, Reason: "stopped"})
	return nil
}

// finish lets the workload end by itself.
func (b *fakeBox) finish(e provider.Exit) {
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case <-b.exited:
	default:
		b.exit = e
		close(b.exited)
	}
}

// lose has the sandbox vanish.
func (b *fakeBox) lose() {
	b.mu.Lock()
	b.lost = true
	b.mu.Unlock()
	b.finish(provider.Exit{})
}

func (b *fakeBox) Wait(ctx context.Context) (provider.Exit, error) {
	select {
	case <-b.exited:
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.lost {
			return provider.Exit{}, provider.ErrNoSandbox
		}
		return b.exit, nil
	case <-ctx.Done():
		return provider.Exit{}, ctx.Err()
	}
}

func (b *fakeBox) Delete(ctx context.Context) error { return b.runtime.Remove(ctx, b.launch.Lease) }

func (b *fakeBox) state() (provider.Program, string, time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.program, b.stopped, b.extended
}

// idleListener is a console that nobody calls.
type idleListener struct {
	once   sync.Once
	closed chan struct{}
}

func (l *idleListener) Accept() (net.Conn, error) { <-l.closed; return nil, net.ErrClosed }
func (l *idleListener) Addr() net.Addr            { return &net.TCPAddr{Port: tunnel.ConsolePort} }
func (l *idleListener) Close() error              { l.once.Do(func() { close(l.closed) }); return nil }

// fakeTunnels remembers which ends were opened, and how many are open.
type fakeTunnels struct {
	mu     sync.Mutex
	opened []tunnel.Config
	taken  map[uint16]bool // by strangers
	open   int
	last   *fakeDevice  // opened
	begin  tunnel.Stats // of each device

	unlimited bool // no device can be limited

	removed []string
}

func (f *fakeTunnels) Open(_ context.Context, _, name string, c tunnel.Config) (tunnel.Device, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.taken[c.ListenPort] {
		return nil, errors.New("port is taken")
	}
	f.opened = append(f.opened, c)
	f.open++
	if c.ListenPort == 0 {
		c.ListenPort = uint16(40000 + len(f.opened))
	}
	f.last = &fakeDevice{owner: f, name: name, stats: f.begin}
	f.last.stats.ListenPort = c.ListenPort
	return f.last, nil
}

// carry has the device that was opened last carry bytes, and returns it.
func (f *fakeTunnels) carry(in, out int64) *fakeDevice {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.last.stats.ReceivedBytes += in
	f.last.stats.SentBytes += out
	return f.last
}

func (f *fakeTunnels) Remove(_ context.Context, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.removed = append(f.removed, name)
	return nil
}

// count returns how many ends are open.
func (f *fakeTunnels) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.open
}

type fakeDevice struct {
	owner *fakeTunnels
	name  string

	// Guarded by owner.mu.
	stats  tunnel.Stats
	fail   error   // of Stats
	limits []int64 // so far
}

func (d *fakeDevice) Name() string { return d.name }

func (d *fakeDevice) Stats() (tunnel.Stats, error) {
	d.owner.mu.Lock()
	defer d.owner.mu.Unlock()
	return d.stats, d.fail
}

func (d *fakeDevice) Limit(bytesPerSecond int64) error {
	d.owner.mu.Lock()
	defer d.owner.mu.Unlock()
	d.limits = append(d.limits, bytesPerSecond)
	if d.owner.unlimited {
		return errors.New("no traffic control")
	}
	return nil
}

// limited returns the limits that the device was given.
func (d *fakeDevice) limited() []int64 {
	d.owner.mu.Lock()
	defer d.owner.mu.Unlock()
	return slices.Clone(d.limits)
}

func (d *fakeDevice) Close() error {
	d.owner.mu.Lock()
	defer d.owner.mu.Unlock()
	d.owner.open--
	d.fail = net.ErrClosed
	return nil
}

// fakeImages has every image, unless told otherwise.
type fakeImages struct {
	mu   sync.Mutex
	fail error
	wait chan struct{} // when not nil: images come once it is closed
	used int           // by workloads, now
	sets int           // calls of Settle

	trace func(context.Context) (blockstore.Trace, error) // of each image
	wants []provider.Want                                 // so far
	keys  []blockstore.Key                                // of private ones

	yielded []int64           // so far
	yield   func(int64) error // nil: everything is in use

	advice []fakeAdvice       // so far
	from   []broker.PeerBytes // who served each image
}

type fakeAdvice struct {
	from  broker.PeerID
	roots []broker.RootAdvice
	until time.Time
}

func (f *fakeImages) Settle(context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sets++
	return nil
}

func (f *fakeImages) settled() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sets
}

func (f *fakeImages) Ensure(ctx context.Context, w provider.Want, progress func(broker.Fetched)) (provider.Image, error) {
	f.mu.Lock()
	fail, wait := f.fail, f.wait
	f.wants = append(f.wants, w)
	f.mu.Unlock()
	progress(broker.Fetched{Peers: 10, Total: 100})
	if wait != nil {
		select {
		case <-wait:
		case <-ctx.Done():
			return provider.Image{}, ctx.Err()
		}
	}
	if fail != nil {
		return provider.Image{}, fail
	}
	if w.Key != nil {
		key, err := w.Key(ctx)
		if err != nil {
			return provider.Image{}, err
		}
		f.mu.Lock()
		f.keys = append(f.keys, key)
		f.mu.Unlock()
	}
	f.mu.Lock()
	f.used++
	f.mu.Unlock()
	root := w.Root
	if root == "" {
		root = "bafyimage"
	}
	return provider.Image{
		RootFS: "/images/" + root, Root: root, Digest: w.Digest, Entrypoint: []string{"/bin/app"}, Cmd: []string{"serve"},
		Env: []string{"PATH=/bin", "LD_LIBRARY_PATH=/opt/lib"}, Fetched: broker.Fetched{Peers: 100, Total: 100, From: f.from},
		Trace: f.trace,
		Release: func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.used--
		},
	}, nil
}

func (f *fakeImages) Yield(_ context.Context, bytes int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.yielded = append(f.yielded, bytes)
	if f.yield == nil {
		return blockstore.ErrNoSpace
	}
	return f.yield(bytes)
}

func (f *fakeImages) Advise(from broker.PeerID, roots []broker.RootAdvice, until time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.advice = append(f.advice, fakeAdvice{from, roots, until})
}

func (*fakeImages) Held(context.Context) ([]broker.ImageHeld, []string, error) { return nil, nil, nil }

// fakeInventory is a list.
type fakeInventory struct {
	gpus []broker.GPU
	fail error // of Inject
}

func (f fakeInventory) GPUs(context.Context) ([]broker.GPU, error) { return slices.Clone(f.gpus), nil }

func (f fakeInventory) Inject(_ context.Context, uuids []string) (provider.Injection, error) {
	return provider.Injection{
		Devices: []string{"/dev/nvidia0"},
		Env:     []string{"LD_LIBRARY_PATH=/usr/local/nvidia/lib64", "GPUS=" + strings.Join(uuids, ",")},
	}, f.fail
}

// memJournal is a journal that survives agents, not processes.
type memJournal struct {
	mu      sync.Mutex
	records map[broker.LeaseID]provider.Record
	epochs  map[string]uint64
	fail    error
}

func (j *memJournal) Epochs(context.Context) (map[string]uint64, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return maps.Clone(j.epochs), nil
}

func (j *memJournal) Records(context.Context) ([]provider.Record, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	var list []provider.Record
	for _, id := range slices.Sorted(maps.Keys(j.records)) {
		if r := j.records[id]; r.State != provider.StateGone {
			list = append(list, r)
		}
	}
	return list, nil
}

func (j *memJournal) Save(_ context.Context, r provider.Record) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.fail != nil {
		return j.fail
	}
	for _, g := range r.GPUs {
		j.epochs[g.UUID] = max(j.epochs[g.UUID], g.Epoch)
	}
	j.records[r.Lease] = r
	return nil
}

func (j *memJournal) get(lease broker.LeaseID) provider.Record {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.records[lease]
}
