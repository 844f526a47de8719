package broker

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// answered takes a provider's answer to a hold.
func (t *turn) answered(ev HoldAnswered) error {
	l := t.lease(ev.Lease)
	if l == nil {
		return fmt.Errorf("lease %s: %w", ev.Lease, ErrNotFound)
	}
	grant := ev.Answer.Grant
	if l.State != LeaseHolding {
		if over := l.State >= LeaseEnding; over && grant != nil {
			t.sendRelease(l, "the hold has lapsed") // the provider must not keep GPUs that nobody wants
		}
		return nil
	}
	j := t.jobs[l.Job]
	if grant == nil && ev.Answer.Refusal != "" {
		t.judge(l, FillFailed)
		t.end(l)
		t.next(j, l, l.Host+" refused: "+clean(ev.Answer.Refusal))
		return nil
	}
	if grant == nil {
		t.noAnswer(l, j, cmp.Or(clean(ev.Error), "no answer"))
		return nil
	}
	if why := t.flaw(l, j, &ev.Answer); why != "" {
		t.judge(l, FillFailed)
		t.release(l, why)
		t.next(j, l, l.Host+" answered with a bad grant: "+why)
		return nil
	}

	t.touchLease(l)
	t.unask(l)
	l.State = LeaseGranted
	l.GPUs = slices.Clone(grant.GPUs)
	l.Granted, l.Renewed = t.now, t.now
	l.Answer = ev.Envelope
	t.occupy(l)
	t.raise(l)
	t.judge(l, FillHonoured)
	t.waited(j, true)
	if j.quoting() {
		t.quoted(l, j)
		return nil
	}
	if j.forming() {
		t.granted(l, j)
		return nil
	}
	j.State = JobLeased
	t.log(j, "%s leased %d × %s at %v", l.Host, len(l.GPUs), l.Model, l.Rate)
	t.sendConfirm(l, j)
	return nil
}

// occupy records that a lease has its GPUs.
func (m *Market) occupy(l *Lease) {
	for _, g := range l.GPUs {
		m.leased[g.UUID] = l.ID
	}
	if l.Bid > 0 && len(l.GPUs) > 0 {
		m.spots[l.ID] = false
	}
	m.relist(l.Provider)
}

// raise records a lease's epochs, so that no later grant can repeat them.
func (t *turn) raise(l *Lease) {
	for _, g := range l.GPUs {
		t.epochs[gpuID{l.Provider, g.UUID}] = g.Epoch // above what was there, see flaw
		t.raised = append(t.raised, Epoch{l.Provider, g})
	}
}

// unask forgets the GPUs that an unanswered hold reserved.
func (m *Market) unask(l *Lease) {
	key := offerKey{l.Provider, l.Offer}
	if m.asked[key] -= m.jobs[l.Job].Spec.GPU.Count; m.asked[key] <= 0 {
		delete(m.asked, key)
	}
	m.relist(l.Provider)
}

func (t *turn) noAnswer(l *Lease, j *Job, why string) {
	if t.shops[l.Provider] != nil { // one whose connection broke offers nothing any more
		t.judge(l, FillFailed)
	}
	t.release(l, "the hold was not answered in time")
	t.next(j, l, l.Host+" did not answer: "+why)
}

// limit is how long a lease may be ready: the job's duration, or less if its budget buys less.
func (t *turn) limit(l *Lease, j *Job) time.Duration {
	if j.Spec.MaxCost == 0 {
		return j.Spec.MaxDuration // the hold was computed to cover it
	}
	buys, err := t.charge(l, j).Buys(j.Hold)
	if err != nil {
		t.broken(fmt.Sprintf("lease %s: hold: %v", l.ID, err))
		return 0
	}
	return min(j.Spec.MaxDuration, buys)
}

func (t *turn) sendConfirm(l *Lease, j *Job) {
	t.sent[l.ID] = t.now
	t.send(SendConfirm{Provider: l.Provider, Confirm: Confirm{Lease: l.ID, TTL: t.cfg.LeaseTTL, MaxDuration: t.limit(l, j)}})
}

// confirmed takes the outcome of a confirmation. One that got lost is sent again by tick.
func (t *turn) confirmed(ev ConfirmAnswered) error {
	l := t.lease(ev.Lease)
	if l == nil {
		return fmt.Errorf("lease %s: %w", ev.Lease, ErrNotFound)
	}
	if l.State == LeaseGranted && ev.Error == "" && !t.jobs[l.Job].waiting() {
		t.touchLease(l)
		l.State = LeaseActive
	}
	return nil
}

// stop ends a job that has not ended by itself. Once ready it is billed up to now, by the provider's last
// report, which the release makes it send.
func (t *turn) stop(j *Job, state JobState, reason string) {
	l := t.leases[j.Lease]
	switch {
	case j.State == JobQueued:
		t.finish(j, nil, state, reason)
	case l.Ready.IsZero():
		t.finish(j, nil, state, reason)
		t.release(l, reason)
	default:
		j.Stopping, j.Error = state, reason
		t.log(j, "stopping on %s: %s", l.Host, reason)
		t.release(l, reason)
	}
}

