package pricing

import (
	"cmp"
	"maps"
	"math/bits"
	"slices"
)

// IndexMethod names how a print is computed. A method is never changed: another one gets another name.
const IndexMethod = "rialto-index/1"

// IndexParams are the constants of [IndexMethod]. Times are seconds, shares are millionths.
type IndexParams struct {
	Window      int64 // trades settled in this time before the print count
	HalfLife    int64 // of a trade's weight
	MinPaid     int64 // shorter paid runs are not in the universe
	Reversal    int64 // a trade back between the same parties within this time undoes both
	OperatorCap int64 // the share of the weight that one operator may have; with n operators at least 1/n
	Outlier     int64 // a price is dropped beyond this many robust standard deviations
	MADScale    int64 // the MAD of a normal distribution of deviation 1
	MADFloor    int64 // the MAD counts as at least this share of the price, where most weight is at one price
	Trim        int64 // weight dropped at each end
	MinTrades   int   // that a firm print needs
	MinOperator int   // likewise
	AskGPUs     int   // an indicative print is the median of the asks for so many GPUs, the cheapest
	MaxAdjust   int64 // the hedonic adjustment is at most this factor, up or down, in millionths
}

// ParamsV1 returns the parameters of [IndexMethod].
func ParamsV1() IndexParams {
	return IndexParams{
		Window: 24 * 3600, HalfLife: 6 * 3600, MinPaid: 600, Reversal: 120, OperatorCap: 200_000,
		Outlier: 3_500_000, MADScale: 674_500, MADFloor: 10_000, Trim: 100_000,
		MinTrades: 5, MinOperator: 3, AskGPUs: 64, MaxAdjust: 2_000_000,
	}
}

const (
	capDivisor = 5        // 1 / OperatorCap
	madFloor   = 61655514 // log2(1 + MADFloor)
	trimEnds   = 10       // 1 / Trim
	maxAdjust  = fixedLog(1) << logBits
)

// Quality says what a print was computed from. The two kinds of value are never blended in one series.
type Quality string

// Qualities.
const (
	Firm       Quality = "firm"       // executed trades
	Indicative Quality = "indicative" // firm asks, because there are too few trades
	Stale      Quality = "stale"      // neither: there is no price
)

// Print is one value of a cell's index and what it rests on.
type Print struct {
	Cell    Cell
	At      int64 // Unix seconds; what was settled before it counts
	Quality Quality
	Index   Rate // per GPU-hour of the cell's base configuration; zero when stale

	P10, P25, P50, P75, P90 Rate // of executed trades by capped weight, before trimming; zero when there is none

	Trades     int   // in the universe
	Operators  int   // of these
	GPUSeconds int64 // of these, in the window
	HHI        int   // concentration of operators by GPU-seconds, 0 to 10000 (Herfindahl-Hirschman)
	Trimmed    int   // trades dropped as outliers

	// Trades that were settled in the window and paid for long enough, and that the universe leaves out.
	Related, Canaries, Reversed int
}

// Inputs are all that a print is computed from. Trades and asks may be in any order.
type Inputs struct {
	Cell    Cell
	At      int64
	Hedonic Hedonic
	Trades  []Trade
	Asks    []Ask
}

// weighted is a trade in the making of a print.
type weighted struct {
	trade  *Trade
	rate   Rate // normalised
	paid   int64
	weight uint64
	log    fixedLog
}

