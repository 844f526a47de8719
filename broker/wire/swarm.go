package wire

import (
	"rialto/broker"
	"rialto/p2p/identity"
)

// SealPoison signs a provider's word about a wrong block.
func SealPoison(k identity.Key, x broker.PoisonReport) ([]byte, error) { return poisons().seal(k, x) }

// OpenPoison checks and decodes a provider's word about a wrong block.
func OpenPoison(envelope []byte) (broker.PoisonReport, broker.PeerID, error) {
	return poisons().open(envelope)
}

func poisons() codec[broker.PoisonReport, *Poison] {
	return codec[broker.PoisonReport, *Poison]{
		name: "poison", max: MaxPoison, fresh: func() *Poison { return new(Poison) },
		encode: func(x broker.PoisonReport) *Poison {
			return &Poison{
				Lease: string(x.Lease), Accused: string(x.Accused), Want: x.Want, Got: x.Got, Size: x.Size, TimeNs: nanos(x.Time),
			}
		},
		decode: func(c checker, m *Poison) broker.PoisonReport {
			x := broker.PoisonReport{
				Accused: c.peer("accused", m.GetAccused()),
				Want:    c.anyCID("want", m.GetWant()),
				Got:     c.digest("got", m.GetGot()),
				Size:    c.count("size", m.GetSize()),
				Time:    c.instant("time_ns", m.GetTimeNs()),
			}
			if m.GetLease() != "" {
				x.Lease = c.lease(m.GetLease())
			}
			if x.Time.IsZero() {
				c.failf("time_ns", "missing")
			}
			return x
		},
	}
}

// SealAdvice signs a broker's answer to offers.
func SealAdvice(k identity.Key, x broker.Advice) ([]byte, error) { return advices().seal(k, x) }

// OpenAdvice checks and decodes a broker's answer to offers.
func OpenAdvice(envelope []byte) (broker.Advice, broker.PeerID, error) {
	return advices().open(envelope)
}

func advices() codec[broker.Advice, *Advice] {
	return codec[broker.Advice, *Advice]{
		name: "advice", max: MaxAdvice, fresh: func() *Advice { return new(Advice) },
		encode: func(x broker.Advice) *Advice {
			return &Advice{
				Boot: x.Boot, Seq: x.Seq, TtlNs: int64(x.TTL), Roots: each(x.Roots, encodeRootAdvice),
				Accusers: narrow(x.Accusers), DistrustedNs: int64(x.Distrusted),
			}
		},
		decode: func(c checker, m *Advice) broker.Advice {
			x := broker.Advice{
				Boot:       c.name("boot", m.GetBoot()),
				Seq:        m.GetSeq(),
				TTL:        c.ttl("ttl_ns", m.GetTtlNs()),
				Roots:      messages(c, "roots", m.GetRoots(), MaxAdvised, decodeRootAdvice),
				Accusers:   c.integer("accusers", m.GetAccusers(), 0, maxReplicas),
				Distrusted: c.duration("distrusted_ns", m.GetDistrustedNs()),
			}
			unique(c, "roots", x.Roots, func(r broker.RootAdvice) string { return r.Root })
			return x
		},
	}
}

func encodeRootAdvice(x broker.RootAdvice) *RootAdvice {
	return &RootAdvice{Root: x.Root, Replicas: narrow(x.Replicas), LastInRegion: x.LastInRegion, Keeper: x.Keeper}
}

func decodeRootAdvice(c checker, m *RootAdvice) broker.RootAdvice {
	return broker.RootAdvice{
		Root: c.cid("root", m.GetRoot()), Replicas: c.integer("replicas", m.GetReplicas(), 0, maxReplicas),
		LastInRegion: m.GetLastInRegion(), Keeper: m.GetKeeper(),
	}
}
