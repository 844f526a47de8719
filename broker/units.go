package broker

import (
	"errors"
	"fmt"
	"math/big"
	"strconv"
	"strings"

	"rialto/pricing"
)

const maxCount = 1e9

// scaled reads a decimal number and multiplies it, rounded to the nearest whole, a half to the even one.
func scaled(s string, factor, divisor, most int64) (value, *flaw) {
	digits := strings.Trim(s, "0123456789")
	if s == "" || len(s) > 32 || digits != "" && digits != "." || strings.HasPrefix(s, ".") || strings.HasSuffix(s, ".") {
		whole, _, _ := strings.Cut(strings.TrimRight(s, "., "), ",")
		if _, err := strconv.ParseUint(whole, 10, 32); err != nil {
			whole = ""
		}
		return value{}, &flaw{"want a number, such as 24 or 0.5", whole}
	}
	r, ok := new(big.Rat).SetString(s)
	if !ok {
		return value{}, &flaw{problem: "want a number, such as 24 or 0.5"}
	}
	r.Mul(r, big.NewRat(factor, divisor))
	n := new(big.Int)
	if r.IsInt() {
		n.Set(r.Num())
	} else {
		if factor == 1 {
			up := new(big.Int).Div(r.Num(), r.Denom())
			return value{}, &flaw{"want a whole number", up.Add(up, big.NewInt(1)).String()}
		}
		n = nearestInt(r)
	}
	if !n.IsInt64() || n.Int64() > most {
		return value{}, &flaw{problem: "too large"}
	}
	return number(n.Int64()), nil
}

func nearestInt(r *big.Rat) *big.Int {
	twice := new(big.Int).Lsh(r.Num(), 1)
	twice.Add(twice, r.Denom())
	n, rest := new(big.Int).DivMod(twice, new(big.Int).Lsh(r.Denom(), 1), new(big.Int))
	if rest.Sign() == 0 && n.Bit(0) == 1 {
		n.Sub(n, big.NewInt(1))
	}
	return n
}

// cutUnit cuts "1.5GiB" into its number and its unit.
func cutUnit(s string) (digits, unit string) {
	i := strings.IndexFunc(s, func(r rune) bool { return (r < '0' || r > '9') && r != '.' })
	if i < 0 {
		return s, ""
	}
	return s[:i], strings.TrimSpace(s[i:])
}

// maxSize is the most bytes that a query can ask for: more than any offer may have.
const maxSize = 1 << 60

// unit is a unit of sizes.
type unit struct {
	name  string
	bytes int64
}

// byteUnits are the units of sizes, largest first: those of 1024 before those of 1000.
func byteUnits() []unit {
	return []unit{
		{"PiB", 1 << 50},
		{"TiB", 1 << 40},
		{"GiB", 1 << 30},
		{"PB", 1e15},
		{"TB", 1e12},
		{"GB", 1e9},
		{"MiB", 1 << 20},
		{"MB", 1e6},
		{"KiB", 1 << 10},
		{"kB", 1e3},
		{"B", 1},
	}
}

func parseSize(s, bareUnit string, nominal bool) (value, *flaw) {
	digits, unit := cutUnit(s)
	if unit == "" {
		unit = bareUnit
	}
	if unit == "" {
		return value{}, &flaw{"unit missing", digits + "GiB"}
	}
	var names []string
	for _, u := range byteUnits() {
		names = append(names, u.name)
		if !strings.EqualFold(u.name, unit) {
			continue
		}
		factor, divisor := u.bytes, int64(1)
		if nominal && u.bytes > 1 && u.bytes%1000 == 0 {
			factor, divisor = nominalUnit(u.bytes)
		}
		v, bad := scaled(digits, factor, divisor, maxSize)
		return v, unitAfter(bad, unit)
	}
	near := nearestWord(unit, names)
	if near == "" {
		near = "GiB"
		for _, n := range names {
			if strings.EqualFold(n[:1], unit[:1]) {
				near = n
				break
			}
		}
	}
	return value{}, &flaw{fmt.Sprintf("unknown unit %q: want B, kB … PB or KiB … PiB", clipped(unit)), digits + near}
}

// nominalUnit is a unit of 1000 of sizes as cards are sold: 1 GB is 1 GiB, the others are a thousandth or its
// thousandfold.
func nominalUnit(bytes int64) (factor, divisor int64) {
	const gib, giga = 1 << 30, 1e9
	if bytes < giga {
		return gib, giga / bytes
	}
	return gib * (bytes / giga), 1
}

