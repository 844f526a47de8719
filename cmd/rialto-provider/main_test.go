package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"rialto/blockstore/mount"
	"rialto/cmd/internal/cli"
	"rialto/provider/agent"
	"rialto/provider/nvml"
)

// TestMain lets the test binary be its own helper process, as the command is.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case nvml.ChildVerb:
			os.Exit(nvml.ChildMain(os.Args[2:]))
		case mountVerb:
			os.Exit(mount.ServerMain(os.Args[2:]))
		}
	}
	os.Exit(m.Run())
}

// invoke runs the command and returns what it printed, and its error with the hints.
func invoke(t *testing.T, args ...string) (stdout, failure string) {
	t.Helper()
	var out, talk bytes.Buffer
	err := run(t.Context(), args, &out, &talk)
	var told bytes.Buffer
	if cli.Report(t.Context(), &told, "rialto-provider", err) != 0 {
		failure = told.String() + "!"
	}
	return out.String(), failure
}

func TestBadInputIsNamedWithTheNearestValidOne(t *testing.T) {
	t.Parallel()
	good := []string{"run", "--broker", "http://127.0.0.1:1", "--price", "0.40/h", "--simulate-gpu", "L4"}
	for want, args := range map[string][]string{
		"did you mean `rialto-provider doctor`?": {"docter"},
		"did you mean --price?":                  {"run", "--pirce", "1"},
		"--broker is missing":                    {"run", "--price", "0.40/h"},
		"--price is missing":                     {"run", "--broker", "http://x"},
		"--reserved-price $0.40/h: want more than nothing and less than the --price of $0.40/h": slices.Concat(good, []string{"--reserved-price", "0.40/h"}),
		"--reserved-min 31d: want 1s to 720h 00m":                                               slices.Concat(good, []string{"--reserved-price", "0.30/h", "--reserved-min", "31d"}),
		"not an address of a broker":                                                            {"run", "--broker", "x", "--price", "0.40/h"},
		`did you mean "RTX 4090"?`:                                                              append(slices.Clone(good), "--simulate-gpu", "RTX 409"),
		"from 1 to 16":                                                                          append(slices.Clone(good), "--simulate-gpu", "L4:99"),
		"--region":                                                                              append(slices.Clone(good), "--region", "Germany"),
		"--advertise-ip":                                                                        append(slices.Clone(good), "--advertise-ip", "here"),
		"--tunnel-ports":                                                                        append(slices.Clone(good), "--tunnel-ports", "9-8"),
		"--linger":                                                                              append(slices.Clone(good), "--linger", "10 min"),
		"--memory-per-gpu":                                                                      append(slices.Clone(good), "--memory-per-gpu", "32gigs"),
		"--allow-registry":                                                                      append(slices.Clone(good), "--allow-registry", "10.0.0.0/99"),
		`--disk-price "0.15": want a GiB's price by the month or by the hour; did you mean 0.15/month?`: append(slices.Clone(good), "--disk-price", "0.15"),
		"did you mean 0.15/month?":                                 append(slices.Clone(good), "--disk-price", "0.15/mnth"),
		"did you mean 0.0002/h?":                                   append(slices.Clone(good), "--disk-price", "0.0002/hour"),
		`--disk-price "cheap/h": want digits`:                      append(slices.Clone(good), "--disk-price", "cheap/h"),
		`--disk-price "0/h": want more than`:                       append(slices.Clone(good), "--disk-price", "0/h"),
		"--disk-price: $2.00/h for a GiB: want $0.00/h to $1.00/h": append(slices.Clone(good), "--disk-price", "2/h"),
		"--disk-price with --disk-per-job 5GiB: a job that does not say how much it may write pays for 10 GiB: want --disk-per-job 10GiB or more": append(slices.Clone(good), "--disk-price", "1/month", "--disk-per-job", "5GiB"),
		`--ingress-price "0.01/MB": want the price of a GB, 10^9 bytes; did you mean 0.01/GB?`:                                                    append(slices.Clone(good), "--ingress-price", "0.01/MB"),
		`--ingress-price "0": want more than nothing; without the flag traffic is free`:                                                           append(slices.Clone(good), "--ingress-price", "0"),
		`--egress-price "-1": below zero`:                       append(slices.Clone(good), "--egress-price=-1"),
		"--egress-price: $11.00 for a GB: want $0.00 to $10.00": append(slices.Clone(good), "--egress-price", "11"),
		"does not take \"now\"":                                 {"drain", "now"},
	} {
		if _, failure := invoke(t, args...); !strings.Contains(failure, want) {
			t.Errorf("%q: got %q, want %q in it", args, failure, want)
		}
	}
}

