package broker

import (
	"cmp"
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"slices"
	"strings"
	"time"
)

// post replaces what a provider sells.
func (t *turn) post(ev OffersPosted) error {
	if err := ev.Set.Validate(ev.Provider); err != nil {
		return fmt.Errorf("offers of %s: %w", ev.Provider, err)
	}
	old := t.shops[ev.Provider]
	if old != nil && old.boot == ev.Set.Boot && ev.Set.Seq < old.seq {
		return nil
	}
	for _, o := range ev.Set.Offers {
		for _, g := range o.GPUs {
			if err := t.admits(ev.Provider, g); err != nil {
				return fmt.Errorf("offers of %s: GPU %s: %w", ev.Provider, g.UUID, err)
			}
		}
	}
	s := &shop{boot: ev.Set.Boot, seq: ev.Set.Seq}
	for _, o := range ev.Set.Offers {
		s.offers = append(s.offers, old.kept(&o))
	}
	t.hearOf(old, s)
	t.stock(ev.Provider, s)
	if old == nil || old.boot != s.boot || old.seq < s.seq {
		t.forgive(ev.Provider)
	}
	t.changed = true
	return nil
}

// admits refuses a GPU that another provider already sells or leases: a claim to a UUID cannot be
// checked, and one GPU must not be sold twice.
func (m *Market) admits(p PeerID, g GPU) error {
	if g.Simulated && !m.cfg.AllowSimulated {
		return fmt.Errorf("%w: this broker takes no simulated GPUs", ErrForbidden)
	}
	if other, ok := m.sellers[g.UUID]; ok && other != p {
		return fmt.Errorf("%w: %s offers it", ErrConflict, other)
	}
	if l := m.leases[m.leased[g.UUID]]; l != nil && l.Provider != p {
		return fmt.Errorf("%w: it is leased from %s", ErrConflict, l.Provider)
	}
	return nil
}

// forgive lets waiting jobs try a provider again whose offers changed.
func (t *turn) forgive(p PeerID) {
	for _, id := range sortedKeys(t.queue.tried[p]) {
		j := t.jobs[id]
		if t.full() {
			t.pardons[p] = struct{}{}
			return
		}
		t.touchJob(j)
		t.stale[id] = struct{}{}
		j.Tried = slices.DeleteFunc(slices.Clone(j.Tried), func(q PeerID) bool { return q == p })
		t.queue.forgive(p, id)
	}
	delete(t.pardons, p)
}

func (t *turn) gone(ev ProviderGone) error {
	t.stock(ev.Provider, nil)
	return nil
}

// submit accepts a job: checks it, holds its money and looks for its first provider.
func (t *turn) submit(ev Submitted) error {
	refuse := func(err error) error { return &JobError{Op: "submit", Job: ev.Job, Err: err} }
	a := t.accounts[ev.Account]
	spec := &ev.Spec
	switch {
	case ev.Job == "":
		return refuse(&FieldError{Field: "job", Problem: "empty"})
	case t.job(ev.Job) != nil:
		return refuse(fmt.Errorf("%w: the id is taken", ErrConflict))
	case a == nil:
		return refuse(fmt.Errorf("account %s: %w", ev.Account, ErrNotFound))
	}
	if err := spec.Validate(); err != nil {
		return refuse(err)
	}
	if earlier := cmp.Or(t.nonces[nonce{spec.Customer, spec.Nonce}], t.past.Signed); earlier != "" {
		return refuse(fmt.Errorf("%w: the same spec is job %s", ErrConflict, earlier))
	}
	if a.Key == "" || spec.Customer != a.Key {
		return refuse(fmt.Errorf("%w: the spec is not signed by the key of account %s", ErrForbidden, a.ID))
	}
	if spec.Broker != t.cfg.Self {
		return refuse(fmt.Errorf("%w: the spec is meant for broker %s", ErrForbidden, spec.Broker))
	}
	if t.open[a.ID]+spec.members() > maxOpen {
		return refuse(fmt.Errorf("%w: account %s has %d open jobs", ErrUnavailable, a.ID, maxOpen))
	}
	if spec.Firm > 0 && t.quotes[a.ID] >= maxQuotes {
		return refuse(fmt.Errorf("%w: account %s has %d open quotes: accept or drop one", ErrUnavailable, a.ID, maxQuotes))
	}
	query := spec.query()
	if err := t.knowsAll(&query); err != nil {
		return refuse(err)
	}
	if spec.standing() && !t.now.Before(spec.GoodUntil) {
		return refuse(&FieldError{Field: "good_until", Problem: spec.GoodUntil.Format(time.RFC3339) + " is over"})
	}
	if spec.Nodes > 0 {
		if err := t.submitGang(ev, a, query); err != nil {
			return refuse(err)
		}
		return nil
	}
	t.lend(a.ID, spec)
	defer t.reclaim(spec)
	free, busy := t.fitting(&query, spec.Firm == 0 && !spec.standing()) // a quote does not wait
	offered, err := spec.atLimit()                                      // of a standing order, whether there is an offer or not
	if err != nil {
		return refuse(err)
	}
	if !spec.standing() {
		best := busy
		if len(free) > 0 {
			best = &free[0]
		}
		if best == nil {
			return refuse(t.noOffer(query))
		}
		if offered, err = query.charge(best.offer); err != nil {
			return refuse(err)
		}
		if term := spec.termOn(best.offer); !spec.Pays(term, offered) {
			return refuse(&FieldError{Field: "max_cost", Problem: fmt.Sprintf("%v does not pay the reserved %v at %v", spec.MaxCost, term, query.rateOf(best.offer))})
		}
	}
	hold, err := spec.checkHold(offered)
	if err != nil {
		return refuse(err)
	}
	if err := a.allows(hold, 0, t.now); err != nil {
		return refuse(err)
	}
	if hold > a.Available {
		return refuse(fmt.Errorf("%w: need %v to hold, %v available", ErrNoFunds, hold, a.Available))
	}

	j := &Job{ID: ev.Job, Account: a.ID, Spec: *spec, Envelope: ev.Envelope, State: JobQueued, Accepted: t.now}
	t.accepted = append(t.accepted, j.ID)
	t.touchJob(j)
	t.addJob(j)
	t.occupySlot(j)
	t.waitsFor(j)
	t.hold(j, hold)
	delete(t.stale, j.ID)
	t.placeAmong(j, &query, nil, free)
	return nil
}

