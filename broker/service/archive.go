package service

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"time"

	"rialto/broker"
)

// Archive reads what was saved of what the market and the view have forgotten. What is not there is broker.ErrNotFound.
type Archive interface {
	broker.Past
	// JobsOf returns an account's newest jobs, or those accepted before one, at most most, newest first, and whether there
	// are older ones.
	JobsOf(ctx context.Context, account broker.AccountID, before *broker.Job, most int) ([]broker.JobID, bool, error)
	// Waits yields the waits of interruptible jobs that were over after one, in order.
	Waits(ctx context.Context, after broker.Wait) iter.Seq2[broker.Wait, error]
	// Endings yields the leases that were over at a time and have a later id than one, and those that were over after that
	// time, in the order of time and id.
	Endings(ctx context.Context, from time.Time, after broker.LeaseID) iter.Seq2[broker.Ending, error]
	// Recount checks the balances of a state that was loaded against all transfers until then.
	Recount(ctx context.Context, st broker.State) error
}

// archive collects what the store has now and the market may forget. The saving goroutine adds, the other takes.
type archive struct {
	mu   sync.Mutex
	over broker.Archived
}

func (a *archive) add(saves []broker.Effect) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, e := range saves {
		switch e := e.(type) {
		case broker.Post:
			if ref, ok := e.Transfer.DepositRef(); ok {
				a.over.Deposits = append(a.over.Deposits, ref)
			}
		case broker.SaveDerived:
			if slot, ok := e.Derived.(broker.Slot); ok && slot.Closed {
				a.over.Jobs = append(a.over.Jobs, slot.Job)
			}
		case broker.SaveAccount, broker.SaveJob, broker.SaveLease,
			broker.SendHold, broker.SendConfirm, broker.SendRelease, broker.SendRenewal, broker.SignReceipt:
		}
	}
}

func (a *archive) take() broker.Archived {
	a.mu.Lock()
	defer a.mu.Unlock()
	over := a.over
	a.over = broker.Archived{}
	return over
}

// recount adds up all transfers beside the running market: reading them takes longer than anybody should wait.
func (s *Service) recount(ctx context.Context, st broker.State) error {
	begun := time.Now()
	if err := s.c.Store.Recount(ctx, st); err != nil {
		return fmt.Errorf("balances at the start: %w", err)
	}
	s.c.Logger.Info("balances recounted", "transfers", st.Totals.Transfers, "took", time.Since(begun))
	return nil
}

// job returns an account's job, open or over.
func (s *Service) job(ctx context.Context, account broker.AccountID, id broker.JobID) (broker.Job, error) {
	j, err := s.anyJob(ctx, id)
	if err != nil && !errors.Is(err, broker.ErrNotFound) {
		return broker.Job{}, err
	}
	if err != nil || j.Account != account {
		return broker.Job{}, fmt.Errorf("job %q: %w", id, broker.ErrNotFound)
	}
	return j, nil
}

func (s *Service) anyJob(ctx context.Context, id broker.JobID) (broker.Job, error) {
	if j, shown := s.view.job(id); shown {
		return j, nil
	}
	j, err := s.c.Store.Job(ctx, id)
	if err != nil || j.State.Terminal() {
		return j, err
	}
	if j, shown := s.view.job(id); shown {
		return j, nil
	}
	return broker.Job{}, broker.ErrNotFound // saved, and not shown yet
}

// watch returns an account's job and a channel that is closed when it changes; nil if it never will.
func (s *Service) watch(ctx context.Context, account broker.AccountID, id broker.JobID) (broker.Job, <-chan struct{}, error) {
	for {
		j, err := s.job(ctx, account, id)
		if err != nil || j.State.Terminal() {
			return j, nil, err
		}
		if j, changed, shown := s.view.watch(id); shown {
			return j, changed, nil
		}
	}
}

// leaseOf returns the current or last lease of an account's job.
func (s *Service) leaseOf(ctx context.Context, account broker.AccountID, id broker.JobID) (broker.Lease, error) {
	j, err := s.job(ctx, account, id)
	if err != nil {
		return broker.Lease{}, err
	}
	if j.Lease == "" {
		return broker.Lease{}, fmt.Errorf("job %q has no lease yet: %w", id, broker.ErrNotFound)
	}
	return s.lease(ctx, j.Lease)
}

func (s *Service) lease(ctx context.Context, id broker.LeaseID) (broker.Lease, error) {
	if l, shown := s.view.lease(id); shown {
		return l, nil
	}
	l, err := s.c.Store.Lease(ctx, id)
	switch {
	case errors.Is(err, broker.ErrNotFound):
		return broker.Lease{}, fmt.Errorf("lease %s: %w", id, broker.ErrNotFound)
	case err != nil:
		return broker.Lease{}, err
	}
	return l, nil
}

// hired returns a lease and the job that it is for.
func (s *Service) hired(ctx context.Context, id broker.LeaseID) (broker.Lease, broker.Job, error) {
	l, err := s.lease(ctx, id)
	if err != nil {
		return broker.Lease{}, broker.Job{}, err
	}
	j, err := s.anyJob(ctx, l.Job)
	return l, j, err
}

// jobsBefore returns a page of an account's jobs, newest first.
func (s *Service) jobsBefore(ctx context.Context, account broker.AccountID, before broker.JobID, most int) (page []broker.Job, more bool, err error) {
	var last *broker.Job
	if before != "" {
		j, err := s.job(ctx, account, before)
		switch {
		case errors.Is(err, broker.ErrNotFound):
			return nil, false, &broker.FieldError{Field: "cursor", Problem: "no job of this account"}
		case err != nil:
			return nil, false, err
		}
		last = &j
	}
	ids, more, err := s.c.Store.JobsOf(ctx, account, last, max(most, 0))
	if err != nil {
		return nil, false, err
	}
	for _, id := range ids {
		j, err := s.anyJob(ctx, id)
		switch {
		case errors.Is(err, broker.ErrNotFound): // not shown yet
		case err != nil:
			return nil, false, err
		default:
			page = append(page, j)
		}
	}
	return page, more, nil
}

// maxExecuted bounds what is read of the past at once.
const maxExecuted = 100_000

// executed returns the leases that ran between two times, by when they became ready.
func (s *Service) executed(ctx context.Context, from, to time.Time) ([]broker.Ending, error) {
	ran := s.view.running()
	n := 0
	for e, err := range s.c.Store.Endings(ctx, from, "") {
		if err != nil {
			return nil, err
		}
		if n++; n > maxExecuted {
			return nil, &broker.FieldError{Field: "start", Problem: fmt.Sprintf("more than %d leases have ended since: want a later one", maxExecuted)}
		}
		ran[e.Lease] = e // also of one that was running a moment ago
	}
	return inTime(ran, from, to), nil
}
