package agent

import (
	"rialto/broker"
	"rialto/broker/wire"
)

// openSpec opens a signed spec and makes of it what its customer wants now, if he has changed his bid. The change must be
// the same customer's, and for this spec.
func openSpec(spec, bid []byte) (broker.JobSpec, broker.PeerID, error) {
	s, customer, err := wire.OpenJobSpec(spec)
	if err != nil || len(bid) == 0 {
		return s, customer, err
	}
	change, _, err := wire.OpenBidChange(bid)
	if err == nil {
		err = change.Amend(&s)
	}
	return s, customer, err
}
