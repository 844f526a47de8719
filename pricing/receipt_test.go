package pricing

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestReceiptVerifies(t *testing.T) {
	asks := []Ask{{usd, 60, "a"}, {2 * usd, 100, "b"}, {usd / 2, 3, "c"}}
	for _, c := range []struct {
		trades  []Trade
		quality Quality
		asks    int
	}{{honest(), Firm, 0}, {honest()[:3], Indicative, 3}, {nil, Indicative, 3}} {
		r := NewReceipt(Inputs{Cell: cell, At: at, Trades: c.trades, Asks: asks})
		if r.Print.Quality != c.quality || len(r.Asks) != c.asks {
			t.Errorf("got %s with %d asks, want %s with %d", r.Print.Quality, len(r.Asks), c.quality, c.asks)
		}
		if err := Verify(r); err != nil {
			t.Error(err)
		}
	}
}

// TestCanonicalBytes holds the format: who verifies without this code hashes these bytes.
func TestCanonicalBytes(t *testing.T) {
	x := trade("op", usd, 1, 60)
	x.ID, x.Canary = TradeID("l-1"), true
	in := Inputs{Cell: cell, At: at, Trades: []Trade{x}, Asks: []Ask{{usd / 2, 3, "op"}}, Hedonic: Hedonic{FittedAt: 7, Trades: 1, CPUs: -5}}
	want := strings.Join([]string{
		"rialto-index/1", "cell RTX_4090:on_demand:any:nvml", "at 1800000000", "hedonic 7 1 0 0 0 0 0 -5 0",
		"trade f70ab3a69e93c9ef5355316a99f78d7a 1799999940 1799996340 1 1000000000 3600 p-op op c-op 1 8 32768",
		"ask 500000000 3 op", "",
	}, "\n")
	if got := string(in.Canonical()); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	const hash = "4755e713d9d9460729c68c1978dba8b716adadff5d2589ebc1d83ec8c83999d1"
	if got := NewReceipt(in).InputsHash; got != hash {
		t.Errorf("hash: got %s, want %s", got, hash)
	}
}

// TestForgedReceiptIsFound changes one thing of a true receipt.
func TestForgedReceiptIsFound(t *testing.T) {
	firm := NewReceipt(Inputs{Cell: cell, At: at, Trades: honest()})
	thin := NewReceipt(Inputs{Cell: cell, At: at, Trades: honest()[:2], Asks: []Ask{{usd, 1, "a"}, {2 * usd, 2, "b"}}})
	rehash := func(r *Receipt) { r.InputsHash = r.hash() }
	for name, forge := range map[string]func(r *Receipt){
		"index":                  func(r *Receipt) { r.Print.Index++ },
		"quality":                func(r *Receipt) { r.Print.Quality = Stale },
		"trades counted":         func(r *Receipt) { r.Print.Trades++ },
		"percentile":             func(r *Receipt) { r.Print.P90-- },
		"concentration":          func(r *Receipt) { r.Print.HHI++ },
		"time":                   func(r *Receipt) { r.Print.At += 60 },
		"cell of the print":      func(r *Receipt) { r.Print.Cell.Tier = TierSimulated },
		"hash":                   func(r *Receipt) { r.InputsHash = strings.Repeat("0", 64) },
		"rate":                   func(r *Receipt) { r.Trades[1].Rate++ },
		"rate, hashed anew":      func(r *Receipt) { r.Trades[1].Rate *= 2; rehash(r) },
		"trade left out":         func(r *Receipt) { r.Trades = r.Trades[1:]; rehash(r) },
		"trade twice":            func(r *Receipt) { r.Trades = append(r.Trades[:1:1], r.Trades...); rehash(r) },
		"trade from the future":  func(r *Receipt) { r.Trades[len(r.Trades)-1].Settled = at; rehash(r) },
		"trade of last week":     func(r *Receipt) { r.Trades[0].Settled -= 7 * 86400; rehash(r) },
		"order":                  func(r *Receipt) { slices.Reverse(r.Trades); rehash(r) },
		"operator with a line":   func(r *Receipt) { r.Trades[0].Operator = "a\nask 1 1 a"; rehash(r) },
		"no operator":            func(r *Receipt) { r.Trades[0].Operator = ""; rehash(r) },
		"coefficient":            func(r *Receipt) { r.Hedonic.CPUs = 500_000; r.Hedonic.BaseCPUs = 4; rehash(r) },
		"coefficient too large":  func(r *Receipt) { r.Hedonic.CPUs = math.MaxInt64; rehash(r) },
		"overflowing GPU-hours":  func(r *Receipt) { r.Trades[0].GPUSeconds = math.MaxInt64; rehash(r) },
		"asks that do not count": func(r *Receipt) { r.Asks = append(r.Asks, Ask{3 * usd, 100, "c"}, Ask{4 * usd, 100, "c"}); rehash(r) },
	} {
		for _, r := range []Receipt{firm, thin} {
			r.Trades, r.Asks = slices.Clone(r.Trades), slices.Clone(r.Asks)
			forge(&r)
			if err := Verify(r); !errors.Is(err, ErrReceipt) {
				t.Errorf("%s of a %s print: got %v", name, r.Print.Quality, err)
			}
		}
	}
	thin.Asks[1].Rate-- // the median GPU
	rehash(&thin)
	if err := Verify(thin); !errors.Is(err, ErrReceipt) {
		t.Errorf("an ask: got %v", err)
	}
}

// TestAnyReceiptVerifies: what NewReceipt makes verifies, whatever went into it, and keeps its print when trades and asks
// that it left out come back.
func TestAnyReceiptVerifies(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := Inputs{Cell: cell, At: at}
		for i := range rapid.IntRange(0, 20).Draw(t, "trades") {
			x := trade(string(rune('a'+i%rapid.IntRange(1, 6).Draw(t, "operators"))), Rate(rapid.Int64().Draw(t, "rate")), 1, rapid.Int64Range(-10, 100_000).Draw(t, "ago"))
			x.ID, x.GPUs, x.GPUSeconds = TradeID(string(rune(i))), rapid.Int().Draw(t, "gpus"), rapid.Int64().Draw(t, "paid")
			in.Trades = append(in.Trades, x)
		}
		for range rapid.IntRange(0, 5).Draw(t, "asks") {
			in.Asks = append(in.Asks, Ask{Rate(rapid.Int64().Draw(t, "ask")), rapid.IntRange(-1, 100).Draw(t, "free"), "a"})
		}
		r := NewReceipt(in)
		if err := Verify(r); err != nil {
			t.Fatal(err)
		}
		if p := Compute(in); p != r.Print {
			t.Fatalf("got %+v, from all inputs %+v", r.Print, p)
		}
	})
}
