package wire

import (
	"rialto/broker"
	"rialto/p2p/identity"
)

// SealHold signs a broker's request to keep GPUs for a job.
func SealHold(k identity.Key, x broker.Hold) ([]byte, error) { return holds().seal(k, x) }

// OpenHold checks and decodes a hold. The spec in it is still sealed.
func OpenHold(envelope []byte) (broker.Hold, broker.PeerID, error) { return holds().open(envelope) }

func holds() codec[broker.Hold, *Hold] {
	return codec[broker.Hold, *Hold]{
		name: "hold", max: MaxHold, fresh: func() *Hold { return new(Hold) },
		encode: encodeHold, decode: decodeHold,
	}
}

func encodeHold(x broker.Hold) *Hold {
	return &Hold{
		Lease: string(x.Lease), Job: string(x.Job), Offer: string(x.Offer), RateNanousdPerHour: int64(x.Rate),
		Spec: x.Spec, TtlNs: int64(x.TTL), Sources: each(x.Sources, encodeBlockSource),
		Trace: encodeTrace(x.Trace), Rank: narrow(x.Rank), Bid: x.Bid, Tariff: encodeTariff(x.Tariff),
	}
}

func decodeHold(c checker, m *Hold) broker.Hold {
	x := broker.Hold{
		Lease:   c.lease(m.GetLease()),
		Job:     c.job(m.GetJob()),
		Offer:   broker.OfferID(c.name("offer", m.GetOffer())),
		Rate:    c.rate("rate_nanousd_per_hour", m.GetRateNanousdPerHour()),
		Spec:    c.envelope("spec", m.GetSpec(), MaxJobSpec),
		TTL:     c.ttl("ttl_ns", m.GetTtlNs()),
		Sources: messages(c, "sources", m.GetSources(), maxSources, decodeBlockSource),
		Trace:   c.trace("trace", m.GetTrace()),
		Rank:    c.integer("rank", m.GetRank(), 0, broker.MaxNodes-1),
		Tariff:  decodeTariff(c.in("tariff"), m.GetTariff()),
		Bid:     c.envelope("bid", m.GetBid(), MaxBidChange),
	}
	if x.Spec == nil {
		c.failf("spec", "missing")
	}
	return x
}

func encodeBlockSource(x broker.BlockSource) *BlockSource {
	return &BlockSource{Peer: string(x.Peer), Addrs: x.Addrs}
}

func decodeBlockSource(c checker, m *BlockSource) broker.BlockSource {
	return broker.BlockSource{Peer: c.peer("peer", m.GetPeer()), Addrs: addresses(c, "addrs", m.GetAddrs())}
}

// SealAnswer signs a provider's answer to a hold.
func SealAnswer(k identity.Key, x broker.Answer) ([]byte, error) { return answers().seal(k, x) }

// OpenAnswer checks and decodes a provider's answer to a hold: a grant or a refusal, never both or neither.
func OpenAnswer(envelope []byte) (broker.Answer, broker.PeerID, error) {
	return answers().open(envelope)
}

func answers() codec[broker.Answer, *Answer] {
	return codec[broker.Answer, *Answer]{
		name: "answer", max: MaxAnswer, fresh: func() *Answer { return new(Answer) },
		encode: encodeAnswer, decode: decodeAnswer,
	}
}

func encodeAnswer(x broker.Answer) *Answer {
	m := &Answer{Lease: string(x.Lease), Refusal: clean(x.Refusal)}
	if g := x.Grant; g != nil {
		m.Grant = &Grant{
			Lease: string(g.Lease), Job: string(g.Job), Gpus: each(g.GPUs, encodeGPULease),
			TunnelKey: g.TunnelKey[:], Endpoints: g.Endpoints,
			RateNanousdPerHour: int64(g.Rate), FirmNs: int64(g.Firm), Tariff: encodeTariff(g.Tariff),
		}
	}
	return m
}

