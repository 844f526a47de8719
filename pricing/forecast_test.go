package pricing

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"
)

func bars(n int, price func(hour int) float64) []Bar {
	var out []Bar
	for i := range n {
		r := Rate(price(i) * 1e9)
		out = append(out, Bar{Seq: uint64(i + 1), Start: at - at%Hour + int64(i)*Hour, Open: r, High: r, Low: r, Close: r, Prints: 60})
	}
	return out
}

// TestForecastFindsSeasons: a price with a daily wave is forecast better than by persistence, with a band that holds what
// it says; a random walk is not, and persistence says so.
func TestForecastFindsSeasons(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	wave := func(i int) float64 {
		return 0.4 * math.Exp(0.2*math.Sin(2*math.Pi*float64(i)/24)+0.01*random.NormFloat64())
	}
	f := MakeForecast(bars(1200, wave))
	if len(f.Points) != len(Horizons()) || f.Hours != 1200 || f.At != at-at%Hour+1200*Hour {
		t.Fatalf("got %+v", f)
	}
	for _, p := range f.Points {
		t.Logf("%3d h: %s %v [%v, %v], MAPE %d against %d ppm, coverage %d ppm of %d", p.Hours, p.Method, p.P50, p.P10, p.P90, p.MAPE, p.PersistenceMAPE, p.Coverage80, p.Backtests)
		if p.Hours == 1 || p.Hours == 6 {
			if p.Method != Seasonal || p.MAPE*2 > p.PersistenceMAPE {
				t.Errorf("%d h: %s, error %d ppm, persistence %d ppm", p.Hours, p.Method, p.MAPE, p.PersistenceMAPE)
			}
		}
		if p.Coverage80 < 740_000 || p.Coverage80 > 900_000 {
			t.Errorf("%d h: the band holds %d ppm, want 800000", p.Hours, p.Coverage80)
		}
		want := 0.4 * math.Exp(0.2*math.Sin(2*math.Pi*float64(1199+p.Hours)/24))
		if got := float64(p.P50) / 1e9; math.Abs(got/want-1) > 0.05 || p.P10 > p.P50 || p.P90 < p.P50 {
			t.Errorf("%d h: got %.3f, want %.3f", p.Hours, got, want)
		}
	}
	x := 0.0
	walk := MakeForecast(bars(1200, func(int) float64 {
		x += 0.01 * random.NormFloat64()
		return math.Exp(x)
	}))
	for _, p := range walk.Points[:2] {
		if p.Method != Persistence || !strings.Contains(p.Why, "backtest") || p.MAPE != p.PersistenceMAPE {
			t.Errorf("a random walk, %d h: %+v", p.Hours, p)
		}
	}
}

func TestForecastOfLittle(t *testing.T) {
	if f := MakeForecast(nil); len(f.Points) != 0 {
		t.Errorf("nothing: %+v", f)
	}
	f := MakeForecast(bars(3, func(int) float64 { return 0.5 }))
	for _, p := range f.Points {
		if p.Method != Persistence || p.P50 != usd/2 || p.P10 != 0 || p.P90 != 0 || p.Backtests != 0 || !strings.Contains(p.Why, "3 hours of history") {
			t.Errorf("three hours: %+v", p)
		}
	}
	// A short gap is bridged, a long one begins anew, and a revision counts.
	gap := bars(10, func(i int) float64 { return 1 + float64(i) })
	gap[9].Start += 100 * Hour
	if f := MakeForecast(gap); f.Hours != 1 {
		t.Errorf("after a long gap: %d hours", f.Hours)
	}
	gap[9].Start -= 97 * Hour
	gap = append(gap, Bar{Start: gap[9].Start, Close: 3 * usd, Prints: 1, Seq: 11, Revises: 10})
	if f := MakeForecast(gap); f.Hours != 13 || f.Points[0].P50 != 3*usd {
		t.Errorf("after a short gap: %+v", f)
	}
}
