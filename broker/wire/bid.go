package wire

import (
	"fmt"

	"rialto/broker"
	"rialto/p2p/identity"
)

// SealBidChange signs what a customer's interruptible job bids from now on. The key must be that of its Customer.
func SealBidChange(k identity.Key, x broker.BidChange) ([]byte, error) {
	return bidChanges().seal(k, x)
}

// OpenBidChange checks and decodes what a customer's job bids from now on. Its Customer is the signer.
func OpenBidChange(envelope []byte) (broker.BidChange, broker.PeerID, error) {
	return bidChanges().open(envelope)
}

// ReopenBidChange is to [OpenBidChange] what [ReopenJobSpec] is to [OpenJobSpec].
func ReopenBidChange(envelope []byte) (broker.BidChange, broker.PeerID, error) {
	return bidChanges().reopen(envelope)
}

func bidChanges() codec[broker.BidChange, *BidChange] {
	return codec[broker.BidChange, *BidChange]{
		name: "bidchange", max: MaxBidChange, fresh: func() *BidChange { return new(BidChange) },
		encode: func(x broker.BidChange) *BidChange {
			return &BidChange{
				Customer: string(x.Customer), Broker: string(x.Broker), Nonce: x.Nonce, BidNanousdPerHour: int64(x.Bid),
				MaxCostNanousd: int64(x.MaxCost), CreatedNs: nanos(x.Created),
			}
		},
		decode: func(c checker, m *BidChange) broker.BidChange {
			x := broker.BidChange{
				Customer: c.peer("customer", m.GetCustomer()),
				Broker:   c.peer("broker", m.GetBroker()),
				Nonce:    c.name("nonce", m.GetNonce()),
				Bid:      c.rate("bid_nanousd_per_hour", m.GetBidNanousdPerHour()),
				MaxCost:  c.money("max_cost_nanousd", m.GetMaxCostNanousd()),
				Created:  c.instant("created_ns", m.GetCreatedNs()),
			}
			if x.Bid == 0 {
				c.failf("bid_nanousd_per_hour", "missing")
			}
			return x
		},
		signer: func(x broker.BidChange, signer identity.ID) error {
			if x.Customer != broker.PeerID(signer) {
				return fmt.Errorf("customer %s, signed by %s: %w", x.Customer, signer, broker.ErrForbidden)
			}
			return nil
		},
	}
}
