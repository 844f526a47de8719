package pricing

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
)

func TestMoneyText(t *testing.T) {
	for _, c := range []struct {
		m    Money
		want string
	}{
		{0, "$0.00"},
		{1, "$0.000000001"},
		{-1, "-$0.000000001"},
		{USD, "$1.00"},
		{USD / 2, "$0.50"},
		{1_870_000_000, "$1.87"},
		{1_234_500_000, "$1.2345"},
		{math.MaxInt64, "$9223372036.854775807"},
		{math.MinInt64, "-$9223372036.854775808"},
	} {
		if got := c.m.String(); got != c.want {
			t.Errorf("%d: got %s, want %s", int64(c.m), got, c.want)
		}
		if back, err := ParseMoney(c.want); err != nil || back != c.m {
			t.Errorf("parse %s: got %d, %v", c.want, int64(back), err)
		}
	}
}

func TestParseRate(t *testing.T) {
	for in, want := range map[string]string{
		"0.40/h":       "$0.40/h",
		"$1.87/h":      "$1.87/h",
		"0.40":         "$0.40/h",
		"$0.000111/s":  "$0.3996/h",
		"2":            "$2.00/h",
		"0":            "$0.00/h",
		"00.5/h":       "$0.50/h",
		"0.000000001":  "$0.000000001/h",
		"9223372036/h": "$9223372036.00/h",
	} {
		if got, err := ParseRate(in); err != nil || got.String() != want {
			t.Errorf("%s: got %v, %v, want %s", in, got, err, want)
		}
	}
}

func TestBadTextIsNamed(t *testing.T) {
	for in, want := range map[string]string{
		"":              `rate "": empty`,
		"/h":            `rate "/h": empty`,
		"0.40/hour":     `rate "0.40/hour": unknown unit "hour": want h (hour) or s (second) (did you mean "0.40/h"?)`,
		"0.40/sec":      `rate "0.40/sec": unknown unit "sec": want h (hour) or s (second) (did you mean "0.40/s"?)`,
		"0.40/":         `rate "0.40/": unknown unit "": want h (hour) or s (second) (did you mean "0.40/h"?)`,
		"-1/h":          `rate "-1/h": below zero`,
		"1e3/h":         `rate "1e3/h": want digits and at most one point, such as 0.40`,
		"1,000/h":       `rate "1,000/h": want digits and at most one point, such as 0.40`,
		" 1/h":          `rate " 1/h": want digits and at most one point, such as 0.40`,
		"1.2.3/h":       `rate "1.2.3/h": want digits and at most one point, such as 0.40`,
		".5/h":          `rate ".5/h": want a digit before the point`,
		"5./h":          `rate "5./h": want a digit after the point`,
		"0.1234567890":  `rate "0.1234567890": more than nine decimals`,
		"9223372037/h":  `rate "9223372037/h": too large`,
		"99999999999/s": `rate "99999999999/s": too large`,
	} {
		_, err := ParseRate(in)
		if err == nil || err.Error() != want {
			t.Errorf("%q: got %v, want %s", in, err, want)
		}
	}
	if _, err := ParseMoney("$" + strings.Repeat("9", 10_000)); err == nil || len(err.Error()) > 200 {
		t.Errorf("long input: got %v", err)
	}
	if _, err := ParseMoney("9223372036.854775808"); err == nil {
		t.Error("one above the greatest amount was read")
	}
}

func TestJSONCarriesText(t *testing.T) {
	type bill struct {
		Cost Money
		Rate Rate
	}
	b, err := json.Marshal(bill{Cost: 1_500_000_000, Rate: 400_000_000})
	if err != nil || string(b) != `{"Cost":"$1.50","Rate":"$0.40/h"}` {
		t.Fatalf("got %s, %v", b, err)
	}
	var back bill
	if err := json.Unmarshal(b, &back); err != nil || back.Cost != 1_500_000_000 || back.Rate != 400_000_000 {
		t.Fatalf("got %+v, %v", back, err)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"0.40/h", "$1.87/h", "0.000111/s", "-$1.5", "9223372036.854775807", "-9223372036.854775808", "$", "/", "1/m"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if m, err := ParseMoney(s); err == nil {
			if back, err := ParseMoney(m.String()); err != nil || back != m {
				t.Errorf("%q is %d, but its text %s is %d, %v", s, int64(m), m, int64(back), err)
			}
		}
		if r, err := ParseRate(s); err == nil {
			if back, err := ParseRate(r.String()); err != nil || back != r || r < 0 {
				t.Errorf("%q is %d, but its text %s is %d, %v", s, int64(r), r, int64(back), err)
			}
		}
	})
}
