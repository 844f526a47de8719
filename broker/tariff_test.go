package broker

import (
	"errors"
	"math"
	"math/big"
	"testing"
	"time"

	"pgregory.net/rapid"

	"rialto/pricing"
)

// near draws from zero to most: anything, little, or nearly all.
func near(most int64) *rapid.Generator[int64] {
	return rapid.OneOf(rapid.Int64Range(0, most), rapid.Int64Range(0, min(most, 2000)), rapid.Int64Range(most-min(most, 2000), most))
}

func anyTariff(t *rapid.T) Tariff {
	return Tariff{
		Disk:    pricing.Rate(near(int64(maxDiskRate)).Draw(t, "disk price")),
		Ingress: pricing.Money(near(int64(maxTrafficPrice)).Draw(t, "ingress price")),
		Egress:  pricing.Money(near(int64(maxTrafficPrice)).Draw(t, "egress price")),
	}
}

func anyRequest(t *rapid.T) *JobSpec {
	s := &JobSpec{
		GPU:         GPURequest{Count: rapid.IntRange(1, maxJobGPUs).Draw(t, "gpus")},
		DiskMiB:     uint64(near(MaxDiskMiB).Draw(t, "disk")),
		Traffic:     near(MaxTraffic).Draw(t, "traffic"),
		MaxDuration: time.Second + time.Duration(near(int64(maxDuration-time.Second)).Draw(t, "duration")),
	}
	if s.DiskMiB < MinDiskMiB {
		s.DiskMiB = 0
	}
	return s
}

// halfEvenOf rounds a rational that is not below zero.
func halfEvenOf(r *big.Rat) *big.Int {
	n, rest := new(big.Int).QuoRem(r.Num(), r.Denom(), new(big.Int))
	if c := rest.Lsh(rest, 1).Cmp(r.Denom()); c > 0 || c == 0 && n.Bit(0) == 1 {
		n.Add(n, big.NewInt(1))
	}
	return n
}

func ratio(a, b int64) *big.Rat { return big.NewRat(a, b) }

func product(a, b *big.Rat) *big.Rat { return new(big.Rat).Mul(a, b) }

// bill is what a charge comes to after so long, before it is rounded.
func (c Charge) bill(d time.Duration) *big.Rat {
	hourly := new(big.Rat).Add(ratio(int64(c.GPUs), 1), ratio(int64(c.Disk), 1))
	return new(big.Rat).Add(product(hourly, ratio(int64(d), int64(time.Hour))), ratio(int64(c.Traffic), 1))
}

// TestChargeAgreesWithRationals: within the bounds on offers and jobs nothing overflows, and each part is rounded once.
func TestChargeAgreesWithRationals(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, tariff, rate := anyRequest(t), anyTariff(t), pricing.Rate(near(int64(maxRate)).Draw(t, "rate"))
		c, err := s.Charge(rate, tariff)
		if err != nil {
			t.Fatal(err)
		}
		disk, bytes := int64(10<<10), int64(1e9) // of a job that does not say
		if s.DiskMiB > 0 {
			disk = int64(s.DiskMiB) //nolint:gosec // bounded
		}
		if s.Traffic > 0 {
			bytes = s.Traffic
		}
		ways := halfEvenOf(product(ratio(int64(tariff.Ingress), 1e9), ratio(bytes, 1)))
		ways.Add(ways, halfEvenOf(product(ratio(int64(tariff.Egress), 1e9), ratio(bytes, 1))))
		for name, x := range map[string]struct {
			got  int64
			want *big.Int
		}{
			"GPUs":    {int64(c.GPUs), new(big.Int).Mul(big.NewInt(int64(rate)), big.NewInt(int64(s.GPU.Count)))},
			"disk":    {int64(c.Disk), halfEvenOf(product(ratio(int64(tariff.Disk), 1024), ratio(disk, 1)))},
			"traffic": {int64(c.Traffic), ways},
		} {
			if !x.want.IsInt64() || x.got != x.want.Int64() {
				t.Fatalf("%s of %+v at %v and %+v: got %d, want %v", name, s, rate, tariff, x.got, x.want)
			}
		}
		cost, err := c.Cost(s.MaxDuration)
		off := new(big.Rat).Sub(ratio(int64(cost), 1), c.bill(s.MaxDuration))
		if one := ratio(1, 1); err != nil || off.Abs(off).Cmp(one) > 0 { // two parts, each rounded by a half at most
			t.Fatalf("%+v for %v: %v, %v", c, s.MaxDuration, cost, err)
		}
	})
}