func decodeAnswer(c checker, m *Answer) broker.Answer {
	x := broker.Answer{Lease: c.lease(m.GetLease()), Refusal: c.message("refusal", m.GetRefusal())}
	if (m.GetGrant() == nil) == (x.Refusal == "") {
		c.failf("grant", "want a grant or a refusal")
	}
	if m.GetGrant() != nil {
		g := decodeGrant(c.in("grant"), m.GetGrant())
		if g.Lease != x.Lease {
			c.failf("grant", "of lease %s in the answer for %s", g.Lease, x.Lease)
		}
		x.Grant = &g
	}
	return x
}

func decodeGrant(c checker, m *Grant) broker.Grant {
	x := broker.Grant{
		Lease:     c.lease(m.GetLease()),
		Job:       c.job(m.GetJob()),
		GPUs:      gpuLeases(c, m.GetGpus()),
		TunnelKey: c.tunnelKey("tunnel_key", m.GetTunnelKey()),
		Endpoints: addresses(c, "endpoints", m.GetEndpoints()),
		Rate:      c.rate("rate_nanousd_per_hour", m.GetRateNanousdPerHour()),
		Firm:      c.duration("firm_ns", m.GetFirmNs()),
		Tariff:    decodeTariff(c.in("tariff"), m.GetTariff()),
	}
	if (x.Rate > 0 || x.Tariff != broker.Tariff{}) && x.Firm == 0 {
		c.failf("firm_ns", "missing, and the grant names a price")
	}
	if len(x.GPUs) == 0 {
		c.failf("gpus", "missing")
	}
	return x
}

func encodeGPULease(x broker.GPULease) *GPULease { return &GPULease{Uuid: x.UUID, Epoch: x.Epoch} }

func decodeGPULease(c checker, m *GPULease) broker.GPULease {
	return broker.GPULease{UUID: c.name("uuid", m.GetUuid()), Epoch: m.GetEpoch()}
}

// gpuLeases decodes the GPUs of one lease.
func gpuLeases(c checker, m []*GPULease) []broker.GPULease {
	gpus := messages(c, "gpus", m, maxLeaseGPUs, decodeGPULease)
	unique(c, "gpus", gpus, func(g broker.GPULease) string { return g.UUID })
	return gpus
}

// SealConfirm signs a broker's confirmation of a hold.
func SealConfirm(k identity.Key, x broker.Confirm) ([]byte, error) { return confirms().seal(k, x) }

// OpenConfirm checks and decodes a confirmation.
func OpenConfirm(envelope []byte) (broker.Confirm, broker.PeerID, error) {
	return confirms().open(envelope)
}

func confirms() codec[broker.Confirm, *Confirm] {
	return codec[broker.Confirm, *Confirm]{
		name: "confirm", max: MaxConfirm, fresh: func() *Confirm { return new(Confirm) },
		encode: func(x broker.Confirm) *Confirm {
			return &Confirm{Lease: string(x.Lease), TtlNs: int64(x.TTL), MaxDurationNs: int64(x.MaxDuration)}
		},
		decode: func(c checker, m *Confirm) broker.Confirm {
			return broker.Confirm{
				Lease:       c.lease(m.GetLease()),
				TTL:         c.ttl("ttl_ns", m.GetTtlNs()),
				MaxDuration: c.duration("max_duration_ns", m.GetMaxDurationNs()),
			}
		},
	}
}

// SealRelease signs a broker's end of a hold or lease.
func SealRelease(k identity.Key, x broker.Release) ([]byte, error) { return releases().seal(k, x) }

// OpenRelease checks and decodes a release.
func OpenRelease(envelope []byte) (broker.Release, broker.PeerID, error) {
	return releases().open(envelope)
}

func releases() codec[broker.Release, *Release] {
	return codec[broker.Release, *Release]{
		name: "release", max: MaxRelease, fresh: func() *Release { return new(Release) },
		encode: func(x broker.Release) *Release {
			return &Release{Lease: string(x.Lease), Reason: clean(x.Reason)}
		},
		decode: func(c checker, m *Release) broker.Release {
			return broker.Release{
				Lease:  c.lease(m.GetLease()),
				Reason: c.message("reason", m.GetReason()),
			}
		},
	}
}
