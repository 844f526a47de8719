package service

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"rialto/broker"
)

// view is the durable state as readers see it: it changes only after a batch was saved.
type view struct {
	mu       sync.RWMutex
	accounts map[broker.AccountID]broker.Account
	jobs     map[broker.JobID]broker.Job
	order    map[broker.AccountID][]broker.JobID // as accepted
	leases   map[broker.LeaseID]broker.Lease
	tokens   map[string]broker.AccountID // by note key
	tags     map[broker.JobID][]byte
	waiting  map[broker.JobID]chan struct{}
	over     []overLease // in the order in which they were shown, which is that of their times
}

// overLease is a lease of which nothing will change any more.
type overLease struct {
	id broker.LeaseID
	at time.Time // settled, or given up
}

func newView() *view {
	return &view{
		accounts: map[broker.AccountID]broker.Account{},
		jobs:     map[broker.JobID]broker.Job{},
		order:    map[broker.AccountID][]broker.JobID{},
		leases:   map[broker.LeaseID]broker.Lease{},
		tokens:   map[string]broker.AccountID{},
		tags:     map[broker.JobID][]byte{},
		waiting:  map[broker.JobID]chan struct{}{},
	}
}

func (v *view) restore(st broker.State, tokens, tags map[string][]byte) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, a := range st.Accounts {
		v.accounts[a.ID] = a
	}
	jobs := slices.Clone(st.Jobs)
	slices.SortStableFunc(jobs, func(a, b broker.Job) int { return a.Accepted.Compare(b.Accepted) })
	for _, j := range jobs {
		v.saveJob(j)
	}
	for _, l := range st.Leases {
		v.leases[l.ID] = l
		if l.Over() {
			v.over = append(v.over, overLease{l.ID, overSince(&l)})
		}
	}
	slices.SortFunc(v.over, func(a, b overLease) int { return cmp.Or(a.at.Compare(b.at), cmp.Compare(a.id, b.id)) })
	for key, account := range tokens {
		v.tokens[key] = broker.AccountID(account)
	}
	v.saveTags(tags)
}

// publish shows what was saved.
func (v *view) publish(saves []broker.Effect, notes, hints map[string][]byte) {
	if len(saves) == 0 && len(notes) == 0 && len(hints) == 0 {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, e := range saves {
		switch e := e.(type) {
		case broker.SaveAccount:
			v.accounts[e.Account.ID] = e.Account
		case broker.SaveJob:
			v.saveJob(e.Job)
		case broker.SaveLease:
			v.saveLease(&e.Lease)
		case broker.Post, broker.SendHold, broker.SendConfirm, broker.SendRelease, broker.SendRenewal, broker.SignReceipt:
		}
	}
	for key, value := range notes {
		if strings.HasPrefix(key, tokenNotes) {
			v.tokens[key] = broker.AccountID(value)
		}
	}
	v.saveTags(hints)
}

// saveTags needs v.mu.
func (v *view) saveTags(hints map[string][]byte) {
	for key, value := range hints {
		if id, ok := strings.CutPrefix(key, tagHints); ok {
			v.tags[broker.JobID(id)] = value
		}
	}
}

// saveJob needs v.mu.
func (v *view) saveJob(j broker.Job) {
	if _, known := v.jobs[j.ID]; !known {
		v.order[j.Account] = append(v.order[j.Account], j.ID)
	}
	v.jobs[j.ID] = j
	if c, ok := v.waiting[j.ID]; ok {
		close(c)
		delete(v.waiting, j.ID)
	}
}

// saveLease needs v.mu.
func (v *view) saveLease(l *broker.Lease) {
	before := v.leases[l.ID]
	v.leases[l.ID] = *l
	if !l.Over() || before.Over() {
		return
	}
	at := overSince(l)
	if n := len(v.over); n > 0 && at.Before(v.over[n-1].at) {
		at = v.over[n-1].at // a release that was not answered ends later than it says
	}
	v.over = append(v.over, overLease{l.ID, at})
}

// overSince is when a lease was settled, or given up.
func overSince(l *broker.Lease) time.Time {
	if l.Settled.IsZero() {
		return l.Ended
	}
	return l.Settled
}

// ended returns up to most leases that were over in [from, to), with their jobs, after the first skip of all, and how
// many of all come before the next. A zero to is no limit. It holds the view up for no longer than that takes.
func (v *view) ended(skip int, from, to time.Time, most int) (page []endedLease, next int) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	first, _ := slices.BinarySearchFunc(v.over, from, func(o overLease, t time.Time) int { return o.at.Compare(t) })
	next = max(skip, first)
	for next < len(v.over) && len(page) < most {
		o := v.over[next]
		if !to.IsZero() && !o.at.Before(to) {
			break
		}
		l := v.leases[o.id]
		j := v.jobs[l.Job]
		page = append(page, endedLease{at: o.at, lease: l, customer: j.Spec.Customer, state: j.State, last: j.Lease == l.ID})
		next++
	}
	return page, next
}

