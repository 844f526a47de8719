package ledger

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	"rialto/broker"
)

const (
	accountPrefix  = "account/"
	jobPrefix      = "job/"
	specPrefix     = "spec/"
	leasePrefix    = "lease/"
	transferPrefix = "transfer/"
	totalsKey      = "totals"
	slotPrefix     = "slot/"
	orderPrefix    = "order/"
	signedPrefix   = "signed/"
	depositPrefix  = "deposit/"
	epochPrefix    = "epoch/"
	answersPrefix  = "answers/"
	runsPrefix     = "runs/"
	contentPrefix  = "content/"
	endingPrefix   = "ending/"
	waitPrefix     = "wait/"
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

func slotKey(n int) string { return fmt.Sprintf("%s%08d", slotPrefix, n) }

// orderKey sorts an account's jobs, the newest first and of a gang the last.
func orderKey(j *broker.Job) string {
	return fmt.Sprintf("%s%s/%019d/%s/%03d", orderPrefix, j.Account, math.MaxInt64-j.Accepted.UnixNano(), j.First(), 999-j.Member.Rank)
}

func signedKey(customer broker.PeerID, nonce string) string {
	return fmt.Sprintf("%s%x", signedPrefix, sha256.Sum256([]byte(string(customer)+"\x00"+nonce)))
}

func endingKey(at time.Time, lease broker.LeaseID) string {
	return fmt.Sprintf("%s%019d/%s", endingPrefix, at.UnixNano(), lease)
}

// waitKey sorts by time; of a job's waits that end at the same time the later has the later key.
func waitKey(at time.Time, job broker.JobID, change int) string {
	return fmt.Sprintf("%s%019d/%s/%03d", waitPrefix, at.UnixNano(), job, change)
}

func derivedKey(d broker.Derived) string {
	switch d := d.(type) {
	case broker.Totals:
		return totalsKey
	case broker.Slot:
		return slotKey(d.Number)
	case broker.Epoch:
		return epochPrefix + string(d.Provider) + "/" + d.UUID
	case broker.Answers:
		return answersPrefix + string(d.Provider)
	case broker.Runs:
		return runsPrefix + string(d.Provider)
	case broker.Content:
		return fmt.Sprintf("%s%x", contentPrefix, sha256.Sum256([]byte(d.Key)))
	case broker.Ending:
		return endingKey(d.At, d.Lease)
	case broker.Wait:
		return waitKey(d.At, d.Job, d.Change)
	}
	return ""
}

// effectKey is the key that an effect's record has; empty: it is nothing to save.
func effectKey(e broker.Effect) string {
	switch e := e.(type) {
	case broker.SaveAccount:
		return AccountKey(e.Account.ID)
	case broker.SaveJob:
		return JobKey(e.Job.ID)
	case broker.SaveLease:
		return LeaseKey(e.Lease.ID)
	case broker.Post:
		return TransferKey(e.Transfer.Seq)
	case broker.SaveDerived:
		return derivedKey(e.Derived)
	case broker.SendHold, broker.SendConfirm, broker.SendRelease, broker.SendRenewal, broker.SignReceipt:
	}
	return ""
}

// effectRecord returns the mutation that stores an effect's record.
func effectRecord(key string, e broker.Effect) (Mutation, error) {
	switch e := e.(type) {
	case broker.SaveAccount:
		return record(key, e.Account, false)
	case broker.SaveJob:
		return record(key, jobRecord{Job: e.Job, Stopping: uint8(e.Job.Stopping)}, false)
	case broker.SaveLease:
		return record(key, e.Lease, false)
	case broker.Post:
		return record(key, e.Transfer, true)
	case broker.SaveDerived:
		switch d := e.Derived.(type) {
		case broker.Slot:
			if d.Closed {
				return Mutation{Key: key}, nil
			}
			return Mutation{Key: key, Value: []byte(d.Job)}, nil
		case broker.Ending, broker.Wait:
			return record(key, d, true)
		case broker.Totals, broker.Epoch, broker.Answers, broker.Runs, broker.Content:
			return record(key, d, false)
		}
	case broker.SendHold, broker.SendConfirm, broker.SendRelease, broker.SendRenewal, broker.SignReceipt:
	}
	return Mutation{}, fmt.Errorf("ledger: %T is nothing to save", e)
}

// newRecords returns what an effect writes once, beside its record.
func newRecords(e broker.Effect, encoded Mutation) []Mutation {
	switch e := e.(type) {
	case broker.SaveJob:
		if !e.New {
			return nil
		}
		j := &e.Job
		out := []Mutation{
			{Key: SpecKey(j.ID), Value: j.Envelope, New: true},
			{Key: orderKey(j), Value: []byte(j.ID), New: true},
		}
		if j.Member.Rank == 0 { // all of a gang have one spec
			out = append(out, Mutation{Key: signedKey(j.Spec.Customer, j.Spec.Nonce), Value: []byte(j.ID), New: true})
		}
		return out
	case broker.Post:
		if ref, ok := e.Transfer.DepositRef(); ok {
			return []Mutation{{Key: depositPrefix + ref, Value: encoded.Value, New: true}}
		}
	case broker.SaveAccount, broker.SaveLease, broker.SaveDerived,
		broker.SendHold, broker.SendConfirm, broker.SendRelease, broker.SendRenewal, broker.SignReceipt:
	}
	return nil
}

func record(key string, v any, isNew bool) (Mutation, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // six bytes for one would let a peer's text outgrow a record
	if err := e.Encode(v); err != nil {
		return Mutation{}, fail("encode", key, err)
	}
	return Mutation{Key: key, Value: b.Bytes(), New: isNew}, nil
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
