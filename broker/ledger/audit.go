package ledger

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"

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
// says, that every job's spec and its newest bid are signed by its customer, that every balance is what its transfers add up to, and that a
// restart finds all jobs and leases that are open. Whatever is wrong matches [ErrCorrupt].
func Audit(ctx context.Context, s Store) (Report, error) {
	var r Report
	if err := auditChain(ctx, s, &r); err != nil {
		return r, err
	}
	if err := auditSpecs(ctx, s); err != nil {
		return r, err
	}
	if err := auditBids(ctx, s); err != nil {
		return r, err
	}
	accounts, err := all[broker.Account](ctx, s, accountPrefix)
	if err != nil {
		return r, err
	}
	sums, err := totals(ctx, s)
	if err != nil {
		return r, err
	}
	if err := recount(ctx, s, accounts, sums, true, &r); err != nil {
		return r, err
	}
	return r, auditOpen(ctx, s, accounts, sums)
}

// Recount checks that balances, as they were at some time, are what the transfers until then add up to. Whatever is wrong
// matches [ErrCorrupt]. It reads all transfers, beside whatever else is done with the store.
func Recount(ctx context.Context, s Store, st broker.State) error {
	return recount(ctx, s, st.Accounts, st.Totals, false, new(Report))
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
	for e, err := range s.Scan(ctx, specPrefix, "") {
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

// auditBids checks the signatures of bids that were changed. They are few.
func auditBids(ctx context.Context, s Store) error {
	for e, err := range s.Scan(ctx, jobPrefix, "") {
		if err != nil {
			return err
		}
		if !bytes.Contains(e.Value, []byte(`"Rebid"`)) {
			continue
		}
		var r jobRecord
		if err := decode(e, &r); err != nil {
			return err
		}
		if _, _, err := wire.OpenBidChange(r.Rebid.Envelope); err != nil {
			return fail("audit", e.Key, fmt.Errorf("%w: %w", ErrCorrupt, err))
		}
	}
	return nil
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
	for e, err := range s.Scan(ctx, "", "") {
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
