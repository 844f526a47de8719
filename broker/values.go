package broker

import (
	"fmt"
	"strconv"
	"strings"

	"rialto/pricing"
)

// value is what a field of an offer has, or what is asked of it: a number in the base unit of its kind, or text.
type value struct {
	n    int64
	s    string
	null bool // asked of an offer: that nobody says
}

// flaw is what is wrong with a value, and the nearest valid one.
type flaw struct{ problem, nearest string }

// ordered reports whether values of the kind have an order that one can ask for.
func (k Kind) ordered() bool { return k >= KindCount }

// named reports whether values of the kind are text.
func (k Kind) named() bool { return k <= KindCountry }

// parse reads a value. A number without a unit is in the unit that is given.
func (f *Field) parse(s, unit string) (value, *flaw) {
	switch f.Kind {
	case KindName:
		if s == "" || len(s) > maxName || !printable(s) {
			return value{}, &flaw{problem: fmt.Sprintf("want 1 to %d printable bytes", maxName)}
		}
		return value{s: s}, nil
	case KindModel:
		if foldModel(s) == "" || len(s) > 64 || !printable(s) {
			return value{}, &flaw{"want the name of a GPU model", "RTX_4090"}
		}
		return value{s: askedModel(s)}, nil
	case KindCountry:
		return parseCountry(s)
	case KindBool:
		switch s {
		case "true", "True":
			return truth(true), nil
		case "false", "False":
			return truth(false), nil
		}
		return value{}, &flaw{"want true or false", boolNear(s)}
	case KindCount:
		return scaled(s, 1, 1, maxCount)
	case KindSize:
		return parseSize(s, unit, f.nominal)
	case KindRate:
		return parseRate(s, unit)
	case KindVersion:
		return parseVersion(s)
	case KindCompute:
		return parseCompute(s)
	case KindPower:
		return parsePower(s, unit)
	case KindShare:
		return parseShare(s)
	case KindLevel:
		switch s {
		case "claimed":
			return number(int64(LevelClaimed)), nil
		case "nvml":
			return number(int64(LevelNVML)), nil
		}
		return value{}, &flaw{"want claimed or nvml", nearestWord(strings.ToLower(s), []string{"claimed", "nvml"})}
	case KindTime:
		return parseTime(s, unit)
	case KindPerGB:
		return parsePerGB(s)
	}
	return value{}, &flaw{problem: "no value"}
}

// text is a value as queries write it: reading it gives the same value.
func (f *Field) text(v value) string {
	switch f.Kind {
	case KindName, KindModel, KindCountry:
		return bare(v.s)
	case KindBool:
		return strconv.FormatBool(v.n == 1)
	case KindCount:
		return strconv.FormatInt(v.n, 10)
	case KindSize:
		return sizeText(v.n, "", !f.nominal)
	case KindRate:
		return strings.TrimPrefix(pricing.Rate(v.n).String(), "$")
	case KindVersion:
		return versionText(v.n)
	case KindCompute:
		return strconv.FormatInt(v.n, 10)
	case KindPower:
		return powerText(v.n, "")
	case KindShare:
		return shareText(v.n)
	case KindLevel:
		return Level(v.n).String() //nolint:gosec // two values
	case KindTime:
		return timeText(v.n, "")
	case KindPerGB:
		return strings.TrimPrefix(perGBText(v.n), "$")
	}
	return ""
}

// show is a value as people read it.
func (f *Field) show(v value) string {
	switch f.Kind {
	case KindName, KindModel, KindCountry:
		return v.s
	case KindSize:
		return sizeText(v.n, " ", !f.nominal)
	case KindRate:
		return pricing.Rate(v.n).String()
	case KindCompute:
		return fmt.Sprintf("%d.%d", v.n/100, v.n%100/10)
	case KindPower:
		return powerText(v.n, " ")
	case KindTime:
		return timeText(v.n, " ")
	case KindPerGB:
		return perGBText(v.n)
	case KindBool, KindCount, KindVersion, KindShare, KindLevel:
	}
	return f.text(v)
}

// String returns the level's word.
func (l Level) String() string {
	if l == LevelNVML {
		return "nvml"
	}
	return "claimed"
}
