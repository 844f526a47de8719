// Package markettest drives a [broker.Market] in tests: a [World] remembers what the effects say to
// save, as the service's ledger does, audits every step and can restart the market from memory. The
// package's own tests run random histories of customers and faulty providers through it and compare
// money, leases and bills with a naive model.
package markettest

import (
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
	}, nil
}

// Step applies an event, saves what is to be saved and audits the market. The error is the market's
// refusal; a broken invariant is an [*broker.InvariantError].
func (w *World) Step(ev broker.Event) ([]broker.Effect, error) {
	effects, err := w.Market.Step(w.Now, ev)
	if err != nil {
		return nil, err
	}
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
		case broker.SendHold, broker.SendConfirm, broker.SendRelease, broker.SendRenewal, broker.SignReceipt:
		}
	}
	return effects, w.Market.Audit()
}

// Refused reports whether an error of [World.Step] only refuses the event. Any other error means that the
// market is broken.
func Refused(err error) bool {
	_, broken := errors.AsType[*broker.InvariantError](err)
	return err != nil && !broken
}

// Restart replaces the market by one that knows only what was saved.
func (w *World) Restart() error {
	m, err := broker.NewMarket(w.Config)
	if err != nil {
		return err
	}
	err = m.Restore(broker.State{
		Accounts: slices.Collect(maps.Values(w.Accounts)),
		Jobs:     slices.Collect(maps.Values(w.Jobs)),
		Leases:   slices.Collect(maps.Values(w.Leases)),
		Transfers: func(yield func(broker.Transfer, error) bool) {
			for _, x := range w.Transfers {
				if !yield(x, nil) {
					return
				}
			}
		},
	})
	if err != nil {
		return err
	}
	w.Market = m
	return nil
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
