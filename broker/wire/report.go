package wire

import (
	"slices"

	"rialto/broker"
	"rialto/p2p/identity"
	"rialto/pricing"
)

// SealReport signs a provider's word about a lease.
func SealReport(k identity.Key, x broker.Report) ([]byte, error) { return reports().seal(k, x) }

// OpenReport checks and decodes a provider's word about a lease.
func OpenReport(envelope []byte) (broker.Report, broker.PeerID, error) {
	return reports().open(envelope)
}

func reports() codec[broker.Report, *Report] {
	return codec[broker.Report, *Report]{
		name: "report", max: MaxReport, fresh: func() *Report { return new(Report) },
		encode: encodeReport, decode: decodeReport,
	}
}

func encodeReport(x broker.Report) *Report {
	return &Report{
		Lease: string(x.Lease), Gpus: each(x.GPUs, encodeGPULease), Seq: x.Seq, Phase: Phase(x.Phase),
		ExitCode: narrow(x.ExitCode), Message: clean(x.Message), UsedNs: int64(x.Used),
		Fetched: encodeFetched(x.Fetched), Steps: each(x.Steps, encodeStep), Held: each(x.Held, encodeImageHeld),
		HostFault: x.HostFault, Traffic: encodeTraffic(x.Traffic),
	}
}

func decodeReport(c checker, m *Report) broker.Report {
	phase := m.GetPhase()
	if _, ok := Phase_name[int32(phase)]; !ok || phase == Phase_PHASE_UNSPECIFIED {
		c.failf("phase", "%d is not known", phase)
	}
	x := broker.Report{
		Lease:    c.lease(m.GetLease()),
		GPUs:     gpuLeases(c, m.GetGpus()),
		Seq:      m.GetSeq(),
		Phase:    broker.Phase(phase),
		ExitCode: c.integer("exit_code", m.GetExitCode(), minExitCode, maxExitCode),
		Message:  c.message("message", m.GetMessage()),
		Used:     c.duration("used_ns", m.GetUsedNs()),
		Fetched:  decodeFetched(c.in("fetched"), m.GetFetched()),
		Steps:    messages(c, "steps", m.GetSteps(), maxSteps, decodeStep),
		Held:     messages(c, "held", m.GetHeld(), maxHeld, decodeImageHeld),

		HostFault: m.GetHostFault(),
		Traffic:   decodeTraffic(c.in("traffic"), m.GetTraffic()),
	}
	if x.HostFault && (x.Phase != broker.PhaseBroken || x.Used != 0) {
		c.failf("host_fault", "of a workload that became ready, or is not broken")
	}
	return x
}

func encodeFetched(x broker.Fetched) *Fetched {
	return &Fetched{
		Local: x.Local, Peers: x.Peers, Registry: x.Registry, Total: x.Total,
		From: each(x.From, func(p broker.PeerBytes) *PeerBytes { return &PeerBytes{Peer: string(p.Peer), Bytes: p.Bytes} }),
	}
}

func decodeFetched(c checker, m *Fetched) broker.Fetched {
	x := broker.Fetched{
		Local:    c.count("local", m.GetLocal()),
		Peers:    c.count("peers", m.GetPeers()),
		Registry: c.count("registry", m.GetRegistry()),
		Total:    c.count("total", m.GetTotal()),
		From:     messages(c, "from", m.GetFrom(), broker.MaxTopPeers, decodePeerBytes),
	}
	unique(c, "from", x.From, func(p broker.PeerBytes) broker.PeerID { return p.Peer })
	if !slices.IsSortedFunc(x.From, broker.PeerBytes.Compare) {
		c.failf("from", "not in order")
	}
	return x
}

func decodePeerBytes(c checker, m *PeerBytes) broker.PeerBytes {
	x := broker.PeerBytes{Peer: c.peer("peer", m.GetPeer()), Bytes: c.count("bytes", m.GetBytes())}
	if x.Bytes == 0 {
		c.failf("bytes", "none")
	}
	return x
}

func encodeTraffic(x broker.Traffic) *Traffic {
	if x == (broker.Traffic{}) {
		return nil
	}
	return &Traffic{Ingress: x.Ingress, Egress: x.Egress}
}

func decodeTraffic(c checker, m *Traffic) broker.Traffic {
	return broker.Traffic{Ingress: c.count("ingress", m.GetIngress()), Egress: c.count("egress", m.GetEgress())}
}

func encodeStep(x broker.Step) *Step {
	return &Step{Name: x.Name, StartNs: int64(x.Start), TookNs: int64(x.Took)}
}

func decodeStep(c checker, m *Step) broker.Step {
	return broker.Step{
		Name:  c.name("name", m.GetName()),
		Start: c.duration("start_ns", m.GetStartNs()),
		Took:  c.duration("took_ns", m.GetTookNs()),
	}
}

// SealRenewal signs a broker's answer to a report.
func SealRenewal(k identity.Key, x broker.Renewal) ([]byte, error) { return renewals().seal(k, x) }

// OpenRenewal checks and decodes a broker's answer to a report.
func OpenRenewal(envelope []byte) (broker.Renewal, broker.PeerID, error) {
	return renewals().open(envelope)
}

