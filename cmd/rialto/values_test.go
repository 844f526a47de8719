package main

import (
	"strings"
	"testing"
)

func TestParseValues(t *testing.T) {
	gpu := func(s string) (any, error) { return parseGPU(s) }
	env := func(s string) (any, error) { return parseEnv(s) }
	weights := func(s string) (any, error) { return parseMount(s) }
	ports := func(s string) (any, error) { f, err := parseForward(s); return f.String(), err }
	disk := func(s string) (any, error) { return parseDisk(s) }
	traffic := func(s string) (any, error) { return parseTraffic(s) }
	for _, tt := range []struct {
		parse func(string) (any, error)
		in    string
		err   string // empty: fine
	}{
		{gpu, "RTX 4090", ""},
		{gpu, "RTX 4090:2", ""},
		{gpu, "any:16", ""},
		{gpu, "any:0", `"any:0": "0" GPUs: want a count from 1 to 16`},
		{gpu, "any:17", "want a count from 1 to 16"},
		{gpu, "any:two", "want a count from 1 to 16"},
		{gpu, "", "want MODEL, MODEL:COUNT or any:COUNT"},
		{gpu, ":2", "want MODEL, MODEL:COUNT or any:COUNT"},
		{disk, "16MiB", ""},
		{disk, "16383GiB", ""},
		{disk, "0GiB", `size "0GiB": too small; the least is 16MiB`},
		{disk, "15MiB", "the least is 16MiB"},
		{disk, "16TiB", `size "16TiB": too large; the most is 16777215MiB`},
		{disk, "9999999TiB", "too large"},
		{disk, "-1GiB", "want a number and a unit"},
		{disk, "50GB", `unknown unit "GB"; did you mean "GiB"?`},
		{disk, "50", "did you mean 50GiB?"},
		{traffic, "1B", ""},
		{traffic, "1000TB", ""},
		{traffic, "0GB", `traffic "0GB": too little; the least is 1B`},
		{traffic, "1001TB", `traffic "1001TB": too much; the most is 1000TB`},
		{traffic, "99999999TB", "too large"},
		{traffic, "-1GB", "want a number and a unit"},
		{traffic, "20GX", "did you mean 20GB?"},
		{traffic, "20", "did you mean 20GB?"},
		{env, "A=b=c", ""},
		{env, "A=", ""},
		{env, "A", "want KEY=VALUE"},
		{env, "=b", "want KEY=VALUE"},
		{weights, "llama:/models", ""},
		{weights, "llama", "want NAME:/absolute/path"},
		{weights, "llama:models", "want NAME:/absolute/path"},
		{weights, "llama:/a/../etc", "want NAME:/absolute/path"},
		{ports, "8080:80", ""},
		{ports, "80", ""},
		{ports, "0:80", ""},
		{ports, "[::1]:8080:80", ""},
		{ports, "0.0.0.0:8080:80", ""},
		{ports, "8080:http", `"http" is not a port`},
		{ports, "8080:0", "port 0 in the container"},
		{ports, "99999:80", `"99999" is not a port`},
		{ports, "localhost:8080:80", "local address is not an IP address"},
		{ports, "[::1]", "local address is not an IP address"},
		{ports, "", "is not a port"},
	} {
		_, err := tt.parse(tt.in)
		if (err == nil) != (tt.err == "") || (err != nil && !strings.Contains(err.Error(), tt.err)) {
			t.Errorf("%q: got error %v, want %q", tt.in, err, tt.err)
		}
	}
	if f, _ := parseForward("80"); f.String() != "127.0.0.1:80 → 80" {
		t.Errorf("parseForward(80): got %s, want 127.0.0.1:80 → 80", f)
	}
}

func FuzzParseForward(f *testing.F) {
	for _, s := range []string{"80", "8080:80", "[::1]:8080:80", "1.2.3.4:0:1", "::", "[", ":"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if got, err := parseForward(s); err == nil && (got.remote == 0 || !got.local.Addr().IsValid()) {
			t.Errorf("parseForward(%q): got %v, want an error", s, got)
		}
	})
}

func FuzzParseGPU(f *testing.F) {
	for _, s := range []string{"any", "RTX 4090:2", ":", "a:b:c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if got, err := parseGPU(s); err == nil && (got.Model == "" || got.Count < 1 || got.Count > maxGPUs) {
			t.Errorf("parseGPU(%q): got %+v, want an error", s, got)
		}
	})
}

// TestForwardArg: what a hint says can be typed.
func TestForwardArg(t *testing.T) {
	for _, s := range []string{"8080:80", "0.0.0.0:8080:80", "[::1]:8080:80"} {
		f, err := parseForward(s)
		if err != nil || f.arg() != s {
			t.Errorf("%s: %q, %v", s, f.arg(), err)
		}
	}
}
