package pricing

import (
	"cmp"
	"errors"
	"slices"
)

// ErrDepth says that fewer GPUs are on offer than were asked for.
var ErrDepth = errors.New("not that many GPUs on offer")

// DepthPoint is what the first GPUs of a cell cost, cheapest first.
type DepthPoint struct {
	GPUs       int
	Avg, Worst Rate // per GPU-hour
}

// Level is the GPUs on offer at one rate.
type Level struct {
	Rate Rate // per GPU-hour
	GPUs int
}

// DepthPoints are the quantities whose price is published.
func DepthPoints() []int { return []int{1, 8, 64, 256} }

// Impact prices the first n GPUs, or fails with [ErrDepth].
func Impact(asks []Ask, n int) (DepthPoint, error) {
	var cost wide
	left := n
	for _, a := range sortAsks(asks) {
		take := min(left, a.GPUs)
		cost.add(uint64(a.Rate), uint64(take)) //nolint:gosec // neither is negative
		if left -= take; left == 0 {
			return DepthPoint{GPUs: n, Avg: cost.mean(uint64(n)), Worst: a.Rate}, nil //nolint:gosec // at least 1
		}
	}
	return DepthPoint{}, ErrDepth
}

// Depth prices the quantities of [DepthPoints] that are on offer.
func Depth(asks []Ask) []DepthPoint {
	var out []DepthPoint
	for _, n := range DepthPoints() {
		p, err := Impact(asks, n)
		if err != nil {
			break
		}
		out = append(out, p)
	}
	return out
}

// Levels joins asks of one rate, cheapest first, and counts all GPUs.
func Levels(asks []Ask) (levels []Level, gpus int) {
	for _, a := range sortAsks(asks) {
		gpus += a.GPUs
		if n := len(levels); n > 0 && levels[n-1].Rate == a.Rate {
			levels[n-1].GPUs += a.GPUs
			continue
		}
		levels = append(levels, Level{Rate: a.Rate, GPUs: a.GPUs})
	}
	return levels, gpus
}

// Tick is what bids are published in steps of: 1,000 micro-dollars an hour.
const Tick Rate = 1_000_000

// BidLevels joins bids of one tick, rounded down to it, the highest first.
func BidLevels(bids []Level) []Level {
	bids = slices.Clone(bids)
	for i := range bids {
		bids[i].Rate -= bids[i].Rate % Tick
	}
	slices.SortFunc(bids, func(a, b Level) int { return cmp.Compare(b.Rate, a.Rate) })
	var levels []Level
	for _, b := range bids {
		if n := len(levels); n > 0 && levels[n-1].Rate == b.Rate {
			levels[n-1].GPUs += b.GPUs
			continue
		}
		levels = append(levels, b)
	}
	return levels
}

// BidImpact prices the sale of n GPUs to the highest bids, or fails with [ErrDepth].
func BidImpact(levels []Level, n int) (DepthPoint, error) {
	var pay wide
	left := n
	for _, l := range levels {
		take := min(left, l.GPUs)
		pay.add(uint64(l.Rate), uint64(take)) //nolint:gosec // neither is negative
		if left -= take; left == 0 {
			return DepthPoint{GPUs: n, Avg: pay.mean(uint64(n)), Worst: l.Rate}, nil //nolint:gosec // at least 1
		}
	}
	return DepthPoint{}, ErrDepth
}

// NearestAsks returns the cheapest asks that together have at least n GPUs, the last one cut to fit, with those of one
// operator at one rate joined: all that an indicative print depends on.
func NearestAsks(asks []Ask, n int) []Ask {
	var out []Ask
	for _, a := range sortAsks(asks) {
		if n == 0 {
			break
		}
		a.GPUs = min(a.GPUs, n)
		n -= a.GPUs
		if last := len(out) - 1; last >= 0 && out[last].Rate == a.Rate && out[last].Operator == a.Operator {
			out[last].GPUs += a.GPUs
			continue
		}
		out = append(out, a)
	}
	return out
}
