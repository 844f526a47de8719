// Package markettest drives a [broker.Market] in tests: a [World] remembers what the effects say to
// save, as the service's ledger does, audits every step and can restart the market from memory. The
// package's own tests run random histories of customers and faulty providers through it and compare
// money, leases and bills with a naive model.
package markettest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"rialto/blockstore"
	"rialto/broker"
	"rialto/pricing"
	"rialto/tunnel"
)

// Self is the broker's own id in a [World].
const Self broker.PeerID = "broker"

// World is a market with a memory. Its clock moves only when told to.
type World struct {
	Config broker.MarketConfig
	Market *broker.Market
	Now    time.Time

	Accounts  map[broker.AccountID]broker.Account
	Jobs      map[broker.JobID]broker.Job
	Leases    map[broker.LeaseID]broker.Lease
	Transfers []broker.Transfer
	Endings   []broker.Ending
	Waits     []broker.Wait
	derived   map[string]broker.Derived // the last of each, by what it is of
}

// NewWorld returns an empty market at a fixed moment.
func NewWorld(cfg broker.MarketConfig) (*World, error) {
	cfg.Self = Self
	m, err := broker.NewMarket(cfg)
	if err != nil {
		return nil, err
	}
	return &World{
		Config:   cfg,
		Market:   m,
		Now:      time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
		Accounts: map[broker.AccountID]broker.Account{},
		Jobs:     map[broker.JobID]broker.Job{},
		Leases:   map[broker.LeaseID]broker.Lease{},
		derived:  map[string]broker.Derived{},
	}, nil
}

// Step applies an event, saves what is to be saved and audits the market. What is over is archived at once, so that the
// market has to ask for it. The error is the market's refusal; a broken invariant is an [*broker.InvariantError].
func (w *World) Step(ev broker.Event) ([]broker.Effect, error) {
	ev, err := w.Market.Recall(context.Background(), ev, past{w})
	if err != nil {
		return nil, err
	}
	effects, err := w.Market.Step(w.Now, ev)
	if err != nil {
		return nil, err
	}
	var over broker.Archived
	for _, e := range effects {
		switch e := e.(type) {
		case broker.SaveAccount:
			w.Accounts[e.Account.ID] = e.Account
		case broker.SaveJob:
			w.Jobs[e.Job.ID] = e.Job
		case broker.SaveLease:
			w.Leases[e.Lease.ID] = e.Lease
		case broker.Post:
			w.Transfers = append(w.Transfers, e.Transfer)
			if ref, ok := e.Transfer.DepositRef(); ok {
				over.Deposits = append(over.Deposits, ref)
			}
		case broker.SaveDerived:
			if s, ok := e.Derived.(broker.Slot); ok && s.Closed {
				over.Jobs = append(over.Jobs, s.Job)
			}
			w.keep(e.Derived)
		case broker.SendHold, broker.SendConfirm, broker.SendRelease, broker.SendRenewal, broker.SignReceipt:
		}
	}
	if _, err := w.Market.Step(w.Now, over); err != nil {
		return nil, err
	}
	return effects, w.Audit(w.Market)
}

// Audit audits a market, also against all that ever was.
func (w *World) Audit(m *broker.Market) error {
	if err := m.Audit(); err != nil {
		return err
	}
	return m.AuditPast(w.Jobs, w.Leases)
}

func (w *World) keep(d broker.Derived) {
	switch d := d.(type) {
	case broker.Totals:
		w.derived["totals"] = d
	case broker.Slot:
		w.derived[fmt.Sprint("slot ", d.Number)] = d
	case broker.Epoch:
		w.derived["epoch "+string(d.Provider)+" "+d.UUID] = d
	case broker.Answers:
		w.derived["answers "+string(d.Provider)] = d
	case broker.Runs:
		w.derived["runs "+string(d.Provider)] = d
	case broker.Content:
		w.derived["content "+d.Key] = d
	case broker.Ending:
		w.Endings = append(w.Endings, d)
	case broker.Wait:
		w.Waits = append(w.Waits, d)
	}
}

// past is what a world remembers.
type past struct{ w *World }

var _ broker.Past = past{}

func (p past) Job(_ context.Context, id broker.JobID) (broker.Job, error) {
	return remembered(p.w.Jobs, id)
}

func (p past) Lease(_ context.Context, id broker.LeaseID) (broker.Lease, error) {
	return remembered(p.w.Leases, id)
}

func (p past) Signed(_ context.Context, customer broker.PeerID, nonce string) (broker.JobID, error) {
	for _, j := range p.w.Jobs {
		if j.Spec.Customer == customer && j.Spec.Nonce == nonce {
			return j.First(), nil
		}
	}
	return "", broker.ErrNotFound
}

