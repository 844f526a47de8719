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

// view is the durable state of what is open as readers see it: it changes only after a batch was saved. What is over is
// read from the store.
type view struct {
	mu       sync.RWMutex
	accounts map[broker.AccountID]broker.Account
	jobs     map[broker.JobID]broker.Job // in slots
	leases   map[broker.LeaseID]broker.Lease
	totals   broker.Totals
	tokens   map[string]broker.AccountID // by note key
	waiting  map[broker.JobID]chan struct{}
}

func newView() *view {
	return &view{
		accounts: map[broker.AccountID]broker.Account{},
		jobs:     map[broker.JobID]broker.Job{},
		leases:   map[broker.LeaseID]broker.Lease{},
		tokens:   map[string]broker.AccountID{},
		waiting:  map[broker.JobID]chan struct{}{},
	}
}

func (v *view) restore(st broker.State, tokens map[string][]byte) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, a := range st.Accounts {
		v.accounts[a.ID] = a
	}
	for _, j := range st.Jobs {
		v.jobs[j.ID] = j
	}
	for _, l := range st.Leases {
		v.leases[l.ID] = l
	}
	v.totals = st.Totals
	for key, account := range tokens {
		v.tokens[key] = broker.AccountID(account)
	}
}

// publish shows what was saved.
func (v *view) publish(saves []broker.Effect, notes map[string][]byte) {
	if len(saves) == 0 && len(notes) == 0 {
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
			v.leases[e.Lease.ID] = e.Lease
		case broker.SaveDerived:
			v.saveDerived(e.Derived)
		case broker.Post, broker.SendHold, broker.SendConfirm, broker.SendRelease, broker.SendRenewal, broker.SignReceipt:
		}
	}
	for key, value := range notes {
		if strings.HasPrefix(key, tokenNotes) {
			v.tokens[key] = broker.AccountID(value)
		}
	}
}

// saveJob needs v.mu.
func (v *view) saveJob(j broker.Job) {
	v.jobs[j.ID] = j
	if c, ok := v.waiting[j.ID]; ok {
		close(c)
		delete(v.waiting, j.ID)
	}
}

// saveDerived needs v.mu.
func (v *view) saveDerived(d broker.Derived) {
	switch d := d.(type) {
	case broker.Totals:
		v.totals = d
	case broker.Slot:
		if !d.Closed {
			return
		}
		first := v.jobs[d.Job]
		for id := range first.Members() {
			j := v.jobs[id]
			for lease := range j.Leases() {
				delete(v.leases, lease)
			}
			delete(v.jobs, id)
		}
	case broker.Epoch, broker.Answers, broker.Runs, broker.Content, broker.Ending, broker.Wait:
	}
}

func (v *view) job(id broker.JobID) (broker.Job, bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	j, ok := v.jobs[id]
	return j, ok
}

func (v *view) lease(id broker.LeaseID) (broker.Lease, bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	l, ok := v.leases[id]
	return l, ok
}

// watch returns a job and a channel that is closed when it changes; nil if it never will.
func (v *view) watch(id broker.JobID) (broker.Job, <-chan struct{}, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	j, ok := v.jobs[id]
	if !ok {
		return broker.Job{}, nil, false
	}
	c, ok := v.waiting[id]
	if !ok && !j.State.Terminal() {
		c = make(chan struct{})
		v.waiting[id] = c
	}
	return j, c, true
}

// running returns the leases that are ready and not over.
func (v *view) running() map[broker.LeaseID]broker.Ending {
	v.mu.RLock()
	defer v.mu.RUnlock()
	out := map[broker.LeaseID]broker.Ending{}
	for id, l := range v.leases {
		if !l.Ready.IsZero() && !l.Over() {
			out[id] = broker.Ending{Lease: id, Provider: l.Provider, Model: l.Model, GPUs: len(l.GPUs), Rate: l.Rate, Ready: l.Ready, Ended: l.Ended}
		}
	}
	return out
}

// inTime returns, of leases, those that ran between two times, by when they became ready.
func inTime(leases map[broker.LeaseID]broker.Ending, from, to time.Time) []broker.Ending {
	var out []broker.Ending
	for _, l := range leases {
		if !l.Ready.IsZero() && l.Ready.Before(to) && (l.Ended.IsZero() || l.Ended.After(from)) {
			out = append(out, l)
		}
	}
	slices.SortFunc(out, func(a, b broker.Ending) int {
		return cmp.Or(a.Ready.Compare(b.Ready), cmp.Compare(a.Lease, b.Lease))
	})
	return out
}

// spec returns what an open job's customer signed; nothing if the job is not known.
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
	n := map[broker.JobState]int{
		broker.JobDone: v.totals.Done, broker.JobFailed: v.totals.Failed, broker.JobExpired: v.totals.Expired, broker.JobCancelled: v.totals.Cancelled,
		broker.JobPreempted: v.totals.Preempted,
	}
	for _, j := range v.jobs {
		if !j.State.Terminal() {
			n[j.State]++
		}
	}
	return n
}
