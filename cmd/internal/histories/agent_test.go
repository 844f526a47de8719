//go:build linux

package histories

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"rialto/broker"
	"rialto/broker/wire"
	"rialto/p2p"
	"rialto/p2p/identity"
	"rialto/p2p/p2ptest"
	"rialto/pricing"
	"rialto/tunnel"
)

const (
	gpusPerAgent = 2
	reportEvery  = 100 * time.Millisecond
	offerEvery   = 200 * time.Millisecond
)

// agent is a provider without containers: it grants what is free under epochs that grow, and its workloads become ready
// and exit by themselves. It survives every broker. Its network repeats and reorders what it reports.
type agent struct {
	w      *world
	key    identity.Key
	host   *p2p.Host
	name   string
	uuids  []string
	speed  float64 // of its clock
	tariff broker.Tariff
	run    context.Context //nolint:containedctx // the life of its workloads, which handlers start

	mu     sync.Mutex
	random *rand.Rand
	epochs map[string]uint64
	work   map[broker.LeaseID]*workload
	set    uint64
	groups sync.WaitGroup
}

// workload is a lease as its provider has it. The fields are guarded by the agent's mutex.
type workload struct {
	lease     broker.LeaseID
	job       broker.JobID
	gpus      []broker.GPULease
	answer    []byte
	deadline  time.Time // of the watchdog
	confirmed bool
	over      chan struct{} // closed when somebody wants its end
	ended     bool
	last      broker.Report  // sent, which the broker may have or not
	used      time.Duration  // of the last report that renewed the lease
	traffic   broker.Traffic // likewise
	done      bool           // its exit was acknowledged while the lease was alive
}

func newAgent(ctx context.Context, tb testing.TB, w *world, n int) *agent {
	tb.Helper()
	key, err := identity.Generate()
	if err != nil {
		tb.Fatal(err)
	}
	a := &agent{
		w: w, key: key, name: fmt.Sprintf("host%d", n), speed: 1, run: ctx, random: w.rand(),
		epochs: map[string]uint64{}, work: map[broker.LeaseID]*workload{},
		// The first charges for nothing but its GPUs.
		tariff: broker.Tariff{Disk: pricing.Rate(n) * 300_000_001, Ingress: pricing.Money(n) * 100_003, Egress: pricing.Money(n) * 1_000_007},
	}
	if n == 0 {
		a.speed = 1.02
	}
	for i := range gpusPerAgent {
		a.uuids = append(a.uuids, fmt.Sprintf("SIM-%s-%d", strings.ToLower(string(key.ID()[len(key.ID())-12:])), i))
	}
	a.host = p2ptest.New(tb, p2p.Config{Key: key, Listen: []string{"/ip4/127.0.0.1/tcp/0"}})
	a.host.Handle(wire.ProtocolHold, wire.MaxHold, a.hold)
	a.host.Handle(wire.ProtocolConfirm, wire.MaxConfirm, a.confirm)
	a.host.Handle(wire.ProtocolRelease, wire.MaxRelease, a.release)
	return a
}

func (a *agent) id() broker.PeerID { return broker.PeerID(a.key.ID()) }

