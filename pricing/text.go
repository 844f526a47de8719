package pricing

import (
	"fmt"
	"math"
	"strings"
)

// decimals is how many digits after the point a nanodollar needs.
const decimals = 9

// SyntaxError says what is wrong with the text of an amount or a rate.
type SyntaxError struct {
	Kind    string // "amount" or "rate"
	Input   string
	Problem string
	Nearest string // a valid text that is near, or empty
}

func (e *SyntaxError) Error() string {
	s := fmt.Sprintf("%s %q: %s", e.Kind, e.Input, e.Problem)
	if e.Nearest != "" {
		s += fmt.Sprintf(" (did you mean %q?)", e.Nearest)
	}
	return s
}

// String returns the shortest exact text with at least two decimals, such as "$1.50".
func (m Money) String() string {
	sign := ""
	if m < 0 {
		sign = "-"
	}
	abs := magnitude(int64(m))
	digits := fmt.Sprintf("%09d", abs%uint64(USD))
	for len(digits) > 2 && digits[len(digits)-1] == '0' {
		digits = digits[:len(digits)-1]
	}
	return fmt.Sprintf("%s$%d.%s", sign, abs/uint64(USD), digits)
}

// MarshalText implements encoding.TextMarshaler.
func (m Money) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (m *Money) UnmarshalText(text []byte) error {
	v, err := ParseMoney(string(text))
	if err != nil {
		return err
	}
	*m = v
	return nil
}

// ParseMoney reads an amount such as "1.50", "$1.50" or "-$0.01", with at most nine decimals.
func ParseMoney(s string) (Money, error) {
	digits, negative := strings.CutPrefix(s, "-")
	digits = strings.TrimPrefix(digits, "$")
	abs, problem := parseNano(digits)
	if problem == "" && abs > math.MaxInt64 && (!negative || abs > -math.MinInt64) {
		problem = "too large"
	}
	if problem != "" {
		return 0, &SyntaxError{Kind: "amount", Input: clip(s), Problem: problem}
	}
	if negative {
		return Money(-abs), nil
	}
	return Money(abs), nil
}

// String returns the shortest exact text with at least two decimals, such as "$0.40/h".
func (r Rate) String() string { return Money(r).String() + "/h" }

// MarshalText implements encoding.TextMarshaler.
func (r Rate) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (r *Rate) UnmarshalText(text []byte) error {
	v, err := ParseRate(string(text))
	if err != nil {
		return err
	}
	*r = v
	return nil
}

// ParseRate reads a rate such as "0.40/h", "$1.87/h", "$0.0001/s" or, per hour, "0.40".
func ParseRate(s string) (Rate, error) {
	amount, unit, hasUnit := strings.Cut(s, "/")
	fail := func(problem, nearest string) (Rate, error) {
		return 0, &SyntaxError{Kind: "rate", Input: clip(s), Problem: problem, Nearest: nearest}
	}
	if strings.HasPrefix(amount, "-") {
		return fail("below zero", "")
	}
	abs, problem := parseNano(strings.TrimPrefix(amount, "$"))
	if problem != "" {
		return fail(problem, "")
	}
	perHour := int64(1)
	if hasUnit {
		switch unit {
		case "h":
		case "s":
			perHour = 3600
		default:
			return fail(fmt.Sprintf("unknown unit %q: want h (hour) or s (second)", clip(unit)), amount+"/"+nearestUnit(unit))
		}
	}
	if abs > math.MaxInt64 {
		return fail("too large", "")
	}
	r, err := mulInt(int64(abs), perHour)
	if err != nil {
		return fail("too large", "")
	}
	return Rate(r), nil
}

// nearestUnit guesses which unit was meant: whatever sounds like seconds, otherwise hours.
func nearestUnit(unit string) string {
	if strings.HasPrefix(strings.ToLower(strings.TrimSpace(unit)), "s") {
		return "s"
	}
	return "h"
}

// parseNano reads digits with an optional fraction into nanodollars; problem says why it cannot.
func parseNano(s string) (nano uint64, problem string) {
	whole, fraction, hasPoint := strings.Cut(s, ".")
	switch {
	case s == "":
		return 0, "empty"
	case whole == "":
		return 0, "want a digit before the point"
	case hasPoint && fraction == "":
		return 0, "want a digit after the point"
	case len(fraction) > decimals:
		return 0, "more than nine decimals"
	}
	for _, c := range []byte(whole + fraction + strings.Repeat("0", decimals-len(fraction))) {
		if c < '0' || c > '9' {
			return 0, "want digits and at most one point, such as 0.40"
		}
		if nano > (math.MaxUint64-9)/10 {
			return 0, "too large"
		}
		nano = nano*10 + uint64(c-'0')
	}
	return nano, ""
}

// clip keeps hostile input short in messages.
func clip(s string) string {
	const most = 64
	if len(s) <= most {
		return s
	}
	return s[:most] + "…"
}
