package ledger

import (
	"context"
	"iter"
	"time"

	"rialto/broker"
)

// Recount checks the balances of a state that was loaded, see [Recount].
func (b Books) Recount(ctx context.Context, st broker.State) error { return Recount(ctx, b.Store, st) }

// Job returns a job, or an error that matches [broker.ErrNotFound].
func (b Books) Job(ctx context.Context, id broker.JobID) (broker.Job, error) {
	j, err := job(ctx, b.Store, id)
	return j, unknown(err)
}

// Lease returns a lease, or an error that matches [broker.ErrNotFound].
func (b Books) Lease(ctx context.Context, id broker.LeaseID) (l broker.Lease, err error) {
	err = get(ctx, b.Store, LeaseKey(id), &l)
	return l, unknown(err)
}

// Signed returns the job of the spec that a customer signed with a nonce, or an error that matches [broker.ErrNotFound].
func (b Books) Signed(ctx context.Context, customer broker.PeerID, nonce string) (broker.JobID, error) {
	v, err := b.Store.Get(ctx, signedKey(customer, nonce))
	return broker.JobID(v), unknown(err)
}

// Deposit returns the deposit with a reference, or an error that matches [broker.ErrNotFound].
func (b Books) Deposit(ctx context.Context, ref string) (t broker.Transfer, err error) {
	err = get(ctx, b.Store, depositPrefix+ref, &t)
	return t, unknown(err)
}

// JobsOf returns an account's newest jobs, or those accepted before one, at most most, newest first, and whether there are
// older ones.
func (b Books) JobsOf(ctx context.Context, account broker.AccountID, before *broker.Job, most int) (page []broker.JobID, more bool, err error) {
	after := ""
	if before != nil {
		after = orderKey(before)
	}
	for e, err := range b.Store.Scan(ctx, orderPrefix+string(account)+"/", after) {
		switch {
		case err != nil:
			return nil, false, err
		case len(page) >= most:
			return page, true, nil
		}
		page = append(page, broker.JobID(e.Value))
	}
	return page, false, nil
}

// Waits yields the waits that were over after one, which is of a job at a time, in the order of time, job and change.
func (b Books) Waits(ctx context.Context, after broker.Wait) iter.Seq2[broker.Wait, error] {
	return func(yield func(broker.Wait, error) bool) {
		key := ""
		if !after.At.IsZero() {
			key = waitKey(after.At, after.Job, after.Change)
		}
		for e, err := range b.Store.Scan(ctx, waitPrefix, key) {
			var wait broker.Wait
			if err == nil {
				err = decode(e, &wait)
			}
			if !yield(wait, err) || err != nil {
				return
			}
		}
	}
}

// Endings yields the leases that were over at a time and have a later id than one, and those that were over after that
// time, in the order of time and id.
func (b Books) Endings(ctx context.Context, from time.Time, after broker.LeaseID) iter.Seq2[broker.Ending, error] {
	return func(yield func(broker.Ending, error) bool) {
		key := ""
		if !from.IsZero() {
			key = endingKey(from, after)
		}
		for e, err := range b.Store.Scan(ctx, endingPrefix, key) {
			var ending broker.Ending
			if err == nil {
				err = decode(e, &ending)
			}
			if !yield(ending, err) || err != nil {
				return
			}
		}
	}
}
