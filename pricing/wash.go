package pricing

import (
	"slices"
	"strconv"
	"time"
)

// WashShare is how far the published cost of a manipulation moves an index, in millionths.
const WashShare = 10_000

// Wash is what it would take to raise an index by [WashShare]: the least turnover of trades with oneself, by one operator
// and by three. Of that turnover a manipulator loses the market's fee, and what his GPUs would have earned. Zero: no such
// trades raise it so far, or there is no firm index.
type Wash struct{ One, Three Money }

// Washed returns it for the print of some inputs.
func Washed(in Inputs) Wash {
	var w Wash
	w.One, _ = WashCost(in, 1, WashShare)
	w.Three, _ = WashCost(in, 3, WashShare)
	return w
}

// washPrices are the prices at which a manipulator trades with himself, in hundredths of the index.
func washPrices() []int64 { return []int64{102, 105, 110, 120, 140, 200} }

const (
	leastWash = 15 * 60 // GPU-seconds
	mostWash  = 4096 * 3600
	longWash  = 20 * 3600 // seconds of one trade, so that all of it is in the window
)

// WashCost returns the least turnover, as far as a search by price and size finds it within a hundredth, of trades of so
// many operators with customers of their own, settled a moment ago, that raises a firm print by a share in millionths.
func WashCost(in Inputs, operators int, share int64) (turnover Money, ok bool) {
	in.Asks = nil // a firm print depends on none
	before := Compute(in)
	if before.Quality != Firm || operators < 1 || share < 1 {
		return 0, false
	}
	part := func(ppm int64) Rate { // of the index
		q, _, err := mulDiv(uint64(before.Index), uint64(ppm), 1_000_000) //nolint:gosec // not negative
		if err != nil {
			return MaxRate
		}
		return Rate(min(q, uint64(MaxRate))) //nolint:gosec // not above MaxRate
	}
	target := before.Index + part(share)
	for _, hundredths := range washPrices() {
		rate := part(hundredths * 10_000)
		cost := func(seconds int64) Money {
			c, err := rate.Cost(time.Duration(seconds) * time.Second)
			if err != nil {
				return 1<<63 - 1
			}
			return c
		}
		moves := func(seconds int64) bool {
			with := in
			with.Trades = slices.Concat(in.Trades, washes(in.At, rate, seconds, operators))
			p := Compute(with)
			return p.Quality == Firm && p.Index >= target
		}
		low, high := int64(0), int64(leastWash)
		for high <= mostWash && !moves(high) {
			low, high = high, 2*high
			if ok && cost(low) >= turnover {
				break // dearer than what is known
			}
		}
		if high > mostWash || ok && cost(low) >= turnover {
			continue
		}
		for low > 0 && high-low > high/100 {
			if mid := (low + high) / 2; moves(mid) {
				high = mid
			} else {
				low = mid
			}
		}
		if c := cost(high); !ok || c < turnover {
			turnover, ok = c, true
		}
	}
	return turnover, ok
}

// washes makes the trades of operators with customers of their own: as few as the index takes.
func washes(at int64, rate Rate, seconds int64, operators int) []Trade {
	var out []Trade
	for i := range operators {
		operator, customer := "washer "+strconv.Itoa(i), "straw "+strconv.Itoa(i)
		left := seconds / int64(operators)
		for n := 0; left >= ParamsV1().MinPaid; n++ {
			gpus := min(max(1, (left+longWash-1)/longWash), MaxTradeGPUs)
			paid := min(left, gpus*longWash)
			out = append(out, Trade{
				ID: operator + " " + strconv.Itoa(n), Settled: at - 1, Agreed: at - 1 - paid/gpus, GPUs: int(gpus), Rate: rate,
				GPUSeconds: paid, Provider: operator, Operator: operator, Customer: customer,
			})
			left -= paid
		}
	}
	return out
}
