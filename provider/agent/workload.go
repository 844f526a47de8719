package agent

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"syscall"
	"time"

	"rialto/blockstore"
	"rialto/broker"
	"rialto/broker/wire"
	"rialto/provider"
)

const (
	// teardown bounds one attempt to stop or remove a workload.
	teardown = 30 * time.Second
	// stopRetry is the pause before the next attempt. A GPU is not free while its workload will not end.
	stopRetry = 5 * time.Second
	// reportRetention is how long a broker may stay away and still learn of a workload's end.
	reportRetention = 24 * time.Hour
)

// workload is one lease on this host. run owns its life; handlers only post to it.
type workload struct {
	agent   *Agent
	lease   broker.LeaseID
	spec    broker.JobSpec
	arrived time.Time // of the hold, or of the adoption
	adopted bool
	hint    blockstore.Trace // what the broker says that it will read first; not kept for a next agent
	log     *slog.Logger

	answered  chan struct{}      // closed when the hold has its answer, or will get none
	confirmed chan struct{}      // closed by the broker's confirmation
	ending    chan struct{}      // closed by end
	phase     chan struct{}      // the phase changed: report at once; capacity 1
	progress  chan struct{}      // something else changed: report soon; capacity 1
	notice    chan time.Duration // another job displaces it, and it may still run for so long; capacity 1
	online    chan struct{}      // the broker is back: retry at once; capacity 1
	order     chan struct{}      // capacity 1: whose turn it is to write the record
	evicted   chan struct{}      // its place among the lingering is needed; capacity 1
	reported  chan struct{}      // closed when the broker acknowledged the end
	fetched   chan struct{}      // closed when image and weights are here, or not used any more
	gone      chan struct{}      // closed when run is over
	uses      uses
	keys      *keyring
	traffic   gauge
	refetched func() // closes fetched

	mu        sync.Mutex // guards what follows
	begun     time.Time  // when the timeline began: the hold arrived, or a quote was accepted
	rec       provider.Record
	draft     broker.Report // what the next report will say
	box       provider.Sandbox
	refused   string // why there is no grant
	reason    string // why it is ended, once ending is closed
	isEnding  bool
	isConfirm bool
	meterBase time.Duration // metered before meterFrom
	meterFrom time.Time     // zero: the meter stands
}

func newWorkload(a *Agent, r provider.Record, spec broker.JobSpec, arrived time.Time) *workload {
	w := &workload{
		agent: a, lease: r.Lease, spec: spec, arrived: arrived, begun: arrived, rec: r, draft: r.Report, meterBase: r.Report.Used,
		log:      a.Logger.With(slog.String("lease", string(r.Lease)), slog.String("job", string(r.Job))),
		answered: make(chan struct{}), confirmed: make(chan struct{}), ending: make(chan struct{}),
		phase: make(chan struct{}, 1), progress: make(chan struct{}, 1), online: make(chan struct{}, 1), notice: make(chan time.Duration, 1), order: make(chan struct{}, 1),
		evicted: make(chan struct{}, 1), reported: make(chan struct{}), fetched: make(chan struct{}),
		gone: make(chan struct{}), keys: newKeyring(spec.PrivateRoots()),
	}
	w.traffic = gauge{log: w.log, total: r.Report.Traffic}
	w.refetched = sync.OnceFunc(func() { close(w.fetched) })
	if r.State >= provider.StateConfirmed {
		w.confirm()
	}
	return w
}

// adopt makes a workload of a record that an earlier agent process left.
func (a *Agent) adopt(r provider.Record) *workload {
	spec, _, err := openSpec(r.Spec, r.Bid)
	w := newWorkload(a, r, spec, time.Now())
	w.adopted = true
	switch {
	case r.State.Holding() && r.Deadline.Boot != a.Clock.Boot:
		w.end("the host was restarted")
	case r.State == provider.StateHeld && len(r.Answer) == 0:
		w.end("the agent was restarted before it answered")
	case err != nil:
		w.end("the job's specification cannot be read any more")
	}
	return w
}

func (w *workload) record() provider.Record {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rec
}

// update changes the record and makes it durable before anyone sees it. Writers take turns.
func (w *workload) update(ctx context.Context, change func(*provider.Record) error) error {
	select {
	case w.order <- struct{}{}:
		defer func() { <-w.order }()
	case <-ctx.Done():
		return ctx.Err()
	}
	next := w.record()
	if err := change(&next); err != nil {
		return err
	}
	if err := w.agent.save(ctx, next); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rec = next
	return nil
}

// answer returns the signed answer to the hold.
func (w *workload) answer() ([]byte, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.rec.Answer) > 0 {
		return w.rec.Answer, nil
	}
	return wire.SealAnswer(w.agent.Key, broker.Answer{Lease: w.lease, Refusal: w.refused})
}

func (w *workload) confirm() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.isConfirm {
		w.isConfirm = true
		if w.spec.Firm > 0 {
			w.begun = time.Now()
		}
		close(w.confirmed)
	}
}

// end asks for the workload's end. The first reason stands.
func (w *workload) end(reason string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.isEnding {
		w.isEnding, w.reason = true, reason
		close(w.ending)
	}
}

func (w *workload) endReason() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.reason
}

// used returns the metered time.
func (w *workload) used() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.meterFrom.IsZero() {
		return w.meterBase
	}
	return w.meterBase + time.Since(w.meterFrom)
}

func (w *workload) startMeter() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.meterFrom = time.Now()
}

// stopMeter ends the counting of time and of traffic.
func (w *workload) stopMeter() {
	w.traffic.close()
	used := w.used()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.meterBase, w.meterFrom = used, time.Time{}
}