// TestLimitIsAllIn: the all-in price is the least limit that pays for GPUs, disk and traffic of all the time that a job
// may run, so that who keeps to a limit never costs more than it, for any part of that time.
func TestLimitIsAllIn(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, rate := anyRequest(t), pricing.Rate(near(int64(maxRate)).Draw(t, "rate"))
		c, err := s.Charge(rate, anyTariff(t))
		if err != nil {
			t.Fatal(err)
		}
		pays := func(limit pricing.Rate) bool {
			budget := product(ratio(int64(limit), int64(time.Hour)), product(ratio(int64(s.MaxDuration), 1), ratio(int64(s.GPU.Count), 1)))
			return budget.Cmp(c.bill(s.MaxDuration)) >= 0
		}
		got := c.allIn(rate, s.GPU.Count, s.MaxDuration)
		if got < rate || !pays(got) && got != math.MaxInt64 || pays(got-1) && got-1 >= rate && got != math.MaxInt64 {
			t.Fatalf("%v, %d GPUs at %v for %v: all-in %v", c, s.GPU.Count, rate, s.MaxDuration, got)
		}
		if got == math.MaxInt64 && pays(maxRate) { // more than can be said, but a limit that may be asked for would do
			t.Fatalf("%v, %d GPUs at %v for %v: it has an all-in price", c, s.GPU.Count, rate, s.MaxDuration)
		}
		if s.MaxRate = pricing.Rate(1 + near(int64(maxRate-1)).Draw(t, "limit")); rapid.Bool().Draw(t, "just") {
			s.MaxRate = max(1, min(maxRate, got-pricing.Rate(rapid.Int64Range(0, 1).Draw(t, "less"))))
		}
		if s.Affords(rate, c) != (rate <= s.MaxRate && pays(s.MaxRate)) {
			t.Fatalf("%v, %d GPUs at %v for %v: within %v: %v", c, s.GPU.Count, rate, s.MaxDuration, s.MaxRate, s.Affords(rate, c))
		}
		if !s.Affords(rate, c) {
			return
		}
		hold, err := s.holdAt(c)
		if err != nil || ratio(int64(hold), 1).Cmp(new(big.Rat).Sub(c.bill(s.MaxDuration), ratio(1, 2))) < 0 {
			t.Fatalf("%v for %v within %v: holds %v, %v", c, s.MaxDuration, s.MaxRate, hold, err)
		}
	})
}

// TestBudgetPaysTraffic: a budget buys the longest time that it pays with all the traffic, and never more than the job's.
func TestBudgetPaysTraffic(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := anyRequest(t)
		c, err := s.Charge(pricing.Rate(near(int64(maxRate)).Draw(t, "rate")), anyTariff(t))
		if err != nil {
			t.Fatal(err)
		}
		s.MaxCost = pricing.Money(1 + near(int64(maxMoney-1)).Draw(t, "budget"))
		if rapid.Bool().Draw(t, "gang") {
			s.Nodes = rapid.IntRange(2, MaxNodes).Draw(t, "nodes")
		}
		each := s.MaxCost / pricing.Money(max(1, s.Nodes))
		got, err := s.MostTime(c)
		if err != nil || got < 0 || got > s.MaxDuration {
			t.Fatalf("%v buys %v, %v of %v", each, got, err, s.MaxDuration)
		}
		pays := func(d time.Duration) bool { return c.bill(d).Cmp(ratio(int64(each), 1)) <= 0 }
		if got > 0 && !pays(got) || got < s.MaxDuration && pays(got+1) {
			t.Fatalf("%v buys %v at %+v", each, got, c)
		}
		if hold, err := s.holdAt(c); err != nil || hold != each {
			t.Fatalf("%v are held, %v, want %v", hold, err, each)
		}
	})
}

// TestDearestCharge is what is within the bounds and costs most.
func TestDearestCharge(t *testing.T) {
	s := JobSpec{GPU: GPURequest{Count: maxJobGPUs}, DiskMiB: MaxDiskMiB, Traffic: MaxTraffic, MaxDuration: maxDuration}
	dearest := Tariff{Disk: maxDiskRate, Ingress: maxTrafficPrice, Egress: maxTrafficPrice}
	c, err := s.Charge(maxRate, dearest)
	if err != nil {
		t.Fatal(err)
	}
	cost, err := c.Cost(maxDuration)
	if want := halfEvenOf(c.bill(maxDuration)); err != nil || big.NewInt(int64(cost)).Cmp(want) != 0 {
		t.Errorf("it costs %v, %v, want %v", cost, err, want)
	}
	if s.MaxDuration = time.Second; c.allIn(maxRate, 1, s.MaxDuration) != math.MaxInt64 {
		t.Errorf("for a second: all-in %v", c.allIn(maxRate, 1, s.MaxDuration))
	}
	const hourly = 5_124_095_576_030_431 // in a second is 2^64 - 16 in an hour
	for _, c := range []Charge{{Disk: 16, Traffic: hourly}, {Traffic: hourly + 1}} {
		if got := c.allIn(0, 1, time.Second); got != math.MaxInt64 {
			t.Errorf("%+v for a second: all-in %v", c, got)
		}
	}
	if _, err := s.Charge(maxRate, Tariff{Disk: -1}); !errors.Is(err, pricing.ErrNegative) {
		t.Errorf("a price below zero: %v", err)
	}
	if m := (Tariff{Disk: 1, Ingress: 1, Egress: 1}); !m.within(m) || dearest.within(m) ||
		(Tariff{Disk: 2}).within(m) || (Tariff{Ingress: 2}).within(m) || (Tariff{Egress: 2}).within(m) {
		t.Error("one tariff is not within another if it asks more for anything")
	}
}
