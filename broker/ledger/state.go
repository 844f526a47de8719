package ledger

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"strings"

	"rialto/broker"
	"rialto/broker/wire"
)

// State reads what [broker.Market.Restore] needs: of jobs and leases those in slots, however many there were.
func State(ctx context.Context, s Store) (broker.State, error) {
	var st broker.State
	var err error
	if st.Totals, err = totals(ctx, s); err != nil {
		return broker.State{}, err
	}
	if st.Accounts, err = all[broker.Account](ctx, s, accountPrefix); err != nil {
		return broker.State{}, err
	}
	if st.Epochs, err = all[broker.Epoch](ctx, s, epochPrefix); err != nil {
		return broker.State{}, err
	}
	if st.Answers, err = all[broker.Answers](ctx, s, answersPrefix); err != nil {
		return broker.State{}, err
	}
	if st.Runs, err = all[broker.Runs](ctx, s, runsPrefix); err != nil {
		return broker.State{}, err
	}
	if st.Contents, err = all[broker.Content](ctx, s, contentPrefix); err != nil {
		return broker.State{}, err
	}
	if st.Slots, err = slots(ctx, s); err != nil {
		return broker.State{}, err
	}
	type opened struct {
		jobs   []broker.Job
		leases []broker.Lease
	}
	open := make([]opened, len(st.Slots))
	err = parallel(ctx, len(open), func(ctx context.Context, i int) (err error) {
		open[i].jobs, open[i].leases, err = slot(ctx, s, st.Slots[i].Job)
		return err
	})
	if err != nil {
		return broker.State{}, err
	}
	for _, o := range open {
		st.Jobs = append(st.Jobs, o.jobs...)
		st.Leases = append(st.Leases, o.leases...)
	}
	return st, nil
}

// totals returns the sums; zero of an empty store.
func totals(ctx context.Context, s Store) (t broker.Totals, err error) {
	err = get(ctx, s, totalsKey, &t)
	if errors.Is(err, ErrNotFound) {
		return t, nil
	}
	return t, err
}

// slots returns those that are taken.
func slots(ctx context.Context, s Store) ([]broker.Slot, error) {
	var out []broker.Slot
	for e, err := range s.Scan(ctx, slotPrefix, "") {
		if err != nil {
			return nil, err
		}
		n, err := strconv.Atoi(strings.TrimPrefix(e.Key, slotPrefix))
		if err != nil {
			return nil, fail("decode", e.Key, fmt.Errorf("%w: %w", ErrCorrupt, err))
		}
		if len(e.Value) > 0 {
			out = append(out, broker.Slot{Number: n, Job: broker.JobID(e.Value)})
		}
	}
	return out, nil
}

// slot returns a job that is in a slot, its gang, and all leases that they had.
func slot(ctx context.Context, s Store, first broker.JobID) (jobs []broker.Job, leases []broker.Lease, err error) {
	j, err := job(ctx, s, first)
	if err != nil {
		return nil, nil, err
	}
	for id := range j.Members() {
		if id != first {
			if j, err = job(ctx, s, id); err != nil {
				return nil, nil, err
			}
		}
		jobs = append(jobs, j)
		for id := range j.Leases() {
			var l broker.Lease
			if err := get(ctx, s, LeaseKey(id), &l); err != nil {
				return nil, nil, err
			}
			leases = append(leases, l)
		}
	}
	return jobs, leases, nil
}

// job returns a job with its spec, amended by its newest bid. Their signatures were checked when they came; [Audit] checks them
// again.
func job(ctx context.Context, s Store, id broker.JobID) (broker.Job, error) {
	var r jobRecord
	if err := get(ctx, s, JobKey(id), &r); err != nil {
		return broker.Job{}, err
	}
	j := r.Job
	j.Stopping = broker.JobState(r.Stopping)
	var err error
	if j.Envelope, err = s.Get(ctx, SpecKey(j.ID)); err != nil {
		return broker.Job{}, err
	}
	if j.Spec, _, err = wire.ReopenJobSpec(j.Envelope); err != nil {
		return broker.Job{}, fail("decode", SpecKey(j.ID), fmt.Errorf("%w: %w", ErrCorrupt, err))
	}
	if len(j.Rebid.Envelope) > 0 {
		change, _, err := wire.ReopenBidChange(j.Rebid.Envelope)
		if err == nil {
			err = change.Amend(&j.Spec)
		}
		if err != nil {
			return broker.Job{}, fail("decode", JobKey(j.ID), fmt.Errorf("%w: %w", ErrCorrupt, err))
		}
	}
	return j, nil
}

func get(ctx context.Context, s Store, key string, v any) error {
	value, err := s.Get(ctx, key)
	if err != nil {
		return err
	}
	return decode(Entry{Key: key, Value: value}, v)
}

// transfers yields all, in order.
func transfers(ctx context.Context, s Store) iter.Seq2[broker.Transfer, error] {
	return func(yield func(broker.Transfer, error) bool) {
		for e, err := range s.Scan(ctx, transferPrefix, "") {
			var t broker.Transfer
			if err == nil {
				err = decode(e, &t)
			}
			if err == nil && e.Key != TransferKey(t.Seq) {
				err = fail("decode", e.Key, fmt.Errorf("transfer %d: %w", t.Seq, ErrCorrupt))
			}
			if !yield(t, err) || err != nil {
				return
			}
		}
	}
}

// all returns all records of a kind.
func all[T any](ctx context.Context, s Store, prefix string) ([]T, error) {
	var entries []Entry
	for e, err := range s.Scan(ctx, prefix, "") {
		if err != nil {
			return nil, err
		}
		entries = append(entries, e)
	}
	if len(entries) == 0 {
		return nil, nil
	}
	out := make([]T, len(entries))
	return out, parallel(ctx, len(entries), func(_ context.Context, i int) error { return decode(entries[i], &out[i]) })
}