// run takes the workload from wherever its record stands to its removal. When ctx ends first, what
// runs is left to the next agent, unless this one was told to stop its jobs.
func (w *workload) run(ctx context.Context) {
	var tasks sync.WaitGroup
	defer tasks.Wait()
	defer close(w.gone)
	defer w.settle()
	alive, cancel := context.WithCancel(ctx)
	defer cancel()
	tasks.Go(func() { w.watch(alive, cancel) })
	tasks.Go(func() { w.report(ctx) })

	s := &site{workload: w, tasks: &tasks}
	defer s.close()
	if w.record().State.Holding() {
		out := w.live(ctx, alive, s)
		w.settle()
		if w.handed(ctx) {
			w.handOver(ctx)
			return
		}
		if err := w.conclude(ctx, s, out); err != nil {
			w.log.Error("the workload is left to the next agent", slog.Any("err", err))
			return
		}
		w.uses.end() // nothing reads them any more, which is not so where the next agent goes on
		w.refetched()
	} else if err := s.reopen(ctx); err != nil {
		w.log.Warn("an ended workload cannot be reached any more", slog.Any("err", err))
	}
	w.linger(ctx)
	if w.handed(ctx) {
		return
	}
	w.remove(ctx, s)
}

// handed reports whether the workload is now the next agent's.
func (w *workload) handed(ctx context.Context) bool {
	return ctx.Err() != nil && !w.agent.StopJobsOnExit
}

// handOver leaves what was metered so far to the next agent.
func (w *workload) handOver(ctx context.Context) {
	w.agent.handed.Add(1)
	w.stopMeter()
	err := w.update(context.WithoutCancel(ctx), func(r *provider.Record) error {
		r.Report.Used, r.Report.Traffic = w.used(), w.traffic.read()
		return nil
	})
	if err != nil {
		w.log.Error("metered time and traffic are lost", slog.Any("err", err))
	}
}

// settle releases whoever still waits for the answer to the hold.
func (w *workload) settle() {
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case <-w.answered:
	default:
		if w.refused == "" {
			w.refused = "the hold ended before it was answered"
		}
		close(w.answered)
	}
}

// watch ends alive when the workload is asked to end or its claim lapses.
func (w *workload) watch(alive context.Context, cancel context.CancelFunc) {
	defer cancel()
	for {
		timer := time.NewTimer(min(lookAgain, w.agent.left(w.lease)))
		select {
		case <-alive.Done():
		case <-w.ending:
		case <-timer.C:
			if !w.agent.lapsed(w.lease) {
				continue // not yet, or renewed meanwhile
			}
			w.end("the lease lapsed: its broker did not renew it")
		}
		timer.Stop()
		return
	}
}

// left returns how long a claim has before it lapses; a lease without a claim has none left to lapse.
func (a *Agent) left(lease broker.LeaseID) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c, ok := a.authority.Claim(lease); ok {
		return c.Deadline.Sub(a.Clock.now())
	}
	return reportRetention
}

// lapsed reports whether a claim's time is over.
func (a *Agent) lapsed(lease broker.LeaseID) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Contains(a.authority.Lapsed(a.Clock.now()), lease)
}

// outcome is how a workload ended.
type outcome struct {
	phase     broker.Phase // PhaseExited or PhaseBroken
	code      int
	message   string
	hostFault bool
}

func broken(err error) outcome {
	_, own := errors.AsType[hostError](err)
	return outcome{phase: broker.PhaseBroken, message: err.Error(), hostFault: own || outOfSpace(err)}
}

// hostError is an error that another host would not have had. What is not surely one is the job's own
// fault, so that a job that can run nowhere does not try every host.
type hostError struct{ error }

func (e hostError) Unwrap() error { return e.error }

func outOfSpace(err error) bool {
	return errors.Is(err, blockstore.ErrNoSpace) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// live runs the workload until it ended, alive did or ctx did.
func (w *workload) live(ctx, alive context.Context, s *site) outcome {
	if err := w.update(ctx, func(*provider.Record) error { return nil }); err != nil {
		return broken(hostError{err})
	}
	images := make(chan fetched, 1)
	s.tasks.Go(func() {
		if w.taken(alive) {
			images <- w.fetch(alive)
			return
		}
		images <- fetched{err: alive.Err()}
	})
	if err := s.open(ctx); err != nil {
		w.mu.Lock()
		w.refused = clip("the host cannot prepare the job: " + err.Error())
		w.mu.Unlock()
		return broken(hostError{err})
	}
	running, over := context.WithCancel(alive)
	defer over()
	device := s.device
	s.tasks.Go(func() { w.boundTraffic(running, device) })
	if err := w.grant(ctx, s.port); err != nil {
		return broken(hostError{err})
	}
	// What an earlier agent started is stopped, not broken, also when it must end before this one has it.
	started := w.record().State == provider.StateRunning && s.box.Started()
	select {
	case <-w.confirmed:
	case <-alive.Done():
		if !started {
			return broken(hostError{errors.New(w.endReason())})
		}
	}
	err := w.launch(alive, s, images)
	switch {
	case err == nil, started && alive.Err() != nil:
	case alive.Err() != nil:
		return broken(hostError{errors.New(w.endReason())}) // a release, or the host let the lease go
	default:
		return broken(err)
	}
	ended := make(chan struct{})
	traced := s.trace(ctx, ended)
	out := w.wait(ctx, alive, s)
	close(ended)
	<-traced // before the image is released
	return out
}