// serve keeps the agent's offers on the market until ctx ends, and then waits for its workloads.
func (a *agent) serve(ctx context.Context) {
	defer a.groups.Wait()
	again := time.NewTicker(offerEvery)
	defer again.Stop()
	for {
		l, err := a.w.broker.await(ctx)
		if err != nil {
			return
		}
		_, changed := a.w.broker.current()
		if _, err := a.host.Connect(ctx, l.p2p); err == nil {
			if err := a.offer(ctx); err != nil && a.answered(err) {
				a.w.problem("offer refused", "%v", err)
			}
		}
		select {
		case <-again.C:
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

func (a *agent) offer(ctx context.Context) error {
	a.mu.Lock()
	a.set++
	o := broker.Offer{
		ID: "o-1", Provider: a.id(), Host: a.name, Rate: pricing.Rate(pricing.USD) / 2, CPUs: 4, MemoryMiB: 8192, DiskMiB: 10_000,
		Free: a.free(), Tariff: a.tariff,
	}
	for _, uuid := range a.uuids {
		o.GPUs = append(o.GPUs, broker.GPU{UUID: uuid, Model: "RTX 4090", MemoryMiB: 24564, Simulated: true, DeviceMinor: -1})
	}
	envelope, err := wire.SealOfferSet(a.key, broker.OfferSet{Boot: "boot", Seq: a.set, Offers: []broker.Offer{o}})
	a.mu.Unlock()
	if err != nil {
		return err
	}
	_, err = a.host.Request(ctx, a.w.id, wire.ProtocolOffers, envelope)
	return err
}

// free needs a.mu.
func (a *agent) free() []string {
	busy := map[string]bool{}
	for _, w := range a.work {
		for _, g := range w.gpus {
			busy[g.UUID] = busy[g.UUID] || !w.ended
		}
	}
	var free []string
	for _, uuid := range a.uuids {
		if !busy[uuid] {
			free = append(free, uuid)
		}
	}
	return free
}

var errForged = errors.New("not from the broker")

// hold answers the same to the same hold, whichever broker asks.
func (a *agent) hold(_ context.Context, from identity.ID, request []byte) ([]byte, error) {
	h, signer, err := wire.OpenHold(request)
	if err != nil || string(signer) != string(from) || from != a.w.id {
		a.w.problem("forged hold", "by %s from %s: %v", signer, from, err)
		return nil, errForged
	}
	if _, _, err := wire.OpenJobSpec(h.Spec); err != nil {
		a.w.problem("hold with a bad spec", "lease %s: %v", h.Lease, err)
		return nil, err
	}
	a.w.promised(h.Job, "a hold")
	a.w.trigger.hit(aimHold)
	a.mu.Lock()
	defer a.mu.Unlock()
	if w := a.work[h.Lease]; w != nil {
		return w.answer, nil
	}
	free := a.free()
	if len(free) == 0 || a.random.IntN(10) == 0 {
		return wire.SealAnswer(a.key, broker.Answer{Lease: h.Lease, Refusal: "no GPU is free"})
	}
	uuid := free[a.random.IntN(len(free))]
	a.epochs[uuid]++
	w := &workload{
		lease: h.Lease, job: h.Job, gpus: []broker.GPULease{{UUID: uuid, Epoch: a.epochs[uuid]}},
		deadline: time.Now().Add(h.TTL), over: make(chan struct{}),
	}
	w.answer, err = wire.SealAnswer(a.key, broker.Answer{Lease: h.Lease, Grant: &broker.Grant{
		Lease: h.Lease, Job: h.Job, GPUs: w.gpus, TunnelKey: tunnel.Key{2}, Endpoints: []string{"127.0.0.1:7072"},
	}})
	if err != nil {
		return nil, err
	}
	a.work[h.Lease] = w
	plan := a.plan()
	a.groups.Go(func() { a.live(a.run, w, plan) }) // ends with its lease, or with the agent
	return w.answer, nil
}

func (a *agent) confirm(_ context.Context, _ identity.ID, request []byte) ([]byte, error) {
	c, signer, err := wire.OpenConfirm(request)
	if err != nil || string(signer) != string(a.w.id) {
		return nil, errForged
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	w := a.work[c.Lease]
	if w == nil || w.ended {
		return nil, errors.New("no such lease")
	}
	if !w.confirmed {
		w.confirmed, w.deadline = true, time.Now().Add(c.TTL)
	}
	return nil, nil
}

func (a *agent) release(_ context.Context, _ identity.ID, request []byte) ([]byte, error) {
	r, signer, err := wire.OpenRelease(request)
	if err != nil || string(signer) != string(a.w.id) {
		return nil, errForged
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if w := a.work[r.Lease]; w != nil {
		w.end()
	}
	return nil, nil
}

// end needs the agent's mutex.
func (w *workload) end() {
	select {
	case <-w.over:
	default:
		close(w.over)
	}
}

// plan is what becomes of a workload.
type plan struct {
	prepare, run time.Duration
	exit         int
	broken       bool // instead of ready
	untold       bool // it comes and goes between two reports
	mischief     *rand.Rand
}

// plan needs a.mu.
func (a *agent) plan() plan {
	r := a.random
	return plan{
		prepare: time.Duration(r.IntN(80)) * time.Millisecond, run: time.Duration(20+r.IntN(400)) * time.Millisecond,
		exit: r.IntN(3), broken: r.IntN(20) == 0, untold: r.IntN(10) == 0, mischief: rand.New(rand.NewPCG(r.Uint64(), 1)), //nolint:gosec // reproducible
	}
}

// live is a workload's life: it prepares, is ready, exits, and reports until its last report is durable or its lease is
// surely lost.
func (a *agent) live(ctx context.Context, w *workload, p plan) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	granted := time.Now()
	var ready, stopped, told time.Time
	report := broker.Report{Lease: w.lease, GPUs: w.gpus, Phase: broker.PhasePreparing}
	var last []byte // the report before
	over := w.over
	for {
		wanted := false
		select {
		case <-tick.C:
		case <-over:
			over, wanted = nil, true
		case <-ctx.Done():
			return
		}
		now := time.Now()
		a.mu.Lock()
		confirmed, late := w.confirmed, now.After(w.deadline)
		a.mu.Unlock()
		before := report.Phase
		switch {
		case report.Phase >= broker.PhaseExited:
		case wanted || late:
			report.Phase, report.Message, stopped = broker.PhaseExited, "its lease is over", now
		case !confirmed:
		case ready.IsZero() && now.Sub(granted) >= p.prepare && p.broken:
			report.Phase, report.Message, report.HostFault = broker.PhaseBroken, "the disk is full", true
		case ready.IsZero() && now.Sub(granted) >= p.prepare:
			report.Phase, ready = broker.PhaseReady, now
		case !ready.IsZero() && now.Sub(ready) >= p.run:
			report.Phase, report.ExitCode, stopped = broker.PhaseExited, p.exit, now
		}
		isOver := report.Phase >= broker.PhaseExited
		if isOver {
			a.mu.Lock()
			w.ended = true
			a.mu.Unlock()
			if !confirmed || now.Sub(w.lapse(a)) > 2*leaseTTL {
				return // nobody waits for its report
			}
		}
		if !confirmed || report.Phase == before && now.Sub(told) < reportEvery || p.untold && report.Phase == broker.PhaseReady {
			continue
		}
		if !ready.IsZero() {
			until := now
			if !stopped.IsZero() {
				until = stopped
			}
			report.Used = time.Duration(float64(until.Sub(ready)) * a.speed)
		}
		if before < broker.PhaseExited {
			report.Traffic.Ingress += p.mischief.Int64N(2e8)
			report.Traffic.Egress += p.mischief.Int64N(2e8)
		}
		told = now
		report.Seq++
		envelope, err := wire.SealReport(a.key, report)
		if err != nil {
			a.w.problem("bad report", "%v", err)
			return
		}
		acked := a.tell(ctx, w, report, envelope)
		if p.mischief.IntN(5) == 0 {
			a.repeat(ctx, w, envelope)
		}
		if last != nil && p.mischief.IntN(5) == 0 {
			a.repeat(ctx, w, last)
		}
		last = envelope
		if isOver && acked {
			return
		}
	}
}

func (w *workload) lapse(a *agent) time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	return w.deadline
}

// tell sends a report and takes the renewal.
func (a *agent) tell(ctx context.Context, w *workload, r broker.Report, envelope []byte) (acked bool) {
	a.mu.Lock()
	w.last = r
	a.mu.Unlock()
	sent := time.Now()
	renewal, err := a.send(ctx, envelope)
	if err != nil {
		if a.answered(err) {
			a.w.problem("report refused", "lease %s was confirmed: %v", w.lease, err)
		}
		return false
	}
	a.w.trigger.hit(aimReport)
	if renewal.Seq != r.Seq || renewal.Lease != w.lease {
		a.w.problem("wrong renewal", "report %d of %s was answered with %+v", r.Seq, w.lease, renewal)
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	w.done = w.done || r.Phase == broker.PhaseExited && r.Message == "" && time.Now().Before(w.deadline)
	if renewal.TTL == 0 {
		w.end()
	} else {
		w.deadline, w.used, w.traffic = sent.Add(renewal.TTL), r.Used, r.Traffic
	}
	return true
}

// repeat sends what was sent before; its renewal must not count.
func (a *agent) repeat(ctx context.Context, w *workload, envelope []byte) {
	if _, err := a.send(ctx, envelope); err != nil && a.answered(err) {
		a.w.problem("repeated report refused", "lease %s: %v", w.lease, err)
	}
}

func (a *agent) send(ctx context.Context, envelope []byte) (broker.Renewal, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	reply, err := a.host.Request(ctx, a.w.id, wire.ProtocolReport, envelope)
	if err != nil {
		return broker.Renewal{}, err
	}
	renewal, signer, err := wire.OpenRenewal(reply)
	if err == nil && string(signer) != string(a.w.id) {
		err = errForged
	}
	return renewal, err
}

// answered reports whether a broker answered with an error, and not because it ends.
func (a *agent) answered(err error) bool {
	remote, ok := errors.AsType[*p2p.RemoteError](err)
	return ok && !strings.Contains(remote.Message, "closed") && !strings.Contains(remote.Message, "context canceled")
}