func TestStatusWithoutAnAgent(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, args := range [][]string{{"status", "--state", dir}, {"drain", "--state", dir}} {
		if _, failure := invoke(t, args...); !strings.Contains(failure, "no agent answers at "+filepath.Join(dir, "agent.sock")) {
			t.Errorf("%q: got %q", args, failure)
		}
	}
}

func TestStatusAndDrainOfAnAgent(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var drained atomic.Value
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(agent.Status{
			Disk: 208_333, Egress: 10_000_000,
			Peer: "12D3", Host: "h\x1b[2J", GPUs: []agent.GPUStatus{{UUID: "SIM-1", Model: "L4", Simulated: true, Offered: true}},
			Brokers: []agent.BrokerStatus{{Addr: "/ip4/192.0.2.1", Accusers: 2, DistrustedUntil: time.Date(2026, 11, 23, 19, 0, 0, 0, time.Local)}},
			Served:  2 << 20, Fetched: 1 << 20, Peers: []agent.PeerTraffic{{Peer: "12D3other", Fetched: 1 << 20, Served: 2 << 20}},
			Leases: []agent.LeaseStatus{{Lease: "l-1", Job: "j-1", State: "ended", Unacked: true, Ingress: 1_500_000, Egress: 2e9}},
		})
	})
	mux.HandleFunc("DELETE /v1/drain", func(http.ResponseWriter, *http.Request) { drained.Store("off") })
	mux.HandleFunc("POST /v1/drain", func(_ http.ResponseWriter, r *http.Request) { drained.Store(r.URL.RawQuery) })
	ctx, cancel := context.WithCancel(t.Context())
	l, err := listenControl(ctx, filepath.Join(dir, socketName))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- serveControl(ctx, l, mux) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	out, failure := invoke(t, "status", "--state", dir)
	if failure != "" || !strings.Contains(out, "L4 (simulated)") || !strings.Contains(out, "not acknowledged") || strings.Contains(out, "\x1b[2J") {
		t.Errorf("status: %q %q", out, failure)
	}
	for _, want := range []string{
		"2 MiB served to peers, 1 MiB fetched from them", "12D3other",
		"\n$0.000208333/h per GiB of disk, $0.01 per GB from a job\n", "1.5 MB", "2 GB",
		"2 hosts say that this one sent wrong blocks, and the broker names it as no source of blocks until 2026-11-23 19:00:00",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in %s", want, out)
		}
	}
	out, failure = invoke(t, "status", "--state", dir, "--json")
	var s agent.Status
	if err := json.Unmarshal([]byte(out), &s); err != nil || failure != "" || s.Peer != "12D3" || !strings.Contains(out, `"disk_nanousd_per_gib_hour": 208333,`) {
		t.Errorf("status --json: %q %v %s", out, err, failure)
	}
	if _, failure := invoke(t, "drain", "--now", "--state", dir); failure != "" || drained.Load() != "now=1" {
		t.Errorf("drain --now: %q, query %v", failure, drained.Load())
	}
	if _, failure := invoke(t, "drain", "--off", "--state", dir); failure != "" || drained.Load() != "off" {
		t.Errorf("drain --off: %q, asked %v", failure, drained.Load())
	}
}