// release wants a lease to end. Its GPUs stay taken until the provider says so or the lease has lapsed.
func (t *turn) release(l *Lease, reason string) {
	t.touchLease(l)
	if l.State == LeaseHolding {
		t.unask(l)
		t.giveBack(l)
		t.hearFrom(l.Provider)
	}
	l.State = LeaseEnding
	l.Ended = t.now
	t.sendRelease(l, reason)
}

func (t *turn) sendRelease(l *Lease, reason string) {
	if !l.Over() {
		t.sent[l.ID] = t.now
	}
	t.send(SendRelease{Provider: l.Provider, Release: Release{Lease: l.ID, Reason: reason}})
}

// released takes the outcome of a release. A job that is billed waits for the last report nevertheless.
func (t *turn) released(ev ReleaseAnswered) error {
	l := t.lease(ev.Lease)
	if l == nil {
		return fmt.Errorf("lease %s: %w", ev.Lease, ErrNotFound)
	}
	if l.State == LeaseEnding && ev.Error == "" && !t.billing(l) {
		t.end(l)
	}
	return nil
}

// billing reports whether a lease's bill is still open.
func (m *Market) billing(l *Lease) bool {
	j := m.jobs[l.Job]
	return j.Lease == l.ID && !j.State.Terminal() && j.State != JobQueued
}

// end frees a lease's GPUs. Its job is settled or has gone on to the next offer.
func (t *turn) end(l *Lease) {
	t.touchLease(l)
	if l.State == LeaseHolding {
		t.unask(l)
	}
	before := l.State
	if before != LeaseEnded {
		t.observe(l)
		if len(l.GPUs) == 0 {
			t.over = append(t.over, l)
		}
	}
	l.State = LeaseEnded
	if l.Ended.IsZero() {
		l.Ended = t.now
	}
	for _, g := range l.GPUs {
		delete(t.leased, g.UUID)
	}
	t.giveBack(l)
	if before != LeaseEnded {
		t.leave(l)
	}
	t.inherit(l)
	t.relist(l.Provider)
	t.hearFrom(l.Provider)
	t.changed = true
	if len(l.GPUs) == 0 {
		delete(t.live, l.ID)
		delete(t.sent, l.ID)
		return
	}
	t.signReceipt(l)
}

func (t *turn) signReceipt(l *Lease) {
	j := t.jobs[l.Job]
	t.sent[l.ID] = t.now
	t.size += l.Size() // it comes back to be saved in the same batch
	t.send(SignReceipt{Receipt{
		Job: j.ID, Lease: l.ID, Customer: j.Spec.Customer, Provider: l.Provider, GPUs: l.GPUs, Model: l.Model,
		Rate: l.Rate, Ready: l.Ready, Ended: l.Ended, Used: l.Used, Billed: l.Billed, Cost: l.Cost,
		Fee: t.feeOf(l.Cost), Fetched: l.Fetched, ExitCode: j.ExitCode, Report: l.Report, Unused: l.Unused, UnusedCost: l.UnusedCost,
		Tariff: l.Tariff, DiskMiB: l.pricedDisk(j), Traffic: l.Traffic, DiskCost: l.DiskCost, TrafficCost: l.TrafficCost,
	}})
}

// pricedDisk is the disk that the lease's host charges for, in MiB.
func (l *Lease) pricedDisk(j *Job) uint64 {
	if l.Tariff.Disk == 0 {
		return 0
	}
	return j.Spec.Disk()
}

func (t *turn) receipted(ev ReceiptSigned) error {
	l := t.lease(ev.Lease)
	switch {
	case l == nil:
		return fmt.Errorf("lease %s: %w", ev.Lease, ErrNotFound)
	case l.State != LeaseEnded || len(l.GPUs) == 0:
		return fmt.Errorf("lease %s: %w: it has no receipt yet", ev.Lease, ErrConflict)
	case len(ev.Envelope) == 0:
		return &FieldError{Field: "receipt", Problem: "empty"}
	case len(l.Receipt) > 0:
		return nil
	}
	t.touchLease(l)
	l.Receipt, l.Settled = ev.Envelope, t.now
	t.over = append(t.over, l)
	delete(t.live, l.ID)
	delete(t.sent, l.ID)
	return nil
}

// tick lets time pass for everything that waits.
func (t *turn) tick() {
	t.tickLeases()
	if t.full() {
		return
	}
	t.tickRests()
	maps.DeleteFunc(t.distrusted, func(_ PeerID, until time.Time) bool { return !t.now.Before(until) })
	for _, p := range sortedKeys(t.pardons) {
		t.forgive(p)
	}
	t.changed = t.changed || t.backlog || len(t.pardons) > 0
	for _, w := range t.queue.over(t.now) {
		if t.full() {
			return
		}
		if !t.expire(w.Job) && t.queue.has(w.ID) {
			t.queue.postpone(w, t.cfg.givesUp(w.Job))
		}
	}
	t.lookAgain()
}

