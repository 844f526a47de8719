package broker

import (
	"context"
	"errors"
)

// Past knows what a market has forgotten, because it was over and the caller said so ([Archived]). What is not there is
// [ErrNotFound].
type Past interface {
	Job(ctx context.Context, id JobID) (Job, error)
	Lease(ctx context.Context, id LeaseID) (Lease, error)
	// Signed returns the job of a spec that a customer signed with a nonce.
	Signed(ctx context.Context, customer PeerID, nonce string) (JobID, error)
	// Deposit returns the deposit that counted under a reference.
	Deposit(ctx context.Context, ref string) (Transfer, error)
}

type (
	// Archived says that what was closed is durable, as are deposits: from now on the caller knows it. See [Past].
	Archived struct {
		Jobs     []JobID // of closed slots
		Deposits []string
	}
	// Recalled is an event with what the market has forgotten of what it names; see [Market.Recall].
	Recalled struct {
		Event   Event
		Job     *Job
		Lease   *Lease
		Signed  JobID
		Deposit *Transfer
	}
)

func (Archived) event() {}
func (Recalled) event() {}

// Recall adds to an event what it names and the market has forgotten. It asks the past about nothing else, and changes
// nothing. Without it such an event is one about things that never were.
func (m *Market) Recall(ctx context.Context, ev Event, past Past) (Event, error) {
	r := Recalled{Event: ev}
	var err error
	job := func(id JobID) {
		if m.jobs[id] == nil {
			r.Job, err = recalled(past.Job(ctx, id))
		}
	}
	lease := func(id LeaseID) {
		if m.leases[id] == nil {
			r.Lease, err = recalled(past.Lease(ctx, id))
		}
	}
	switch ev := ev.(type) {
	case Submitted:
		if job(ev.Job); err != nil && !errors.Is(err, ErrNotFound) {
			break
		}
		if _, known := m.nonces[nonce{ev.Spec.Customer, ev.Spec.Nonce}]; !known {
			r.Signed, err = past.Signed(ctx, ev.Spec.Customer, ev.Spec.Nonce)
		}
	case QuoteAccepted:
		job(ev.Job)
	case BidChanged:
		job(ev.Job)
	case CancelRequested:
		job(ev.Job)
	case Deposited:
		if _, known := m.deposits[depositRef(ev.Ref)]; !known {
			r.Deposit, err = recalled(past.Deposit(ctx, ev.Ref))
		}
	case HoldAnswered:
		lease(ev.Lease)
	case ConfirmAnswered:
		lease(ev.Lease)
	case ReleaseAnswered:
		lease(ev.Lease)
	case Reported:
		lease(ev.Report.Lease)
	case ReceiptSigned:
		lease(ev.Lease)
	case OffersPosted, ProviderGone, AccountOpened, KeyBound, LimitsSet, SourceDistrusted, ContentSized, Ticked, Archived, Recalled:
	}
	if err != nil && !errors.Is(err, ErrNotFound) {
		return nil, err
	}
	if r.Job == nil && r.Lease == nil && r.Signed == "" && r.Deposit == nil {
		return ev, nil
	}
	return r, nil
}

func recalled[T any](v T, err error) (*T, error) {
	if err != nil {
		return nil, err
	}
	return &v, nil
}

// recall applies an event with what was forgotten.
func (t *turn) recall(r Recalled) error {
	if _, twice := r.Event.(Recalled); twice {
		return &FieldError{Field: "event", Problem: "recalled twice"}
	}
	t.past = r
	return t.apply(r.Event)
}

// job returns a job, also one that was forgotten. Nothing changes one that was.
func (t *turn) job(id JobID) *Job {
	if j := t.jobs[id]; j != nil || t.past.Job == nil || t.past.Job.ID != id {
		return j
	}
	return t.past.Job
}

// lease is the same for leases.
func (t *turn) lease(id LeaseID) *Lease {
	if l := t.leases[id]; l != nil || t.past.Lease == nil || t.past.Lease.ID != id {
		return l
	}
	return t.past.Lease
}

// archive forgets what the caller keeps from now on.
func (t *turn) archive(ev Archived) {
	for _, first := range ev.Jobs {
		j := t.jobs[first]
		if _, open := t.slots[first]; j == nil || open {
			continue
		}
		delete(t.nonces, nonce{j.Spec.Customer, j.Spec.Nonce})
		for id := range j.Members() {
			for lease := range t.jobs[id].Leases() {
				delete(t.leases, lease)
			}
			delete(t.jobs, id)
		}
	}
	for _, ref := range ev.Deposits {
		delete(t.deposits, depositRef(ref))
	}
}
