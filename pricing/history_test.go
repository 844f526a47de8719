package pricing

import (
	"errors"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// TestHistoryAgreesWithNaiveModel: the last row of each interval is what all prints and trades of it add up to, in the
// order in which they came, whether they came late or not; and no row changes once it was seen.
func TestHistoryAgreesWithNaiveModel(t *testing.T) {
	type entry struct {
		at    int64
		rate  Rate
		trade bool
	}
	rapid.Check(t, func(t *rapid.T) {
		var h History
		var all []entry
		seen := map[uint64]Bar{}
		now := at
		for range rapid.IntRange(1, 60).Draw(t, "n") {
			e := entry{rate: Rate(rapid.Int64Range(1, 1e10).Draw(t, "rate")), trade: rapid.Bool().Draw(t, "trade")}
			now += rapid.Int64Range(0, 200).Draw(t, "later")
			e.at = now - rapid.SampledFrom([]int64{0, 0, 0, 0, 90, 700}).Draw(t, "late")
			all = append(all, e)
			if e.trade {
				h.AddTrade(&Trade{Settled: e.at, Rate: e.rate, GPUs: 1, GPUSeconds: 600})
			} else {
				h.AddPrint(e.at, e.rate, e.rate/2)
			}
			rows, err := h.Rows(Minute, 0, now+1)
			if err != nil {
				t.Fatal(err)
			}
			latest := map[int64]Bar{}
			for i, r := range rows {
				if old, ok := seen[r.Seq]; ok && r.Seq != 0 && old != r {
					t.Fatalf("row %d was rewritten: %+v, now %+v", r.Seq, old, r)
				}
				if r.Seq != 0 {
					seen[r.Seq] = r
				} else if i != len(rows)-1 {
					t.Fatalf("a row without a number in the middle: %+v", r)
				}
				if was, ok := latest[r.Start]; ok && r.Revises != was.Seq || !ok && r.Revises != 0 {
					t.Fatalf("%+v should revise %+v", r, was)
				}
				latest[r.Start] = r
			}
			want := map[int64]Bar{}
			for _, e := range all {
				start := e.at - e.at%Minute
				b := want[start]
				b.Start = start
				if e.trade {
					b.VWAP = (b.VWAP*Rate(b.Trades) + e.rate) / Rate(b.Trades+1) // equal weights
					b.Trades++
					b.GPUSeconds += 600
				} else {
					if b.Prints == 0 {
						b.Open, b.High, b.Low = e.rate, e.rate, e.rate
					}
					b.High, b.Low, b.Close, b.BestAsk = max(b.High, e.rate), min(b.Low, e.rate), e.rate, e.rate/2
					b.Prints++
				}
				want[start] = b
			}
			for start, b := range want {
				got := latest[start]
				got.Seq, got.Revises = 0, 0
				if d := got.VWAP - b.VWAP; d <= Rate(b.Trades) && d >= -Rate(b.Trades) {
					got.VWAP = b.VWAP // rounded once, not with each trade
				}
				if got != b {
					t.Fatalf("got %+v, want %+v", got, b)
				}
			}
		}
	})
}

func TestHistoryIsBounded(t *testing.T) {
	var h History
	for i := range int64(2*MaxPoints + 10) {
		h.AddPrint(at+i*Minute, usd, 0)
		h.AddTrade(&Trade{Settled: at + i*Minute, Rate: usd, GPUs: 1, GPUSeconds: 600})
	}
	rows, err := h.Rows(Minute, 0, at*2)
	if err != nil || len(rows) > MaxPoints || len(rows) < MaxPoints*9/10 {
		t.Fatalf("got %d rows, %v", len(rows), err)
	}
	if n := len(h.steps[0].sums); n > MaxPoints+1 {
		t.Errorf("%d sums are kept", n)
	}
	if hours, _ := h.Rows(Hour, 0, at*2); len(hours) < 67 || len(hours) > 68 || hours[0].Trades+hours[1].Trades < 60 {
		t.Errorf("got %d hours", len(hours))
	}
	if got, _ := h.Rows(Minute, rows[5].Start, rows[8].Start); !slices.Equal(got, rows[5:8]) {
		t.Errorf("a part of it: got %v", got)
	}
	if _, err := h.Rows(7, 0, 1); !errors.Is(err, ErrStep) {
		t.Errorf("step 7: got %v", err)
	}
}

func TestDailyFix(t *testing.T) {
	var prints []Rate
	for i := range 100 {
		prints = append(prints, Rate(i))
	}
	if got, ok := DailyFix(prints); !ok || got != 70 { // 40 to 99: 69.5, half to even
		t.Errorf("got %d, %v", got, ok)
	}
	if _, ok := DailyFix(prints[:FixLeast-1]); ok {
		t.Error("a fix of too few prints")
	}
	moved := slices.Clone(prints)
	moved[99] += 6000
	if got, _ := DailyFix(moved); got != 170 {
		t.Errorf("one print at 60 times the price moves the fix to %d, want a sixtieth of it", got)
	}
}
