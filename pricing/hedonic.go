package pricing

import (
	"cmp"
	"fmt"
	"math"
	"slices"
)

// Of the adjustment.
const (
	HedonicTrades    = 30         // that an adjustment needs; with fewer there is none
	HedonicOperators = 5          // likewise
	HedonicWindow    = 28 * 86400 // how many seconds of trades a fit looks at
	HedonicEvery     = 7 * 86400  // a fit is made each week, on Monday at 00:00 UTC

	hedonicRidge = 1.0 // the penalty, in observations: attributes are scaled to deviation 1
	hedonicMost  = 1_000_000
	firstMonday  = 4 * 86400 // Unix seconds of 1970-01-05
)

// Hedonic adjusts rates to one configuration per GPU: log p = c + Σ β log a over the attributes a, after Rosen, Hedonic
// Prices and Implicit Markets (1974). What a host charges for storage and traffic is no part of a trade's rate, so it is
// taken out at the host's own prices, and the interconnect of a GPU is part of its model's name; so the attributes are what
// else comes with a GPU. β is fitted by ridge regression (Hoerl and Kennard, 1970) and published in millionths; the index
// applies those integers. The zero value adjusts nothing.
type Hedonic struct {
	FittedAt  int64 // Unix seconds; trades settled before it count
	Trades    int   // looked at
	Operators int   // of these

	// The base configuration, the median one, and the elasticities of the rate in millionths, within ±1000000.
	BaseGPUs, BaseCPUs, BaseMemoryMiB int64
	GPUs, CPUs, Memory                int64
}

// IsIdentity reports whether nothing is adjusted.
func (h *Hedonic) IsIdentity() bool { return h.GPUs == 0 && h.CPUs == 0 && h.Memory == 0 }

// valid reports whether the numbers are within their limits.
func (h *Hedonic) valid() bool {
	for _, b := range []int64{h.GPUs, h.CPUs, h.Memory} {
		if b < -hedonicMost || b > hedonicMost {
			return false
		}
	}
	return h.BaseGPUs >= 0 && h.BaseCPUs >= 0 && h.BaseMemoryMiB >= 0
}

// normalise returns what the trade's rate would have been for the base configuration. What is not known of an attribute
// is left alone.
func (h *Hedonic) normalise(t *Trade) Rate {
	if h.IsIdentity() {
		return t.Rate
	}
	var x fixedLog
	for _, a := range [...]struct{ beta, base, has int64 }{
		{h.GPUs, h.BaseGPUs, int64(t.GPUs)}, {h.CPUs, h.BaseCPUs, int64(t.CPUs)}, {h.Memory, h.BaseMemoryMiB, t.MemoryMiB},
	} {
		if a.base > 0 && a.has > 0 {
			over := log2(uint64(a.has)) - log2(uint64(a.base)) // within ±2^38
			x += over * fixedLog(a.beta) / hedonicMost
		}
	}
	return scale(t.Rate, -min(max(x, -maxAdjust), maxAdjust))
}

// HedonicTime returns when the fit that is in force at a time was made.
func HedonicTime(at int64) int64 { return at - (at-firstMonday)%HedonicEvery }

// Observation is what a fit takes of a trade: no party, no time and no name, so that all that a fit looked at can be
// public for as long as it is in force.
type Observation struct {
	Rate      Rate
	GPUs      int
	CPUs      int // per GPU, as is the memory
	MemoryMiB int64
}

func (o Observation) valid() bool {
	return o.Rate >= 1 && o.Rate <= MaxRate && o.GPUs >= 1 && o.GPUs <= MaxTradeGPUs && o.CPUs > 0 && o.MemoryMiB > 0
}

func (o Observation) order(p Observation) int {
	return cmp.Or(cmp.Compare(o.Rate, p.Rate), cmp.Compare(o.GPUs, p.GPUs), cmp.Compare(o.CPUs, p.CPUs), cmp.Compare(o.MemoryMiB, p.MemoryMiB))
}

// Observations returns what a fit at a time takes of a cell's trades, those that were settled in [HedonicWindow] before,
// in an order that says nothing of theirs; and how many operators they are of.
func Observations(trades []Trade, at int64) (obs []Observation, operators int) {
	seen := map[string]bool{}
	params := ParamsV1()
	for i := range trades {
		t := &trades[i]
		o := Observation{t.Rate, t.GPUs, t.CPUs, t.MemoryMiB}
		inTime := t.Settled < at && t.Settled >= at-HedonicWindow
		if inTime && o.valid() && t.valid() && t.paid(params.MinPaid) && t.Operator != t.Customer && !t.Canary {
			obs = append(obs, o)
			seen[t.Operator] = true
		}
	}
	slices.SortFunc(obs, Observation.order)
	return obs, len(seen)
}

