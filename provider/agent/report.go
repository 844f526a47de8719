package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"rialto/broker"
	"rialto/broker/wire"
	"rialto/p2p/identity"
	"rialto/provider"
)

const (
	progressPause  = time.Second      // between reports of mere progress
	reportTimeout  = 10 * time.Second // for one report to be answered
	reportRetry    = time.Second      // before the next try; grows to reportRetryMax
	reportRetryMax = 15 * time.Second
	defaultRenewal = 10 * time.Second // until a broker named a TTL
)

// step begins a part of the start-up timeline and returns how to end it. An adopted workload's timeline
// is that of its first start.
func (w *workload) step(name string) (done func()) {
	start := time.Now()
	return func() {
		if w.adopted {
			return
		}
		took := time.Since(start)
		w.note(func(d *broker.Report) {
			d.Steps = append(slices.Clip(d.Steps), broker.Step{Name: name, Start: max(0, start.Sub(w.begun)), Took: took})
		})
	}
}

// note changes what the next report will say. It leaves slices that are in a record alone.
func (w *workload) note(change func(*broker.Report)) {
	w.mu.Lock()
	change(&w.draft)
	w.mu.Unlock()
	signal(w.progress)
}

func (w *workload) setBox(box provider.Sandbox) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.box = box
}

// next returns the report to send after the record's.
func (w *workload) next(r *provider.Record) broker.Report {
	used, traffic := w.used(), w.traffic.read()
	w.mu.Lock()
	defer w.mu.Unlock()
	next := w.draft
	next.Lease, next.GPUs, next.Seq, next.Used, next.Traffic = r.Lease, r.GPUs, r.Report.Seq+1, used, traffic
	return next
}

// ready makes the workload's time count.
func (w *workload) ready(ctx context.Context) error {
	w.step("ready")()
	w.startMeter()
	w.note(func(d *broker.Report) { d.Phase = broker.PhaseReady })
	err := w.update(ctx, func(r *provider.Record) error {
		if r.State != provider.StateRunning && !r.State.CanBecome(provider.StateRunning) {
			return fmt.Errorf("workload is %v: %w", r.State, broker.ErrConflict)
		}
		r.State, r.Report = provider.StateRunning, w.next(r)
		return nil
	})
	if err != nil {
		return err
	}
	w.mu.Lock()
	begun := w.begun
	w.mu.Unlock()
	w.log.Info("workload is ready", slog.Duration("after", time.Since(begun)))
	signal(w.phase)
	return nil
}

// conclude frees the GPUs of a workload that has ended, after making sure that nothing of it runs, and
// leaves its last report in the journal. It fails only when ctx ends.
func (w *workload) conclude(ctx context.Context, s *site, out outcome) error {
	w.stopMeter()
	if out.phase == broker.PhaseBroken {
		s.close()
		if err := w.vanish(ctx); err != nil {
			return err
		}
	}
	used := w.used()
	w.note(func(d *broker.Report) {
		d.Phase, d.ExitCode, d.Message = out.phase, out.code, clip(out.message)
		d.HostFault = out.hostFault && used == 0
	})
	err := w.update(context.WithoutCancel(ctx), func(r *provider.Record) error {
		if r.State == provider.StateHeld {
			r.Acked = r.Report.Seq + 1 // nobody waits for the report of a hold that came to nothing
		}
		r.Report = w.next(r)
		r.State, r.Linger = provider.StateEnded, time.Now().Add(w.agent.Linger)
		return nil
	})
	if err != nil {
		return err
	}
	w.agent.mu.Lock()
	w.agent.authority.Release(w.lease)
	w.agent.mu.Unlock()
	w.log.Info("workload ended", slog.Int("exit_code", out.code), slog.String("message", clip(out.message)), slog.Duration("used", w.used()))
	signal(w.phase)
	signal(w.agent.freed)
	w.agent.Touch()
	if old := w.agent.lingering(); len(old) > w.agent.MaxLingering {
		signal(old[0].evicted)
	}
	return nil
}

