package wire_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"rialto/blockstore"
	"rialto/broker"
	"rialto/p2p/identity"
	"rialto/tunnel"
)

const (
	sampleJob    = "j-abcdefghijklmnopqrstuvwxyz"
	sampleLease  = "l-abcdefghijklmnopqrstuvw234"
	sampleDigest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	sampleCID    = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"
	sampleAddr   = "/ip4/203.0.113.7/udp/7072/quic-v1/p2p/12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA"
)

func sampleTime() time.Time { return time.Date(2026, 11, 23, 19, 0, 0, 123456789, time.UTC) }

// newKey makes a key.
func newKey(tb testing.TB) identity.Key {
	tb.Helper()
	k, err := identity.Generate()
	if err != nil {
		tb.Fatal(err)
	}
	return k
}

// zeroKey returns the key whose seed is zero, so that equal messages have equal envelopes in each run.
func zeroKey(tb testing.TB) identity.Key {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "key.pem")
	text := "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n-----END PRIVATE KEY-----\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
	k, err := identity.LoadOrCreate(path)
	if err != nil {
		tb.Fatal(err)
	}
	return k
}

func tunnelKey() tunnel.Key { return tunnel.Key{1, 2, 3, 31: 255} }

// peerID returns the name of k's party.
func peerID(k identity.Key) broker.PeerID { return broker.PeerID(k.ID()) }

func sampleGPU() broker.GPU {
	return broker.GPU{
		UUID: "GPU-1", Model: "RTX 4090", MemoryMiB: 24564, Driver: "580.95.05", CUDA: "13.0",
		ComputeMajor: 8, ComputeMinor: 9, PCIBus: "00000000:01:00.0", PowerLimitMW: 450_000,
		Level: broker.LevelNVML, DeviceMinor: 1, Busy: true, UnusableCause: "busy:\n\tXorg",
	}
}

// The samples set every field, so that one which a conversion forgets is missed after a round trip.
// A field that cannot be set together with others has a second sample.

func sampleOfferSet(provider broker.PeerID) broker.OfferSet {
	simulated := sampleGPU()
	simulated.UUID, simulated.Level, simulated.Simulated, simulated.DeviceMinor = "SIM-1", broker.LevelClaimed, true, -1
	return broker.OfferSet{Boot: "boot-1", Seq: 7, Offers: []broker.Offer{{
		ID: "rtx-4090", Provider: provider, Host: "Ada’s attic", Region: "GB", GPUs: []broker.GPU{sampleGPU(), simulated},
		Free: []string{"GPU-1"}, Rate: 400_000_000, CPUs: 8, MemoryMiB: 32768, DiskMiB: 1 << 20,
		Images:  []broker.ImageHeld{{Digest: sampleDigest, Root: sampleCID}},
		Weights: []string{sampleCID}, Addrs: []string{sampleAddr}, Agent: "rialto-provider 0.1", MinBid: 100_000_000,
		ReservedRate: 300_000_000, ReservedMin: 24 * time.Hour, Tariff: sampleTariff(),
	}}}
}

func sampleJobSpec(customer broker.PeerID) broker.JobSpec {
	return broker.JobSpec{
		Image: "registry.example/python:3.13", Digest: sampleDigest, Command: []string{"python3", "-c", "print('hi')\n", ""},
		Env: map[string]string{"A": "1", "LANG": "C.UTF-8", "B": ""}, Workdir: "/srv/../app/",
		GPU:       broker.GPURequest{Model: "any", Count: 2, MinMemoryMiB: 20000},
		MemoryMiB: 8192, CPUs: 4, MaxRate: 500_000_000, MaxCost: 2_000_000_000, MaxDuration: time.Hour,
		Region: "DE", Provider: customer, Weights: []broker.WeightsMount{{Name: "llama", Root: sampleCID, Path: "/weights/llama"}},
		TunnelKey: tunnelKey(), Customer: customer, Broker: customer, Created: sampleTime(), Nonce: "n-1", Root: sampleCID, Where: "gpu_ram>=24GiB", WaitRate: 1_000_000_000,
		Firm:      15 * time.Second,
		GoodUntil: sampleTime().Add(time.Hour), Nodes: 4, SameRegion: true, Reserve: 50 * time.Minute, Bid: 250_000_000,
		DiskMiB: 20 << 10, Traffic: 5e9,
	}
}

// samplePrivate is a job whose image and weights are private.
func samplePrivate(customer broker.PeerID) broker.JobSpec {
	x := sampleJobSpec(customer)
	root, err := blockstore.ParseCID(sampleCID)
	if err != nil {
		panic(err) // it is one
	}
	x.Image, x.Digest, x.Private = broker.LocalImage("mine"), root.Digest().String(), true
	x.Weights[0].Private = true
	return x
}

