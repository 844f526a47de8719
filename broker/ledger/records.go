package ledger

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"

	"rialto/broker"
	"rialto/broker/wire"
)

const (
	accountPrefix  = "account/"
	jobPrefix      = "job/"
	specPrefix     = "spec/"
	leasePrefix    = "lease/"
	transferPrefix = "transfer/"
)

// AccountKey is the key of an account.
func AccountKey(id broker.AccountID) string { return accountPrefix + string(id) }

// JobKey is the key of a job without its spec.
func JobKey(id broker.JobID) string { return jobPrefix + string(id) }

// SpecKey is the key of a job's signed spec.
func SpecKey(id broker.JobID) string { return specPrefix + string(id) }

// LeaseKey is the key of a lease.
func LeaseKey(id broker.LeaseID) string { return leasePrefix + string(id) }

// TransferKey is the key of a transfer; the keys sort like the numbers.
func TransferKey(seq uint64) string { return fmt.Sprintf("%s%020d", transferPrefix, seq) }

// jobRecord is a job without its spec, which is stored once beside it. Its fields shadow the job's.
type jobRecord struct {
	broker.Job
	Spec     *struct{} `json:",omitempty"`
	Envelope *struct{} `json:",omitempty"`
	Stopping uint8     `json:",omitzero"` // the state's text has no word for none
}

// Account returns the mutation that stores an account.
func Account(a broker.Account) (Mutation, error) { return record(AccountKey(a.ID), a, false) }

// Job returns the mutation that stores a job; its spec is stored by [Spec].
func Job(j broker.Job) (Mutation, error) {
	return record(JobKey(j.ID), jobRecord{Job: j, Stopping: uint8(j.Stopping)}, false)
}

// Spec returns the mutation that stores a new job's signed spec.
func Spec(j broker.Job) Mutation {
	return Mutation{Key: SpecKey(j.ID), Value: j.Envelope, New: true}
}

// Lease returns the mutation that stores a lease.
func Lease(l broker.Lease) (Mutation, error) { return record(LeaseKey(l.ID), l, false) }

// Transfer returns the mutation that appends a transfer.
func Transfer(t broker.Transfer) (Mutation, error) { return record(TransferKey(t.Seq), t, true) }

func record(key string, v any, isNew bool) (Mutation, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // six bytes for one would let a peer's text outgrow a record
	if err := e.Encode(v); err != nil {
		return Mutation{}, fail("encode", key, err)
	}
	return Mutation{Key: key, Value: b.Bytes(), New: isNew}, nil
}

// State reads what [broker.Market.Restore] needs. The transfers are read while they are ranged over.
func State(ctx context.Context, s Store) (broker.State, error) {
	var st broker.State
	var err error
	if st.Accounts, err = all[broker.Account](ctx, s, accountPrefix); err != nil {
		return broker.State{}, err
	}
	if st.Leases, err = all[broker.Lease](ctx, s, leasePrefix); err != nil {
		return broker.State{}, err
	}
	records, err := all[jobRecord](ctx, s, jobPrefix)
	if err != nil {
		return broker.State{}, err
	}
	st.Jobs = make([]broker.Job, len(records))
	err = parallel(ctx, len(records), func(ctx context.Context, i int) (err error) {
		st.Jobs[i], err = records[i].job(ctx, s)
		return err
	})
	if err != nil {
		return broker.State{}, err
	}
	st.Transfers = transfers(ctx, s)
	return st, nil
}

// job completes a job by its spec, whose signature was checked when the job was accepted. [Audit] checks it again.
func (r *jobRecord) job(ctx context.Context, s Store) (broker.Job, error) {
	j := r.Job
	j.Stopping = broker.JobState(r.Stopping)
	var err error
	if j.Envelope, err = s.Get(ctx, SpecKey(j.ID)); err != nil {
		return broker.Job{}, err
	}
	if j.Spec, _, err = wire.ReopenJobSpec(j.Envelope); err != nil {
		return broker.Job{}, fail("decode", SpecKey(j.ID), fmt.Errorf("%w: %w", ErrCorrupt, err))
	}
	return j, nil
}

func transfers(ctx context.Context, s Store) iter.Seq2[broker.Transfer, error] {
	return func(yield func(broker.Transfer, error) bool) {
		for e, err := range s.Scan(ctx, transferPrefix) {
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

func all[T any](ctx context.Context, s Store, prefix string) ([]T, error) {
	var entries []Entry
	for e, err := range s.Scan(ctx, prefix) {
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

// decode reads a record strictly: a field that this version does not know means that a newer one wrote it.
func decode(e Entry, v any) error {
	d := json.NewDecoder(bytes.NewReader(e.Value))
	d.DisallowUnknownFields()
	err := d.Decode(v)
	if err == nil {
		if _, extra := d.Token(); !errors.Is(extra, io.EOF) {
			err = errors.New("data after the record")
		}
	}
	if err != nil {
		return fail("decode", strings.ToValidUTF8(e.Key, "?"), fmt.Errorf("%w: %w", ErrCorrupt, err))
	}
	return nil
}
