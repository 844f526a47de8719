package image

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
)

func TestPolicy(t *testing.T) {
	tests := []struct {
		address string
		want    bool
	}{
		{"93.184.216.34:443", true},
		{"93.184.216.34:80", true},
		{"[2606:2800:220:1::1]:443", true},
		{"93.184.216.34:22", false},
		{"127.0.0.1:443", false},
		{"127.9.9.9:443", false},
		{"0.0.0.0:80", false},
		{"0.1.2.3:80", false},
		{"10.0.0.1:443", false},
		{"172.16.5.5:443", false},
		{"192.168.1.1:443", false},
		{"169.254.169.254:80", false}, // metadata
		{"100.100.100.200:80", false}, // metadata of another cloud, in carrier NAT space
		{"192.0.0.192:80", false},
		{"198.18.0.1:80", false},
		{"224.0.0.1:80", false},
		{"240.0.0.1:80", false},
		{"255.255.255.255:80", false},
		{"[::1]:443", false},
		{"[::]:443", false},
		{"[fe80::1%eth0]:443", false},
		{"[fc00::1]:443", false},
		{"[fd00:ec2::254]:80", false}, // metadata over IPv6
		{"[ff02::1]:443", false},
		{"[::ffff:127.0.0.1]:443", false},
		{"[::ffff:169.254.169.254]:80", false},
		{"[::ffff:93.184.216.34]:443", true},
		{"[::127.0.0.1]:443", false},
		{"[64:ff9b::7f00:1]:443", false}, // NAT64 to loopback
		{"[2002:7f00:1::1]:443", false},  // 6to4 to loopback
		{"[2001:0:7f00:1::1]:443", false},
		{"[2001:db8::1]:443", false},
		{"not an address", false},
		{"10.7.0.5:5000", true}, // allowed by network
	}
	p := Policy{Networks: []netip.Prefix{netip.MustParsePrefix("10.7.0.0/16")}}
	for _, tc := range tests {
		err := p.control(t.Context(), "tcp", tc.address, nil)
		if (err == nil) != tc.want || err != nil && !errors.Is(err, ErrForbidden) {
			t.Errorf("%s: error = %v, want allowed %v", tc.address, err, tc.want)
		}
	}
}

// A name and a redirect end at an address, and that is what is judged.
func TestPolicyJudgesWhereItEnds(t *testing.T) {
	hits := 0
	canary := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { hits++ }))
	defer canary.Close()
	_, port, _ := strings.Cut(strings.TrimPrefix(canary.URL, "http://"), ":")
	door := httptest.NewServer(http.RedirectHandler(canary.URL, http.StatusFound))
	defer door.Close()

	get := func(p Policy, url string) error {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := (&http.Client{Transport: p.Transport()}).Do(r)
		if err == nil {
			resp.Body.Close()
		}
		return err
	}
	doorOnly := Policy{Hosts: []string{strings.TrimPrefix(door.URL, "http://")}}
	for _, tc := range []struct {
		p   Policy
		url string
	}{
		{Policy{}, canary.URL},
		{Policy{}, "http://localhost:" + port},
		{Policy{}, "http://[::ffff:127.0.0.1]:" + port},
		{Policy{}, "http://0:" + port},
		{doorOnly, door.URL},
	} {
		if err := get(tc.p, tc.url); err == nil {
			t.Errorf("%s was reached", tc.url)
		}
	}
	if hits != 0 {
		t.Errorf("the canary was hit %d times", hits)
	}
	if err := get(Policy{Hosts: []string{"127.0.0.1"}}, door.URL); err != nil || hits != 1 {
		t.Errorf("allowed host: %v, %d hits", err, hits)
	}
}
