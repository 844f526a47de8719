package pricing

import (
	"errors"
	"math"
	"math/big"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestCostRoundsOnceHalfToEven(t *testing.T) {
	for _, c := range []struct {
		rate Rate
		d    time.Duration
		want Money
	}{
		{400_000_000, time.Hour, 400_000_000},
		{400_000_000, 90 * time.Second, 10_000_000},
		{400_000_000, 0, 0},
		{0, time.Hour, 0},
		{1, 30 * time.Minute, 0},   // 0.5 goes to 0
		{3, 30 * time.Minute, 2},   // 1.5 goes to 2
		{5, 30 * time.Minute, 2},   // 2.5 goes to 2
		{1, 30*time.Minute + 1, 1}, // just above a half
		{1, 30*time.Minute - 1, 0}, // just below
		{math.MaxInt64, time.Hour, math.MaxInt64},
	} {
		got, err := c.rate.Cost(c.d)
		if err != nil || got != c.want {
			t.Errorf("%v for %v: got %d, %v, want %d", c.rate, c.d, got, err, c.want)
		}
	}
	if _, err := Rate(math.MaxInt64).Cost(time.Hour + 1); !errors.Is(err, ErrOverflow) {
		t.Errorf("more than the greatest amount: got %v, want ErrOverflow", err)
	}
	if _, err := Rate(1).Cost(-1); !errors.Is(err, ErrNegative) {
		t.Errorf("negative duration: got %v", err)
	}
	if _, err := Rate(-1).Cost(1); !errors.Is(err, ErrNegative) {
		t.Errorf("negative rate: got %v", err)
	}
}

// exact returns a × b / c rounded half to even, in arithmetic that cannot overflow.
func exact(a, b, c int64) *big.Int {
	product := new(big.Int).Mul(big.NewInt(a), big.NewInt(b))
	q, rem := new(big.Int).QuoRem(product, big.NewInt(c), new(big.Int))
	switch rem.Lsh(rem, 1).Cmp(big.NewInt(c)) {
	case 1:
		q.Add(q, big.NewInt(1))
	case 0:
		q.Add(q, new(big.Int).And(q, big.NewInt(1)))
	}
	return q
}

// agree fails unless got, err is want, or want does not fit and err says so.
func agree(t *rapid.T, name string, got int64, err error, want *big.Int) {
	t.Helper()
	switch {
	case !want.IsInt64():
		if !errors.Is(err, ErrOverflow) {
			t.Fatalf("%s: got %d, %v, want ErrOverflow", name, got, err)
		}
	case err != nil || got != want.Int64():
		t.Fatalf("%s: got %d, %v, want %v", name, got, err, want)
	}
}

func TestArithmeticAgreesWithBig(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := rapid.Int64().Draw(t, "a"), rapid.Int64().Draw(t, "b")
		x, y := big.NewInt(a), big.NewInt(b)
		sum, err := Money(a).Add(Money(b))
		agree(t, "add", int64(sum), err, new(big.Int).Add(x, y))
		diff, err := Money(a).Sub(Money(b))
		agree(t, "sub", int64(diff), err, new(big.Int).Sub(x, y))
		product, err := Money(a).MulInt(b)
		agree(t, "mul", int64(product), err, new(big.Int).Mul(x, y))
		if a < 0 || b < 0 {
			return
		}
		cost, err := Rate(a).Cost(time.Duration(b))
		agree(t, "cost", int64(cost), err, exact(a, b, int64(time.Hour)))
		part, err := Money(a).PPM(b)
		agree(t, "ppm", int64(part), err, exact(a, b, 1_000_000))
		carried, err := Money(a).PerGB(b)
		agree(t, "per GB", int64(carried), err, exact(a, b, 1_000_000_000))
		disk, err := Rate(a).PerGiB(uint64(b))
		agree(t, "per GiB", int64(disk), err, exact(a, b, 1024))
	})
}

func TestPerGBAndGiB(t *testing.T) {
	for _, c := range []struct {
		price, n, gb, gib int64
	}{
		{20_000_000, 1_500_000_000, 30_000_000, 29_296_875_000_000},
		{1, 500_000_000, 0, 488_281}, // a half goes to 0; 488281.25 down
		{3, 500_000_000, 2, 1_464_844},
		{1024, 1, 0, 1},
		{1, 512, 0, 0},
		{1, 1536, 0, 2}, // 1.5 goes to 2
		{0, math.MaxInt64, 0, 0},
		{1_000_000_000, math.MaxInt64, math.MaxInt64, -1}, // the second does not fit
	} {
		if got, err := Money(c.price).PerGB(c.n); err != nil || int64(got) != c.gb {
			t.Errorf("%d bytes at %d per GB: got %d, %v, want %d", c.n, c.price, got, err, c.gb)
		}
		got, err := Rate(c.price).PerGiB(uint64(c.n))
		if fits := c.gib >= 0; fits && (err != nil || int64(got) != c.gib) || !fits && !errors.Is(err, ErrOverflow) {
			t.Errorf("%d MiB at %d per GiB: got %d, %v, want %d", c.n, c.price, got, err, c.gib)
		}
	}
	if _, err := Money(-1).PerGB(1); !errors.Is(err, ErrNegative) {
		t.Errorf("negative price of traffic: %v", err)
	}
	if _, err := Money(1).PerGB(-1); !errors.Is(err, ErrNegative) {
		t.Errorf("negative traffic: %v", err)
	}
	if _, err := Rate(-1).PerGiB(1); !errors.Is(err, ErrNegative) {
		t.Errorf("negative price of disk: %v", err)
	}
	if _, err := Rate(2).PerGiB(math.MaxUint64); err != nil {
		t.Errorf("a disk of 2^64 MiB: %v", err)
	}
}

func TestBuysIsTheLongestAffordable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := Rate(rapid.Int64Range(1, math.MaxInt64).Draw(t, "rate"))
		m := Money(rapid.Int64Range(0, math.MaxInt64).Draw(t, "money"))
		d, err := r.Buys(m)
		if err != nil {
			t.Fatal(err)
		}
		budget := new(big.Int).Mul(big.NewInt(int64(m)), big.NewInt(int64(time.Hour)))
		price := func(d time.Duration) *big.Int {
			return new(big.Int).Mul(big.NewInt(int64(r)), big.NewInt(int64(d)))
		}
		if price(d).Cmp(budget) > 0 {
			t.Fatalf("%v at %v costs more than %v", d, r, m)
		}
		if d < math.MaxInt64 && price(d+1).Cmp(budget) <= 0 {
			t.Fatalf("%v at %v is not the longest for %v", d, r, m)
		}
	})
	if d, err := Rate(0).Buys(1); err != nil || d != math.MaxInt64 {
		t.Errorf("free: got %v, %v", d, err)
	}
}
