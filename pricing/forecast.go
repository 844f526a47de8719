package pricing

import (
	"fmt"
	"math"
	"slices"
)

// Forecast is what a cell's index is expected to be.
type Forecast struct {
	At     int64 // Unix seconds of the last hour that it knows
	Hours  int   // of history
	Points []ForecastPoint
}

// ForecastMethod says how a horizon is forecast.
type ForecastMethod string

// Methods.
const (
	Seasonal    ForecastMethod = "seasonal"
	Persistence ForecastMethod = "persistence" // as it is now
)

// ForecastPoint is one horizon. The band from P10 to P90 should hold four values of five; both are zero with too few
// forecasts in the backtest to know one.
type ForecastPoint struct {
	Hours         int // ahead
	Method        ForecastMethod
	Why           string // why it is persistence; empty otherwise
	P10, P50, P90 Rate
	// What the same method did in the past, at hours that it did not know: the mean absolute error of P50 in millionths,
	// that of persistence, the share of values inside of the band in millionths, and how many forecasts these are of.
	MAPE, PersistenceMAPE, Coverage80 int64
	Backtests                         int
}

// Horizons lists how many hours ahead is forecast.
func Horizons() []int { return []int{1, 6, 24, 168} }

const (
	hoursOfWeek  = 168
	forecastMin  = 2 * hoursOfWeek // hours of history without which there is no seasonal forecast
	levelAlpha   = 0.2             // weight of the newest hour in the level (Brown, exponential smoothing, 1956)
	levelHours   = 48              // beyond which weights are below 10^-4
	seasonalMin  = 2               // weeks without which an hour of the week has no effect of its own
	calibration  = 20              // errors without which a band is not known
	bandCoverage = 0.8
	maxGap       = 24 // hours without a print that are bridged by the last one
	maxOrigins   = 500
)

// MakeForecast forecasts an index from bars of one hour, of prints of one quality.
//
// The seasonal forecast is the level plus the effect of the hour of the week, in logarithms: the effect is the median of
// what that hour differed by from the mean of the 168 hours up to it, the level an exponentially weighted mean of what
// the effects leave. Its band is split-conformal (Papadopoulos et al., 2002; Vovk, Gammerman and Shafer, 2005): plus and
// minus the ⌈0.8 (n + 1)⌉-th smallest of the n absolute errors of earlier forecasts. A rolling backtest judges it over
// hours that each forecast did not know: for a horizon at which it does not have the smaller error, persistence is
// returned instead, and says so.
func MakeForecast(bars []Bar) Forecast {
	x, at := hourly(bars)
	f := Forecast{At: at, Hours: len(x)}
	if len(x) == 0 {
		return f
	}
	m := newModel(x)
	last := len(x) - 1
	for _, h := range Horizons() {
		persistence, seasonal := m.backtest(h)
		p := ForecastPoint{Hours: h, Method: Seasonal, PersistenceMAPE: millionths(persistence.mape())}
		used, mid := &seasonal, 0.0
		switch {
		case len(x) < forecastMin:
			p.Why = fmt.Sprintf("%d hours of history, the seasonal forecast wants %d", len(x), forecastMin)
		case seasonal.mape() >= persistence.mape():
			p.Why = fmt.Sprintf("the seasonal forecast had an error of %.3f%% in the backtest, this of %.3f%%", 100*seasonal.mape(), 100*persistence.mape())
		default:
			mid = m.seasonal(last, h)
		}
		if p.Why != "" {
			p.Method, used, mid = Persistence, &persistence, x[last]
		}
		p.P50, p.MAPE, p.Backtests = rateOf(mid), millionths(used.mape()), len(used.errors)
		p.Coverage80 = millionths(used.coverage(h))
		if q, ok := conformal(used.errors); ok {
			p.P10, p.P90 = rateOf(mid-q), rateOf(mid+q)
		}
		f.Points = append(f.Points, p)
	}
	return f
}