// clip bounds a message. A customer's words may be in it, such as a command of 128 KiB that does not exist, and
// every record must fit the journal: one that did not would keep its GPUs.
func clip(message string) string {
	const most = 2 << 10
	if len(message) <= most {
		return message
	}
	return strings.ToValidUTF8(message[:most], "") + "…"
}

// vanish removes all that the lease owns on the host, and tries until it is gone.
func (w *workload) vanish(ctx context.Context) error {
	for {
		attempt, cancel := context.WithTimeout(context.WithoutCancel(ctx), teardown)
		err := w.agent.erase(attempt, w.lease)
		cancel()
		if err == nil {
			return nil
		}
		w.log.Error("workload cannot be removed", slog.Any("err", err))
		select {
		case <-time.After(stopRetry):
		case <-ctx.Done():
			return err
		}
	}
}

// linger keeps an ended workload's log, console and tunnel until their time is over or their place is
// needed. A workload that never ran has nothing to show.
func (w *workload) linger(ctx context.Context) {
	r := w.record()
	if r.Report.Phase != broker.PhaseExited {
		return
	}
	timer := time.NewTimer(time.Until(r.Linger))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-w.evicted:
	case <-ctx.Done():
	}
}

// remove deletes what is left of an ended workload, waits for its last report to be acknowledged, and
// forgets it.
func (w *workload) remove(ctx context.Context, s *site) {
	s.close()
	if err := w.vanish(ctx); err != nil {
		return
	}
	r := w.record()
	if !r.Reported() && ctx.Err() != nil {
		w.lastWord(ctx)
	} else if !r.Reported() {
		timer := time.NewTimer(reportRetention)
		defer timer.Stop()
		select {
		case <-w.reported:
		case <-timer.C:
			w.log.Error("nobody took the last report")
		case <-ctx.Done():
			return
		}
	}
	if r = w.record(); !r.Reported() && ctx.Err() != nil {
		return // the next agent reports it
	}
	if err := w.update(context.WithoutCancel(ctx), func(r *provider.Record) error { r.State = provider.StateGone; return nil }); err != nil {
		w.log.Error("workload cannot be forgotten", slog.Any("err", err))
		return
	}
	w.agent.forget(w)
}

// lastWord tries once more to report an end while the agent stops.
func (w *workload) lastWord(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), reportRetry)
	defer cancel()
	if err := w.send(ctx); err != nil {
		w.log.Warn("the last report is left to the next agent", slog.Any("err", err))
	}
}

// report keeps the broker informed from the confirmation to the acknowledged end: a change of phase at
// once, progress at most every second, and otherwise three times per TTL, which renews the lease.
func (w *workload) report(ctx context.Context) {
	select {
	case <-w.confirmed:
	case <-w.gone:
		return
	case <-ctx.Done():
		return
	}
	if r := w.record(); r.Reported() { // to an earlier agent process
		close(w.reported)
		return
	}
	retry := reportRetry
	for {
		sent := time.Now()
		err := w.send(ctx)
		r := w.record()
		var pause time.Duration
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			w.log.Warn("report was not taken", slog.Any("err", err))
			pause, retry = retry, min(2*retry, reportRetryMax)
			if r.State.Holding() {
				// Better one report too many than a lease lost to a lost report.
				pause = min(pause, max(reportRetry, r.TTL/6))
			}
		case r.Reported():
			close(w.reported)
			return
		default:
			retry, pause = reportRetry, orDefault(r.TTL, 3*defaultRenewal)/3
		}
		if !w.pause(ctx, sent, pause, err == nil) {
			return
		}
	}
}