// FitHedonic fits the observations of one cell at a time. It says how many there were, and adjusts nothing if there were
// too few, or of too few operators: one operator's trades are an observation each.
func FitHedonic(obs []Observation, operators int, at int64) Hedonic {
	h := Hedonic{FittedAt: at, Trades: len(obs), Operators: operators}
	if h.Trades < HedonicTrades || h.Operators < HedonicOperators {
		return h
	}
	columns := [3][]float64{}
	y := make([]float64, len(obs))
	for i, o := range obs {
		y[i] = math.Log(float64(o.Rate))
		for k, v := range []int64{int64(o.GPUs), int64(o.CPUs), o.MemoryMiB} {
			columns[k] = append(columns[k], math.Log(float64(v)))
		}
	}
	for k, base := range []*int64{&h.BaseGPUs, &h.BaseCPUs, &h.BaseMemoryMiB} {
		*base = int64(math.Round(math.Exp(median(columns[k]))))
	}
	beta := ridge(columns, y)
	for k, to := range []*int64{&h.GPUs, &h.CPUs, &h.Memory} {
		// Four digits are all that the data say, and leave no room for what floats differ by between machines.
		*to = int64(math.Round(min(max(beta[k], -1), 1)*10_000)) * 100
	}
	return h
}

// Verify fits observations again. The error matches [ErrReceipt]. That they are trades of so many operators is the
// broker's word.
func (h *Hedonic) Verify(obs []Observation) error {
	for i := range obs {
		if !obs[i].valid() {
			return fmt.Errorf("%w: observation %d of its hedonic fit is out of range", ErrReceipt, i+1)
		}
	}
	obs = slices.SortedFunc(slices.Values(obs), Observation.order)
	if again := FitHedonic(obs, h.Operators, h.FittedAt); again != *h {
		return fmt.Errorf("%w: fitted again the elasticities of GPUs, CPUs and memory are %d, %d and %d millionths from %d trades, it says %d, %d and %d from %d", ErrReceipt,
			again.GPUs, again.CPUs, again.Memory, again.Trades, h.GPUs, h.CPUs, h.Memory, h.Trades)
	}
	return nil
}

// ridge solves (XᵀX + λI) β = Xᵀy for centred columns scaled to deviation 1, and returns β in the columns' own scale. A
// column that does not vary has none.
func ridge(columns [3][]float64, y []float64) [3]float64 {
	n := len(y)
	centred := center(y)
	var x [3][]float64
	var deviation [3]float64
	for k, c := range columns {
		x[k] = center(c)
		deviation[k] = math.Sqrt(dot(x[k], x[k]) / float64(n))
		for i := range x[k] {
			if deviation[k] > 1e-9 {
				x[k][i] /= deviation[k]
			} else {
				x[k][i] = 0
			}
		}
	}
	var a [3][4]float64
	for i := range 3 {
		for j := range 3 {
			a[i][j] = dot(x[i], x[j])
		}
		a[i][i] += hedonicRidge
		a[i][3] = dot(x[i], centred)
	}
	for i := range 3 { // Gauss; the penalty makes every pivot positive
		for j := i + 1; j < 3; j++ {
			f := a[j][i] / a[i][i]
			for k := i; k < 4; k++ {
				a[j][k] -= f * a[i][k]
			}
		}
	}
	var beta [3]float64
	for i := 2; i >= 0; i-- {
		v := a[i][3]
		for j := i + 1; j < 3; j++ {
			v -= a[i][j] * beta[j]
		}
		beta[i] = v / a[i][i]
	}
	for k := range beta {
		if deviation[k] > 1e-9 {
			beta[k] /= deviation[k]
		} else {
			beta[k] = 0
		}
	}
	return beta
}

func center(v []float64) []float64 {
	mean := 0.0
	for _, x := range v {
		mean += x / float64(len(v))
	}
	out := make([]float64, len(v))
	for i, x := range v {
		out[i] = x - mean
	}
	return out
}

func dot(a, b []float64) float64 {
	s := 0.0
	for i := range a {
		s += a[i] * b[i]
	}
	return s
}

// median returns the middle of v, or the mean of the two in the middle; v is not empty.
func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}