// hourly returns the logarithms of the closing prints, one an hour up to the last, after the last long gap.
func hourly(bars []Bar) (x []float64, at int64) {
	latest := map[int64]Rate{} // revisions come later
	for _, b := range bars {
		if b.Prints > 0 && b.Close > 0 {
			latest[b.Start] = b.Close
		}
	}
	starts := make([]int64, 0, len(latest))
	for s := range latest {
		starts = append(starts, s)
	}
	slices.Sort(starts)
	for i, s := range starts {
		if i > 0 {
			missing := (s - starts[i-1]) / Hour
			if missing > maxGap {
				x = x[:0]
			}
			for n := int64(1); n < missing && len(x) > 0; n++ {
				x = append(x, x[len(x)-1])
			}
		}
		x = append(x, math.Log(float64(latest[s])))
		at = s + Hour
	}
	return x, at
}

// model is a history in logarithms; an hour of the week is its place modulo 168.
type model struct {
	x     []float64
	apart []float64 // x less the mean of the 168 hours up to it
}

func newModel(x []float64) *model {
	m := &model{x: x, apart: make([]float64, len(x))}
	sum := 0.0
	for i := range x {
		sum += x[i]
		n := i + 1
		if i >= hoursOfWeek {
			sum -= x[i-hoursOfWeek]
			n = hoursOfWeek
		}
		m.apart[i] = x[i] - sum/float64(n)
	}
	return m
}

// effect is that of an hour of the week, as known at hour now.
func (m *model) effect(now, hour int) float64 {
	var seen []float64
	for i := hour % hoursOfWeek; i <= now; i += hoursOfWeek {
		seen = append(seen, m.apart[i])
	}
	if len(seen) < seasonalMin {
		return 0
	}
	return median(seen)
}

// seasonal forecasts h hours ahead of hour now.
func (m *model) seasonal(now, h int) float64 {
	first := max(0, now-levelHours)
	level := m.x[first] - m.effect(now, first)
	for i := first + 1; i <= now; i++ {
		level += levelAlpha * (m.x[i] - m.effect(now, i) - level)
	}
	return level + m.effect(now, now+h)
}

// track is how forecasts of one horizon did, oldest first.
type track struct {
	errors  []float64 // absolute, in logarithms
	percent []float64 // absolute, as a share of what came
}

// backtest forecasts from each of the last hours, at most maxOrigins, what came h hours later.
func (m *model) backtest(h int) (persistence, seasonal track) {
	n := len(m.x)
	for now := max(hoursOfWeek, n-h-maxOrigins); now+h < n; now++ {
		came := m.x[now+h]
		persistence.add(m.x[now], came)
		if n >= forecastMin {
			seasonal.add(m.seasonal(now, h), came)
		}
	}
	return persistence, seasonal
}

func (t *track) add(said, came float64) {
	t.errors = append(t.errors, math.Abs(said-came))
	t.percent = append(t.percent, math.Abs(math.Exp(said-came)-1))
}

func (t *track) mape() float64 {
	sum := 0.0
	for _, p := range t.percent {
		sum += p
	}
	return sum / float64(max(1, len(t.percent)))
}

// coverage is the share of values that lay in the band that errors gave which were known then, h hours after the forecast.
func (t *track) coverage(h int) float64 {
	inside, judged := 0, 0
	var known []float64 // sorted
	for i, e := range t.errors {
		if i >= h {
			at, _ := slices.BinarySearch(known, t.errors[i-h])
			known = slices.Insert(known, at, t.errors[i-h])
		}
		if len(known) >= calibration {
			judged++
			if e <= known[rank(len(known))] {
				inside++
			}
		}
	}
	return float64(inside) / float64(max(1, judged))
}

// conformal returns half the width of the band; false with too few errors.
func conformal(errors []float64) (float64, bool) {
	if len(errors) < calibration {
		return 0, false
	}
	return slices.Sorted(slices.Values(errors))[rank(len(errors))], true
}

// rank is the place of the band's width among n sorted errors.
func rank(n int) int { return min(n, int(math.Ceil(bandCoverage*float64(n+1)))) - 1 }

func rateOf(x float64) Rate { return Rate(min(math.Round(math.Exp(x)), float64(MaxRate))) }

func millionths(x float64) int64 { return int64(math.Round(min(x, 1e6) * 1e6)) }