// sizeText writes bytes exactly, in the largest unit that divides them.
func sizeText(n int64, space string, decimal bool) string {
	for _, u := range byteUnits() {
		if n%u.bytes == 0 && n > 0 && (decimal || u.bytes == 1 || u.bytes%1000 != 0) {
			return strconv.FormatInt(n/u.bytes, 10) + space + u.name
		}
	}
	return "0" + space + "B"
}

// unitAfter adds the unit to a proposed number.
func unitAfter(f *flaw, unit string) *flaw {
	if f != nil && f.nearest != "" {
		f.nearest += unit
	}
	return f
}

func parseRate(s, bareUnit string) (value, *flaw) {
	if !strings.Contains(s, "/") {
		if bareUnit == "nanousd/h" {
			return scaled(s, 1, 1, int64(maxRate)*maxJobGPUs)
		}
		s += bareUnit
	}
	if monthly, ok := strings.CutSuffix(s, "/month"); ok {
		v, bad := scaled(strings.TrimPrefix(monthly, "$"), int64(pricing.USD), pricing.HoursPerMonth, int64(maxRate)*maxJobGPUs)
		return v, unitAfter(bad, "/month")
	}
	r, err := pricing.ParseRate(s)
	if bad, ok := errors.AsType[*pricing.SyntaxError](err); ok {
		return value{}, &flaw{bad.Problem, bad.Nearest}
	}
	if err != nil || r > maxRate*maxJobGPUs {
		return value{}, &flaw{problem: "too large"}
	}
	return number(int64(r)), nil
}

// parsePerGB reads the price of 10^9 bytes.
func parsePerGB(s string) (value, *flaw) {
	amount, unit, _ := strings.Cut(s, "/")
	if unit != "" && !strings.EqualFold(unit, "GB") {
		return value{}, &flaw{fmt.Sprintf("unknown unit %q: want /GB", clipped(unit)), amount + "/GB"}
	}
	m, err := pricing.ParseMoney(amount)
	if bad, ok := errors.AsType[*pricing.SyntaxError](err); ok {
		return value{}, &flaw{bad.Problem, bad.Nearest}
	}
	if err != nil || m > maxMoney {
		return value{}, &flaw{problem: "too large"}
	}
	if m < 0 {
		return value{}, &flaw{problem: "below zero"}
	}
	return number(int64(m)), nil
}

func perGBText(n int64) string { return pricing.Money(n).String() + "/GB" }

// parseVersion reads 12.8, 535.86.05 or, as Vast writes drivers, 535086005.
func parseVersion(s string) (value, *flaw) {
	if n, err := strconv.ParseUint(s, 10, 32); err == nil && n >= 1e6 && n < 1e9 {
		return number(int64(n)), nil
	}
	v, ok := version(s)
	if !ok {
		return value{}, &flaw{problem: "want a version of up to three numbers below 1000, such as 535.86.05"}
	}
	return v, nil
}

func versionText(n int64) string {
	s := fmt.Sprintf("%d.%d", n/1e6, n/1e3%1e3)
	if n%1e3 != 0 {
		s += fmt.Sprintf(".%d", n%1e3)
	}
	return s
}

// parseCompute reads a compute capability as NVIDIA writes it, 8.9, or as Vast does, 890.
func parseCompute(s string) (value, *flaw) {
	major, minor, dotted := strings.Cut(s, ".")
	n, err := strconv.ParseUint(major, 10, 16)
	switch {
	case err != nil:
	case !dotted && n >= 100 && n <= 9990 && n%10 == 0:
		return number(int64(n)), nil
	case !dotted && n > 0 && n < 100:
		return value{}, &flaw{"want a compute capability such as 8.9 or 890", major + ".0"}
	case dotted && len(minor) == 1 && minor[0] >= '0' && minor[0] <= '9' && n > 0 && n < 100:
		return number(int64(n)*100 + int64(minor[0]-'0')*10), nil
	}
	return value{}, &flaw{problem: "want a compute capability such as 8.9 or 890"}
}