// Compute makes a print by [IndexMethod]:
//
//  1. Universe: trades settled in the 24 h before, paid for 10 minutes at least; not between related parties, not the
//     market's own probes, and not those undone by a trade back within 2 minutes, as ICE's rules for its power indices
//     leave out trades within one parent and those reversed within two minutes.
//  2. Normalise to the cell's base configuration, see [Hedonic].
//  3. Weigh: w = GPU-seconds in the window × 0.5^(age / 6 h), age counted back from the newest trade, since a factor that
//     all share does not matter. No operator has more than a fifth of the weight, or 1/n where n < 5 trade: shares above
//     it are cut, which raises the others', until none is above.
//  4. Trim: drop |log p − m| > 3.5 × MAD / 0.6745, where m is the weighted median of log p and MAD the weighted median of
//     |log p − m| (Iglewicz and Hoaglin, How to Detect and Handle Outliers, 1993); then the mean of what is left between
//     a tenth and nine tenths of its weight.
//  5. Firm with at least 5 trades of 3 operators in the universe. Otherwise indicative: the median GPU of the cheapest 64
//     on offer, or of all if there are fewer. Otherwise stale.
//
// All of it is integer arithmetic: equal inputs give an equal print on every machine.
func Compute(in Inputs) Print {
	p := Print{Cell: in.Cell, At: in.At, Quality: Stale}
	universe := in.universe(&p)
	p.measure(universe)
	if len(universe) > 0 {
		capOperators(universe)
		p.spread(universe)
	}
	params := ParamsV1()
	if p.Trades >= params.MinTrades && p.Operators >= params.MinOperator {
		kept := dropOutliers(universe)
		p.Trimmed = len(universe) - len(kept)
		p.Quality, p.Index = Firm, trimmedMean(kept)
		return p
	}
	if mid, ok := medianAsk(in.Asks, params.AskGPUs); ok {
		p.Quality, p.Index = Indicative, mid
	}
	return p
}

// counts reports whether a trade is of the window and paid for long enough. Those that are not are left out before the
// newest [MaxTrades] are taken: many short runs must not push out the others.
func (in *Inputs) counts(t *Trade) bool {
	params := ParamsV1()
	return t.valid() && t.Settled < in.At && t.Settled >= in.At-params.Window && t.paid(params.MinPaid)
}

// universe returns the trades of the index, cheapest first, with their weights, and counts the others.
func (in *Inputs) universe(p *Print) []weighted {
	params := ParamsV1()
	var all []*Trade
	for i := range in.Trades {
		if t := &in.Trades[i]; in.counts(t) {
			all = append(all, t)
		}
	}
	slices.SortFunc(all, (*Trade).order)
	all = all[max(0, len(all)-MaxTrades):]
	undone := reversals(all, params.Reversal)
	var out []weighted
	var newest int64
	for i, t := range all {
		switch {
		case t.Operator == t.Customer || t.Provider == t.Customer:
			p.Related++
		case t.Canary:
			p.Canaries++
		case undone[i]:
			p.Reversed++
		default:
			rate := in.Hedonic.normalise(t)
			paid := min(t.GPUSeconds, (t.Settled-(in.At-params.Window))*int64(t.GPUs))
			out = append(out, weighted{trade: t, rate: rate, paid: paid, log: log2(uint64(rate))}) //nolint:gosec // valid
			newest = t.Settled
		}
	}
	for i := range out {
		w := &out[i]
		w.weight = uint64(w.paid) * decay(newest-w.trade.Settled, params.HalfLife) //nolint:gosec // not negative, < 2^47
	}
	slices.SortFunc(out, func(a, b weighted) int {
		return cmp.Or(cmp.Compare(a.rate, b.rate), a.trade.order(b.trade))
	})
	return out
}

// reversals marks trades that were undone: the parties changed places within so many seconds, for as many GPUs.
func reversals(trades []*Trade, within int64) []bool {
	type deal struct {
		seller, buyer string
		gpus          int
	}
	sides := map[deal][]int{}
	for i, t := range trades {
		d := deal{t.Operator, t.Customer, t.GPUs}
		sides[d] = append(sides[d], i)
	}
	undone := make([]bool, len(trades))
	for i, t := range trades {
		for _, j := range sides[deal{t.Customer, t.Operator, t.GPUs}] {
			if gap := t.Agreed - trades[j].Agreed; i != j && gap <= within && -gap <= within {
				undone[i] = true
				break
			}
		}
	}
	return undone
}

// measure counts the universe.
func (p *Print) measure(universe []weighted) {
	paid := map[string]int64{}
	for _, w := range universe {
		paid[w.trade.Operator] += w.paid
		p.GPUSeconds += w.paid
	}
	p.Trades, p.Operators = len(universe), len(paid)
	var squares wide // of shares in hundredths of a per cent
	for _, s := range paid {
		share := uint64(s * 10_000 / max(1, p.GPUSeconds)) //nolint:gosec // not negative
		squares.add(share, share)
	}
	p.HHI = int(squares.mean(10_000))
}

