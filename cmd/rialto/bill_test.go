package main

import (
	"strings"
	"testing"
	"time"

	"rialto/broker"
	"rialto/broker/api"
	"rialto/broker/wire"
	"rialto/p2p/identity"
)

func newKey(t *testing.T) identity.Key {
	t.Helper()
	k, err := identity.Generate()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestCheckReceipt(t *testing.T) {
	market, provider, customer, stranger := newKey(t), newKey(t), newKey(t), newKey(t)
	const job, lease = broker.JobID("j-aaaaaaaaaaaaaaaaaaaaaaaaaa"), broker.LeaseID("l-aaaaaaaaaaaaaaaaaaaaaaaaaa")
	gpus := []broker.GPULease{{UUID: "SIM-1", Epoch: 1}, {UUID: "SIM-2", Epoch: 1}}
	reported := func(k identity.Key, phase broker.Phase, used time.Duration, lease broker.LeaseID) []byte {
		b, err := wire.SealReport(k, broker.Report{Lease: lease, GPUs: gpus, Seq: 7, Phase: phase, Used: used})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	report := func(k identity.Key, used time.Duration, lease broker.LeaseID) []byte {
		return reported(k, broker.PhaseExited, used, lease)
	}
	good := broker.Receipt{
		Job: job, Lease: lease, Customer: broker.PeerID(customer.ID()), Provider: broker.PeerID(provider.ID()),
		GPUs: gpus, Model: "RTX 4090", Rate: 400_000_000, Ready: time.Unix(1, 0).UTC(), Ended: time.Unix(11, 0).UTC(),
		Used: 10 * time.Second, Billed: 9 * time.Second, Cost: 2_000_000, Fee: 100_000,
		Report: report(provider, 10*time.Second, lease),
	}
	for _, tt := range []struct {
		name   string
		signer identity.Key
		change func(*broker.Receipt)
		want   string
	}{
		{"good", market, func(*broker.Receipt) {}, ""},
		{"cheaper is fine", market, func(r *broker.Receipt) { r.Cost, r.Fee = 1, 0 }, ""},
		{"a stranger's", stranger, func(*broker.Receipt) {}, "not by the broker"},
		{"another job's", market, func(r *broker.Receipt) { r.Job = "j-bbbbbbbbbbbbbbbbbbbbbbbbbb" }, "it is for job"},
		{"another customer's", market, func(r *broker.Receipt) { r.Customer = broker.PeerID(stranger.ID()) }, "it is for customer"},
		{"one nanodollar too much", market, func(r *broker.Receipt) { r.Cost++ }, "it says $0.002000001, but 9s of 2 × $0.40/h is $0.002"},
		{"the rest of a term", market, func(r *broker.Receipt) {
			r.Unused, r.UnusedCost, r.Cost = 50*time.Second, 11_111_111, 13_111_111
		}, ""},
		{"more than the rest", market, func(r *broker.Receipt) {
			r.Unused, r.UnusedCost, r.Cost = 51*time.Second, 11_333_333, 13_333_333
		}, "of the 1m0s that were reserved at most 50s were left"},
		{"the rest is too dear", market, func(r *broker.Receipt) {
			r.Unused, r.UnusedCost, r.Cost = 50*time.Second, 11_111_112, 13_111_112
		}, "it says $0.013111112, but 59s of 2 × $0.40/h is $0.013111111"},
		{"what is used is too dear", market, func(r *broker.Receipt) {
			r.Unused, r.UnusedCost, r.Cost = 50*time.Second, 11_111_110, 13_111_111
		}, "it says $0.002000001 for the time that was used"},
		{"the rest after a fault", market, func(r *broker.Receipt) {
			r.Unused, r.UnusedCost, r.Cost = 50*time.Second, 11_111_111, 13_111_111
			r.Report = reported(provider, broker.PhaseBroken, 10*time.Second, lease)
		}, "does not report that the container exited"},
		{"report of a stranger", market, func(r *broker.Receipt) { r.Report = report(stranger, 10*time.Second, lease) }, "report is signed by"},
		{"report of another lease", market, func(r *broker.Receipt) {
			r.Report = report(provider, 10*time.Second, "l-bbbbbbbbbbbbbbbbbbbbbbbbbb")
		}, "report is for lease"},
		{"more than reported", market, func(r *broker.Receipt) { r.Report = report(provider, 8*time.Second, lease) }, "the provider reported 8s"},
		{"a higher price than was signed", market, func(r *broker.Receipt) { r.Rate++ }, "signed for $0.40/h at most"},
		{"no report", market, func(r *broker.Receipt) { r.Report = nil }, "the provider's report"},
		{"more in all than was signed", market, func(r *broker.Receipt) {
			r.Used, r.Billed, r.Cost, r.Report = time.Hour, time.Hour, 800_000_000, report(provider, time.Hour, lease)
		}, "it says $0.80, the job was signed for $0.50 at most"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := good
			tt.change(&r)
			envelope, err := wire.SealReceipt(tt.signer, r)
			if err != nil {
				t.Fatal(err)
			}
			_, err = checkReceipt(envelope, job, broker.PeerID(market.ID()), broker.PeerID(customer.ID()), broker.JobSpec{
				Reserve: time.Minute, MaxRate: 400_000_000, MaxCost: 500_000_000, GPU: broker.GPURequest{Count: 2}, MaxDuration: time.Hour,
			})
			if (err == nil) != (tt.want == "") || (err != nil && !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func TestBillSaysWhoServed(t *testing.T) {
	b := bill{Verified: true, Job: "j-1", Fetched: fetchedOf(broker.Fetched{Peers: 245 << 20, From: []broker.PeerBytes{
		{Peer: "12D3KooWalpha", Bytes: 240 << 20}, {Peer: "12D3KooWunknown", Bytes: 5 << 20},
	}})}
	b.Fetched.From[0].Host = "host-b\x1b"
	var out strings.Builder
	if err := writeBill(&out, b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"served by 240 MiB from host-b", " …ooWalpha", "          5 MiB from host …Wunknown"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}

func TestTimeline(t *testing.T) {
	at := time.Unix(0, 0)
	events := []api.Event{
		{State: "holding", Time: at}, {State: "holding", Time: at.Add(time.Second)}, {State: "leased", Time: at.Add(1012 * time.Millisecond)},
	}
	lease := api.Lease{
		Steps: []api.Step{
			{Name: "netns", StartMS: 0, TookMS: 0},
			{Name: "image", StartMS: 1, TookMS: 340},
			{Name: "create", StartMS: 341, TookMS: 48},
		},
		Fetched: api.Fetched{PeerBytes: 212 << 20, TotalBytes: 212 << 20},
	}
	steps := timeline([]step{{Name: "resolve", TookMS: 10}, {Name: "match", TookMS: 1}}, events, lease, 461*time.Millisecond)
	got := strings.Join(timelineParts(steps, 461), " · ")
	want := "resolve 10 ms · match 1 ms · hold 12 ms · image 340 ms (212 MiB from peers by now) · create 48 ms · first output 61 ms — 461 ms in all"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
