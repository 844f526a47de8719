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

// Impact prices the first n GPUs of levels, the best first: of asks what they cost, of bids what they earn. It fails
// with [ErrDepth].
func Impact(levels []Level, n int) (DepthPoint, error) {
	var sum wide
	left := n
	for _, l := range levels {
		take := min(left, l.GPUs)
		sum.add(uint64(l.Rate), uint64(take)) //nolint:gosec // neither is negative
		if left -= take; left == 0 {
			return DepthPoint{GPUs: n, Avg: sum.mean(uint64(n)), Worst: l.Rate}, nil //nolint:gosec // at least 1
		}
	}
	return DepthPoint{}, ErrDepth
}

// Depth prices the quantities of [DepthPoints] that are on offer.
func Depth(levels []Level) []DepthPoint {
	var out []DepthPoint
	for _, n := range DepthPoints() {
		p, err := Impact(levels, n)
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
		levels = joined(levels, Level{Rate: a.Rate, GPUs: a.GPUs})
	}
	return levels, gpus
}

// joined adds a level behind others: to the last one if that has its rate.
func joined(levels []Level, l Level) []Level {
	if n := len(levels); n > 0 && levels[n-1].Rate == l.Rate {
		levels[n-1].GPUs += l.GPUs
		return levels
	}
	return append(levels, l)
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
		levels = joined(levels, b)
	}
	return levels
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
