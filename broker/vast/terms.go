package vast

import (
	"fmt"
	"math/big"
	"net/http"
	"time"

	"rialto/broker"
	"rialto/pricing"
)

// bids is what a bid for all GPUs is for each, rounded down.
func (w *wish) bids(o *broker.Offer, count int) (pricing.Rate, error) {
	each, err := bidOf(w.bid, count)
	if err != nil {
		return 0, err
	}
	switch least := pricing.Money(o.MinBid) * pricing.Money(count); {
	case o.MinBid == 0:
		return 0, invalid("price", "the offer is on-demand only, and nothing was started: search with type bid, or leave the price away")
	case each < o.MinBid:
		return 0, invalid("price", fmt.Sprintf("$%s/h is less than the least bid of %v/h, and nothing was started", w.bid.FloatString(4), least))
	}
	return each, nil
}

// bidOf is what each of so many GPUs may cost at a price for all of them, rounded down.
func bidOf(price *big.Rat, count int) (pricing.Rate, error) {
	all := new(big.Rat).Mul(price, big.NewRat(int64(pricing.USD), int64(count)))
	nanos := new(big.Int).Quo(all.Num(), all.Denom())
	if nanos.Sign() <= 0 || !nanos.IsInt64() {
		return 0, invalid("price", price.FloatString(4)+": want dollars an hour, more than none")
	}
	return pricing.Rate(nanos.Int64()), nil
}

// interruptible reports whether a kind of renting is for bids, and refuses those that this market does not have.
func interruptible(kind string) (bool, error) {
	switch kind {
	case "", "on-demand", "ondemand":
		return false, nil
	case "bid", "interruptible":
		return true, nil
	case "reserved":
		return false, invalid("type", "reserved instances are not rented through this API: `rialto run --reserve` rents them, at the discounted price that offers show")
	}
	return false, &broker.FieldError{Field: "type", Problem: clipped(kind) + ": want on-demand or bid", Nearest: broker.Nearest(kind, []string{"on-demand", "bid", "interruptible"})}
}

// hold is the money to keep aside for an instance, and for how long it runs on it: the whole term, or what the account has.
func (s *Server) hold(a broker.Account, c broker.Charge) (pricing.Money, time.Duration, error) {
	whole, err := c.Cost(s.c.Term)
	if err != nil {
		return 0, 0, fmt.Errorf("price of %v: %w", s.c.Term, err)
	}
	if whole <= a.Available {
		return whole, s.c.Term, nil
	}
	run, err := c.Buys(a.Available)
	if err != nil {
		return 0, 0, fmt.Errorf("what %v buys: %w", a.Available, err)
	}
	if run < leastRun {
		traffic := ""
		if c.Traffic > 0 {
			traffic = fmt.Sprintf(" and %v for traffic", c.Traffic)
		}
		return 0, 0, &refusal{Status: http.StatusPaymentRequired, Code: "insufficient_credit", Msg: fmt.Sprintf("the account has %v, which is less than %v of this offer at %v%s", a.Available, leastRun, c.Hourly(), traffic)}
	}
	return a.Available, run, nil
}
