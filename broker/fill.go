package broker

import (
	"cmp"
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

// HoldFill is one hold in a provider's window.
type HoldFill struct {
	At      time.Time
	Lease   LeaseID
	Account AccountID
	Failed  bool `json:",omitzero"`
}

func (f HoldFill) compare(g HoldFill) int {
	return cmp.Or(f.At.Compare(g.At), cmp.Compare(f.Lease, g.Lease))
}

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
		case m.clock.Sub(f.At) >= fillMemory:
		case !f.Failed:
			honoured++
		case !slices.Contains(failing, f.Account):
			failing = append(failing, f.Account)
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
	if t.heard.add(l.Provider) {
		t.size += derivedSize
	}
}

// recallFill puts a lease's verdict into its provider's window, which has the same whatever the order of the verdicts.
func (m *Market) recallFill(l *Lease) {
	if l.Fill == FillNone {
		return
	}
	f := HoldFill{At: l.Answered, Lease: l.ID, Account: l.Account, Failed: l.Fill == FillFailed}
	all := slices.Clone(m.fills[l.Provider]) // what was there may be on its way to be saved
	i, known := slices.BinarySearchFunc(all, f, HoldFill.compare)
	if known {
		all[i].Failed = f.Failed
	} else {
		all = slices.Insert(all, i, f)
	}
	m.setFills(l.Provider, all[max(0, len(all)-fillWindow):])
}

func (m *Market) setFills(p PeerID, all []HoldFill) {
	m.fills[p] = all
	if slices.ContainsFunc(all, func(f HoldFill) bool { return f.Failed }) {
		m.failing[p] = struct{}{}
	} else {
		delete(m.failing, p)
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
