package agent

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"rialto/broker"
	"rialto/broker/wire"
	"rialto/p2p"
	"rialto/p2p/identity"
	"rialto/pricing"
	"rialto/provider"
	"rialto/tunnel"
)

const rate = pricing.Rate(400_000_000)

// world is a host, its broker and a customer. The host's agent can be stopped and started again.
type world struct {
	t        *testing.T
	key      identity.Key
	customer identity.Key
	broker   *fakeBroker
	net      *fakeNet
	runtime  *fakeRuntime
	tunnels  *fakeTunnels
	images   *fakeImages
	journal  *memJournal
	config   Config
	asleep   atomic.Int64 // nanoseconds that the host was suspended
	agent    *Agent
	stop     func() error
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{
		t: t, key: newKey(t), customer: newKey(t), broker: &fakeBroker{key: newKey(t), ttl: time.Minute},
		runtime: &fakeRuntime{boxes: map[broker.LeaseID]*fakeBox{}}, tunnels: &fakeTunnels{taken: map[uint16]bool{}},
		images: &fakeImages{}, journal: &memJournal{records: map[broker.LeaseID]provider.Record{}, epochs: map[string]uint64{}},
	}
	boot := time.Now()
	w.config = Config{
		Clock: Clock{Boot: "first", Now: func() time.Duration { return time.Since(boot) + time.Duration(w.asleep.Load()) }},
		Key:   w.key, Runtime: w.runtime, Tunnels: w.tunnels, Images: w.images, Journal: w.journal,
		Inventory: fakeInventory{gpus: []broker.GPU{gpu("SIM-1"), gpu("SIM-2")}},
		Brokers:   []string{"/ip4/192.0.2.1/udp/7071/quic-v1/p2p/x"}, Host: "host-1", Rate: rate, CPUs: 2, MemoryMiB: 1024, Version: "test",
	}
	if testing.Verbose() {
		w.config.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	return w
}

func gpu(uuid string) broker.GPU {
	return broker.GPU{UUID: uuid, Model: "RTX 4090", MemoryMiB: 24000, Simulated: true, DeviceMinor: -1}
}

func newKey(t *testing.T) identity.Key {
	t.Helper()
	k, err := identity.Generate()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// start starts an agent process on the host and waits until it has settled.
func (w *world) start() {
	w.t.Helper()
	w.net = &fakeNet{
		broker: w.broker, up: make(chan struct{}),
		handlers: map[string]p2p.Handler{},
	}
	w.config.Network = w.net
	a, err := New(w.config)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	w.agent = a
	w.stop = sync.OnceValue(func() error { cancel(); return <-done })
	w.t.Cleanup(func() { _ = w.stop() })
	w.settle()
}

// settle lets everything happen that needs no more than a moment.
func (w *world) settle() {
	time.Sleep(debounce + time.Millisecond)
	synctest.Wait()
}

func (w *world) mustStop() {
	w.t.Helper()
	if err := w.stop(); err != nil {
		w.t.Errorf("run: %v", err)
	}
	synctest.Wait()
	if w.tunnels.count() != 0 {
		w.t.Errorf("%d tunnels are open after the agent ended", w.tunnels.count())
	}
	w.images.mu.Lock()
	defer w.images.mu.Unlock()
	if left := w.agent.Left(); left == 0 && w.images.used > 0 { // who runs on uses an image, and weights
		w.t.Errorf("%d images are in use after the agent ended, by %d workloads that run on", w.images.used, left)
	}
	w.images.used = 0 // with the process
}

func (w *world) spec() broker.JobSpec {
	return broker.JobSpec{
		Image: "example.org/app:1", Digest: "sha256:" + strings.Repeat("a", 64), GPU: broker.GPURequest{Model: "RTX 4090", Count: 1},
		MaxCost: pricing.USD, MaxDuration: time.Hour, TunnelKey: tunnel.Key{1}, Customer: broker.PeerID(w.customer.ID()),
		Broker: broker.PeerID(w.broker.key.ID()), Created: time.Now().UTC(), Nonce: "n", Env: map[string]string{"A": "1"},
	}
}

func (w *world) holdOf(name string, spec broker.JobSpec) broker.Hold {
	w.t.Helper()
	envelope, err := wire.SealJobSpec(w.customer, spec)
	if err != nil {
		w.t.Fatal(err)
	}
	return broker.Hold{
		Lease: broker.LeaseID(newID("l", name)), Job: broker.JobID(newID("j", name)),
		Offer: offerID(broker.PeerID(w.key.ID()), "RTX 4090"), Rate: rate, Spec: envelope, TTL: 20 * time.Second,
	}
}

// ask sends a hold as the broker and returns the agent's verified answer.
func (w *world) ask(h broker.Hold) broker.Answer {
	w.t.Helper()
	request, err := wire.SealHold(w.broker.key, h)
	if err != nil {
		w.t.Fatal(err)
	}
	response, err := w.net.call(context.Background(), w.broker.key.ID(), wire.ProtocolHold, request)
	if err != nil {
		w.t.Fatal(err)
	}
	answer, signer, err := wire.OpenAnswer(response)
	if err != nil || signer != broker.PeerID(w.key.ID()) || answer.Lease != h.Lease {
		w.t.Fatalf("answer %+v by %s: %v", answer, signer, err)
	}
	return answer
}

func (w *world) confirm(lease broker.LeaseID) error {
	w.t.Helper()
	return w.confirmFor(lease, time.Minute, time.Hour)
}

func (w *world) confirmFor(lease broker.LeaseID, ttl, duration time.Duration) error {
	w.t.Helper()
	request, err := wire.SealConfirm(w.broker.key, broker.Confirm{Lease: lease, TTL: ttl, MaxDuration: duration})
	if err != nil {
		w.t.Fatal(err)
	}
	_, err = w.net.call(context.Background(), w.broker.key.ID(), wire.ProtocolConfirm, request)
	return err
}

func (w *world) release(lease broker.LeaseID, reason string) {
	w.t.Helper()
	request, err := wire.SealRelease(w.broker.key, broker.Release{Lease: lease, Reason: reason})
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.net.call(context.Background(), w.broker.key.ID(), wire.ProtocolRelease, request); err != nil {
		w.t.Fatal(err)
	}
}

// running brings a job to run and returns its lease.
func (w *world) running(name string) broker.LeaseID {
	w.t.Helper()
	h := w.holdOf(name, w.spec())
	if a := w.ask(h); a.Grant == nil {
		w.t.Fatalf("refused: %s", a.Refusal)
	}
	if err := w.confirm(h.Lease); err != nil {
		w.t.Fatal(err)
	}
	w.settle()
	if got := w.broker.last().Phase; got != broker.PhaseReady {
		w.t.Fatalf("got phase %d, want ready: %+v", got, w.broker.last())
	}
	return h.Lease
}

func TestJobFromHoldToItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start()
		if got := w.broker.free(); !slices.Equal(got, []string{"SIM-1", "SIM-2"}) {
			t.Fatalf("offered %v", got)
		}
		spec := w.spec()
		spec.Root = "bafyvouched"
		h := w.holdOf("one", spec)
		a := w.ask(h)
		if a.Grant == nil {
			t.Fatalf("refused: %s", a.Refusal)
		}
		want := []broker.GPULease{{UUID: "SIM-1", Epoch: 1}}
		if !slices.Equal(a.Grant.GPUs, want) || !slices.Equal(a.Grant.Endpoints, []string{"192.0.2.7:40001", "127.0.0.1:40001"}) {
			t.Errorf("grant: %+v", a.Grant)
		}
		key, err := w.journal.get(h.Lease).TunnelKey.Public()
		if err != nil || key != a.Grant.TunnelKey {
			t.Errorf("the journal's tunnel key is not the granted one: %v", err)
		}
		if again := w.ask(h); again.Grant == nil || again.Grant.TunnelKey != a.Grant.TunnelKey {
			t.Error("the same hold got another answer")
		}
		if w.broker.taken() != 0 {
			t.Error("a hold was reported before it was confirmed")
		}
		if err := w.confirm(h.Lease); err != nil {
			t.Fatal(err)
		}
		w.settle()
		if got := w.broker.free(); !slices.Equal(got, []string{"SIM-2"}) {
			t.Errorf("offered %v while SIM-1 is leased", got)
		}
		box := w.runtime.box(h.Lease)
		program, _, _ := box.state()
		if !slices.Equal(program.Args, []string{"/bin/app", "serve"}) || program.Workdir != "/" || program.RootFS != "/images/bafyvouched" {
			t.Errorf("program: %+v", program)
		}
		for _, kv := range []string{"A=1", "GPUS=SIM-1", "LD_LIBRARY_PATH=/usr/local/nvidia/lib64:/opt/lib", "PATH=/bin"} {
			if !slices.Contains(program.Env, kv) {
				t.Errorf("environment lacks %s: %v", kv, program.Env)
			}
		}
		if program.Deadline > time.Minute {
			t.Errorf("watchdog %v is above the TTL", program.Deadline)
		}
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		if _, _, extended := box.state(); extended < 59*time.Second || extended > time.Minute {
			t.Errorf("watchdog was extended by %v", extended)
		}
		box.finish(provider.Exit{Code: 3})
		w.settle()
		r := w.broker.last()
		if r.Phase != broker.PhaseExited || r.ExitCode != 3 || r.Used < 3*time.Minute || r.Used > 3*time.Minute+time.Second {
			t.Errorf("last report: %+v", r)
		}
		if got := w.broker.phases(); got[len(got)-1] != broker.PhaseExited || !slices.Contains(got, broker.PhaseReady) {
			t.Errorf("phases: %v", got)
		}
		var steps []string
		for _, s := range r.Steps {
			steps = append(steps, s.Name)
		}
		for _, name := range []string{"netns", "tunnel", "image", "create", "ready"} {
			if !slices.Contains(steps, name) {
				t.Errorf("timeline lacks %s: %v", name, steps)
			}
		}
		if got := w.broker.free(); len(got) != 2 {
			t.Errorf("offered %v after the end", got)
		}
		if w.runtime.box(h.Lease) == nil || w.tunnels.count() != 1 {
			t.Error("the log did not linger")
		}
		time.Sleep(11 * time.Minute)
		synctest.Wait()
		if w.runtime.box(h.Lease) != nil || w.tunnels.count() != 0 || w.journal.get(h.Lease).State != provider.StateGone {
			t.Error("something of the workload is left after the linger")
		}
		for i, r := range w.broker.reports[1:] {
			if r.Seq <= w.broker.reports[i].Seq {
				t.Errorf("sequence %d after %d", r.Seq, w.broker.reports[i].Seq)
			}
		}
		w.mustStop()
	})
}

