package pricing

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// TestWashCost checks the search against the index itself, on a market of equal trades.
func TestWashCost(t *testing.T) {
	in := Inputs{Cell: cell, At: at}
	for i := range 40 {
		x := trade(fmt.Sprint("op", i%8), usd+Rate(i%8)*usd/20, 1, int64(60+600*i))
		x.ID = TradeID(fmt.Sprint(i))
		in.Trades = append(in.Trades, x)
	}
	before := Compute(in)
	turnover, err := usd.Cost(time.Duration(before.GPUSeconds) * time.Second)
	if err != nil || before.Quality != Firm {
		t.Fatalf("%+v, %v", before, err)
	}
	one, ok := WashCost(in, 1, WashShare)
	if !ok || one <= 0 || one > turnover {
		t.Fatalf("a wash by one costs %v of a turnover of %v, %v", one, turnover, ok)
	}
	three, ok := WashCost(in, 3, WashShare)
	if !ok || Washed(in) != (Wash{one, three}) {
		t.Errorf("a wash by three costs %v, %v; by both %+v", three, ok, Washed(in))
	}
	ten, ok := WashCost(in, 3, 100_000)
	if !ok || ten < 4*three {
		t.Errorf("10%% cost %v, 1%% %v", ten, three)
	}
	moved := func(money Money) (most Rate) {
		for _, f := range washPrices() {
			rate := before.Index * Rate(f) / 100
			with := in
			with.Trades = slices.Concat(in.Trades, washes(at, rate, int64(money)*3600/int64(rate), 1))
			most = max(most, Compute(with).Index)
		}
		return most
	}
	if target := before.Index * 101 / 100; moved(one) < target || moved(one*9/10) >= target {
		t.Errorf("%v moves the index to %v and nine tenths of it to %v, want %v or more and less", one, moved(one), moved(one*9/10), target)
	}
	for name, c := range map[string]struct {
		in        Inputs
		operators int
		share     int64
	}{"four times": {in, 1, 3_000_000}, "no print": {Inputs{Cell: cell, At: at}, 1, WashShare}, "nobody": {in, 0, WashShare}, "nowhere": {in, 1, 0}} {
		if got, ok := WashCost(c.in, c.operators, c.share); ok || got != 0 {
			t.Errorf("%s: %v", name, got)
		}
	}
	for _, x := range washes(at, usd, 5000*3600, 3) {
		if !x.valid() || x.GPUSeconds > longWash*int64(x.GPUs) || x.Agreed >= x.Settled || x.Operator == x.Customer {
			t.Errorf("no such trade: %+v", x)
		}
	}
}
