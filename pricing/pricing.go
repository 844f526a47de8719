// Package pricing is exact money arithmetic for a market that bills by the second.
//
// [Money] counts nanodollars and [Rate] nanodollars per hour, the unit that people quote.
// The cost of a duration is computed in 128 bits and rounded once, half to even, so a bill
// does not depend on how its seconds were cut. There are no floats, and every operation that
// could overflow returns an error. In JSON both are integers whose field name carries the
// unit: "_nanousd" and "_nanousd_per_hour". Nanodollars and not microdollars cross the wire,
// because a bill whose lines were rounded for display would not add up.
package pricing

import "errors"

// Money is an amount in nanodollars (10^-9 US dollars). It may be negative.
type Money int64

// Rate is a price in nanodollars per hour. Valid rates are zero or more.
type Rate int64

// USD is one US dollar.
const USD Money = 1_000_000_000

// ErrOverflow reports a result outside the range of int64.
var ErrOverflow = errors.New("amount out of range")
