package broker

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"rialto/pricing"
)

// StepSlowly is [Market.Step] of a market that looks at all that wait, in each step and in the order of service.
func (m *Market) StepSlowly(now time.Time, ev Event) ([]Effect, error) {
	if m.fault != nil {
		return nil, m.fault
	}
	if now = now.Round(0).UTC(); now.Before(m.clock) {
		now = m.clock
	}
	t := &turn{Market: m, now: now}
	if _, ok := ev.(Ticked); ok {
		t.tickSlowly()
	} else if err := t.apply(ev); err != nil {
		return nil, err
	}
	m.clock = now
	if t.changed {
		t.serveSlowly()
	}
	t.audit()
	if m.fault != nil {
		return nil, m.fault
	}
	return t.effects(), nil
}

func (t *turn) tickSlowly() {
	t.tickLeases()
	t.tickRests()
	for _, p := range sortedKeys(t.pardons) {
		t.forgive(p)
	}
	t.changed = t.changed || t.backlog || len(t.pardons) > 0
	for _, id := range sortedKeys(t.queue.jobs) {
		t.expire(t.jobs[id])
	}
	ids := sortedKeys(t.queue.jobs)
	at, _ := slices.BinarySearch(ids, t.checked+"\x00") // behind it
	for i := range min(4, len(ids)) {
		t.checked = ids[(at+i)%len(ids)]
		t.stale[t.checked] = struct{}{}
		t.changed = true
	}
}

// inLine lists the jobs that wait, the next one first.
func (t *turn) inLine() []*Job {
	var all []*Job
	for _, w := range t.queue.jobs {
		all = append(all, w.Job)
	}
	spent := func(j *Job) pricing.Money { return t.accounts[j.Account].Recent.at(t.now) }
	demand := func(j *Job) int { return min(1, int(j.Spec.Bid)) }
	slices.SortFunc(all, func(a, b *Job) int {
		return cmp.Or(
			cmp.Compare(demand(a), demand(b)), cmp.Compare(b.Spec.Bid, a.Spec.Bid), cmp.Compare(spent(a), spent(b)),
			a.Accepted.Compare(b.Accepted), cmp.Compare(a.ID, b.ID),
		)
	})
	heir := func(j *Job) bool { return slices.Contains(t.heirs, j.ID) }
	slices.SortStableFunc(all, func(a, b *Job) int {
		if heir(a) == heir(b) {
			return 0
		}
		return prefer(heir(a))
	})
	return all
}

func (t *turn) serveSlowly() {
	fresh := t.fresh()
	t.backlog = false
	for _, j := range t.inLine() {
		if !t.queue.has(j.ID) {
			continue // asked, or ended, with the rest of its gang
		}
		if !mapHas(t.stale, j.ID) && !t.suitsSlowly(j, fresh) {
			continue
		}
		if t.full() {
			t.stale[j.ID] = struct{}{}
			t.backlog = true
			continue
		}
		delete(t.stale, j.ID)
		t.place(j)
	}
	clear(t.news)
}

func (t *turn) suitsSlowly(j *Job, fresh []*Listed) bool {
	for _, l := range fresh {
		q := j.Spec.query()
		if f := t.finder(&q, j.Tried, true); f.fits(l) {
			return true
		}
	}
	return false
}

// AheadSlowly is [Market.Ahead] of one job.
func (m *Market) AheadSlowly(id JobID) int {
	w := m.queue.jobs[id]
	if w == nil {
		return 0
	}
	n := 0
	for _, o := range (&turn{Market: m, now: m.clock}).inLine() {
		switch {
		case o == w.Job:
			return n
		case o.led() || !o.Spec.rivals(&w.Spec):
		default:
			n++
		}
	}
	return n
}

// CheckLosing compares the bids that lose with those that a look at all that wait finds.
func (m *Market) CheckLosing() error {
	t := &turn{Market: m, now: m.clock}
	for _, o := range m.offers {
		for _, w := range m.queue.byID {
			if w.Spec.Bid == 0 {
				continue
			}
			if got, want := t.losing(w.Job, o), t.losingSlowly(w.Job, o); got != want {
				return fmt.Errorf("%v loses to %s on %s, want %v", got, w.ID, o.ID, want)
			}
		}
	}
	return nil
}

func (t *turn) losingSlowly(j *Job, o *Offer) pricing.Rate {
	var bids []pricing.Rate
	for id := range t.queue.jobs {
		r := t.jobs[id]
		if id == j.ID || r.Spec.Bid == 0 || r.Spec.GPU.Count != j.Spec.GPU.Count || r.Spec.tooDear(o) {
			continue
		}
		q := r.Spec.query()
		if f := t.finder(&q, r.Tried, true); f.takes(o) {
			bids = append(bids, r.Spec.Bid)
		}
	}
	slices.SortFunc(bids, func(a, b pricing.Rate) int { return cmp.Compare(b, a) })
	q := j.Spec.query()
	f, n := t.finder(&q, j.Tried, true), 0
	for _, s := range t.shops {
		for _, l := range s.listed {
			if f.fits(l) {
				n += l.Free / j.Spec.GPU.Count
			}
		}
	}
	if served := max(1, n) - 1; served < len(bids) {
		return bids[served]
	}
	return -pricing.Tick
}
