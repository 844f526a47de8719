package cli

import "testing"

func FuzzParseRegistries(f *testing.F) {
	for _, s := range []string{"10.0.0.0/8", "registry.lan:5000", "::1", "[::1]:5000", "a/b", ":5", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParseRegistries([]string{s})
		if err == nil && len(p.Hosts)+len(p.Networks) != 1 {
			t.Fatalf("%q: got %+v", s, p)
		}
	})
}
