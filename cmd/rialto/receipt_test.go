package main

import (
	"math"
	"strings"
	"testing"
	"time"

	"rialto/broker"
	"rialto/broker/wire"
	"rialto/tunnel"
)

// TestCheckReceiptBesideGPUs: disk and traffic are computed again, and held to what the customer signed and the host
// reported.
func TestCheckReceiptBesideGPUs(t *testing.T) {
	market, provider, customer := newKey(t), newKey(t), newKey(t)
	const job, lease = broker.JobID("j-aaaaaaaaaaaaaaaaaaaaaaaaaa"), broker.LeaseID("l-aaaaaaaaaaaaaaaaaaaaaaaaaa")
	gpus := []broker.GPULease{{UUID: "SIM-1", Epoch: 1}}
	report := func(n broker.Traffic) []byte {
		b, err := wire.SealReport(provider, broker.Report{Lease: lease, GPUs: gpus, Seq: 7, Phase: broker.PhaseExited, Used: time.Hour, Traffic: n})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	carried := broker.Traffic{Ingress: 7e9, Egress: 1_500_000_001}
	spec := broker.JobSpec{
		GPU: broker.GPURequest{Count: 1}, DiskMiB: 20 << 10, Traffic: 5e9, MaxDuration: time.Hour, Reserve: 2 * time.Hour,
		MaxRate: 479_000_000, MaxCost: 1_200_000_000,
	}
	// An hour of 20 GiB at $0.0002, 5 of 7 GB in at $0.005, and 1.5 GB and a byte out at $0.01.
	good := broker.Receipt{
		Job: job, Lease: lease, Customer: broker.PeerID(customer.ID()), Provider: broker.PeerID(provider.ID()), GPUs: gpus, Model: "RTX 4090",
		Rate: 400_000_000, Ready: time.Unix(1, 0).UTC(), Ended: time.Unix(3601, 0).UTC(), Used: time.Hour, Billed: time.Hour,
		Tariff: broker.Tariff{Disk: 200_000, Ingress: 5_000_000, Egress: 10_000_000}, DiskMiB: 20 << 10, Traffic: carried,
		DiskCost: 4_000_000, TrafficCost: 40_000_000, Cost: 444_000_000, Report: report(carried),
	}
	for _, tt := range []struct {
		name   string
		change func(r *broker.Receipt, s *broker.JobSpec)
		want   string
	}{
		{"good", func(*broker.Receipt, *broker.JobSpec) {}, ""},
		{"less is fine", func(r *broker.Receipt, _ *broker.JobSpec) {
			r.DiskCost, r.TrafficCost, r.Cost = 3_999_999, 39_999_999, 443_999_998
		}, ""},
		{"a reservation has paid the GPUs", func(r *broker.Receipt, _ *broker.JobSpec) { r.Cost = 44_000_000 }, ""},
		{"disk is a nanodollar too dear", func(r *broker.Receipt, _ *broker.JobSpec) { r.DiskCost++; r.Cost++ }, "it says $0.004000001 for the disk, but 1h0m0s of 20 GiB at $0.0002/h for a GiB is $0.004"},
		{"traffic is a nanodollar too dear", func(r *broker.Receipt, _ *broker.JobSpec) { r.TrafficCost++; r.Cost++ }, "it says $0.040000001 for traffic, but 7 GB in and 1.5 GB out, of which at most 5 GB each way are paid for, is $0.04"},
		{"GPUs are a nanodollar too dear", func(r *broker.Receipt, _ *broker.JobSpec) { r.Cost++ }, "it says $0.400000001, but 1h0m0s of 1 × $0.40/h is $0.40"},
		{"what the disk does not cost is no more for GPUs", func(r *broker.Receipt, _ *broker.JobSpec) { r.DiskCost-- }, "it says $0.400000001, but"},
		{"more disk than was signed", func(r *broker.Receipt, _ *broker.JobSpec) { r.DiskMiB++ }, "it charges for 20481 MiB of disk, the job was signed for 20480"},
		{"the disk of who said nothing", func(_ *broker.Receipt, s *broker.JobSpec) { s.DiskMiB = 0 }, "the job was signed for 10240"},
		{"the traffic of who said nothing", func(_ *broker.Receipt, s *broker.JobSpec) { s.Traffic = 0 }, "at most 1 GB each way are paid for, is $0.015"},
		{"a disk without a size", func(r *broker.Receipt, _ *broker.JobSpec) { r.DiskMiB = 0 }, "for the disk, but 1h0m0s of 0 B"},
		{"a tariff that is none", func(r *broker.Receipt, _ *broker.JobSpec) { r.Tariff = broker.Tariff{} }, "for the disk, but"},
		{"more ingress than reported", func(r *broker.Receipt, _ *broker.JobSpec) { r.Traffic.Ingress++ }, "it counts 7 GB in and 1.5 GB out, but the provider reported 7 GB in"},
		{"more egress than reported", func(r *broker.Receipt, _ *broker.JobSpec) { r.Traffic.Egress = math.MaxInt64 }, "but the provider reported"},
		{"more in all than was signed", func(_ *broker.Receipt, s *broker.JobSpec) { s.MaxCost = 443_999_999 }, "it says $0.444, the job was signed for $0.443999999 at most"},
		{"more in all than a node was signed for", func(_ *broker.Receipt, s *broker.JobSpec) { s.Nodes = 3 }, "it says $0.444, the job was signed for $0.40 at most"},
		{"a higher price than was signed, with disk and traffic", func(_ *broker.Receipt, s *broker.JobSpec) { s.MaxRate-- }, "with disk and traffic more than the $0.478999999/h that the job was signed for"},
		{"a bid is for GPUs alone", func(_ *broker.Receipt, s *broker.JobSpec) { s.MaxRate, s.Bid = 0, 400_000_000 }, ""},
		{"above the bid", func(_ *broker.Receipt, s *broker.JobSpec) { s.MaxRate, s.Bid = 0, 399_999_999 }, "it charges $0.40/h, the job was signed for $0.399999999/h at most"},
		{"unused GPUs cost no disk", func(r *broker.Receipt, _ *broker.JobSpec) {
			r.Unused, r.UnusedCost, r.Cost = time.Hour, 400_000_000, 844_000_000
		}, ""},
		{"disk of what is unused", func(r *broker.Receipt, _ *broker.JobSpec) {
			r.Unused, r.UnusedCost, r.DiskCost, r.Cost = time.Hour, 404_000_000, 8_000_000, 848_000_000
		}, "it says $0.008 for the disk"},
		{"never ready", func(r *broker.Receipt, _ *broker.JobSpec) {
			r.Ready, r.Billed, r.DiskCost, r.Cost = time.Time{}, 0, 0, 40_000_000
		}, "it says $0.04 for traffic, but 7 GB in and 1.5 GB out, of which at most 5 GB each way are paid for, is $0.00"},
		{"signed elsewhere", func(r *broker.Receipt, s *broker.JobSpec) {
			*s, _ = signed(nil)
			r.TrafficCost, r.Cost = 50_000_000, 454_000_000 // all 7 GB
		}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, s := good, spec
			tt.change(&r, &s)
			envelope, err := wire.SealReceipt(market, r)
			if err != nil {
				t.Fatal(err)
			}
			_, err = checkReceipt(envelope, job, broker.PeerID(market.ID()), broker.PeerID(customer.ID()), s)
			if (err == nil) != (tt.want == "") || (err != nil && !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

// A changed bid, with its budget, counts instead of what the spec says.
func TestSignedIsWhatWasSignedLast(t *testing.T) {
	key := newKey(t)
	spec := broker.JobSpec{
		Image: "app:1", Digest: "sha256:" + strings.Repeat("a", 64), GPU: broker.GPURequest{Model: "any", Count: 1}, MaxDuration: time.Hour,
		Bid: 200_000_000, MaxCost: 200_000_000, TunnelKey: tunnel.Key{1}, Customer: broker.PeerID(key.ID()), Broker: broker.PeerID(key.ID()),
		Created: time.Unix(1, 0).UTC(), Nonce: "n",
	}
	envelope, err := wire.SealJobSpec(key, spec)
	if err != nil {
		t.Fatal(err)
	}
	r := record{Envelope: envelope}
	if got, known := r.signed(); !known || got.Bid != 200_000_000 || got.MaxCost != 200_000_000 {
		t.Errorf("got a bid of %v and a budget of %v", got.Bid, got.MaxCost)
	}
	r.Changed = &rebid{Bid: 300_000_000, MaxCost: 350_000_000}
	if got, known := r.signed(); !known || got.Bid != 300_000_000 || got.MaxCost != 350_000_000 {
		t.Errorf("changed: got a bid of %v and a budget of %v", got.Bid, got.MaxCost)
	}
}
