package wire

import (
	"math"

	"rialto/blockstore"
	"rialto/broker"
	"rialto/p2p/identity"
)

// SealTrace signs a provider's word about what a workload read first.
func SealTrace(k identity.Key, x broker.TraceReport) ([]byte, error) { return traces().seal(k, x) }

// OpenTrace checks and decodes a provider's word about what a workload read first.
func OpenTrace(envelope []byte) (broker.TraceReport, broker.PeerID, error) {
	return traces().open(envelope)
}

func traces() codec[broker.TraceReport, *Trace] {
	return codec[broker.TraceReport, *Trace]{
		name: "trace", max: MaxTrace, fresh: func() *Trace { return new(Trace) },
		encode: func(x broker.TraceReport) *Trace {
			return &Trace{Lease: string(x.Lease), Root: x.Root, Trace: encodeTrace(x.Trace)}
		},
		decode: func(c checker, m *Trace) broker.TraceReport {
			x := broker.TraceReport{
				Lease: c.lease(m.GetLease()),
				Root:  c.cid("root", m.GetRoot()),
				Trace: c.trace("trace", m.GetTrace()),
			}
			if x.Trace == nil {
				c.failf("trace", "missing")
			}
			return x
		},
	}
}

// encodeTrace encodes a trace, none as nothing. What is too long becomes what trace refuses.
func encodeTrace(t blockstore.Trace) []byte {
	if len(t) == 0 {
		return nil
	}
	b, err := t.AppendBinary(nil)
	if err != nil {
		return make([]byte, maxTrace+1)
	}
	return b
}

// trace takes a trace or none. Which blocks there are, its user knows.
func (c checker) trace(field string, b []byte) blockstore.Trace {
	if len(b) > maxTrace {
		c.failf(field, "%d bytes, at most %d", len(b), maxTrace)
		return nil
	}
	if len(b) == 0 {
		return nil
	}
	t, err := blockstore.DecodeTrace(b)
	switch {
	case err != nil:
		c.failf(field, "%v", err)
	case len(t) == 0:
		c.failf(field, "a trace of nothing")
	case !t.Valid(math.MaxInt):
		c.failf(field, "a block is there twice")
	}
	return t
}