func (m *Market) addJob(j *Job) {
	m.jobs[j.ID] = j
	if j.Member.Rank == 0 { // all of a gang have one spec
		m.nonces[nonce{j.Spec.Customer, j.Spec.Nonce}] = j.ID
	}
	m.committed[j.Account] += j.Hold
	if !j.State.Terminal() {
		m.open[j.Account]++
	}
	if j.State == JobQueued {
		m.enqueue(j)
	}
	if j.quoting() {
		m.quotes[j.Account]++
	}
}

// place asks the best provider that was not tried yet; failing that the job waits, and a quote fails.
func (t *turn) place(j *Job) {
	if j.Member.Gang != "" {
		t.placeMember(j)
		return
	}
	t.lend(j.Account, &j.Spec)
	defer t.reclaim(&j.Spec)
	query := j.Spec.query()
	t.placeAmong(j, &query, j.Tried, nil)
}

// placeAmong is place for a query of the job's, which passes over some providers, and with its first offers, if they are
// known.
func (t *turn) placeAmong(j *Job, query *Query, avoid []PeerID, known []candidate) {
	for c := range t.best(query, avoid, true, known) {
		if j.affords(c.offer) && t.covers(j, c) {
			t.ask(j, c.offer)
			return
		}
	}
	if t.displace(j, query, avoid) {
		return
	}
	if j.saidWhy() && !j.quoting() {
		return
	}
	found := t.search(*query, avoid)
	why := "no offer that the money on hold covers"
	if !j.Quote.Taken.IsZero() {
		why = fmt.Sprintf("no offer that costs at most the %v of the quote and that the money on hold covers", j.Quote.Rate)
	}
	if len(found.free) == 0 {
		why = (&NoOfferError{Search: found.Search}).Error()
	}
	if j.quoting() {
		t.finish(j, nil, JobFailed, "no provider quotes: "+why)
		return
	}
	t.waitFor(j, why)
}

// covers makes sure that the hold is enough for an offer, and keeps more aside if it was computed from
// a cheaper one.
func (t *turn) covers(j *Job, c candidate) bool {
	charge, err := j.Spec.Charge(t.rateFor(j, c.offer), c.offer.Tariff)
	if err != nil || !j.Spec.Pays(j.Spec.termOn(c.offer), charge) {
		return false
	}
	need, err := j.Spec.holdAt(charge)
	if err != nil {
		return false
	}
	more := max(0, need-j.Hold)
	if buys, err := charge.Buys(j.Hold + more); err != nil || buys < time.Second || more > t.accounts[j.Account].Available {
		return false
	}
	if more > 0 && t.accounts[j.Account].allows(more, j.Hold, t.now) != nil {
		return false
	}
	if more > 0 {
		t.hold(j, more)
		t.log(j, "held %v more for a dearer offer", more)
	}
	return true
}

// ask opens a lease and asks its provider for GPUs.
func (t *turn) ask(j *Job, o *Offer) {
	t.touchJob(j)
	t.unqueue(j)
	j.Attempts++
	l := &Lease{
		ID: leaseID(j.ID, j.Attempts), Job: j.ID, Account: j.Account,
		Offer: o.ID, Provider: o.Provider, Host: o.Host, Model: o.GPUs[0].Model, Rate: t.rateFor(j, o), Bid: j.Spec.Bid, Term: j.Spec.termOn(o), Tariff: o.Tariff,
		State: LeaseHolding, Simulated: o.Simulated(), Region: o.Region, CPUs: o.CPUs, MemoryMiB: o.MemoryMiB, Level: o.Level(),
	}
	j.Lease = l.ID
	j.State = JobHolding
	j.Claim = Claim{}
	t.touchLease(l)
	t.leases[l.ID] = l
	t.live[l.ID] = struct{}{}
	t.asked[offerKey{l.Provider, l.Offer}] += j.Spec.GPU.Count
	t.take(l)
	t.relist(l.Provider)
	simulated := ""
	if l.Simulated {
		simulated = " (simulated)"
	}
	reserved := ""
	if l.Term > 0 {
		reserved = fmt.Sprintf(", reserved for %v", l.Term)
	}
	t.log(j, "asking %s for %d × %s%s at %v%s", l.Host, j.Spec.GPU.Count, l.Model, simulated, l.Rate, reserved)
	t.sendHold(l, j)
}

