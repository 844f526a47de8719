package pricing

import (
	"fmt"
	"slices"
	"strings"
)

// Term is how a lease is bought.
type Term string

// Terms. Prices of different terms are never blended.
const (
	OnDemand      Term = "on_demand"     // at the posted rate, until either side ends it
	Interruptible Term = "interruptible" // may be ended for a higher bid
	Reserved      Term = "reserved"      // for a time agreed ahead
)

// Tiers of proof. They are separate markets: a simulated GPU never shares a cell with a real one.
const (
	TierSimulated = "simulated"
	TierClaimed   = "claimed"
	TierNVML      = "nvml"
)

// AnyRegion is the region of a cell that takes all.
const AnyRegion = "any"

// Cell is one market with a price of its own. As text it is "MODEL:TERM:REGION:TIER", where a space of the model is
// written "_" and a byte other than a letter, digit, "." or "-" as "~" and two hexadecimal digits:
// "RTX_4090:on_demand:any:nvml". The text is one segment of a URL's path as it stands.
type Cell struct {
	Model  string // canonical, such as "RTX 4090"
	Term   Term
	Region string // a region group, see [RegionGroup], or [AnyRegion]
	Tier   string // a lower-case word, such as TierNVML
}

// maxModel bounds a model's name, in bytes.
const maxModel = 128

// String returns the cell's text.
func (c Cell) String() string {
	var b strings.Builder
	for i := range len(c.Model) {
		switch x := c.Model[i]; {
		case x == ' ':
			b.WriteByte('_')
		case plain(x):
			b.WriteByte(x)
		default:
			fmt.Fprintf(&b, "~%02x", x)
		}
	}
	return b.String() + ":" + string(c.Term) + ":" + c.Region + ":" + c.Tier
}

func plain(x byte) bool {
	return x >= 'a' && x <= 'z' || x >= 'A' && x <= 'Z' || x >= '0' && x <= '9' || x == '.' || x == '-'
}

// MarshalText implements encoding.TextMarshaler.
func (c Cell) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (c *Cell) UnmarshalText(text []byte) error {
	v, err := ParseCell(string(text))
	if err != nil {
		return err
	}
	*c = v
	return nil
}

// ParseCell reads what [Cell.String] writes, and nothing else: a cell has one text. The error is a [*SyntaxError].
func ParseCell(s string) (Cell, error) {
	fail := func(problem string) (Cell, error) {
		return Cell{}, &SyntaxError{Kind: "cell", Input: clip(s), Problem: problem}
	}
	parts := strings.Split(s, ":")
	if len(parts) != 4 {
		return fail("want MODEL:TERM:REGION:TIER, such as RTX_4090:on_demand:any:nvml")
	}
	model, ok := parseModel(parts[0])
	if !ok {
		return fail("its model is not written as a cell's")
	}
	c := Cell{Model: model, Term: Term(parts[1]), Region: parts[2], Tier: parts[3]}
	switch {
	case c.Term != OnDemand && c.Term != Interruptible && c.Term != Reserved:
		return fail("unknown term: want on_demand, interruptible or reserved")
	case c.Region != AnyRegion && !isGroup(c.Region):
		return fail("unknown region: want any, " + strings.Join(RegionGroups(), ", "))
	case !isWord(c.Tier):
		return fail("its tier is not a lower-case word")
	}
	return c, nil
}

// parseModel undoes the escapes of a model's text.
func parseModel(s string) (string, bool) {
	const digits = "0123456789abcdef"
	var b []byte
	for i := 0; i < len(s); i++ {
		switch x := s[i]; {
		case x == '_':
			b = append(b, ' ')
		case plain(x):
			b = append(b, x)
		case x == '~' && i+2 < len(s):
			hi, lo := strings.IndexByte(digits, s[i+1]), strings.IndexByte(digits, s[i+2])
			if hi < 0 || lo < 0 {
				return "", false
			}
			v := byte(hi<<4 | lo)
			if v == ' ' || plain(v) {
				return "", false // has a shorter text
			}
			b = append(b, v)
			i += 2
		default:
			return "", false
		}
	}
	return string(b), len(b) > 0 && len(b) <= maxModel
}

func isWord(s string) bool {
	for i := range len(s) {
		if (s[i] < 'a' || s[i] > 'z') && s[i] != '_' {
			return false
		}
	}
	return s != "" && len(s) <= 32
}

// RegionGroups lists the groups of countries that have cells of their own.
func RegionGroups() []string { return []string{"africa", "americas", "asia", "europe", "oceania"} }

func isGroup(s string) bool { return slices.Contains(RegionGroups(), s) }

// RegionGroup returns the group of an ISO 3166-1 alpha-2 country code by the United Nations' regions (standard M49);
// empty if the code is not of one of them.
func RegionGroup(country string) string {
	if len(country) != 2 {
		return ""
	}
	for i, codes := range [...]string{
		"AO BF BI BJ BW CD CF CG CI CM CV DJ DZ EG EH ER ET GA GH GM GN GQ GW IO KE KM LR LS LY MA MG ML MR MU MW MZ NA NE NG RE RW SC SD SH SL SN SO SS ST SZ TD TF TG TN TZ UG YT ZA ZM ZW",
		"AG AI AR AW BB BL BM BO BQ BR BS BV BZ CA CL CO CR CU CW DM DO EC FK GD GF GL GP GS GT GY HN HT JM KN KY LC MF MQ MS MX NI PA PE PM PR PY SR SV SX TC TT US UY VC VE VG VI",
		"AE AF AM AZ BD BH BN BT CN CY GE HK ID IL IN IQ IR JO JP KG KH KP KR KW KZ LA LB LK MM MN MO MV MY NP OM PH PK PS QA SA SG SY TH TJ TL TM TR TW UZ VN YE",
		"AD AL AT AX BA BE BG BY CH CZ DE DK EE ES FI FO FR GB GG GI GR HR HU IE IM IS IT JE LI LT LU LV MC MD ME MK MT NL NO PL PT RO RS RU SE SI SJ SK SM UA VA",
		"AS AU CC CK CX FJ FM GU HM KI MH MP NC NF NR NU NZ PF PG PN PW SB TK TO TV UM VU WF WS",
	} {
		if strings.Contains(codes, country) && !strings.Contains(country, " ") {
			return RegionGroups()[i]
		}
	}
	return ""
}