func (p past) Deposit(_ context.Context, ref string) (broker.Transfer, error) {
	for _, x := range p.w.Transfers {
		if of, ok := x.DepositRef(); ok && of == ref {
			return x, nil
		}
	}
	return broker.Transfer{}, broker.ErrNotFound
}

func remembered[K comparable, V any](m map[K]V, k K) (V, error) {
	v, ok := m[k]
	if !ok {
		return v, broker.ErrNotFound
	}
	return v, nil
}

// Refused reports whether an error of [World.Step] only refuses the event. Any other error means that the
// market is broken.
func Refused(err error) bool {
	_, broken := errors.AsType[*broker.InvariantError](err)
	return err != nil && !broken
}

// Restart replaces the market by one that knows only what was saved.
func (w *World) Restart() error {
	m, err := w.Restored()
	if err != nil {
		return err
	}
	w.Market = m
	return w.Audit(m)
}

// Restored returns a market that knows only what was saved.
func (w *World) Restored() (*broker.Market, error) {
	m, err := broker.NewMarket(w.Config)
	if err != nil {
		return nil, err
	}
	return m, m.Restore(w.state())
}

func (w *World) state() broker.State {
	st := broker.State{Accounts: slices.Collect(maps.Values(w.Accounts))}
	for _, key := range slices.Sorted(maps.Keys(w.derived)) {
		switch d := w.derived[key].(type) {
		case broker.Totals:
			st.Totals = d
		case broker.Slot:
			if !d.Closed {
				st.Slots = append(st.Slots, d)
			}
		case broker.Epoch:
			st.Epochs = append(st.Epochs, d)
		case broker.Answers:
			st.Answers = append(st.Answers, d)
		case broker.Runs:
			st.Runs = append(st.Runs, d)
		case broker.Content:
			st.Contents = append(st.Contents, d)
		case broker.Ending, broker.Wait: // of what is over
		}
	}
	for _, s := range st.Slots {
		first := w.Jobs[s.Job]
		for id := range first.Members() {
			j := w.Jobs[id]
			st.Jobs = append(st.Jobs, j)
			for lease := range j.Leases() {
				st.Leases = append(st.Leases, w.Leases[lease])
			}
		}
	}
	return st
}

// Open opens an account whose bound key has the account's own name, and deposits money.
func (w *World) Open(name string, money pricing.Money) error {
	id := broker.AccountID(name)
	for _, ev := range []broker.Event{
		broker.AccountOpened{Account: id, Name: name},
		broker.KeyBound{Account: id, Key: broker.PeerID(name)},
		broker.Deposited{Account: id, Amount: money, Ref: "first of " + name},
	} {
		if _, err := w.Step(ev); err != nil {
			return err
		}
	}
	return nil
}

// Spec returns a valid job of a customer: one GPU of any model for an hour.
func Spec(customer, nonce string) broker.JobSpec {
	return broker.JobSpec{
		Image:       "registry.example/image:1",
		Digest:      Digest("image"),
		GPU:         broker.GPURequest{Model: broker.AnyModel, Count: 1},
		MaxDuration: time.Hour,
		TunnelKey:   tunnel.Key{1},
		Customer:    broker.PeerID(customer),
		Broker:      Self,
		Created:     time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
		Nonce:       nonce,
	}
}

// Offer returns a valid offer of a host, all GPUs free.
func Offer(host, model string, gpus int, rate pricing.Rate) broker.Offer {
	o := broker.Offer{
		ID: broker.OfferID(host + "/" + model), Provider: broker.PeerID(host), Host: host,
		Rate: rate, CPUs: 8, MemoryMiB: 32 << 10, DiskMiB: 100 << 10,
		Addrs: []string{"/dns4/" + host + "/udp/7072/quic-v1/p2p/" + host},
	}
	for i := range gpus {
		uuid := fmt.Sprintf("GPU-%s-%d", host, i)
		o.GPUs = append(o.GPUs, broker.GPU{UUID: uuid, Model: model, MemoryMiB: 24 << 10, Level: broker.LevelNVML})
		o.Free = append(o.Free, uuid)
	}
	return o
}

// Digest returns a well-formed image digest that stands for a name.
func Digest(name string) string {
	hex := fmt.Sprintf("%x", name)
	return "sha256:" + hex + strings.Repeat("0", 64-len(hex))
}

// Root returns a well-formed CID that stands for the root of the image with a name.
func Root(name string) string { return blockstore.Sum([]byte(name)).String() }

// Grant answers a hold with GPUs and their epochs.
func Grant(l broker.Lease, gpus ...broker.GPULease) broker.HoldAnswered {
	return broker.HoldAnswered{Lease: l.ID, Envelope: []byte("answer"), Answer: broker.Answer{
		Lease: l.ID,
		Grant: &broker.Grant{
			Lease: l.ID, Job: l.Job, GPUs: gpus, TunnelKey: tunnel.Key{2}, Endpoints: []string{"192.0.2.1:7072"},
		},
	}}
}