func TestInstallDryRun(t *testing.T) {
	t.Parallel()
	out, failure := invoke(t, "install", "--dry-run", "--broker", "http://a", "--broker", "http://b", "--price", "0.40/h",
		"--disk-price", "0.15/month", "--egress-price", "0.01", "--simulate-gpu", "RTX 4090:2", "--name", "100% mine", "--state", "/srv/rialto")
	if failure != "" {
		t.Fatal(failure)
	}
	for _, want := range []string{
		` run --broker=http://a --broker=http://b --disk-price=0.15/month --egress-price=0.01 "--name=100%% mine" --price=0.40/h "--simulate-gpu=RTX 4090:2" --state=/srv/rialto` + "\n",
		"KillMode=process\n", "systemctl enable --now rialto-provider.service",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("got %s, want %q in it", out, want)
		}
	}
	if out, failure := invoke(t, "uninstall", "--dry-run"); failure != "" || !strings.Contains(out, "would remove") {
		t.Errorf("uninstall: %q %q", out, failure)
	}
}

func TestDoctor(t *testing.T) {
	t.Parallel()
	var out, talk bytes.Buffer
	err := run(t.Context(), []string{"doctor", "--json", "--simulated", "--runc", "/nonexistent/runc", "--state", t.TempDir()}, &out, &talk)
	var checks []check
	if jsonErr := json.Unmarshal(out.Bytes(), &checks); jsonErr != nil {
		t.Fatalf("%v: %s", jsonErr, out.String())
	}
	names := make(map[string]check)
	for _, c := range checks {
		names[c.Name] = c
		if c.Found == "" || c.OK && c.Advice != "" || !c.OK && c.Advice == "" {
			t.Errorf("%+v does not say what to do", c)
		}
	}
	for _, name := range []string{"root", "kernel", "tun", "overlayfs", "cgroups", "runc", "network namespaces", "WireGuard", "traffic limit", "disk space", "disk speed", "NVIDIA driver", "seccomp"} {
		if _, ok := names[name]; !ok {
			t.Errorf("no check of %s", name)
		}
	}
	exit, ok := errors.AsType[*cli.ExitError](err)
	if !ok || exit.Code != 1 || names["runc"].OK || names["NVIDIA driver"].Required {
		t.Errorf("got %v with %+v, want exit code 1 for the missing runc", err, checks)
	}
}

func TestBrokersAreResolved(t *testing.T) {
	t.Parallel()
	simulated := false
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"broker":"b","allow_simulated":%v,"version":"1","fee_ppm":0,"addrs":["/ip4/10.0.0.1/udp/1/quic-v1/p2p/b","/ip4/127.0.0.1/tcp/1/p2p/b","/ip4/127.0.0.1/udp/1/quic-v1/p2p/b"]}`, simulated)
	}))
	t.Cleanup(server.Close)
	log := slog.New(slog.DiscardHandler)
	if _, err := resolveBrokers(t.Context(), []string{server.URL}, true, log); err == nil || !strings.Contains(err.Error(), "simulated") {
		t.Errorf("simulated GPUs at a real market: got %v", err)
	}
	simulated = true
	got, err := resolveBrokers(t.Context(), []string{"/dns4/x/tcp/1/p2p/c", server.URL}, true, log)
	if want := []string{"/dns4/x/tcp/1/p2p/c", "/ip4/127.0.0.1/udp/1/quic-v1/p2p/b"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}

func TestAnnounce(t *testing.T) {
	t.Parallel()
	got := announce([]string{"/ip4/0.0.0.0/udp/7072/quic-v1", "/ip4/0.0.0.0/tcp/0"}, []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")})
	want := []string{"/ip4/192.0.2.1/udp/7072/quic-v1", "/ip6/2001:db8::1/udp/7072/quic-v1"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func FuzzParsePorts(f *testing.F) {
	for _, s := range []string{"51000-51100", "1", "", "0-1", "70000", "9-8"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if r, err := parsePorts(s); err == nil && (r.First > r.Last || s != "" && r.First == 0) {
			t.Fatalf("%q: got %+v", s, r)
		}
	})
}