// endedLease is a lease that is over and what prices want to know of its job.
type endedLease struct {
	at       time.Time
	lease    broker.Lease
	customer broker.PeerID
	state    broker.JobState
	last     bool // the job took no other lease after it
}

// job returns an account's job.
func (v *view) job(account broker.AccountID, id broker.JobID) (broker.Job, error) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	j, ok := v.jobs[id]
	if !ok || j.Account != account {
		return broker.Job{}, fmt.Errorf("job %q: %w", id, broker.ErrNotFound)
	}
	return j, nil
}

// watch returns an account's job and a channel that is closed when it changes; nil if it never will.
func (v *view) watch(account broker.AccountID, id broker.JobID) (broker.Job, <-chan struct{}, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	j, ok := v.jobs[id]
	if !ok || j.Account != account {
		return broker.Job{}, nil, fmt.Errorf("job %q: %w", id, broker.ErrNotFound)
	}
	c, ok := v.waiting[id]
	if !ok && !j.State.Terminal() {
		c = make(chan struct{})
		v.waiting[id] = c
	}
	return j, c, nil
}

// jobsBefore returns a page of an account's jobs, newest first.
func (v *view) jobsBefore(account broker.AccountID, before broker.JobID, most int) (page []broker.Job, more bool, err error) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	ids := v.order[account]
	if before != "" {
		end := slices.Index(ids, before)
		if end < 0 {
			return nil, false, &broker.FieldError{Field: "cursor", Problem: "no job of this account"}
		}
		ids = ids[:end]
	}
	older := max(0, len(ids)-max(most, 0))
	for _, id := range slices.Backward(ids[older:]) {
		page = append(page, v.jobs[id])
	}
	return page, older > 0, nil
}

// leaseOf returns the current or last lease of an account's job.
func (v *view) leaseOf(account broker.AccountID, id broker.JobID) (broker.Lease, error) {
	j, err := v.job(account, id)
	if err != nil {
		return broker.Lease{}, err
	}
	v.mu.RLock()
	defer v.mu.RUnlock()
	l, ok := v.leases[j.Lease]
	if !ok {
		return broker.Lease{}, fmt.Errorf("job %q has no lease yet: %w", id, broker.ErrNotFound)
	}
	return l, nil
}

// hired returns a lease and the job that it is for.
func (v *view) hired(id broker.LeaseID) (broker.Lease, broker.Job, error) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	l, ok := v.leases[id]
	if !ok {
		return broker.Lease{}, broker.Job{}, fmt.Errorf("lease %s: %w", id, broker.ErrNotFound)
	}
	return l, v.jobs[l.Job], nil
}

// executed returns the leases that ran between two times.
func (v *view) executed(from, to time.Time) []broker.Lease {
	v.mu.RLock()
	defer v.mu.RUnlock()
	var out []broker.Lease
	for _, l := range v.leases {
		if !l.Ready.IsZero() && l.Ready.Before(to) && (l.Ended.IsZero() || l.Ended.After(from)) {
			out = append(out, l)
		}
	}
	slices.SortFunc(out, func(a, b broker.Lease) int { return cmp.Or(a.Ready.Compare(b.Ready), cmp.Compare(a.ID, b.ID)) })
	return out
}

// spec returns what a job's customer signed; nothing if the job is not known.
func (v *view) spec(id broker.JobID) broker.JobSpec {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.jobs[id].Spec
}

func (v *view) account(id broker.AccountID) (broker.Account, error) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	a, ok := v.accounts[id]
	if !ok {
		return broker.Account{}, fmt.Errorf("account %q: %w", id, broker.ErrNotFound)
	}
	return a, nil
}

func (v *view) allAccounts() []broker.Account {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return slices.SortedFunc(maps.Values(v.accounts), func(a, b broker.Account) int {
		return strings.Compare(string(a.ID), string(b.ID))
	})
}

func (v *view) token(key string) (broker.AccountID, bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	id, ok := v.tokens[key]
	return id, ok
}

// states counts jobs by state.
func (v *view) states() map[broker.JobState]int {
	v.mu.RLock()
	defer v.mu.RUnlock()
	n := map[broker.JobState]int{}
	for _, j := range v.jobs {
		n[j.State]++
	}
	return n
}