func (t *turn) tickLeases() {
	for _, id := range sortedKeys(t.live) {
		if t.full() {
			return
		}
		l := t.leases[id]
		switch l.State {
		case LeaseHolding:
			t.tickHolding(l)
		case LeaseGranted, LeaseActive:
			t.tickLeased(l)
		case LeaseEnding:
			t.tickEnding(l)
		case LeaseEnded:
			if t.due(l) {
				t.signReceipt(l)
			}
		}
	}
}

// due reports whether the message that a lease waits for has to be sent again.
func (t *turn) due(l *Lease) bool {
	at, ok := t.sent[l.ID]
	return !ok || t.now.Sub(at) >= resendAfter
}

func (t *turn) tickHolding(l *Lease) {
	j := t.jobs[l.Job]
	at, ok := t.sent[l.ID]
	switch {
	case !ok && j.quoting(): // nor does this one know until when the provider would keep it
		t.finish(j, nil, JobFailed, "the broker was restarted before the quote was made")
		t.release(l, j.Error)
	case !ok && j.forming(): // nor may the others wait for as long as it would have
		t.scatter(j, "the broker was restarted before all hosts had answered")
	case !ok: // this process did not send it: a restart
		t.sendHold(l, j)
	case t.now.Sub(at) >= t.cfg.HoldTTL:
		t.noAnswer(l, j, fmt.Sprintf("nothing for %v", t.cfg.HoldTTL))
	}
}

func (t *turn) tickLeased(l *Lease) {
	j := t.jobs[l.Job]
	silent, ready := t.now.Sub(l.Renewed), !l.Ready.IsZero()
	t.ripen(l)
	switch {
	case j.State == JobQuoted:
		t.tickQuoted(l, j)
	case j.waiting():
		if t.now.Sub(l.Granted) >= t.cfg.HoldTTL {
			t.scatter(j, fmt.Sprintf("not all hosts answered within %v", t.cfg.HoldTTL))
		}
	case silent >= t.cfg.lapse() && ready:
		t.finish(j, l, JobFailed, fmt.Sprintf("provider lost: no report from %s for %v", l.Host, silent.Round(time.Second)))
		t.end(l)
	case silent >= t.cfg.lapse():
		t.end(l)
		t.next(j, l, fmt.Sprintf("lost %s: no report for %v", l.Host, silent.Round(time.Second)))
	case l.State == LeaseGranted && t.now.Sub(l.Granted) >= t.cfg.HoldTTL:
		// The provider has let the unconfirmed hold lapse by now, or will not answer anyway.
		t.judge(l, FillFailed)
		t.release(l, "the lease was not confirmed in time")
		t.next(j, l, l.Host+" did not confirm the lease")
	case l.State == LeaseGranted && t.due(l):
		t.sendConfirm(l, j)
	case !ready && t.now.Sub(l.Granted) >= t.cfg.PrepareTimeout:
		t.finish(j, nil, JobFailed, fmt.Sprintf("not ready on %s within %v", l.Host, t.cfg.PrepareTimeout))
		t.release(l, j.Error)
	case t.overdue(l):
		t.stop(j, JobPreempted, l.displacedBy())
	case ready && t.now.Sub(l.Ready) >= j.Spec.MaxDuration:
		t.stop(j, JobExpired, fmt.Sprintf("maximum duration of %v reached", j.Spec.MaxDuration))
	case ready && l.Billed+min(silent, t.cfg.LeaseTTL) >= t.limit(l, j):
		t.stop(j, JobExpired, fmt.Sprintf("budget of %v spent", j.Hold))
	}
}

func (t *turn) tickEnding(l *Lease) {
	switch {
	case t.now.Sub(l.Ended) >= t.cfg.lapse():
		if j := t.jobs[l.Job]; t.billing(l) {
			t.finish(j, l, j.Stopping, j.Error)
		}
		t.end(l)
	case t.due(l):
		t.sendRelease(l, cmp.Or(t.jobs[l.Job].Error, "the lease has ended"))
	}
}

// summary says how a workload's start-up went, for people.
func (l *Lease) summary() string {
	f := l.Fetched
	if f.Total == 0 {
		return ""
	}
	var parts []string
	for _, p := range []struct {
		bytes int64
		from  string
	}{{f.Local, "on the host"}, {f.Peers, "from peers"}, {f.Registry, "from the registry"}} {
		if p.bytes > 0 {
			parts = append(parts, fmt.Sprintf("%.1f MiB %s", float64(p.bytes)/(1<<20), p.from))
		}
	}
	return " (" + strings.Join(parts, ", ") + ")"
}
