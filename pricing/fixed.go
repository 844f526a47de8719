package pricing

import "math/bits"

// Logarithms, powers and decay of the index are integers, so that a print is the same number on every machine: floating
// point may fuse a multiplication with an addition on one of them and not on another.

const (
	logBits   = 32 // fraction bits of a logarithm
	decayBits = 24 // fraction bits of a decay
	rootBits  = 62 // fraction bits of a root of two
	rootSteps = 24 // bits of an exponent's fraction that count; the error is below 2^-24
)

// fixedLog is a binary logarithm with logBits fraction bits.
type fixedLog int64

// log2 returns the binary logarithm of x, rounded down; zero for 0. Each squaring of the mantissa yields one more bit of
// the fraction (Knuth, The Art of Computer Programming, volume 1, exercise 1.2.2-28).
func log2(x uint64) fixedLog {
	if x == 0 {
		return 0
	}
	whole := bits.Len64(x) - 1
	m := x << (63 - whole) // the mantissa, 1 to 2, with 63 fraction bits
	var fraction fixedLog
	for range logBits {
		hi, lo := bits.Mul64(m, m)
		fraction <<= 1
		if hi>>63 == 1 {
			fraction |= 1
			m = hi
		} else {
			m = hi<<1 | lo>>63
		}
	}
	return fixedLog(whole)<<logBits | fraction
}

// exp2 returns 2^x as mantissa × 2^exponent; the mantissa is 1 to 2 with rootBits fraction bits.
func exp2(x fixedLog) (mantissa uint64, exponent int) {
	mantissa = 1 << rootBits
	fraction := uint32(x) //nolint:gosec // the low bits are the fraction, also of a negative number
	for i, root := range roots() {
		if fraction&(1<<(logBits-1-i)) != 0 {
			hi, lo := bits.Mul64(mantissa, root)
			mantissa = hi<<(64-rootBits) | lo>>rootBits
		}
	}
	return mantissa, int(x >> logBits)
}

// roots lists 2^(1/2), 2^(1/4), … with rootBits fraction bits.
func roots() [rootSteps]uint64 {
	return [...]uint64{
		0x5a827999fcef3242, 0x4c1bf828c6dc54b8, 0x45cae0f1f545eb73, 0x42d561b3e6243d8a,
		0x4166c34c5615d0ec, 0x40b268f9de0183ba, 0x4058f6a7ecccd5b6, 0x402c6be96af2fb58,
		0x4016321b687027a8, 0x400b18178ba33b14, 0x40058bce410147e8, 0x4002c5d7bff71daf,
		0x400162e807ee7e5b, 0x4000b1730df6a524, 0x400058b9497b8152, 0x40002c5c955dd701,
		0x4000162e46d6f26c, 0x40000b1722757b1b, 0x4000058b90fd3e0c, 0x400002c5c86f3f26,
		0x40000162e433c79b, 0x400000b17218edd0, 0x40000058b90c3968, 0x4000002c5c860d54,
	}
}

// decay returns 0.5^(age/halfLife) with decayBits fraction bits. Neither may be negative, and halfLife not zero; age is
// at most a year of seconds.
func decay(age, halfLife int64) uint64 {
	m, e := exp2(fixedLog(-(age << logBits) / halfLife))
	shift := rootBits - decayBits - e // e is zero or less
	if shift > 63 {
		return 0
	}
	return m >> shift
}

// scale returns r × 2^x, rounded down, at least 1. r is 1 to [MaxRate], and x within ±[maxAdjust].
func scale(r Rate, x fixedLog) Rate {
	m, e := exp2(x)
	hi, lo := bits.Mul64(uint64(r), m)
	shift := rootBits - e
	var v uint64
	if shift < 64 {
		v = hi<<(64-shift) | lo>>shift
	} else {
		v = hi >> (shift - 64)
	}
	return max(1, Rate(v)) //nolint:gosec // below 2 × MaxRate
}

// wide is a sum of products that may need 128 bits.
type wide struct{ hi, lo uint64 }

// add adds a × b.
func (s *wide) add(a, b uint64) {
	hi, lo := bits.Mul64(a, b)
	var carry uint64
	s.lo, carry = bits.Add64(s.lo, lo, 0)
	s.hi += hi + carry
}

// mean returns the sum divided by n, rounded half to even; zero if n is zero or the quotient does not fit.
func (s *wide) mean(n uint64) Rate {
	if s.hi >= n {
		return 0
	}
	q, rem := bits.Div64(s.hi, s.lo, n)
	v, err := halfEven(q, rem, n)
	if err != nil {
		return 0
	}
	return Rate(v)
}
