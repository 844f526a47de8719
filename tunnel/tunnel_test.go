package tunnel_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"rialto/tunnel"
)

func TestPlan(t *testing.T) {
	// Both sides derive the plan on their own: it must never change.
	p := tunnel.NewPlan("lease-1")
	if got, want := fmt.Sprint(p), "{fd52:1a17:4e38:d5a4::/64 fd52:1a17:4e38:d5a4::1 fd52:1a17:4e38:d5a4::2}"; got != want {
		t.Errorf("got %v, want %v", got, want)
	}
	rapid.Check(t, func(t *rapid.T) {
		lease, other := rapid.String().Draw(t, "lease"), rapid.String().Draw(t, "other")
		p := tunnel.NewPlan(lease)
		if p != tunnel.NewPlan(lease) {
			t.Fatal("equal leases, different plans")
		}
		if p.Job == p.Customer || !p.Prefix.Contains(p.Job) || !p.Prefix.Contains(p.Customer) || p.Prefix.Bits() != 64 {
			t.Fatalf("bad plan %v", p)
		}
		if !p.Job.IsPrivate() || !netip.MustParsePrefix("fd52:1a17::/32").Contains(p.Customer) {
			t.Fatalf("%v is outside our block of unique local space", p)
		}
		if lease != other && p == tunnel.NewPlan(other) {
			t.Fatalf("%q and %q share a plan", lease, other)
		}
	})
}

func TestPrivateKeyNeverPrints(t *testing.T) {
	k, err := tunnel.NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	c := tunnel.Config{PrivateKey: k}
	var log bytes.Buffer
	for _, h := range []slog.Handler{slog.NewTextHandler(&log, nil), slog.NewJSONHandler(&log, nil)} {
		slog.New(h).Info("x", "key", k, "config", c, "pointer", &k)
	}
	if asJSON, err := json.Marshal(c); err == nil {
		t.Errorf("the key was marshalled: %s", asJSON)
	}
	for _, s := range []string{
		fmt.Sprint(k), fmt.Sprintf("%v %+v %#v %s %q %x %X %d %v", k, k, k, k, k, k, k, k, &k),
		fmt.Sprintf("%v %+v %#v", c, c, c), fmt.Errorf("with %v", k).Error(), log.String(),
	} {
		for _, leak := range []string{k.Base64(), hex.EncodeToString(k[:]), strings.ToUpper(hex.EncodeToString(k[:])), strings.Trim(fmt.Sprint([32]byte(k)), "[]")} {
			if strings.Contains(s, leak) || strings.Contains(s, strings.ReplaceAll(leak, " ", ",")) {
				t.Errorf("the key shows in %s", s)
			}
		}
	}
	if !strings.Contains(fmt.Sprint(c), "redacted") {
		t.Error("the key is not shown as redacted")
	}
	if _, err := tunnel.ParsePrivateKey("secret" + k.Base64()); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("parse error %v; want one that does not repeat the input", err)
	}
}

func TestKeyText(t *testing.T) {
	k, err := tunnel.NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	p, err := k.Public()
	if err != nil {
		t.Fatal(err)
	}
	var back tunnel.Key
	if err := back.UnmarshalText([]byte(p.String())); err != nil || back != p {
		t.Errorf("got %v, %v; want %v", back, err, p)
	}
	if again, err := tunnel.ParsePrivateKey(k.Base64()); err != nil || again != k {
		t.Errorf("private key does not come back: %v", err)
	}
	for _, bad := range []string{"", "AAAA", p.String() + "=", p.String()[:43], strings.Repeat("A", 43) + "B", "\n" + p.String()} {
		if _, err := tunnel.ParseKey(bad); err == nil {
			t.Errorf("%q is a key", bad)
		}
	}
}

// valid is a customer's end.
func valid(t *testing.T) tunnel.Config {
	t.Helper()
	own, err := tunnel.NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	far, err := tunnel.NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	public, err := far.Public()
	if err != nil {
		t.Fatal(err)
	}
	p := tunnel.NewPlan("lease-1")
	return tunnel.Config{
		PrivateKey: own,
		Address:    p.Customer,
		Peer:       tunnel.Peer{PublicKey: public, Address: p.Job, Endpoint: netip.MustParseAddrPort("192.0.2.1:51820")},
	}
}

