package broker

import (
	"cmp"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

	"rialto/pricing"
)

// State is what the effects of earlier steps saved.
type State struct {
	Accounts []Account
	Jobs     []Job
	Leases   []Lease
	// Transfers are all transfers, in order. Balances are recomputed from them and must agree.
	Transfers iter.Seq2[Transfer, error]
}

// Restore fills an empty market with saved state, and refuses state that does not add up.
// Offers are not part of it: providers connect again. The next Ticked sends again what was not answered.
func (m *Market) Restore(s State) error {
	if len(m.accounts) > 0 {
		return fmt.Errorf("restore: %w: the market is not empty", ErrConflict)
	}
	if err := m.replay(s); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	jobs := slices.Clone(s.Jobs)
	slices.SortFunc(jobs, func(a, b Job) int { return cmp.Or(a.Accepted.Compare(b.Accepted), cmp.Compare(a.ID, b.ID)) })
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
	if err := m.Audit(); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	return nil
}

// replay recomputes all balances from the ledger and compares them with the saved ones.
func (m *Market) replay(s State) error {
	for _, a := range s.Accounts {
		if a.Key != "" {
			m.keys[a.Key] = a.ID
		}
		bare := a
		bare.Available, bare.Held, bare.Payable = 0, 0, 0
		m.accounts[a.ID] = &bare
	}
	if s.Transfers != nil {
		for x, err := range s.Transfers {
			if err != nil {
				return fmt.Errorf("transfer after %d: %w", m.transfers, err)
			}
			if x.Seq != m.transfers+1 {
				return &InvariantError{Rule: fmt.Sprintf("transfer %d follows %d", x.Seq, m.transfers)}
			}
			if err := m.move(x); err != nil {
				return &InvariantError{Rule: fmt.Sprintf("transfer %d: %v", x.Seq, err)}
			}
			m.transfers = x.Seq
			if strings.HasPrefix(x.Ref, depositRef("")) {
				m.deposits[x.Ref] = x
			}
		}
	}
	for _, a := range s.Accounts {
		if got := *m.accounts[a.ID]; got != a {
			return &InvariantError{Rule: fmt.Sprintf("account %s: the ledger gives available %v, held %v, payable %v; saved are %v, %v, %v",
				a.ID, got.Available, got.Held, got.Payable, a.Available, a.Held, a.Payable)}
		}
	}
	return nil
}

func (m *Market) restoreLease(l *Lease) error {
	j := m.jobs[l.Job]
	if j == nil {
		return &InvariantError{Rule: fmt.Sprintf("lease %s: its job %s is not saved", l.ID, l.Job)}
	}
	m.leases[l.ID] = l
	if l.Renewed.After(m.clock) {
		m.clock = l.Renewed
	}
	m.recall(l)
	m.recallFill(l)
	if l.State != LeaseEnded {
		m.occupy(l)
	} else {
		m.observe(l)
	}
	if l.State != LeaseEnded || len(l.GPUs) > 0 && len(l.Receipt) == 0 {
		m.live[l.ID] = struct{}{}
	}
	if l.State == LeaseHolding {
		m.asked[offerKey{l.Provider, l.Offer}] += j.Spec.GPU.Count
	}
	return nil
}

// Audit asserts the market's invariants over all of its state. It takes time in proportion; [Market.Step]
// asserts them for what a step touched. The error is an [*InvariantError].
func (m *Market) Audit() error {
	total := m.world + m.fee
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
	if !maps.EqualFunc(holds, m.committed, func(a, b pricing.Money) bool { return a == b }) {
		return &InvariantError{Rule: "money: holds of jobs and accounts differ"}
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
	return cmp.Or(m.auditRecords(), m.auditFills(), m.auditQuotes(), m.auditGangs(), m.auditShops(), m.auditSpots(), m.auditQueue())
}

func mapHas[K comparable, V any](m map[K]V, k K) bool {
	_, ok := m[k]
	return ok
}
