package ledger

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"slices"

	"rialto/broker"
	"rialto/broker/wire"
	"rialto/pricing"
)

// Report is what an audit counted.
type Report struct {
	Batches   uint64
	Head      Hash // hash of the newest batch: equal heads mean equal histories
	Keys      uint64
	Transfers uint64
	Accounts  int
	World     pricing.Money // paid in from outside, as a negative balance
	Fee       pricing.Money // earned by the broker
	Available pricing.Money // sums over all accounts
	Held      pricing.Money
	Payable   pricing.Money
}

// Audit reads everything: it verifies the chain from the first batch on, that the state is what the journal
// says, that every job's spec is signed by its customer, and that every balance is what its transfers add up to. Whatever is wrong matches [ErrCorrupt].
func Audit(ctx context.Context, s Store) (Report, error) {
	var r Report
	if err := auditChain(ctx, s, &r); err != nil {
		return r, err
	}
	if err := auditSpecs(ctx, s); err != nil {
		return r, err
	}
	return r, auditMoney(ctx, s, &r)
}

// auditSpecs checks the signatures that a restart relies on.
func auditSpecs(ctx context.Context, s Store) error {
	const page = 4096
	entries := make([]Entry, 0, page)
	check := func() error {
		defer func() { entries = entries[:0] }()
		return parallel(ctx, len(entries), func(_ context.Context, i int) error {
			if _, _, err := wire.OpenJobSpec(entries[i].Value); err != nil {
				return fail("audit", entries[i].Key, fmt.Errorf("%w: %w", ErrCorrupt, err))
			}
			return nil
		})
	}
	for e, err := range s.Scan(ctx, specPrefix) {
		if err != nil {
			return err
		}
		if entries = append(entries, e); len(entries) == page {
			if err := check(); err != nil {
				return err
			}
		}
	}
	return check()
}

// auditChain keeps a hash per key, so that a large state fits into memory.
func auditChain(ctx context.Context, s Store, r *Report) error {
	values := map[string]Hash{}
	for b, err := range s.Tail(ctx, 1) {
		if err != nil {
			return err
		}
		if err := b.Verify(r.Batches, r.Head); err != nil {
			return fail("audit", "journal", err)
		}
		r.Batches, r.Head = b.Seq, b.Hash
		for _, m := range b.Mutations {
			if _, exists := values[m.Key]; exists && m.New {
				return fail("audit", m.Key, fmt.Errorf("batch %d changes what is written once: %w", b.Seq, ErrCorrupt))
			}
			values[m.Key] = sha256.Sum256(m.Value)
		}
	}
	for e, err := range s.Scan(ctx, "") {
		if err != nil {
			return err
		}
		if want, ok := values[e.Key]; !ok || want != sha256.Sum256(e.Value) {
			return fail("audit", e.Key, fmt.Errorf("state is not what the journal says: %w", ErrCorrupt))
		}
		r.Keys++
	}
	if r.Keys != uint64(len(values)) {
		return fail("audit", "state", fmt.Errorf("%d keys, the journal has %d: %w", r.Keys, len(values), ErrCorrupt))
	}
	return nil
}

// side is one side of a transfer.
type side struct {
	book broker.Book
	id   broker.AccountID
}

func auditMoney(ctx context.Context, s Store, r *Report) error {
	sums := map[side]pricing.Money{}
	for t, err := range transfers(ctx, s) {
		if err != nil {
			return err
		}
		r.Transfers++
		if t.Seq != r.Transfers || t.Amount <= 0 {
			return fail("audit", TransferKey(t.Seq), fmt.Errorf("transfer %d of %v, expected number %d: %w", t.Seq, t.Amount, r.Transfers, ErrCorrupt))
		}
		if err := post(sums, t); err != nil {
			return fail("audit", TransferKey(t.Seq), err)
		}
	}
	accounts, err := all[broker.Account](ctx, s, accountPrefix)
	if err != nil {
		return err
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
			if *b.total, err = b.total.Add(b.stored); err != nil {
				return fail("audit", AccountKey(a.ID), err)
			}
		}
	}
	r.Accounts = len(accounts)
	r.World, r.Fee = sums[side{book: broker.BookWorld}], sums[side{book: broker.BookFee}]
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