func TestValidate(t *testing.T) {
	if err := valid(t).Validate(); err != nil {
		t.Error(err)
	}
	for want, spoil := range map[string]func(c *tunnel.Config){
		"no private key":     func(c *tunnel.Config) { c.PrivateKey = tunnel.PrivateKey{} },
		"no public key":      func(c *tunnel.Config) { c.Peer.PublicKey = tunnel.Key{} },
		"our own key":        func(c *tunnel.Config) { c.Peer.PublicKey, _ = c.PrivateKey.Public() },
		"both ends":          func(c *tunnel.Config) { c.Peer.Address = c.Address },
		"address 10.0.0.1":   func(c *tunnel.Config) { c.Address = netip.MustParseAddr("10.0.0.1") },
		"peer address inval": func(c *tunnel.Config) { c.Peer.Address = netip.Addr{} },
		"2001:db8::1":        func(c *tunnel.Config) { c.Peer.Address = netip.MustParseAddr("2001:db8::1") },
		"fd00::1%eth0":       func(c *tunnel.Config) { c.Address = netip.MustParseAddr("fd00::1%eth0") },
		"keepalive 1.5s":     func(c *tunnel.Config) { c.Peer.Keepalive = 1500 * time.Millisecond },
		"keepalive -1s":      func(c *tunnel.Config) { c.Peer.Keepalive = -time.Second },
		"keepalive 24h":      func(c *tunnel.Config) { c.Peer.Keepalive = 24 * time.Hour },
		"endpoint 0.0.0.0":   func(c *tunnel.Config) { c.Peer.Endpoint = netip.MustParseAddrPort("0.0.0.0:1") },
	} {
		c := valid(t)
		spoil(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
}

func TestWireGuardConf(t *testing.T) {
	c := valid(t)
	got, err := tunnel.WireGuardConf(c)
	if err != nil {
		t.Fatal(err)
	}
	want := "[Interface]\nPrivateKey = " + c.PrivateKey.Base64() + "\nAddress = fd52:1a17:4e38:d5a4::2/128\nMTU = 1280\n" +
		"\n[Peer]\nPublicKey = " + c.Peer.PublicKey.String() + "\nEndpoint = 192.0.2.1:51820\n" +
		"AllowedIPs = fd52:1a17:4e38:d5a4::1/128\nPersistentKeepalive = 25\n"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	c.Peer.Endpoint = netip.AddrPort{}
	if _, err := tunnel.WireGuardConf(c); err == nil {
		t.Error("a conf without an endpoint, but the provider never initiates")
	}
}

// TestWireGuardConfTool has the stock wg-quick read the file; it needs no interface for that.
func TestWireGuardConfTool(t *testing.T) {
	quick, err := exec.LookPath("wg-quick")
	if err != nil {
		t.Skip("needs wg-quick")
	}
	if os.Getuid() != 0 {
		t.Skip("needs root: wg-quick asks for it before it reads")
	}
	conf, err := tunnel.WireGuardConf(valid(t))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "rlconf.conf")
	if err := os.WriteFile(path, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(quick, "strip", path).Output()
	if err != nil {
		t.Fatalf("wg-quick strip: %v", err)
	}
	for _, line := range []string{"PrivateKey = ", "AllowedIPs = fd52:1a17:4e38:d5a4::1/128", "PersistentKeepalive = 25"} {
		if !strings.Contains(string(out), line) {
			t.Errorf("wg-quick lost %q:\n%s", line, out)
		}
	}
	if strings.Contains(string(out), "MTU") {
		t.Error("wg-quick did not recognise MTU")
	}
}

func FuzzParseEndpoint(f *testing.F) {
	for _, s := range []string{"192.0.2.1:51820", "[2001:db8::1]:1", "[::ffff:1.2.3.4]:9", "[fe80::1%eth0]:1", "host:1", ":1", "1.2.3.4:0", "1.2.3.4:65536", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ap, err := tunnel.ParseEndpoint(s)
		if err != nil {
			return
		}
		if ap.Port() == 0 || ap.Addr().Zone() != "" || ap.Addr().Is4In6() || ap.Addr().IsUnspecified() {
			t.Errorf("%q gives %v", s, ap)
		}
		if again, err := tunnel.ParseEndpoint(ap.String()); err != nil || again != ap {
			t.Errorf("%v comes back as %v, %v", ap, again, err)
		}
	})
}

func FuzzParseKey(f *testing.F) {
	f.Add("")
	f.Add(strings.Repeat("A", 43) + "=")
	f.Fuzz(func(t *testing.T, s string) {
		if k, err := tunnel.ParseKey(s); err == nil && k.String() != s {
			t.Errorf("%q is written %q", s, k)
		}
	})
}
