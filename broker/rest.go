package broker

import (
	"fmt"
	"maps"
	"time"
)

// A rest is what is left of a reservation that ended before its term and was billed to the term's end. Until then as many
// GPUs of its offer as it had are kept for its account: they count as free for no one else, so that a host which says that
// a container exited cannot sell its GPUs here a second time. A job that the account sends to that host takes them, one job
// at a time, and the seconds that it runs before the term's end are covered: they were paid for. Its hold is as large as any
// other's, because it may run on after the term.
//
// What is kept is a number of GPUs, not which ones: the host chooses, as always. If it has leased them out through another
// broker meanwhile, it refuses, as it may with any.

// takesRest reports whether a job would use a rest: it names the host, and wants nothing that a rest is not.
func (s *JobSpec) takesRest(l *Lease) bool {
	plain := s.Reserve == 0 && s.Bid == 0 && s.Firm == 0 && s.Nodes == 0 && !s.standing()
	return plain && s.Provider == l.Provider && s.GPU.Count <= len(l.GPUs) && (s.GPU.Model == AnyModel || sameModel(s.GPU.Model, l.Model))
}

// lend makes the GPUs of an idle rest of the account free for a job that is being placed, until reclaim: of several, that
// which lasts longest.
func (t *turn) lend(account AccountID, spec *JobSpec) {
	if spec.Provider == "" {
		return // as most are: it takes none
	}
	for _, id := range sortedKeys(t.rests) {
		l := t.leases[id]
		usable := t.rests[id] == "" && l.Account == account && t.now.Before(l.Until()) && spec.takesRest(l)
		if usable && (t.lent == nil || l.Until().After(t.lent.Until())) {
			t.lent = l
		}
	}
	if t.lent != nil {
		t.keep(t.lent, -spec.GPU.Count)
	}
}

// reclaim keeps what was lent and not taken.
func (t *turn) reclaim(spec *JobSpec) {
	if t.lent != nil && t.rests[t.lent.ID] == "" {
		t.keep(t.lent, spec.GPU.Count)
	}
	t.lent = nil
}

// take has a new lease use what was lent, if that is on its offer.
func (t *turn) take(l *Lease) {
	if r := t.lent; r != nil && r.Provider == l.Provider && r.Offer == l.Offer {
		l.Rest, l.RestUntil = r.ID, r.Until()
		t.rests[r.ID] = l.ID
	}
}

// giveBack ends the use of a rest by a lease that has ended, or whose hold has: nobody else may ask for the GPUs between.
func (t *turn) giveBack(l *Lease) {
	if l.Rest != "" && t.rests[l.Rest] == l.ID {
		t.rests[l.Rest] = ""
		t.keep(t.leases[l.Rest], t.jobs[l.Job].Spec.GPU.Count)
		t.offerRest(t.leases[l.Rest])
	}
}

// offerRest has those who wait and may use a rest looked at: no offer tells of it.
func (t *turn) offerRest(rest *Lease) {
	for _, w := range t.queue.byID {
		if w.Account == rest.Account && w.Spec.takesRest(rest) {
			t.stale[w.ID] = struct{}{}
			t.changed = true
		}
	}
}

// leave keeps what is left of a reservation that has ended.
func (t *turn) leave(l *Lease) {
	if l.Unused > 0 && t.now.Before(l.Until()) {
		t.rests[l.ID] = ""
		t.keep(l, len(l.GPUs))
		t.offerRest(l)
	}
}

// keep changes how many GPUs of a rest's offer are kept.
func (m *Market) keep(l *Lease, by int) {
	key := offerKey{l.Provider, l.Offer}
	if m.kept[key] += by; m.kept[key] == 0 {
		delete(m.kept, key)
	}
	m.relist(l.Provider)
}

// tickRests lets go of the rests whose term is over. A job that uses one goes on at its price.
func (t *turn) tickRests() {
	for _, id := range sortedKeys(t.rests) {
		l := t.leases[id]
		if t.now.Before(l.Until()) {
			continue
		}
		t.touchLease(l) // its job is open no more, see isOpen
		t.keep(l, -t.idle(id))
		delete(t.rests, id)
		t.hearFrom(l.Provider)
		t.changed = true
	}
}

// idle is how many GPUs of a rest no job uses.
func (m *Market) idle(id LeaseID) int {
	n := len(m.leases[id].GPUs)
	if user := m.leases[m.rests[id]]; user != nil {
		n -= m.jobs[user.Job].Spec.GPU.Count
	}
	return n
}

// covered is how much of the time that a lease has just been billed for is paid by the rest that it uses.
func (t *turn) covered(l *Lease, added time.Duration) time.Duration {
	if l.Rest == "" {
		return 0
	}
	begun := t.until(l).Add(-added)
	return max(0, min(added, l.RestUntil.Sub(begun)))
}

// restoreRests finds what is left of reservations, and who uses it. All leases that are open are restored.
func (m *Market) restoreRests() {
	for _, l := range m.leases { // any order keeps the same
		if l.State == LeaseEnded && l.Unused > 0 { // if its term is over, the next tick says so
			m.rests[l.ID] = ""
			m.keep(l, len(l.GPUs))
		}
	}
	for id := range m.live {
		l := m.leases[id]
		if _, open := m.rests[l.Rest]; open && (l.State == LeaseHolding || l.State != LeaseEnded && len(l.GPUs) > 0) {
			m.rests[l.Rest] = id
			m.keep(l, -m.jobs[l.Job].Spec.GPU.Count)
		}
	}
}

// auditRests recounts what is kept.
func (m *Market) auditRests() error {
	kept := map[offerKey]int{}
	for id := range m.rests {
		l := m.leases[id]
		user := m.leases[m.rests[id]]
		if l == nil || l.State != LeaseEnded || l.Unused <= 0 || user != nil && (user.Rest != id || user.State == LeaseEnded || user.State == LeaseEnding && len(user.GPUs) == 0) {
			return &InvariantError{Rule: fmt.Sprintf("lease %s: it left no rest, or who uses it does not", id)}
		}
		if n := m.idle(id); n > 0 {
			kept[offerKey{l.Provider, l.Offer}] += n
		}
	}
	if !maps.Equal(kept, m.kept) {
		return &InvariantError{Rule: fmt.Sprintf("rests: %v GPUs are kept, want %v", m.kept, kept)}
	}
	return nil
}
