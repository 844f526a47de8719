package broker

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"rialto/pricing"
)

// report takes a provider's word about a lease: it renews the lease, moves the job and feeds the meter.
//
// The meter bills only what both sides saw. It starts at the first ready report, or, for a workload that
// came and went between two reports, at the last one before it. Each report adds the
// smaller of what the provider's meter grew by and the time since the report before, the latter at most
// one lease TTL and not past the moment when the release was wanted. A replayed report changes nothing.
func (t *turn) report(ev Reported) error {
	r := &ev.Report
	l := t.lease(r.Lease)
	if l == nil {
		return fmt.Errorf("lease %s: %w", r.Lease, ErrNotFound)
	}
	refuse := func(err error) error { return fmt.Errorf("report %d of lease %s: %w", r.Seq, l.ID, err) }
	if l.Provider != ev.Provider {
		return refuse(fmt.Errorf("%w: the lease is not with %s", ErrForbidden, ev.Provider))
	}
	if l.State == LeaseHolding {
		return refuse(fmt.Errorf("%w: its grant has not arrived", ErrUnavailable))
	}
	if len(l.GPUs) > 0 && !sameGPUs(l.GPUs, r.GPUs) {
		return refuse(fmt.Errorf("%w: GPUs or epochs are not those of the lease", ErrFencedEpoch))
	}
	if err := r.check(); err != nil {
		return refuse(err)
	}
	if l.State == LeaseEnded || r.Seq <= l.Seq {
		t.renew(l, r.Seq)
		return nil
	}
	if r.Used < l.Used {
		return refuse(&FieldError{Field: "report.used", Problem: fmt.Sprintf("%v is less than %v before", r.Used, l.Used)})
	}
	if r.Traffic.Ingress < l.Traffic.Ingress || r.Traffic.Egress < l.Traffic.Egress {
		return refuse(&FieldError{Field: "report.traffic", Problem: "less than before"})
	}
	if r.Phase == PhasePreparing && !l.Ready.IsZero() {
		return refuse(&FieldError{Field: "report.phase", Problem: "preparing after ready"})
	}

	j := t.jobs[l.Job]
	waits := j.waiting() && t.billing(l)
	if waits && (r.Used > 0 || r.Phase == PhaseReady) {
		until := "the quote is accepted"
		if j.forming() {
			until = "all hosts of the gang have granted"
		}
		return refuse(fmt.Errorf("%w: nothing may run before %s", ErrConflict, until))
	}

	t.touchLease(l)
	t.learn(l.Provider, r.Held)
	seen := t.corroborated(l, r)
	l.Seq, l.Report, l.Used, l.Renewed = r.Seq, ev.Envelope, r.Used, t.now
	l.Fetched, l.Steps, l.Traffic = r.Fetched, slices.Clone(r.Steps), r.Traffic
	if l.State == LeaseGranted && r.Phase >= PhaseReady {
		l.State = LeaseActive // it can only have started because the confirmation arrived
	}
	switch {
	case waits && r.Phase >= PhaseExited:
		t.withdrawn(l, j, cmp.Or(clean(r.Message), "no reason given"))
	case t.billing(l):
		t.follow(l, j, r, seen)
	case r.Phase >= PhaseExited:
		t.end(l)
	}
	if r.Phase == PhaseExited {
		t.restock(l)
	}
	t.notify(l)
	t.renew(l, r.Seq)
	return nil
}

// restock puts the GPUs of a workload that its provider saw end back on the market. The provider's next
// offers will say the same a moment later; a customer's next job need not wait for them.
func (t *turn) restock(l *Lease) {
	s := t.shops[l.Provider]
	if s == nil {
		return
	}
	for _, o := range s.offers {
		for _, g := range l.GPUs {
			sold := slices.ContainsFunc(o.GPUs, func(x GPU) bool { return x.UUID == g.UUID })
			if sold && !slices.Contains(o.Free, g.UUID) {
				o.Free = append(slices.Clip(o.Free), g.UUID)
			}
		}
	}
	t.relist(l.Provider)
	t.changed = true
}

// follow moves a job along with its workload. What was seen is the time that the report corroborates.
func (t *turn) follow(l *Lease, j *Job, r *Report, seen time.Duration) {
	switch r.Phase {
	case PhasePreparing: // the lease's bytes and steps tell how far it is
	case PhaseReady:
		if l.Ready.IsZero() {
			l.Ready, l.Startup = t.now, t.sawReady(l)
			if j.Stopping == 0 {
				j.State = JobReady
			}
			t.log(j, "ready on %s%s%s", l.Host, l.summary(), l.reservation())
			return
		}
		t.meter(l, j, seen)
		if j.State == JobReady && j.Stopping == 0 && l.Billed > 0 {
			j.State = JobRunning
			t.log(j, "running on %s", l.Host)
		}
	case PhaseExited:
		t.meter(l, j, seen)
		t.exited(l, j, r)
	case PhaseBroken:
		reason := clean(r.Message)
		switch {
		case l.Ready.IsZero() && r.HostFault:
			t.end(l)
			t.next(j, l, l.Host+" could not prepare it: "+reason)
			return
		case l.Ready.IsZero():
			t.finish(j, nil, JobFailed, l.Host+" could not run it: "+reason)
		case j.Stopping != 0:
			t.meter(l, j, seen)
			t.finish(j, l, j.Stopping, j.Error)
		default:
			t.meter(l, j, seen)
			t.finish(j, l, JobFailed, "lost on "+l.Host+": "+reason)
		}
		t.end(l)
	}
}

