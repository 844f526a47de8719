package pricing

import (
	"fmt"
	"testing"
)

// BenchmarkReceipt makes and verifies a print of the most trades that there may be.
func BenchmarkReceipt(b *testing.B) {
	in := Inputs{Cell: cell, At: at, Hedonic: Hedonic{CPUs: 100_000, BaseCPUs: 4}}
	for i := range MaxTrades {
		x := trade(fmt.Sprint("op", i%50), usd*40/100+Rate(i%97)*usd/1000, 1, int64(1+i*20))
		x.ID = TradeID(fmt.Sprint(i))
		in.Trades = append(in.Trades, x)
	}
	for b.Loop() {
		if r := NewReceipt(in); r.Print.Quality != Firm {
			b.Fatal(r.Print)
		}
	}
}

// BenchmarkWash finds what moving the print of the most trades that there may be would cost.
func BenchmarkWash(b *testing.B) {
	in := Inputs{Cell: cell, At: at}
	for i := range MaxTrades - 64 {
		x := trade(fmt.Sprint("op", i%50), usd*40/100+Rate(i%97)*usd/1000, 1, int64(1+i*20))
		x.ID = TradeID(fmt.Sprint(i))
		in.Trades = append(in.Trades, x)
	}
	for b.Loop() {
		if w := Washed(in); w.One == 0 || w.Three == 0 {
			b.Fatal(w)
		}
	}
}

// BenchmarkForecast forecasts from the longest history that there may be.
func BenchmarkForecast(b *testing.B) {
	rows := bars(MaxPoints, func(i int) float64 { return 0.4 + float64(i%24)/100 })
	for b.Loop() {
		MakeForecast(rows)
	}
}

// BenchmarkPrint adds a print to a history, as a restart does for each minute and cell.
func BenchmarkPrint(b *testing.B) {
	var h History
	now := at
	for b.Loop() {
		now += 60
		h.AddPrint(now, usd, usd)
	}
}
