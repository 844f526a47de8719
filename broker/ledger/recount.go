package ledger

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"

	"rialto/broker"
	"rialto/pricing"
)

// side is one side of a transfer.
type side struct {
	book broker.Book
	id   broker.AccountID
}

// recount adds up the transfers until those of a time. If that is now, there must be no others.
func recount(ctx context.Context, s Store, accounts []broker.Account, now broker.Totals, last bool, r *Report) error {
	sums := map[side]pricing.Money{}
	for t, err := range transfers(ctx, s) {
		if err != nil {
			return err
		}
		if r.Transfers == now.Transfers && !last {
			break
		}
		r.Transfers++
		if t.Seq != r.Transfers || t.Amount <= 0 {
			return fail("audit", TransferKey(t.Seq), fmt.Errorf("transfer %d of %v, expected number %d: %w", t.Seq, t.Amount, r.Transfers, ErrCorrupt))
		}
		if err := post(sums, t); err != nil {
			return fail("audit", TransferKey(t.Seq), err)
		}
		if ref, ok := t.DepositRef(); ok {
			var again broker.Transfer
			if err := get(ctx, s, depositPrefix+ref, &again); err != nil || again != t {
				return fail("audit", depositPrefix+ref, fmt.Errorf("%+v, transfer %d is %+v: %w", again, t.Seq, t, cmp.Or(err, ErrCorrupt)))
			}
		}
	}
	if r.Transfers != now.Transfers {
		return fail("audit", totalsKey, fmt.Errorf("%d transfers, there are %d: %w", now.Transfers, r.Transfers, ErrCorrupt))
	}
	for _, a := range accounts {
		for _, b := range []struct {
			book   broker.Book
			stored pricing.Money
			total  *pricing.Money
		}{
			{broker.BookAvailable, a.Available, &r.Available},
			{broker.BookHeld, a.Held, &r.Held},
			{broker.BookPayable, a.Payable, &r.Payable},
		} {
			key := side{b.book, a.ID}
			if sums[key] != b.stored {
				return fail("audit", AccountKey(a.ID), fmt.Errorf("%s is %v, transfers add up to %v: %w", b.book, b.stored, sums[key], ErrCorrupt))
			}
			delete(sums, key)
			var err error
			if *b.total, err = b.total.Add(b.stored); err != nil {
				return fail("audit", AccountKey(a.ID), err)
			}
		}
	}
	r.Accounts = len(accounts)
	r.World, r.Fee = sums[side{book: broker.BookWorld}], sums[side{book: broker.BookFee}]
	if r.World != now.World || r.Fee != now.Fee {
		return fail("audit", totalsKey, fmt.Errorf("world %v and fee %v, transfers add up to %v and %v: %w", now.World, now.Fee, r.World, r.Fee, ErrCorrupt))
	}
	delete(sums, side{book: broker.BookWorld})
	delete(sums, side{book: broker.BookFee})
	for _, key := range sortedSides(sums) {
		return fail("audit", AccountKey(key.id), fmt.Errorf("%v in %s of an account that does not exist: %w", sums[key], key.book, ErrCorrupt))
	}
	return nil
}

// post adds a transfer to the sums. Only the world may go below zero.
func post(sums map[side]pricing.Money, t broker.Transfer) (err error) {
	from, to := side{t.From, t.FromID}, side{t.To, t.ToID}
	if sums[from], err = sums[from].Sub(t.Amount); err != nil {
		return err
	}
	if sums[to], err = sums[to].Add(t.Amount); err != nil {
		return err
	}
	if t.From != broker.BookWorld && sums[from] < 0 {
		return fmt.Errorf("%s of %q falls to %v: %w", t.From, t.FromID, sums[from], ErrCorrupt)
	}
	return nil
}

func sortedSides(sums map[side]pricing.Money) []side {
	var keys []side
	for k, m := range sums {
		if m != 0 {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, func(a, b side) int {
		return cmp.Or(cmp.Compare(a.id, b.id), bytes.Compare([]byte(a.book), []byte(b.book)))
	})
	return keys
}

// auditOpen checks that all that is open is in a slot, so that a restart finds it, and that holds are of open jobs.
func auditOpen(ctx context.Context, s Store, accounts []broker.Account, now broker.Totals) error {
	taken, err := slots(ctx, s)
	if err != nil {
		return err
	}
	open := map[broker.JobID]bool{}
	for _, slot := range taken {
		open[slot.Job] = true
	}
	held := map[broker.AccountID]pricing.Money{}
	var ended broker.Totals
	first := map[broker.JobID]broker.JobID{} // of gangs that are open
	for e, err := range s.Scan(ctx, jobPrefix, "") {
		var r jobRecord
		if err == nil {
			err = decode(e, &r)
		}
		if err != nil {
			return err
		}
		if held[r.Account], err = held[r.Account].Add(r.Hold); err != nil {
			return fail("audit", e.Key, err)
		}
		ended = ended.With(r.State)
		if open[r.First()] {
			first[r.ID] = r.First()
		} else if !r.State.Terminal() || r.Hold != 0 {
			return fail("audit", e.Key, fmt.Errorf("%v with %v on hold, and in no slot: %w", r.State, r.Hold, ErrCorrupt))
		}
	}
	for _, a := range accounts {
		if held[a.ID] != a.Held {
			return fail("audit", AccountKey(a.ID), fmt.Errorf("held is %v, its jobs hold %v: %w", a.Held, held[a.ID], ErrCorrupt))
		}
	}
	if got := now.Jobs(); got != ended {
		return fail("audit", totalsKey, fmt.Errorf("%+v jobs have ended, there are %+v: %w", got, ended, ErrCorrupt))
	}
	for e, err := range s.Scan(ctx, leasePrefix, "") {
		var l broker.Lease
		if err == nil {
			err = decode(e, &l)
		}
		if err != nil {
			return err
		}
		if first[l.Job] == "" && !l.Over() {
			return fail("audit", e.Key, fmt.Errorf("not over, and its job %s is in no slot: %w", l.Job, ErrCorrupt))
		}
	}
	return nil
}
