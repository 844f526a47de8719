package cli

import (
	"testing"
	"time"
)

func TestParseMiB(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want uint64
		err  string
	}{
		{"24GiB", 24576, ""},
		{"24 GiB", 24576, ""},
		{"24g", 24576, ""},
		{"1.5GiB", 1536, ""},
		{"512MiB", 512, ""},
		{"1TiB", 1 << 20, ""},
		{"24", 0, `size "24": unit missing; did you mean 24GiB?`},
		{"24GB", 0, `size "24GB": unknown unit "GB"; did you mean "GiB"? (units: MiB, GiB, TiB)`},
		{"24MegaB", 0, `size "24MegaB": unknown unit "MegaB"; did you mean "MiB"? (units: MiB, GiB, TiB)`},
		{"GiB", 0, `size "GiB": want a number and a unit, such as 24GiB`},
		{"0.3MiB", 0, `size "0.3MiB": not a whole number of MiB`},
		{"1.2.3GiB", 0, `size "1.2.3GiB": "1.2.3" is not a number in range`},
		{"99999999999999999999GiB", 0, `size "99999999999999999999GiB": "99999999999999999999" is not a number in range`},
		{"5000TiB", 0, ``},
	} {
		got, err := ParseMiB(tt.in)
		if tt.in == "5000TiB" {
			if err == nil || err.Error() != `size "5000TiB": too large` {
				t.Errorf("ParseMiB(%q): got %d, %v; want too large", tt.in, got, err)
			}
			continue
		}
		if got != tt.want || (err == nil) != (tt.err == "") || (err != nil && err.Error() != tt.err) {
			t.Errorf("ParseMiB(%q): got %d, %v; want %d, %s", tt.in, got, err, tt.want, tt.err)
		}
	}
}

func TestParseDuration(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want time.Duration
		err  string
	}{
		{"1h30m", 90 * time.Minute, ""},
		{"2d", 48 * time.Hour, ""},
		{"90", 0, `duration "90": unit missing; did you mean 90s or 90m?`},
		{"1hour", 0, `duration "1hour": unknown unit "hour"; did you mean "1h"? (units: s, m, h, d)`},
		{"soon", 0, `duration "soon": want a number and a unit, such as 15m`},
		{"-1h", 0, `duration "-1h": must be more than zero`},
		{"0s", 0, `duration "0s": must be more than zero`},
	} {
		got, err := ParseDuration(tt.in)
		if got != tt.want || (err == nil) != (tt.err == "") || (err != nil && err.Error() != tt.err) {
			t.Errorf("ParseDuration(%q): got %v, %v; want %v, %s", tt.in, got, err, tt.want, tt.err)
		}
	}
}

func TestFormat(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1536: "1.5 KiB", 1 << 20: "1 MiB", 212 << 20: "212 MiB", 1 << 40: "1 TiB"} {
		if got := FormatBytes(n); got != want {
			t.Errorf("FormatBytes(%d): got %q, want %q", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{
		0: "0 s", 300 * time.Microsecond: "300 µs", 48 * time.Millisecond: "48 ms", 3200 * time.Millisecond: "3.2 s",
		4*time.Minute + 10*time.Second: "4m 10s", 90 * time.Minute: "1h 30m",
	} {
		if got := FormatDuration(d); got != want {
			t.Errorf("FormatDuration(%v): got %q, want %q", d, got, want)
		}
	}
}

func FuzzParseMiB(f *testing.F) {
	for _, s := range []string{"24GiB", "1.5 g", "0.000001TiB", "", "GiB", "١GiB"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		mib, err := ParseMiB(s)
		if err == nil && mib > 1<<33 {
			t.Errorf("ParseMiB(%q): got %d, want an error", s, mib)
		}
	})
}

func FuzzParseDuration(f *testing.F) {
	for _, s := range []string{"1h", "2d", "65535d", "90", "-1s", "1h1h", "µ"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if d, err := ParseDuration(s); err == nil && d <= 0 {
			t.Errorf("ParseDuration(%q): got %v, want an error", s, d)
		}
	})
}
