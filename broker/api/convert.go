package api

import (
	"time"

	"rialto/broker"
	"rialto/pricing"
)

func (q Query) toBroker() broker.Query {
	model := q.Model
	if model == "" {
		model = "any"
	}
	return broker.Query{
		GPU:       broker.GPURequest{Model: model, Count: max(q.Count, 1), MinMemoryMiB: q.MinGPUMemoryMiB},
		MemoryMiB: q.MemoryMiB, CPUs: q.CPUs, MaxRate: pricing.Rate(q.MaxRateNanoUSDPerHour),
		Region: q.Region, Provider: broker.PeerID(q.Provider), Image: q.ImageDigest, Weights: q.WeightRoots,
	}
}

func offerOf(m broker.Match) Offer {
	o := m.Offer
	out := Offer{
		ID: string(o.ID), Provider: string(o.Provider), Host: o.Host, Region: o.Region,
		GPUs: len(o.GPUs), Free: m.Free, Simulated: o.Simulated(), RateNanoUSDPerHour: int64(o.Rate),
		CPUsPerGPU: o.CPUs, MemoryMiBPerGPU: o.MemoryMiB, DiskMiB: o.DiskMiB, HasImage: m.HasImage, Level: "claimed",
	}
	lowest := broker.LevelNVML
	for i, g := range o.GPUs {
		if i == 0 || g.MemoryMiB < out.GPUMemoryMiB {
			out.GPUMemoryMiB = g.MemoryMiB
		}
		out.Model, out.Driver, out.CUDA = g.Model, g.Driver, g.CUDA
		lowest = min(lowest, g.Level)
	}
	if len(o.GPUs) > 0 && lowest == broker.LevelNVML {
		out.Level = "nvml"
	}
	return out
}

func offersOf(s broker.Search) Offers {
	out := Offers{Total: s.Offers, Applied: append([]string{}, s.Applied...), Eliminated: []Elimination{}, Offers: []Offer{}, Busy: []Offer{}}
	for _, e := range s.Eliminated {
		out.Eliminated = append(out.Eliminated, Elimination{Predicate: e.Predicate, Count: e.Count, Nearest: e.Nearest})
	}
	for _, m := range s.Matches {
		out.Offers = append(out.Offers, offerOf(m))
	}
	for _, m := range s.Busy {
		out.Busy = append(out.Busy, offerOf(m))
	}
	return out
}

// jobOf joins a job with its current or last lease; the zero Lease means that there is none.
func jobOf(j broker.Job, l broker.Lease) Job {
	out := Job{
		ID: string(j.ID), State: j.State.String(), Image: j.Spec.Image, Digest: j.Spec.Digest, Command: j.Spec.Command,
		GPUModel: j.Spec.GPU.Model, GPUCount: j.Spec.GPU.Count, HeldNanoUSD: int64(j.Hold), Lease: string(j.Lease),
		Host: l.Host, Provider: string(l.Provider), CostNanoUSD: int64(l.Cost), BilledMS: l.Billed.Milliseconds(),
		Simulated: l.Simulated, Error: j.Error, Accepted: j.Accepted, Ended: stamp(j.Ended),
		MaxDurationMS: j.Spec.MaxDuration.Milliseconds(),
	}
	if j.State == broker.JobDone {
		out.ExitCode = new(j.ExitCode)
	}
	return out
}

func eventOf(e broker.JobEvent) Event {
	return Event{Seq: e.Seq, Time: e.Time, State: e.State.String(), Text: e.Text}
}

func leaseState(s broker.LeaseState) string {
	switch s {
	case broker.LeaseHolding:
		return "holding"
	case broker.LeaseGranted:
		return "granted"
	case broker.LeaseActive:
		return "active"
	case broker.LeaseEnding:
		return "ending"
	case broker.LeaseEnded:
		return "ended"
	}
	return "unknown"
}

func leaseOf(l broker.Lease) Lease {
	out := Lease{
		ID: string(l.ID), Job: string(l.Job), State: leaseState(l.State), Provider: string(l.Provider), Host: l.Host,
		Model: l.Model, GPUs: gpusOf(l.GPUs), RateNanoUSDPerHour: int64(l.Rate), Answer: l.Answer,
		Granted: stamp(l.Granted), Ready: stamp(l.Ready), Ended: stamp(l.Ended),
		UsedMS: l.Used.Milliseconds(), BilledMS: l.Billed.Milliseconds(), CostNanoUSD: int64(l.Cost),
		Fetched: fetchedOf(l.Fetched), Steps: []Step{}, Simulated: l.Simulated,
	}
	for _, s := range l.Steps {
		out.Steps = append(out.Steps, Step{Name: s.Name, StartMS: s.Start.Milliseconds(), TookMS: s.Took.Milliseconds()})
	}
	return out
}

func receiptOf(r broker.Receipt, envelope []byte) Receipt {
	return Receipt{
		Job: string(r.Job), Lease: string(r.Lease), Customer: string(r.Customer), Provider: string(r.Provider),
		Model: r.Model, GPUs: gpusOf(r.GPUs), RateNanoUSDPerHour: int64(r.Rate), Ready: stamp(r.Ready), Ended: r.Ended,
		UsedMS: r.Used.Milliseconds(), BilledMS: r.Billed.Milliseconds(), CostNanoUSD: int64(r.Cost),
		FeeNanoUSD: int64(r.Fee), Fetched: fetchedOf(r.Fetched), ExitCode: r.ExitCode, Envelope: envelope,
	}
}

func accountOf(a broker.Account) Account {
	return Account{
		ID: string(a.ID), Name: a.Name, Key: string(a.Key), AvailableNanoUSD: int64(a.Available),
		HeldNanoUSD: int64(a.Held), PayableNanoUSD: int64(a.Payable), SpentNanoUSD: int64(a.Spent),
	}
}

func gpusOf(gpus []broker.GPULease) []GPULease {
	out := make([]GPULease, len(gpus))
	for i, g := range gpus {
		out[i] = GPULease{UUID: g.UUID, Epoch: g.Epoch}
	}
	return out
}

func fetchedOf(f broker.Fetched) Fetched {
	return Fetched{LocalBytes: f.Local, PeerBytes: f.Peers, RegistryBytes: f.Registry, TotalBytes: f.Total}
}

func stamp(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
