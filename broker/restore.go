package broker

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"rialto/pricing"
)

// State is what the effects of earlier steps saved, of what is open.
type State struct {
	Accounts []Account
	Slots    []Slot // that are taken
	Jobs     []Job  // in them, and all members of their gangs
	Leases   []Lease
	Totals   Totals
	Epochs   []Epoch
	Answers  []Answers
	Runs     []Runs
	Contents []Content
}

// Restore fills an empty market with saved state, and refuses state that does not add up. That balances are what all
// transfers add up to is left to who has them: they are the ledger's.
// Offers are not part of it: providers connect again. The next Ticked sends again what was not answered.
func (m *Market) Restore(s State) error {
	if len(m.accounts) > 0 {
		return fmt.Errorf("restore: %w: the market is not empty", ErrConflict)
	}
	m.restoreDerived(s)
	for _, a := range s.Accounts {
		if a.Key != "" {
			m.keys[a.Key] = a.ID
		}
		m.accounts[a.ID] = &a
	}
	jobs := slices.Clone(s.Jobs)
	for i := range jobs {
		j := &jobs[i]
		m.addJob(j)
		if n := len(j.Log); n > 0 && j.Log[n-1].Time.After(m.clock) {
			m.clock = j.Log[n-1].Time
		}
	}
	leases := slices.Clone(s.Leases)
	for i := range leases {
		if err := m.restoreLease(&leases[i]); err != nil {
			return fmt.Errorf("restore: %w", err)
		}
	}
	m.restoreRests()
	for i := range jobs {
		if err := m.whole(&jobs[i]); err != nil {
			return fmt.Errorf("restore: %w", err)
		}
	}
	if err := m.Audit(); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	return nil
}

func (m *Market) restoreDerived(s State) {
	m.totals, m.clock = s.Totals, s.Totals.Clock
	for _, slot := range s.Slots {
		m.slots[slot.Job] = slot.Number
		m.slotted = max(m.slotted, slot.Number+1)
	}
	taken := make([]bool, m.slotted)
	for _, n := range m.slots {
		taken[n] = true
	}
	for n := range slices.Backward(taken) {
		if !taken[n] {
			m.vacant = append(m.vacant, n)
		}
	}
	for _, e := range s.Epochs {
		m.epochs[gpuID{e.Provider, e.UUID}] = e.Epoch
	}
	for _, a := range s.Answers {
		m.setFills(a.Provider, a.Fills)
	}
	for _, r := range s.Runs {
		m.records[r.Provider] = Record{Seen: r.Seen, Failures: r.Failures}
		m.longest = max(m.longest, r.Seen)
		if len(r.Starts) > 0 {
			m.starts.hosts[r.Provider] = paceOf(starts(r.Starts).of(r.Provider))
		}
	}
	for _, c := range s.Contents {
		m.starts.contents[c.Key] = c.Starts
	}
	m.starts.restore()
}

func (m *Market) restoreLease(l *Lease) error {
	j := m.jobs[l.Job]
	if j == nil {
		return &InvariantError{Rule: fmt.Sprintf("lease %s: its job %s is not open", l.ID, l.Job)}
	}
	m.leases[l.ID] = l
	if l.Renewed.After(m.clock) {
		m.clock = l.Renewed
	}
	if l.State != LeaseEnded {
		m.occupy(l)
	}
	if !l.Over() {
		m.live[l.ID] = struct{}{}
	}
	if l.State == LeaseHolding {
		m.asked[offerKey{l.Provider, l.Offer}] += j.Spec.GPU.Count
	}
	return nil
}

// whole makes sure that a restored job has its gang and its leases.
func (m *Market) whole(j *Job) error {
	for id := range j.Members() {
		if m.jobs[id] == nil {
			return &InvariantError{Rule: fmt.Sprintf("job %s: %s of its gang is not saved", j.ID, id)}
		}
	}
	for id := range j.Leases() {
		if m.leases[id] == nil {
			return &InvariantError{Rule: fmt.Sprintf("job %s: its lease %s is not saved", j.ID, id)}
		}
	}
	return nil
}

// Audit asserts the market's invariants over all of its state. It takes time in proportion; [Market.Step]
// asserts them for what a step touched. The error is an [*InvariantError].
func (m *Market) Audit() error {
	total := m.totals.World + m.totals.Fee
	for _, a := range m.accounts {
		total += a.Available + a.Held + a.Payable
		if err := m.auditAccount(a); err != nil {
			return &InvariantError{Rule: err.Error()}
		}
	}
	if total != 0 {
		return &InvariantError{Rule: fmt.Sprintf("money: all books add up to %v", total)}
	}
	holds, open := map[AccountID]pricing.Money{}, map[AccountID]int{}
	for _, j := range m.jobs {
		holds[j.Account] += j.Hold
		if !j.State.Terminal() {
			open[j.Account]++
		}
		l, leased := m.leases[j.Lease]
		switch {
		case j.State.Terminal() && (j.Hold != 0 || j.Stopping != 0):
			return &InvariantError{Rule: fmt.Sprintf("job %s: %v and still holds %v", j.ID, j.State, j.Hold)}
		case (j.State == JobQueued) != m.queue.has(j.ID):
			return &InvariantError{Rule: fmt.Sprintf("job %s: %v, and the queue disagrees", j.ID, j.State)}
		case !j.State.Terminal() && j.State != JobQueued && (!leased || l.State == LeaseEnded):
			return &InvariantError{Rule: fmt.Sprintf("job %s: %v without a lease", j.ID, j.State)}
		}
	}
	for id := range m.accounts {
		if holds[id] != m.committed[id] {
			return &InvariantError{Rule: "money: holds of jobs and accounts differ"}
		}
	}
	for id, n := range m.open {
		if open[id] != n {
			return &InvariantError{Rule: fmt.Sprintf("account %s: %d open jobs, counted %d", id, open[id], n)}
		}
	}
	taken := map[string]LeaseID{}
	for _, l := range m.leases {
		for _, g := range l.GPUs {
			if other, ok := taken[g.UUID]; ok && l.State != LeaseEnded {
				return &InvariantError{Rule: fmt.Sprintf("GPU %s: leased to %s and %s", g.UUID, l.ID, other)}
			}
			if l.State != LeaseEnded {
				taken[g.UUID] = l.ID
			}
		}
	}
	if !maps.Equal(taken, m.leased) {
		return &InvariantError{Rule: "GPUs: the index of leased GPUs is wrong"}
	}
	return cmp.Or(m.auditSlots(), m.auditQuotes(), m.auditGangs(), m.auditRests(), m.auditShops(), m.auditSpots(), m.auditQueue())
}

func mapHas[K comparable, V any](m map[K]V, k K) bool {
	_, ok := m[k]
	return ok
}