func renewals() codec[broker.Renewal, *Renewal] {
	return codec[broker.Renewal, *Renewal]{
		name: "renewal", max: MaxRenewal, fresh: func() *Renewal { return new(Renewal) },
		encode: func(x broker.Renewal) *Renewal {
			return &Renewal{Lease: string(x.Lease), TtlNs: int64(x.TTL), Seq: x.Seq, PreemptNs: int64(x.Preempt)}
		},
		decode: func(c checker, m *Renewal) broker.Renewal {
			return broker.Renewal{
				Lease: c.lease(m.GetLease()),
				TTL:   c.duration("ttl_ns", m.GetTtlNs()),
				Seq:   m.GetSeq(),

				Preempt: c.duration("preempt_ns", m.GetPreemptNs()),
			}
		},
	}
}

// SealReceipt signs the final bill of a lease.
func SealReceipt(k identity.Key, x broker.Receipt) ([]byte, error) { return receipts().seal(k, x) }

// OpenReceipt checks and decodes the final bill of a lease. The report in it is still sealed.
func OpenReceipt(envelope []byte) (broker.Receipt, broker.PeerID, error) {
	return receipts().open(envelope)
}

func receipts() codec[broker.Receipt, *Receipt] {
	return codec[broker.Receipt, *Receipt]{
		name: "receipt", max: MaxReceipt, fresh: func() *Receipt { return new(Receipt) },
		encode: encodeReceipt, decode: decodeReceipt,
	}
}

func encodeReceipt(x broker.Receipt) *Receipt {
	return &Receipt{
		Job: string(x.Job), Lease: string(x.Lease), Customer: string(x.Customer), Provider: string(x.Provider),
		Gpus: each(x.GPUs, encodeGPULease), Model: x.Model, RateNanousdPerHour: int64(x.Rate),
		ReadyNs: nanos(x.Ready), EndedNs: nanos(x.Ended), UsedNs: int64(x.Used), BilledNs: int64(x.Billed),
		CostNanousd: int64(x.Cost), FeeNanousd: int64(x.Fee), Fetched: encodeFetched(x.Fetched),
		ExitCode: narrow(x.ExitCode), Report: x.Report, UnusedNs: int64(x.Unused), UnusedCostNanousd: int64(x.UnusedCost),
		Tariff: encodeTariff(x.Tariff), DiskMib: x.DiskMiB, Traffic: encodeTraffic(x.Traffic),
		DiskCostNanousd: int64(x.DiskCost), TrafficCostNanousd: int64(x.TrafficCost),
	}
}

func decodeReceipt(c checker, m *Receipt) broker.Receipt {
	x := broker.Receipt{
		Job:      c.job(m.GetJob()),
		Lease:    c.lease(m.GetLease()),
		Customer: c.peer("customer", m.GetCustomer()),
		Provider: c.peer("provider", m.GetProvider()),
		GPUs:     gpuLeases(c, m.GetGpus()),
		Model:    c.word("model", m.GetModel()),
		Rate:     c.rate("rate_nanousd_per_hour", m.GetRateNanousdPerHour()),
		Ready:    c.instant("ready_ns", m.GetReadyNs()),
		Ended:    c.instant("ended_ns", m.GetEndedNs()),
		Used:     c.duration("used_ns", m.GetUsedNs()),
		Billed:   c.duration("billed_ns", m.GetBilledNs()),
		Cost:     c.money("cost_nanousd", m.GetCostNanousd()),
		Fee:      c.money("fee_nanousd", m.GetFeeNanousd()),
		Fetched:  decodeFetched(c.in("fetched"), m.GetFetched()),
		ExitCode: c.integer("exit_code", m.GetExitCode(), minExitCode, maxExitCode),
		Report:   c.envelope("report", m.GetReport(), MaxReport),

		Unused:     c.duration("unused_ns", m.GetUnusedNs()),
		UnusedCost: c.money("unused_cost_nanousd", m.GetUnusedCostNanousd()),

		Tariff:      decodeTariff(c.in("tariff"), m.GetTariff()),
		DiskMiB:     c.size("disk_mib", m.GetDiskMib(), maxDiskMiB),
		Traffic:     decodeTraffic(c.in("traffic"), m.GetTraffic()),
		DiskCost:    c.money("disk_cost_nanousd", m.GetDiskCostNanousd()),
		TrafficCost: c.money("traffic_cost_nanousd", m.GetTrafficCostNanousd()),
	}
	left := x.Cost
	for _, part := range []struct {
		field string
		cost  pricing.Money
	}{{"unused_cost_nanousd", x.UnusedCost}, {"disk_cost_nanousd", x.DiskCost}, {"traffic_cost_nanousd", x.TrafficCost}} {
		if part.cost > left {
			c.failf(part.field, "%d of the %d that is left of a cost of %d", part.cost, left, x.Cost)
			break
		}
		left -= part.cost
	}
	if x.Billed > x.Used {
		c.failf("billed_ns", "%v billed for %v used", x.Billed, x.Used)
	}
	if x.Fee > x.Cost {
		c.failf("fee_nanousd", "%d of a cost of %d", x.Fee, x.Cost)
	}
	return x
}
