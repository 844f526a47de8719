package cli

import (
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"strings"
)

// trafficUnit is a unit of traffic, which is priced by 10^9 bytes.
type trafficUnit struct {
	name string
	size uint64
}

func trafficUnits() []trafficUnit {
	return []trafficUnit{
		{"B", 1},
		{"kB", 1e3},
		{"MB", 1e6},
		{"GB", 1e9},
		{"TB", 1e12},
		{"KiB", 1 << 10},
		{"MiB", 1 << 20},
		{"GiB", 1 << 30},
		{"TiB", 1 << 40},
	}
}

// ParseTraffic reads a count of bytes such as "20GB", which are 20·10^9, or "1.5 GiB". Fractions that are no whole
// bytes, other units and numbers without a unit are errors that name the nearest valid form.
func ParseTraffic(s string) (int64, error) {
	number, unit := splitUnit(s)
	switch {
	case number == "":
		return 0, fmt.Errorf("traffic %q: want a number and a unit, such as 20GB", s)
	case unit == "":
		return 0, fmt.Errorf("traffic %q: unit missing; did you mean %sGB?", s, number)
	}
	units := trafficUnits()
	i := slices.IndexFunc(units, func(u trafficUnit) bool { return strings.EqualFold(u.name, unit) })
	if i < 0 {
		names := make([]string, len(units))
		for i, u := range units {
			names[i] = u.name
		}
		near, ok := Nearest(unit, names)
		if !ok {
			near = "GB"
		}
		return 0, fmt.Errorf("traffic %q: unknown unit %q; did you mean %s? (units: %s)", s, unit, number+near, strings.Join(names, ", "))
	}
	n, err := scale(number, units[i].size)
	if err != nil {
		return 0, fmt.Errorf("traffic %q: %w", s, err)
	}
	return n, nil
}

// scale multiplies a decimal number exactly.
func scale(number string, unit uint64) (int64, error) {
	r, ok := new(big.Rat).SetString(number)
	if !ok {
		return 0, fmt.Errorf("%q is not a number", number)
	}
	r.Mul(r, new(big.Rat).SetUint64(unit))
	switch {
	case !r.IsInt():
		return 0, errors.New("not a whole number of bytes")
	case !r.Num().IsInt64():
		return 0, errors.New("too large")
	}
	return r.Num().Int64(), nil
}

// FormatTraffic prints a count of bytes in decimal units, as traffic is priced, with three significant figures or so.
func FormatTraffic(n int64) string {
	units := trafficUnits()[:5]
	i := len(units) - 1
	for i > 0 && uint64(max(n, 0)) < units[i].size {
		i--
	}
	value := float64(n) / float64(units[i].size)
	places := 2
	switch {
	case i == 0 || value >= 100:
		places = 0
	case value >= 10:
		places = 1
	}
	text := strconv.FormatFloat(value, 'f', places, 64)
	if strings.Contains(text, ".") {
		text = strings.TrimRight(strings.TrimRight(text, "0"), ".")
	}
	return text + " " + units[i].name
}