func (t *turn) sendHold(l *Lease, j *Job) {
	t.sent[l.ID] = t.now
	t.send(SendHold{Provider: l.Provider, Hold: Hold{
		Lease: l.ID, Job: j.ID, Offer: l.Offer, Rate: l.Rate, Tariff: l.Tariff, Spec: j.Envelope, TTL: t.cfg.holdTTL(j),
		Sources: t.sources(&j.Spec, l.Provider), Rank: j.Member.Rank, Bid: j.Rebid.Envelope,
	}})
}

// leaseID names an attempt to place a job. It is derived, so that the market needs no randomness.
func leaseID(j JobID, attempt int) LeaseID {
	return LeaseID("l-" + derivedID("rialto lease 1\x00%s\x00%d", j, attempt))
}

func derivedID(format string, of JobID, number int) string {
	sum := sha256.Sum256(fmt.Appendf(nil, format, of, number))
	return strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:16]))
}

// cancel ends a job at its customer's wish.
func (t *turn) cancel(ev CancelRequested) error {
	j := t.job(ev.Job)
	refuse := func(err error) error { return &JobError{Op: "cancel", Job: ev.Job, Err: err} }
	if j == nil {
		return refuse(ErrNotFound)
	}
	reason := cmp.Or(clean(ev.Reason), "cancelled by the customer")
	if j.Member.Gang != "" && t.stopGang(j, JobCancelled, reason) > 0 {
		return nil
	}
	switch {
	case j.State.Terminal():
		return refuse(ErrJobTerminal)
	case j.Stopping != 0:
		return nil
	}
	t.stop(j, JobCancelled, reason)
	return nil
}

// next gives a job back to the queue after a provider did not serve it.
func (t *turn) next(j *Job, l *Lease, why string) {
	t.touchJob(j)
	seeker := j
	if j.forming() { // its first member looks for all
		seeker = t.jobs[j.Member.Gang]
		t.touchJob(seeker)
	}
	if !slices.Contains(seeker.Tried, l.Provider) {
		seeker.Tried = append(slices.Clip(seeker.Tried), l.Provider)
	}
	t.log(j, "%s", why)
	t.changed = true
	if j.Attempts >= maxAttempts {
		t.finish(j, nil, JobFailed, fmt.Sprintf("given up after %d attempts: %s", j.Attempts, why))
		return
	}
	t.requeue(j)
	if j.forming() {
		t.scatter(j, why)
	}
}

// finish settles a job and makes it terminal. The lease is the one to bill; nil if there is nothing to bill.
func (t *turn) finish(j *Job, l *Lease, state JobState, reason string) {
	if j.State.Terminal() {
		t.broken(fmt.Sprintf("job %s: %v cannot become %v", j.ID, j.State, state))
		return
	}
	if j.quoting() {
		t.quotes[j.Account]--
	}
	t.waited(j, false)
	t.settle(j, l)
	t.counted = true
	t.totals = t.totals.With(state)
	j.State, j.Error, j.Ended, j.Stopping = state, reason, t.now, 0
	t.unqueue(j)
	t.open[j.Account]--
	var text []string
	if state == JobDone {
		text = append(text, fmt.Sprintf("exit code %d", j.ExitCode))
	}
	if reason != "" {
		text = append(text, reason)
	}
	if l != nil {
		text = append(text, fmt.Sprintf("%v for %v", l.Cost, l.Billed.Round(time.Millisecond)))
		text = append(text, l.extras()...)
		if l.Covered > 0 {
			text = append(text, fmt.Sprintf("a reservation has paid %v of it", l.Covered.Round(time.Millisecond)))
		}
		if l.Unused > 0 {
			text = append(text, fmt.Sprintf("%v of it for the unused %v of the reservation", l.UnusedCost, l.Unused.Round(time.Millisecond)))
		}
	} else {
		text = append(text, "nothing charged")
	}
	t.log(j, "%s", strings.Join(text, "; "))
	t.memberEnded(j)
}

func (t *turn) log(j *Job, format string, args ...any) {
	t.touchJob(j)
	j.Log = append(j.Log, JobEvent{Seq: uint64(len(j.Log) + 1), Time: t.now, State: j.State, Text: fmt.Sprintf(format, args...)})
}

func (t *turn) touchJob(j *Job) {
	if t.dirtyJobs.add(j) {
		t.size += j.Size()
	}
}

func (t *turn) touchLease(l *Lease) {
	if t.dirtyLeases.add(l) {
		t.size += l.Size()
	}
}
