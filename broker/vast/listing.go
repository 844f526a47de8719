package vast

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/big"

	"rialto/broker"
	"rialto/pricing"
)

// price is one of the prices that an owner asks.
type price struct {
	key, name, flag string                    // in a request, in the cells of a machine, and of the agent
	monthly         bool                      // on Vast's wire
	of              func(*broker.Offer) int64 // in nanodollars, for an hour where it is for a time
	set             func(*broker.OwnerAsk, int64)
}

func prices() []price {
	return []price{
		{
			"price_gpu", "gpu", "--price", false,
			func(o *broker.Offer) int64 { return int64(o.Rate) },
			func(k *broker.OwnerAsk, n int64) { k.Rate = pricing.Rate(n) },
		},
		{
			"price_disk", "storage", "--disk-price", true,
			func(o *broker.Offer) int64 { return int64(o.Tariff.Disk) },
			func(k *broker.OwnerAsk, n int64) { k.Tariff.Disk = pricing.Rate(n) },
		},
		{
			"price_inetu", "inet_up", "--egress-price", false,
			func(o *broker.Offer) int64 { return int64(o.Tariff.Egress) },
			func(k *broker.OwnerAsk, n int64) { k.Tariff.Egress = pricing.Money(n) },
		},
		{
			"price_inetd", "inet_down", "--ingress-price", false,
			func(o *broker.Offer) int64 { return int64(o.Tariff.Ingress) },
			func(k *broker.OwnerAsk, n int64) { k.Tariff.Ingress = pricing.Money(n) },
		},
	}
}

// text is a price as Vast's clients read it.
func (p *price) text(nanos int64) json.Number {
	if p.monthly {
		return monthly(pricing.Rate(nanos))
	}
	return dollars(nanos)
}

// read returns what is said of a price, in nanodollars, and whether there is something.
func (p *price) read(r *reader) (nanos int64, ok bool) {
	n, ok := r.rational(p.key)
	switch {
	case !ok:
		return 0, false
	case p.monthly:
		n = nearest(hourly(n))
	default:
		n.Mul(n, big.NewRat(int64(pricing.USD), 1))
	}
	if !n.IsInt() || !n.Num().IsInt64() {
		r.fail(p.key, shown(r.raw(p.key))+": want dollars, with at most nine decimals")
		return 0, false
	}
	return n.Num().Int64(), true
}

// listing are the cells of a machine's prices: what is listed, null for what is not, and what the agent asks, below which
// nothing is listed.
func listing(ask *broker.OwnerAsk, agents *broker.Offer) row {
	var cells row
	on := ask.On(*agents)
	for _, p := range prices() {
		var listed any
		if !ask.Unlisted {
			listed = p.text(p.of(&on))
		}
		cells = append(cells, cell{"listed_" + p.name + "_cost", listed}, cell{"agent_" + p.name + "_cost", p.text(p.of(agents))})
	}
	return cells
}

// raise makes an ask of what an owner says of a price, which may not be below what his agent asks.
func (p *price) raise(ask *broker.OwnerAsk, nanos int64, agents []broker.Offer) error {
	for i := range agents {
		if own := p.of(&agents[i]); nanos < own {
			return invalid(p.key, fmt.Sprintf("$%s is below the agent's own price, $%s, which it holds to: start the agent with %s to lower it", p.text(nanos), p.text(own), p.flag))
		}
	}
	p.set(ask, nanos)
	if f, bad := errors.AsType[*broker.FieldError](ask.Validate()); bad {
		return invalid(p.key, f.Problem)
	}
	return nil
}
