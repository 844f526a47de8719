package broker

import (
	"cmp"
	"maps"
	"slices"
	"time"
)

// Fill says how a provider stood by what it offers when it was asked for it.
type Fill uint8

// Fills of a hold.
const (
	FillNone     Fill = iota // not answered yet, or in a way that says nothing about the provider
	FillHonoured             // it granted the GPUs that it offers, and did not take them back
	FillFailed               // it refused, granted what the market cannot use, was silent while connected, or broke a quote
)

// What the fill rate is computed from.
const (
	fillWindow = 20        // holds, the newest
	fillMemory = time.Hour // older ones do not count, so that a host that is not asked any more gets another chance
	priorFills = 20        // holds that a host which nobody knows is taken to have honoured

	// leastFill is the fill rate, in millionths, below which offers are not shown, unless the query says otherwise.
	leastFill = 900_000
)

// fill is one hold in a provider's window.
type fill struct {
	at      time.Time
	lease   LeaseID
	account AccountID
	failed  bool
}

func (f fill) compare(g fill) int { return cmp.Or(f.at.Compare(g.at), cmp.Compare(f.lease, g.lease)) }

// FillRate is the share of holds that a provider honours, in millionths: (20 + honoured) / (20 + asked), over its last 20
// holds of the last hour. The failures of one account count once: a customer whose jobs no host takes, by accident or on
// purpose, must not take a host off the market.
func (r Record) FillRate() int64 {
	return int64(priorFills+r.Honoured) * 1_000_000 / int64(priorFills+r.Asked)
}

// unfilled returns the time that a provider's failures are expected to cost before it honours a hold, each the same:
// (1 − f)/f of it.
func (r Record) unfilled(each time.Duration) time.Duration {
	return each * time.Duration(r.Asked-r.Honoured) / time.Duration(priorFills+r.Honoured)
}

// filled counts what a provider's fill rate is computed from.
func (m *Market) filled(p PeerID) (asked, honoured int) {
	var failing []AccountID
	for _, f := range m.fills[p] {
		switch {
		case m.clock.Sub(f.at) >= fillMemory:
		case !f.failed:
			honoured++
		case !slices.Contains(failing, f.account):
			failing = append(failing, f.account)
		}
	}
	return honoured + len(failing), honoured
}

// judge keeps how a provider answered a hold. Later verdicts about the same hold replace earlier ones, in their place.
func (t *turn) judge(l *Lease, verdict Fill) {
	t.touchLease(l)
	l.Fill = verdict
	if l.Answered.IsZero() {
		l.Answered = t.now
	}
	t.recallFill(l)
}

// recallFill puts a lease's verdict into its provider's window, which has the same whatever the order of the verdicts.
func (m *Market) recallFill(l *Lease) {
	if l.Fill == FillNone {
		return
	}
	f := fill{at: l.Answered, lease: l.ID, account: l.Account, failed: l.Fill == FillFailed}
	all := m.fills[l.Provider]
	i, known := slices.BinarySearchFunc(all, f, fill.compare)
	if known {
		all[i].failed = f.failed
	} else {
		all = slices.Insert(all, i, f)
	}
	all = all[max(0, len(all)-fillWindow):]
	m.fills[l.Provider] = all
	if slices.ContainsFunc(all, func(f fill) bool { return f.failed }) {
		m.failing[l.Provider] = struct{}{}
	} else {
		delete(m.failing, l.Provider)
	}
}

// predicates are a query's own, and that the host honours its offers.
func (m *Market) predicates(q *Query) []Predicate { return m.honest(q, q.predicates()) }

// honest adds to a query's own predicates that the host honours its offers, if one on the market does not and the query
// says nothing about that.
func (m *Market) honest(q *Query, ps []Predicate) []Predicate {
	if len(m.failing) == 0 || q.Where.Has(fieldTable[fieldFillRate].Name) {
		return ps
	}
	for p := range m.failing {
		if m.shops[p] != nil && m.RecordOf(p).FillRate() < leastFill {
			return append(slices.Clip(ps), Predicate{field: &fieldTable[fieldFillRate], op: OpAtLeast, values: []value{number(leastFill)}})
		}
	}
	return ps
}

func (m *Market) auditFills() error {
	again := Market{fills: map[PeerID][]fill{}, failing: map[PeerID]struct{}{}}
	for _, l := range m.leases {
		again.recallFill(l)
	}
	if !maps.EqualFunc(again.fills, m.fills, slices.Equal) {
		return &InvariantError{Rule: "leases: how providers answered holds does not follow from them"}
	}
	return nil
}
