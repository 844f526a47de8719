package pricing

import (
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestCellText(t *testing.T) {
	for _, c := range []struct {
		cell Cell
		text string
	}{
		{Cell{"RTX 4090", OnDemand, AnyRegion, TierNVML}, "RTX_4090:on_demand:any:nvml"},
		{Cell{"A100 PCIe 80GB", Reserved, "europe", TierSimulated}, "A100_PCIe_80GB:reserved:europe:simulated"},
		{Cell{"odd_:~µ", Interruptible, "asia", TierClaimed}, "odd~5f~3a~7e~c2~b5:interruptible:asia:claimed"},
	} {
		if got := c.cell.String(); got != c.text {
			t.Errorf("got %q, want %q", got, c.text)
		}
		if got, err := ParseCell(c.text); err != nil || got != c.cell {
			t.Errorf("%q: got %+v, %v", c.text, got, err)
		}
	}
	for text, want := range map[string]string{
		"":                         "want MODEL:TERM:REGION:TIER",
		"a:on_demand:any":          "want MODEL:TERM:REGION:TIER",
		"a b:on_demand:any:nvml":   "not written as",
		"~61:on_demand:any:nvml":   "not written as", // "a" has a shorter text
		"~5F:on_demand:any:nvml":   "not written as",
		"a~5:on_demand:any:nvml":   "not written as",
		":on_demand:any:nvml":      "not written as",
		"a:spot:any:nvml":          "unknown term",
		"a:on_demand:DE:nvml":      "unknown region",
		"a:on_demand:any:NVML":     "not a lower-case word",
		"a:on_demand:any:":         "not a lower-case word",
		"a:on_demand:any:nvml:etc": "want MODEL:TERM:REGION:TIER",
		strings.Repeat("a", 200) + ":on_demand:any:nvml": "not written as",
	} {
		_, err := ParseCell(text)
		if e, ok := errors.AsType[*SyntaxError](err); !ok || !strings.Contains(e.Problem, want) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
}

func TestRegionGroups(t *testing.T) {
	for country, want := range map[string]string{
		"DE": "europe", "US": "americas", "JP": "asia", "ZA": "africa", "NZ": "oceania", "XX": "", "": "", "D": "", "E ": "", "de": "", "DEU": "",
	} {
		if got := RegionGroup(country); got != want {
			t.Errorf("%q: got %q, want %q", country, got, want)
		}
	}
}

func FuzzParseCell(f *testing.F) {
	f.Add("RTX_4090:on_demand:any:nvml")
	f.Add("odd~5f~3a:interruptible:asia:claimed")
	f.Fuzz(func(t *testing.T, s string) {
		c, err := ParseCell(s)
		if err == nil && c.String() != s {
			t.Errorf("%q was read as %q", s, c)
		}
	})
}

func TestCellRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		model := rapid.StringN(1, 20, maxModel).Draw(t, "model")
		want := Cell{Model: model, Term: OnDemand, Region: AnyRegion, Tier: "nvml"}
		if got, err := ParseCell(want.String()); err != nil || got != want {
			t.Fatalf("%q: got %+v, %v", want, got, err)
		}
	})
}
