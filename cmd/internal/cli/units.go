package cli

import (
	"fmt"
	"math"
	"math/bits"
	"strconv"
	"strings"
	"time"
)

// byteUnits are the units of sizes that [ParseMiB] reads, by how many bits they shift.
func byteUnits() ([]string, map[string]uint) {
	return []string{"MiB", "GiB", "TiB"}, map[string]uint{"mib": 0, "gib": 10, "tib": 20, "m": 0, "g": 10, "t": 20}
}

// ParseMiB reads a size such as "24GiB" or "512 MiB" in mebibytes. Fractions that are not whole
// mebibytes, other units and numbers without a unit are errors that name the nearest valid form.
func ParseMiB(s string) (uint64, error) {
	number, unit := splitUnit(s)
	names, shifts := byteUnits()
	if number == "" {
		return 0, fmt.Errorf("size %q: want a number and a unit, such as 24GiB", s)
	}
	if unit == "" {
		return 0, fmt.Errorf("size %q: unit missing; did you mean %sGiB?", s, number)
	}
	shift, ok := shifts[strings.ToLower(unit)]
	if !ok {
		return 0, fmt.Errorf("size %q: unknown unit %q; did you mean %q? (units: %s)", s, unit, nearestUnit(unit, names), strings.Join(names, ", "))
	}
	whole, fraction, _ := strings.Cut(number, ".")
	n, err := strconv.ParseUint(whole, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("size %q: %q is not a number in range", s, number)
	}
	if n > math.MaxUint32>>shift {
		return 0, fmt.Errorf("size %q: too large", s)
	}
	mib := n << shift
	if fraction == "" {
		return mib, nil
	}
	part, err := strconv.ParseUint(fraction, 10, 32)
	if err != nil || len(fraction) > 6 {
		return 0, fmt.Errorf("size %q: %q is not a number in range", s, number)
	}
	scale := uint64(1)
	for range fraction {
		scale *= 10
	}
	high, low := bits.Mul64(part, 1<<shift)
	if q, r := bits.Div64(high, low, scale); r == 0 {
		return mib + q, nil
	}
	return 0, fmt.Errorf("size %q: not a whole number of MiB", s)
}

// splitUnit cuts "1.5 GiB" into its number and its unit.
func splitUnit(s string) (number, unit string) {
	s = strings.TrimSpace(s)
	i := strings.IndexFunc(s, func(r rune) bool { return (r < '0' || r > '9') && r != '.' })
	if i < 0 {
		return s, ""
	}
	return s[:i], strings.TrimSpace(s[i:])
}

// nearestUnit guesses the unit that was meant, by its first letter if nothing else is near.
func nearestUnit(unit string, names []string) string {
	if n, ok := Nearest(unit, names); ok {
		return n
	}
	for _, n := range names {
		if strings.EqualFold(n[:1], unit[:1]) {
			return n
		}
	}
	return "GiB"
}

// ParseDuration reads a positive duration such as "90s", "15m" or "1h30m". Days are taken too.
func ParseDuration(s string) (time.Duration, error) {
	trimmed := strings.TrimSpace(s)
	if days, ok := strings.CutSuffix(trimmed, "d"); ok {
		if n, err := strconv.ParseUint(days, 10, 16); err == nil && n > 0 {
			return time.Duration(n) * 24 * time.Hour, nil
		}
	}
	d, err := time.ParseDuration(trimmed)
	if err != nil {
		number, unit := splitUnit(trimmed)
		switch {
		case number == "":
			return 0, fmt.Errorf("duration %q: want a number and a unit, such as 15m", s)
		case unit == "":
			return 0, fmt.Errorf("duration %q: unit missing; did you mean %ss or %sm?", s, number, number)
		}
		return 0, fmt.Errorf("duration %q: unknown unit %q; did you mean %q? (units: s, m, h, d)", s, unit, number+nearestTime(unit))
	}
	if d <= 0 {
		return 0, fmt.Errorf("duration %q: must be more than zero", s)
	}
	return d, nil
}

func nearestTime(unit string) string {
	switch c := strings.ToLower(unit)[0]; c {
	case 's', 'm', 'h', 'd':
		return string(c)
	default:
		return "m"
	}
}

// FormatBytes prints a count of bytes in binary units with at most one decimal.
func FormatBytes(n int64) string {
	const step = 1024
	if n < step {
		return strconv.FormatInt(n, 10) + " B"
	}
	units := [...]string{"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	value, unit := float64(n)/step, 0
	for value >= step && unit < len(units)-1 {
		value, unit = value/step, unit+1
	}
	if value < 10 {
		return strings.TrimSuffix(strconv.FormatFloat(value, 'f', 1, 64), ".0") + " " + units[unit]
	}
	return strconv.FormatFloat(value, 'f', 0, 64) + " " + units[unit]
}

// FormatMiB prints a size given in mebibytes.
func FormatMiB(mib uint64) string {
	if mib > math.MaxInt64>>20 {
		return "more than 8 EiB"
	}
	return FormatBytes(int64(mib) << 20)
}

// FormatDuration prints a duration with three significant figures or so: "48 ms", "3.2 s", "4m 10s".
func FormatDuration(d time.Duration) string {
	switch {
	case d < 0:
		return "-" + FormatDuration(-d)
	case d == 0:
		return "0 s"
	case d < time.Millisecond:
		return strconv.FormatInt(d.Microseconds(), 10) + " µs"
	case d < time.Second:
		return strconv.FormatInt(d.Round(time.Millisecond).Milliseconds(), 10) + " ms"
	case d < time.Minute:
		return strconv.FormatFloat(d.Seconds(), 'f', 1, 64) + " s"
	case d < time.Hour:
		d = d.Round(time.Second)
		return fmt.Sprintf("%dm %02ds", int(d.Minutes()), int(d.Seconds())%60)
	default:
		d = d.Round(time.Minute)
		return fmt.Sprintf("%dh %02dm", int(d.Hours()), int(d.Minutes())%60)
	}
}

// FormatAge prints how long ago something was, in whole seconds: "12 s", "4m 10s", "2h 05m", "3 d".
func FormatAge(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d < time.Minute:
		return strconv.Itoa(int(max(0, d)/time.Second)) + " s"
	case d < 2*day:
		return FormatDuration(d)
	default:
		return strconv.Itoa(int(d/day)) + " d"
	}
}