// capOperators cuts weights so that no operator has more than its share: of the largest k operators each gets
// rest / (n − k), where rest is the weight of the others and n is 5, or how many operators there are if fewer. With k the
// least for which nobody else has more, that is where cutting again and again ends.
func capOperators(universe []weighted) {
	sums := map[string]uint64{}
	var rest uint64
	for _, w := range universe {
		sums[w.trade.Operator] += w.weight
		rest += w.weight
	}
	sorted := slices.SortedFunc(maps.Values(sums), func(a, b uint64) int { return cmp.Compare(b, a) })
	n := min(capDivisor, len(sorted))
	var limit uint64
	for k := range n {
		if limit = rest / uint64(n-k); sorted[k] <= limit { //nolint:gosec // k < n
			break
		}
		rest -= sorted[k]
	}
	for i := range universe {
		w := &universe[i]
		if sum := sums[w.trade.Operator]; sum > limit {
			if q, _, err := mulDiv(w.weight, limit, sum); err == nil {
				w.weight = q
			}
		}
	}
}

// spread takes the percentiles of a universe that is sorted by rate.
func (p *Print) spread(universe []weighted) {
	for percent, to := range map[uint64]*Rate{10: &p.P10, 25: &p.P25, 50: &p.P50, 75: &p.P75, 90: &p.P90} {
		*to = universe[quantile(universe, percent)].rate
	}
}

// quantile returns the first of a sorted list up to which at least percent of the weight lies.
func quantile(sorted []weighted, percent uint64) int {
	total := sum(sorted)
	var below uint64
	for i, w := range sorted {
		below += w.weight
		haveHi, haveLo := bits.Mul64(below, 100)
		wantHi, wantLo := bits.Mul64(total, percent)
		if haveHi > wantHi || haveHi == wantHi && haveLo >= wantLo {
			return i
		}
	}
	return len(sorted) - 1
}

func sum(list []weighted) uint64 {
	var total uint64
	for _, w := range list {
		total += w.weight
	}
	return total
}

// dropOutliers keeps the order.
func dropOutliers(universe []weighted) []weighted {
	params := ParamsV1()
	mid := universe[quantile(universe, 50)].log
	away := func(w weighted) fixedLog { return max(w.log-mid, mid-w.log) }
	byAway := slices.Clone(universe)
	slices.SortFunc(byAway, func(a, b weighted) int {
		return cmp.Or(cmp.Compare(away(a), away(b)), a.trade.order(b.trade))
	})
	mad := max(madFloor, away(byAway[quantile(byAway, 50)]))
	return slices.DeleteFunc(slices.Clone(universe), func(w weighted) bool {
		return int64(away(w))*(params.MADScale/100) > int64(mad)*(params.Outlier/100)
	})
}

// trimmedMean returns the mean of a sorted list without the first and last tenth of its weight.
func trimmedMean(sorted []weighted) Rate {
	total := sum(sorted)
	low, high := total, total*(trimEnds-1) // in tenths
	var products wide
	var below, weight uint64
	for _, w := range sorted {
		from, to := max(below, low), min(below+w.weight*trimEnds, high)
		below += w.weight * trimEnds
		if from < to {
			products.add(uint64(w.rate), to-from) //nolint:gosec // valid
			weight += to - from
		}
	}
	return products.mean(weight)
}

// medianAsk returns the rate of the median GPU of the cheapest n.
func medianAsk(asks []Ask, n int) (Rate, bool) {
	sorted := sortAsks(asks)
	total := 0
	for _, a := range sorted {
		total = min(n, total+a.GPUs)
	}
	below := 0
	for _, a := range sorted {
		if below += a.GPUs; 2*below >= total {
			return a.Rate, true
		}
	}
	return 0, false
}

// sortAsks returns the valid asks, cheapest first.
func sortAsks(asks []Ask) []Ask {
	out := slices.DeleteFunc(slices.Clone(asks), func(a Ask) bool { return !a.valid() })
	slices.SortFunc(out, func(a, b Ask) int {
		return cmp.Or(cmp.Compare(a.Rate, b.Rate), cmp.Compare(a.Operator, b.Operator), cmp.Compare(a.GPUs, b.GPUs))
	})
	return out
}
