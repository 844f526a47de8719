// Package pricing is exact money arithmetic for a market that bills by the second.
//
// [Money] counts nanodollars and [Rate] nanodollars per hour, the unit that people quote.
// The cost of a duration is computed in 128 bits and rounded once, half to even, so a bill
// does not depend on how its seconds were cut. There are no floats in it, and every operation that
// could overflow returns an error. In the API's JSON both are integers whose field name carries the
// unit: "_nanousd" and "_nanousd_per_hour". Nanodollars and not microdollars cross the wire,
// because a bill whose lines were rounded for display would not add up.
//
// As text, money is "$1.50" or "-$0.000000001" and a rate is "$0.40/h": exact, at least two
// decimals, never more than needed. [ParseMoney] and [ParseRate] read that and also leave out
// the dollar sign; a rate may be per second ("$0.0001/s") and is per hour when no unit is given.
//
// # Prices
//
// A [Cell] is one market: a model, a term, a region and a tier of proof. [Compute] makes its index from executed leases
// by a method that never changes, in integers, and a [Receipt] is the print with all that it was made of: [Verify] makes
// it again. [History] keeps prints and trades as bars, [Depth] prices what is on offer, and [MakeForecast] says what may
// come, with what it got wrong in the past. Floats are in the forecast and in the fit of [Hedonic] coefficients alone,
// which are published as integers.
package pricing

import (
	"errors"
	"math"
	"math/bits"
	"time"
)

// Money is an amount in nanodollars (10^-9 US dollars). It may be negative.
type Money int64

// Rate is a price in nanodollars per hour. Valid rates are zero or more.
type Rate int64

// HoursPerMonth is what a month has where disks are priced by it: 30 days, as Vast counts.
const HoursPerMonth = 720

// USD is one US dollar.
const USD Money = 1_000_000_000

// Errors of arithmetic.
var (
	ErrOverflow = errors.New("amount out of range")
	ErrNegative = errors.New("amount below zero")
)

// Add returns m + n.
func (m Money) Add(n Money) (Money, error) {
	sum := m + n
	if (sum > m) != (n > 0) && n != 0 {
		return 0, ErrOverflow
	}
	return sum, nil
}

// Sub returns m - n.
func (m Money) Sub(n Money) (Money, error) {
	diff := m - n
	if (diff < m) != (n > 0) && n != 0 {
		return 0, ErrOverflow
	}
	return diff, nil
}

// MulInt returns m × n.
func (m Money) MulInt(n int64) (Money, error) {
	p, err := mulInt(int64(m), n)
	return Money(p), err
}

// PPM returns ppm millionths of m, rounded half to even. Neither may be negative.
func (m Money) PPM(ppm int64) (Money, error) {
	if m < 0 || ppm < 0 {
		return 0, ErrNegative
	}
	q, rem, err := mulDiv(uint64(m), uint64(ppm), 1_000_000)
	if err != nil {
		return 0, err
	}
	n, err := halfEven(q, rem, 1_000_000)
	return Money(n), err
}

// PerGB returns what n bytes cost at m for each 10^9 of them, rounded once, half to even. Neither may be negative.
func (m Money) PerGB(n int64) (Money, error) {
	if m < 0 || n < 0 {
		return 0, ErrNegative
	}
	q, rem, err := mulDiv(uint64(m), uint64(n), 1_000_000_000)
	if err != nil {
		return 0, err
	}
	cost, err := halfEven(q, rem, 1_000_000_000)
	return Money(cost), err
}

// PerGiB returns the rate for a disk of so many MiB at r for each GiB, rounded half to even. r may not be negative.
func (r Rate) PerGiB(mib uint64) (Rate, error) {
	if r < 0 {
		return 0, ErrNegative
	}
	q, rem, err := mulDiv(uint64(r), mib, 1024)
	if err != nil {
		return 0, err
	}
	all, err := halfEven(q, rem, 1024)
	return Rate(all), err
}

// MulInt returns r × n, the rate for n GPUs.
func (r Rate) MulInt(n int64) (Rate, error) {
	p, err := mulInt(int64(r), n)
	return Rate(p), err
}

// Cost returns what d costs at rate r, rounded once, half to even. Neither may be negative.
func (r Rate) Cost(d time.Duration) (Money, error) {
	if r < 0 || d < 0 {
		return 0, ErrNegative
	}
	q, rem, err := mulDiv(uint64(r), uint64(d), uint64(time.Hour))
	if err != nil {
		return 0, err
	}
	n, err := halfEven(q, rem, uint64(time.Hour))
	return Money(n), err
}

// Buys returns the longest duration whose exact cost at rate r is at most m; the greatest Duration
// when that is longer still. Neither may be negative.
func (r Rate) Buys(m Money) (time.Duration, error) {
	if r < 0 || m < 0 {
		return 0, ErrNegative
	}
	if r == 0 {
		return math.MaxInt64, nil
	}
	q, _, err := mulDiv(uint64(m), uint64(time.Hour), uint64(r))
	if err != nil || q > math.MaxInt64 {
		return math.MaxInt64, nil //nolint:nilerr // out of range is longer than any duration
	}
	return time.Duration(q), nil
}

// mulInt returns a × b.
func mulInt(a, b int64) (int64, error) {
	hi, lo := bits.Mul64(magnitude(a), magnitude(b))
	negative := (a < 0) != (b < 0)
	limit := uint64(math.MaxInt64)
	if negative {
		limit++ // the lowest int64 has no positive twin
	}
	if hi != 0 || lo > limit {
		return 0, ErrOverflow
	}
	if negative {
		return int64(-lo), nil
	}
	return int64(lo), nil
}

func magnitude(a int64) uint64 {
	if a < 0 {
		return -uint64(a)
	}
	return uint64(a)
}

// mulDiv returns a × b divided by c and the remainder; the product has 128 bits.
func mulDiv(a, b, c uint64) (quotient, remainder uint64, err error) {
	hi, lo := bits.Mul64(a, b)
	if hi >= c {
		return 0, 0, ErrOverflow
	}
	quotient, remainder = bits.Div64(hi, lo, c)
	return quotient, remainder, nil
}

// halfEven rounds quotient + remainder/divisor to the nearest integer, ties to the even one.
func halfEven(quotient, remainder, divisor uint64) (int64, error) {
	if rest := divisor - remainder; remainder > rest || remainder == rest && quotient&1 == 1 {
		quotient++
	}
	if quotient > math.MaxInt64 {
		return 0, ErrOverflow
	}
	return int64(quotient), nil
}
