package pricing

import (
	"math"
	"math/big"
	"testing"

	"pgregory.net/rapid"
)

func TestFixedAgreesWithFloats(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := rapid.Uint64Range(1, math.MaxUint64).Draw(t, "x")
		got, want := float64(log2(x))/(1<<logBits), math.Log2(float64(x))
		if math.Abs(got-want) > 1e-8 {
			t.Fatalf("log2(%d): got %.12f, want %.12f", x, got, want)
		}
		e := rapid.Int64Range(-8<<logBits, 8<<logBits).Draw(t, "e")
		m, exp := exp2(fixedLog(e))
		power := math.Ldexp(float64(m), exp-rootBits)
		if want := math.Exp2(float64(e) / (1 << logBits)); math.Abs(power/want-1) > 1e-7 {
			t.Fatalf("exp2(%d): got %.12f, want %.12f", e, power, want)
		}
		age := rapid.Int64Range(0, 86400).Draw(t, "age")
		if got, want := float64(decay(age, 21600))/(1<<decayBits), math.Exp2(-float64(age)/21600); math.Abs(got-want) > 1e-6 {
			t.Fatalf("decay(%d): got %.9f, want %.9f", age, got, want)
		}
		r := rapid.Int64Range(1, int64(MaxRate)).Draw(t, "r")
		by := rapid.Int64Range(-int64(maxAdjust), int64(maxAdjust)).Draw(t, "by")
		exact := float64(r) * math.Exp2(float64(by)/(1<<logBits))
		if got := float64(scale(Rate(r), fixedLog(by))); math.Abs(got-exact) > 1+exact*1e-7 {
			t.Fatalf("scale(%d, %d): got %.0f, want %.1f", r, by, got, exact)
		}
	})
	if log2(0) != 0 || log2(1) != 0 || log2(8) != 3<<logBits || decay(0, 21600) != 1<<decayBits || decay(21600, 21600) != 1<<(decayBits-1) {
		t.Error("whole powers are not exact")
	}
	if got := log2(101_000_000) - log2(100_000_000); got < madFloor-4 || got > madFloor+4 {
		t.Errorf("the floor of the MAD is %d, log2 1.01 is %d", madFloor, got)
	}
}

func TestWideMeanIsExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s wide
		sum, n := new(big.Int), int64(0)
		for range rapid.IntRange(1, 20).Draw(t, "terms") {
			a, b := rapid.Int64Range(0, int64(MaxRate)).Draw(t, "a"), rapid.Int64Range(1, 1<<40).Draw(t, "b")
			s.add(uint64(a), uint64(b))
			sum.Add(sum, new(big.Int).Mul(big.NewInt(a), big.NewInt(b)))
			n += b
		}
		want := new(big.Int).Quo(sum, big.NewInt(n))
		if got := int64(s.mean(uint64(n))); got != want.Int64() && got != want.Int64()+1 {
			t.Fatalf("got %d, want %v", got, want)
		}
	})
}