// pause waits until the next report is due. A new connection makes it due at once, and with early, news
// make it due sooner.
func (w *workload) pause(ctx context.Context, sent time.Time, d time.Duration, early bool) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	phase, progress := w.phase, w.progress
	if !early {
		phase, progress = nil, nil
	}
	for {
		select {
		case <-ctx.Done():
			return false
		case <-timer.C:
			return true
		case <-w.online:
			return true
		case <-phase:
			return true
		case <-progress:
			timer.Reset(min(d, max(0, progressPause-time.Since(sent))))
			progress = nil
		}
	}
}

// send makes, stores and sends one report, and acts on the renewal that answers it. A final report is
// made once and sent until it is acknowledged.
func (w *workload) send(ctx context.Context) error {
	err := w.update(ctx, func(r *provider.Record) error {
		if r.State.Holding() {
			r.Report = w.next(r)
		}
		return nil
	})
	if err != nil {
		return err
	}
	r, sent := w.record(), w.agent.Clock.now()
	report := r.Report
	if !w.agent.understands(r.Broker) {
		report.Fetched.From = nil
	}
	if r.Counted = w.agent.counts(&r); !r.Counted {
		report.Traffic = broker.Traffic{}
	}
	envelope, err := wire.SealReport(w.agent.Key, report)
	if err != nil {
		return err
	}
	attempt, cancel := context.WithTimeout(ctx, reportTimeout)
	defer cancel()
	answer, err := w.agent.Network.Request(attempt, identity.ID(r.Broker), wire.ProtocolReport, envelope)
	if err != nil {
		return err
	}
	renewal, signer, err := wire.OpenRenewal(answer)
	if err != nil {
		return err
	}
	if signer != r.Broker || renewal.Lease != w.lease || renewal.Seq < r.Report.Seq {
		return fmt.Errorf("renewal of another report: %w", broker.ErrInvalid)
	}
	return w.renewed(ctx, sent, r, renewal)
}

// renewed applies a renewal of the report in r. The lease's time counts from when the report was sent,
// so that it ends here no later than the broker thinks.
func (w *workload) renewed(ctx context.Context, sent time.Time, r provider.Record, renewal broker.Renewal) error {
	if r.State.Holding() && renewal.TTL == 0 {
		w.end("the broker ended the lease")
	}
	if renewal.Preempt > 0 && r.State == provider.StateRunning {
		select {
		case w.notice <- max(time.Millisecond, renewal.Preempt-w.agent.Clock.now().Sub(sent)):
		default: // it knows
		}
	}
	ttl := min(renewal.TTL, maxLeaseTTL)
	extended := false
	if r.State.Holding() && ttl > 0 {
		w.agent.mu.Lock()
		err := w.agent.authority.Renew(sent, w.lease, r.GPUs, ttl)
		w.agent.mu.Unlock()
		if err != nil {
			w.log.Log(ctx, w.severity(err), "lease was renewed too late", slog.Any("err", err))
		}
		extended = err == nil
	}
	err := w.update(ctx, func(now *provider.Record) error {
		now.Acked, now.Counted = max(now.Acked, r.Report.Seq), r.Counted
		if extended {
			now.TTL, now.Deadline = ttl, w.agent.Clock.instant(sent.Add(ttl))
		}
		return nil
	})
	if err != nil || !extended {
		return err
	}
	w.mu.Lock()
	box := w.box
	w.mu.Unlock()
	if box != nil && r.State == provider.StateRunning {
		if err := box.Extend(ctx, w.watchdog()); err != nil {
			w.log.Log(ctx, w.severity(err), "watchdog was not extended", slog.Any("err", err))
		}
	}
	return nil
}

// severity returns the level of an error about a renewal. A workload that ended while its report was under way
// has nothing to renew.
func (w *workload) severity(err error) slog.Level {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.isEnding || !w.rec.State.Holding() || errors.Is(err, provider.ErrNoLease) || errors.Is(err, provider.ErrNoSandbox) {
		return slog.LevelDebug
	}
	return slog.LevelWarn
}