// exited ends a job whose workload has ended: by itself if the provider names no reason.
func (t *turn) exited(l *Lease, j *Job, r *Report) {
	j.ExitCode = r.ExitCode
	reason := clean(r.Message)
	// The watchdog on the host ends a workload at its limit, a moment before or after the market does.
	const slack = 2 * time.Second
	switch {
	case j.Stopping != 0:
		if j.Stopping == JobCancelled {
			t.owe(l)
		}
		t.finish(j, l, j.Stopping, j.Error)
	case reason == "":
		t.owe(l)
		t.finish(j, l, JobDone, "")
	case r.Used+slack >= t.limit(l, j):
		t.finish(j, l, JobExpired, reason)
	case !l.Displacement.Ends.IsZero():
		t.finish(j, l, JobPreempted, fmt.Sprintf("%s; exit code %d", l.displacedBy(), r.ExitCode))
	default:
		t.finish(j, l, JobFailed, "ended by "+l.Host+": "+reason)
	}
	t.end(l)
}

// corroborated returns how much ready time a report proves beyond the one before it.
func (t *turn) corroborated(l *Lease, r *Report) time.Duration {
	observed := t.until(l).Sub(l.Renewed)
	return min(r.Used-l.Used, max(0, observed), t.cfg.LeaseTTL)
}

// until is the last moment that may be billed: now, or when the release was wanted.
func (t *turn) until(l *Lease) time.Time {
	if !l.Ended.IsZero() && l.Ended.Before(t.now) {
		return l.Ended
	}
	return t.now
}

// meter adds corroborated time to the bill.
func (t *turn) meter(l *Lease, j *Job, seen time.Duration) {
	before := l.Billed
	l.Billed = min(l.Billed+seen, t.limit(l, j))
	l.Covered += t.covered(l, l.Billed-before)
	if l.Ready.IsZero() { // it came and went between two reports
		l.Ready = t.until(l).Add(-l.Billed)
	}
	t.bill(l)
}

// bill adds up what a lease costs: its GPUs for what is billed and no rest has paid, and for what its customer left of a
// reservation, its disk for what is billed, and the traffic that its customer pays for. Each is rounded once.
func (t *turn) bill(l *Lease) {
	j := t.jobs[l.Job]
	c := t.charge(l, j)
	cost := func(r pricing.Rate, d time.Duration) pricing.Money {
		m, err := r.Cost(d)
		if err != nil {
			t.broken(fmt.Sprintf("lease %s: cost of %v: %v", l.ID, d, err))
		}
		return m
	}
	gpus := cost(c.GPUs, l.Billed-l.Covered+l.Unused)
	// The sum of what was rounded may be more than the hold, which was rounded once.
	l.DiskCost = min(cost(c.Disk, l.Billed), j.Hold-gpus)
	carried, err := l.Tariff.Carried(l.Traffic, j.Spec.PaidTraffic())
	if err != nil {
		t.broken(fmt.Sprintf("lease %s: traffic: %v", l.ID, err))
	}
	if l.Billed == 0 {
		carried = 0 // what was never ready costs nothing
	}
	l.TrafficCost = min(carried, j.Hold-gpus-l.DiskCost)
	l.Cost = gpus + l.DiskCost + l.TrafficCost
}

// renew answers a report. A replay gets only what is left, because the provider counts from when it asked.
func (t *turn) renew(l *Lease, seq uint64) {
	r := Renewal{Lease: l.ID, Seq: seq}
	if l.State == LeaseGranted || l.State == LeaseActive {
		r.TTL = max(0, t.cfg.LeaseTTL-t.now.Sub(l.Renewed))
		r.Preempt = t.notice(l)
	}
	t.send(SendRenewal{r})
}

// learn records images that became whole on a host, ahead of its next set of offers.
func (t *turn) learn(p PeerID, held []ImageHeld) {
	s := t.shops[p]
	if s == nil {
		return
	}
	for _, h := range held {
		if !isDigest(h.Digest) || h.Root == "" || len(h.Root) > maxName {
			continue
		}
		for _, o := range s.offers {
			if len(o.Images) < maxList && !slices.Contains(o.Images, h) {
				o.Images = append(slices.Clip(o.Images), h)
				t.holds(h.Root, o)
			}
		}
	}
}

// sameGPUs reports whether two lists name the same GPUs under the same epochs, in any order.
func sameGPUs(a, b []GPULease) bool {
	return len(a) == len(b) && !slices.ContainsFunc(a, func(g GPULease) bool { return !slices.Contains(b, g) })
}