// TestQuerySatisfied: sizes are as cards are sold, and what only the market knows is not the agent's to check.
func TestQuerySatisfied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start()
		spec := w.spec()
		spec.GPU.MinMemoryMiB, spec.GPU.Count = 24<<10, 2
		spec.Where = "gpu_ram>=24 cpus=4 memory=2GiB price<=0.40/h rentable=true free>=9 num_gpus=2 region=null host=HOST-1"
		if a := w.ask(w.holdOf("q", spec)); a.Grant == nil {
			t.Errorf("refused: %s", a.Refusal)
		}
		w.mustStop()
	})
}

func TestRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start()
		other := newKey(t)
		for name, c := range map[string]struct {
			spec func(*broker.JobSpec)
			hold func(*broker.Hold)
			want string
		}{
			"another broker":   {spec: func(s *broker.JobSpec) { s.Broker = broker.PeerID(other.ID()) }, want: "another broker"},
			"another provider": {spec: func(s *broker.JobSpec) { s.Provider = broker.PeerID(other.ID()) }, want: "another provider"},
			"region":           {spec: func(s *broker.JobSpec) { s.Region = "DE" }, want: "region"},
			"too many GPUs":    {spec: func(s *broker.JobSpec) { s.GPU.Count = 3 }, want: "2 of 3"},
			"memory of a GPU":  {spec: func(s *broker.JobSpec) { s.GPU.MinMemoryMiB = 30000 }, want: "0 of 1"},
			"query":            {spec: func(s *broker.JobSpec) { s.Where = "gpu_ram>=24 simulated=false" }, want: "simulated=false"},
			"newer query":      {spec: func(s *broker.JobSpec) { s.Where = "qubits>=24" }, want: "qubits"},
			"query of count":   {spec: func(s *broker.JobSpec) { s.Where, s.GPU.Count = "cpus>4", 2 }, want: "cpus>4"},
			"model":            {spec: func(s *broker.JobSpec) { s.GPU.Model = "H100" }, want: "H100"},
			"cores":            {spec: func(s *broker.JobSpec) { s.CPUs = 3 }, want: "2 cores"},
			"memory":           {spec: func(s *broker.JobSpec) { s.MemoryMiB = 1025 }, want: "1024 MiB"},
			"rank":             {spec: func(s *broker.JobSpec) { s.Nodes = 2 }, hold: func(h *broker.Hold) { h.Rank = 2 }, want: "2 hosts"},
			"price limit":      {spec: func(s *broker.JobSpec) { s.MaxRate = 1 }, want: "limit"},
			"price":            {hold: func(h *broker.Hold) { h.Rate-- }, want: "price"},
			"bid here":         {spec: func(s *broker.JobSpec) { s.Bid = rate }, want: "no interruptible jobs"},
			"asked above":      {hold: func(h *broker.Hold) { h.Rate++ }, spec: func(s *broker.JobSpec) { s.MaxRate = rate }, want: "limit"},
			"offer":            {hold: func(h *broker.Hold) { h.Offer = "o-none" }, want: "no such offer"},
			"no spec":          {hold: func(h *broker.Hold) { h.Spec = []byte("x") }, want: "not valid"},
			"weights over /proc": {spec: func(s *broker.JobSpec) {
				s.Weights = []broker.WeightsMount{{Name: "w", Root: "bafyw", Path: "/proc/x"}}
			}, want: "/proc/x"},
			"weights inside weights": {spec: func(s *broker.JobSpec) {
				s.Weights = []broker.WeightsMount{{Name: "w", Root: "bafyw", Path: "/w/sub"}, {Name: "v", Root: "bafyv", Path: "/w"}}
			}, want: "inside those at"},
		} {
			spec := w.spec()
			if c.spec != nil {
				c.spec(&spec)
			}
			h := w.holdOf(name, spec)
			if c.hold != nil {
				c.hold(&h)
			}
			a := w.ask(h)
			if a.Grant != nil || !strings.Contains(a.Refusal, c.want) {
				t.Errorf("%s: got %+v, want a refusal with %q", name, a, c.want)
			}
		}
		if len(w.runtime.list()) != 0 || len(w.journal.records) != 0 {
			t.Error("a refused hold left something")
		}
		w.mustStop()
	})
}

func TestStrangersAreNotServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start()
		lease := w.running("one")
		stranger := newKey(t)
		for protocol, seal := range map[string]func(k identity.Key) ([]byte, error){
			wire.ProtocolHold: func(k identity.Key) ([]byte, error) { return wire.SealHold(k, w.holdOf("one", w.spec())) },
			wire.ProtocolConfirm: func(k identity.Key) ([]byte, error) {
				return wire.SealConfirm(k, broker.Confirm{Lease: lease, TTL: time.Minute, MaxDuration: 1})
			},
			wire.ProtocolRelease: func(k identity.Key) ([]byte, error) { return wire.SealRelease(k, broker.Release{Lease: lease}) },
		} {
			for who, c := range map[string]struct{ from, signer identity.Key }{
				"a stranger":                         {stranger, stranger},
				"a stranger with a broker's words":   {stranger, w.broker.key},
				"the broker with a stranger's words": {w.broker.key, stranger},
			} {
				request, err := seal(c.signer)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := w.net.call(t.Context(), c.from.ID(), protocol, request); !errors.Is(err, broker.ErrForbidden) {
					t.Errorf("%s from %s: got %v", protocol, who, err)
				}
			}
		}
		w.settle()
		if got := w.broker.last().Phase; got != broker.PhaseReady {
			t.Errorf("a stranger moved the workload to phase %d", got)
		}
		w.broker.set(func(b *fakeBroker) { b.ttl = 0 })
		time.Sleep(time.Hour)
		w.mustStop()
	})
}
