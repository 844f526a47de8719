package cli

import (
	"math"
	"strings"
	"testing"
)

func TestParseTraffic(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want int64
		err  string
	}{
		{"20GB", 20e9, ""},
		{"20 gb", 20e9, ""},
		{"1.5GB", 15e8, ""},
		{"0.000000001GB", 1, ""},
		{"1GiB", 1 << 30, ""},
		{"7B", 7, ""},
		{"0GB", 0, ""},
		{"9223372036854775807B", math.MaxInt64, ""},
		{"", 0, `traffic "": want a number and a unit, such as 20GB`},
		{"GB", 0, "want a number and a unit"},
		{"-1GB", 0, "want a number and a unit"},
		{"20", 0, `traffic "20": unit missing; did you mean 20GB?`},
		{"20GX", 0, `traffic "20GX": unknown unit "GX"; did you mean 20GB? (units: B, kB, MB, GB, TB, KiB, MiB, GiB, TiB)`},
		{"20 parsec", 0, "did you mean 20GB?"},
		{"1.2.3GB", 0, `"1.2.3" is not a number`},
		{"0.0000000001GB", 0, "not a whole number of bytes"},
		{"9223372036854775808B", 0, "too large"},
		{"9223372037GB", 0, "too large"},
		{"99999999999999999999999999TB", 0, "too large"},
	} {
		got, err := ParseTraffic(tt.in)
		if got != tt.want || (err == nil) != (tt.err == "") || (err != nil && !strings.Contains(err.Error(), tt.err)) {
			t.Errorf("ParseTraffic(%q): got %d, %v; want %d, %q", tt.in, got, err, tt.want, tt.err)
		}
	}
}

func TestFormatTraffic(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 7: "7 B", 999: "999 B", 1000: "1 kB", 1_500_000: "1.5 MB", 999_400_000: "999 MB", 1e9: "1 GB", 20e9: "20 GB",
		1_234_000_000: "1.23 GB", 12_340_000_000: "12.3 GB", 1e15: "1000 TB", -5: "-5 B",
	} {
		if got := FormatTraffic(n); got != want {
			t.Errorf("FormatTraffic(%d): got %s, want %s", n, got, want)
		}
	}
}

func FuzzParseTraffic(f *testing.F) {
	for _, s := range []string{"20GB", "1.5 g", "0.000001TiB", "", "GB", "١GB", ".5kB", "5.MB"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if n, err := ParseTraffic(s); err == nil && n < 0 {
			t.Errorf("ParseTraffic(%q): got %d, want an error", s, n)
		}
	})
}
