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