func sampleHold(peer broker.PeerID) broker.Hold {
	return broker.Hold{
		Lease: sampleLease, Job: sampleJob, Offer: "rtx-4090", Rate: 400_000_000, Spec: []byte("sealed"), TTL: 10 * time.Second,
		Sources: []broker.BlockSource{{Peer: peer, Addrs: []string{sampleAddr}}}, Trace: sampleTrace(), Rank: 3, Tariff: sampleTariff(), Bid: []byte("sealed, too"),
	}
}

func sampleTrace() blockstore.Trace { return blockstore.Trace{0, 1, 7, 3, 1<<32 - 1} }

func sampleTraceReport() broker.TraceReport {
	return broker.TraceReport{Lease: sampleLease, Root: sampleCID, Trace: sampleTrace()}
}

func sampleAnswers() []broker.Answer {
	return []broker.Answer{
		{Lease: sampleLease, Grant: &broker.Grant{
			Lease: sampleLease, Job: sampleJob, GPUs: sampleGPULeases(), TunnelKey: tunnelKey(),
			Endpoints: []string{"203.0.113.7:51820", "[2001:db8::7]:51820"}, Rate: 400_000_000, Firm: 15 * time.Second, Tariff: sampleTariff(),
		}},
		{Lease: sampleLease, Refusal: "all GPUs are leased"},
	}
}

func sampleConfirm() broker.Confirm {
	return broker.Confirm{Lease: sampleLease, TTL: time.Minute, MaxDuration: time.Hour}
}

func sampleBidChange(customer broker.PeerID) broker.BidChange {
	return broker.BidChange{
		Customer: customer, Broker: customer, Nonce: "n-1", Bid: 300_000_000, MaxCost: 2_000_000_000, Created: sampleTime().Add(time.Minute),
	}
}

func sampleRelease() broker.Release { return broker.Release{Lease: sampleLease, Reason: "cancelled"} }

func sampleGPULeases() []broker.GPULease { return []broker.GPULease{{UUID: "GPU-1", Epoch: 1<<64 - 1}} }

func sampleFetched(peer broker.PeerID) broker.Fetched {
	return broker.Fetched{Local: 1, Peers: 2, Registry: 3, Total: 1 << 40, From: []broker.PeerBytes{{Peer: peer, Bytes: 2}}}
}

func samplePoison(peer broker.PeerID) broker.PoisonReport {
	return broker.PoisonReport{Lease: sampleLease, Accused: peer, Want: sampleCID, Got: sampleDigest, Size: 1 << 20, Time: sampleTime()}
}

func sampleAdvice() broker.Advice {
	return broker.Advice{
		Boot: "boot-1", Seq: 7, TTL: time.Hour, Accusers: 2, Distrusted: time.Minute,
		Roots: []broker.RootAdvice{{Root: sampleCID, Replicas: 3, LastInRegion: true, Keeper: true}},
	}
}

func sampleReport(peer broker.PeerID) broker.Report {
	return broker.Report{
		Lease: sampleLease, GPUs: sampleGPULeases(), Seq: 3, Phase: broker.PhaseExited, ExitCode: 137, Message: "killed",
		Used: time.Minute, Fetched: sampleFetched(peer), Steps: []broker.Step{{Name: "image", Start: 1, Took: time.Second}},
		Held: []broker.ImageHeld{{Digest: sampleDigest, Root: sampleCID}}, Traffic: sampleTraffic(),
	}
}

func sampleTariff() broker.Tariff {
	return broker.Tariff{Disk: 200_000, Ingress: 5_000_000, Egress: 10_000_000}
}

func sampleTraffic() broker.Traffic { return broker.Traffic{Ingress: 1 << 40, Egress: 7} }

func sampleBroken() broker.Report {
	return broker.Report{
		Lease: sampleLease, GPUs: sampleGPULeases(), Seq: 3, Phase: broker.PhaseBroken, Message: "no space", HostFault: true,
	}
}

func sampleRenewal() broker.Renewal {
	return broker.Renewal{Lease: sampleLease, TTL: time.Minute, Seq: 3, Preempt: 45 * time.Second}
}

func sampleReceipt(peer broker.PeerID) broker.Receipt {
	return broker.Receipt{
		Job: sampleJob, Lease: sampleLease, Customer: peer, Provider: peer, GPUs: sampleGPULeases(), Model: "RTX 4090",
		Rate: 400_000_000, Ready: sampleTime(), Ended: sampleTime().Add(time.Minute), Used: time.Minute, Billed: 59 * time.Second,
		Cost: 6_555_556, Fee: 327_778, Fetched: sampleFetched(peer), ExitCode: -1, Report: []byte("sealed"),
		Unused: 30 * time.Second, UnusedCost: 3_333_333, Tariff: sampleTariff(), DiskMiB: 20 << 10, Traffic: sampleTraffic(),
		DiskCost: 1_000_000, TrafficCost: 2_000_000,
	}
}