func parsePower(s, bareUnit string) (value, *flaw) {
	digits, unit := cutUnit(s)
	if unit == "" {
		unit = bareUnit
	}
	for name, mw := range map[string]int64{"mW": 1, "W": 1e3, "kW": 1e6} {
		if unit == name {
			v, bad := scaled(digits, mw, 1, 1e9)
			return v, unitAfter(bad, unit)
		}
	}
	return value{}, &flaw{fmt.Sprintf("unknown unit %q: want mW, W or kW", clipped(unit)), digits + "W"}
}

func powerText(mw int64, space string) string {
	if mw%1000 != 0 {
		return strconv.FormatInt(mw, 10) + space + "mW"
	}
	return strconv.FormatInt(mw/1000, 10) + space + "W"
}

func parseTime(s, bareUnit string) (value, *flaw) {
	digits, unit := cutUnit(s)
	if unit == "" {
		unit = bareUnit
	}
	for name, ms := range map[string]int64{"ms": 1, "s": 1e3, "min": 60e3, "h": 3600e3} {
		if unit == name {
			v, bad := scaled(digits, ms, 1, maxDuration.Milliseconds())
			return v, unitAfter(bad, unit)
		}
	}
	return value{}, &flaw{fmt.Sprintf("unknown unit %q: want ms, s, min or h", clipped(unit)), digits + "s"}
}

func timeText(ms int64, space string) string {
	if ms > 0 && ms%3600e3 == 0 {
		return strconv.FormatInt(ms/3600e3, 10) + space + "h"
	}
	return strconv.FormatFloat(float64(ms)/1e3, 'f', -1, 64) + space + "s"
}

// parseCountry reads a country's code, alone or behind a place as Vast writes it: "Texas, US, NA".
func parseCountry(s string) (value, *flaw) {
	code := strings.ToUpper(s)
	if parts := strings.Split(s, ","); len(parts) > 1 {
		code = strings.ToUpper(strings.TrimSpace(parts[1]))
	}
	switch {
	case code == "UK":
		return value{}, &flaw{"no such country", "GB"}
	case code == "EU":
		return value{}, &flaw{problem: "want the code of a country, several, or EU: [DE,FR,NL]"}
	case len(code) != 2 || code[0] < 'A' || code[0] > 'Z' || code[1] < 'A' || code[1] > 'Z':
		return value{}, &flaw{"want the two letters of a country's code, such as DE", nearestCountry(code)}
	case !isCountry(code):
		return value{}, &flaw{"no such country", nearestCountry(code)}
	}
	return value{s: code}, nil
}

// countries are the codes of ISO 3166-1 alpha-2.
const countries = "AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT BV BW BY BZ " +
	"CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH ER ES ET FI FJ FK FM FO FR " +
	"GA GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN IO IQ IR IS IT JE JM JO JP " +
	"KE KG KH KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK ML MM MN MO MP MQ MR MS MT MU MV MW MX MY MZ " +
	"NA NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS PT PW PY QA RE RO RS RU RW SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ " +
	"TC TD TF TG TH TJ TK TL TM TN TO TR TT TV TW TZ UA UG UM US UY UZ VA VC VE VG VI VN VU WF WS YE YT ZA ZM ZW"

func isCountry(code string) bool { return strings.Contains(" "+countries+" ", " "+code+" ") }

// nearestCountry guesses the code that a longer word begins with.
func nearestCountry(s string) string {
	if s == "USA" {
		return "US"
	}
	if len(s) > 2 && isCountry(s[:2]) && !strings.Contains(s[:2], " ") {
		return s[:2]
	}
	return ""
}

func boolNear(s string) string {
	switch strings.ToLower(s) {
	case "true", "yes", "y", "on", "1", "t":
		return "true"
	case "false", "no", "n", "off", "0", "f":
		return "false"
	}
	return ""
}

// parseShare reads a share of one, such as 0.98 or 98%.
func parseShare(s string) (value, *flaw) {
	if percent, ok := strings.CutSuffix(s, "%"); ok {
		v, bad := scaled(percent, 1e4, 1, 1e6)
		return v, unitAfter(bad, "%")
	}
	v, bad := scaled(s, 1e6, 1, 1e9)
	if bad == nil && v.n > 1e6 {
		bad = &flaw{problem: "want a share from 0 to 1, such as 0.98"}
		if v.n <= 100e6 {
			bad.nearest = s + "%"
		}
	}
	return v, bad
}

func shareText(ppm int64) string {
	return strconv.FormatFloat(float64(ppm)/1e6, 'f', -1, 64)
}
