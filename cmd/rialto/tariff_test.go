//go:build unix

package main

import (
	"encoding/json"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/creack/pty"

	"rialto/broker"
	"rialto/broker/api"
	"rialto/broker/wire"
	"rialto/tunnel"
)

// charging is an offer that charges for everything; $0.144 for a GiB a month of 720 hours.
func charging(host string) api.Offer {
	return api.Offer{
		Model: "RTX 4090", GPUMemoryMiB: 24 << 10, Free: 1, GPUs: 1, RateNanoUSDPerHour: 400_000_000, TotalRateNanoUSDPerHour: 400_000_000,
		AllInNanoUSDPerHour: 417_000_000, Host: host, Provider: "12D3KooWabcdefgh", Region: "DE", Level: "nvml",
		Tariff: api.Tariff{DiskNanoUSDPerGiBHour: 200_000, IngressNanoUSDPerGB: 5_000_000, EgressNanoUSDPerGB: 10_000_000},
	}
}

// Prices for disk and traffic are in the table where any host has them, and only there.
func TestOffersShowTariffs(t *testing.T) {
	free, out := charging("free"), charging("out")
	free.Tariff, free.AllInNanoUSDPerHour = api.Tariff{}, 400_000_000
	out.Tariff = api.Tariff{EgressNanoUSDPerGB: 10_000_000}
	table := func(offers ...api.Offer) string {
		var b strings.Builder
		if err := writeOffers(&b, api.Offers{Offers: offers, Matched: len(offers), Total: len(offers)}); err != nil {
			t.Fatal(err)
		}
		return strings.Join(strings.Fields(b.String()), " ")
	}
	got := table(charging("all"), out, free)
	for _, want := range []string{
		"GPU-HOUR ALL IN CPUS", "REGION GiB-MONTH GB IN/OUT", "all …abcdefgh nvml DE $0.144 $0.005/$0.01 ", "out …abcdefgh nvml DE – $0/$0.01 ",
		"$0.40 $0.40 0 0 B free …abcdefgh nvml DE – – ALL IN is", "$0.40 $0.417 0",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	if got := table(free); strings.Contains(got, "ALL IN") || strings.Contains(got, "GB") && !strings.Contains(got, "24 GiB") {
		t.Errorf("a market without such prices shows\n%s", got)
	}
}

// On a narrow terminal the price with disk and traffic stays, and what it is made of goes.
func TestOffersOnNarrowTerminal(t *testing.T) {
	for columns, want := range map[uint16]string{
		80:  "GPU MEMORY FREE GPU-HOUR ALL IN CPUS HOST PROOF REGION",
		120: "GPU MEMORY FREE GPU-HOUR ALL IN CPUS RAM HOST PROOF REGION GiB-MONTH GB IN/OUT",
	} {
		master, terminal, err := pty.Open()
		if err != nil {
			t.Skipf("no terminal here: %v", err)
		}
		t.Cleanup(func() { _ = master.Close() })
		if err := pty.Setsize(terminal, &pty.Winsize{Rows: 24, Cols: columns}); err != nil {
			t.Fatal(err)
		}
		o := charging("alpha")
		if err := writeOffers(terminal, api.Offers{Offers: []api.Offer{o}, Matched: 1, Total: 1}); err != nil {
			t.Fatal(err)
		}
		if err := terminal.Close(); err != nil {
			t.Fatal(err)
		}
		out, _ := io.ReadAll(master) // reading a terminal whose last user has gone is an error
		lines := strings.Split(regexp.MustCompile("\x1b\\[[0-9;]*m").ReplaceAllString(string(out), ""), "\r\n")
		if got := strings.Join(strings.Fields(lines[0]), " "); got != want {
			t.Errorf("%d columns: %q, want %q", columns, got, want)
		}
		for _, line := range lines[:3] {
			if n := utf8.RuneCountInString(line); n > int(columns) {
				t.Errorf("%d columns: %d in %q", columns, n, line)
			}
		}
	}
}

// A quote names what comes beside the GPUs, and the parts of what the job is expected to cost.
func TestQuoteShowsTariff(t *testing.T) {
	o := charging("alpha")
	o.Expected = api.Cost{RunNanoUSD: 400_000_000, DiskNanoUSD: 10_000_000, TrafficNanoUSD: 300_000_000, TotalNanoUSD: 710_000_000}
	r := &request{gpu: broker.GPURequest{Count: 1}, duration: time.Hour, diskMiB: 50 << 10, traffic: 20e9}
	quote := func() string {
		var b strings.Builder
		q := api.Quote{Best: o, RateNanoUSDPerHour: 400_000_000, CostNanoUSD: 710_000_000, HoldNanoUSD: 710_000_000, Search: api.Offers{Offers: []api.Offer{o}, Matched: 1, Total: 1}}
		if err := writeQuote(&b, q, r); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	got := quote()
	for _, want := range []string{
		"$0.71 at most, with disk and traffic, fee included",
		"\nBeside its GPUs the host charges $0.144 for a GiB of disk a month, and $0.005 for a GB in and $0.01 out: you pay for 50 GiB of disk and 20 GB of traffic each way at most.\n",
		"disk      $0.01  50 GiB at $0.144 for a GiB a month\n", "traffic   $0.30  20 GB each way, if so much is carried, at ",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	o.Tariff, o.Expected.DiskNanoUSD, o.Expected.TrafficNanoUSD = api.Tariff{}, 0, 0
	if got := quote(); strings.Contains(got, "isk") || strings.Contains(got, "raffic") {
		t.Errorf("a host that charges for nothing else:\n%s", got)
	}
}

func TestBesideLine(t *testing.T) {
	for want, tariff := range map[string]api.Tariff{
		"": {},
		"beside its GPUs the host charges $0.10 for a GiB of disk a month: you pay for 10 GiB of disk":                             {DiskNanoUSDPerGiBHour: 138_889},
		"beside its GPUs the host charges $0.01 for a GB of traffic: you pay for 1 GB of traffic each way at most":                 {IngressNanoUSDPerGB: 1e7, EgressNanoUSDPerGB: 1e7},
		"beside its GPUs the host charges $0.01 for a GB in: you pay for 1 GB of traffic each way at most":                         {IngressNanoUSDPerGB: 1e7},
		"beside its GPUs the host charges $0.000000001 for a GB out: you pay for 1 GB of traffic each way at most":                 {EgressNanoUSDPerGB: 1},
		"beside its GPUs the host charges $720.00 for a GiB of disk a month: you pay for 10 GiB of disk":                           {DiskNanoUSDPerGiBHour: 1e9},
		"beside its GPUs the host charges more than can be said for a GiB of disk a month: you pay for 10 GiB of disk":             {DiskNanoUSDPerGiBHour: math.MaxInt64},
		"beside its GPUs the host charges $9223372036.854775807 for a GB of traffic: you pay for 1 GB of traffic each way at most": {IngressNanoUSDPerGB: math.MaxInt64, EgressNanoUSDPerGB: math.MaxInt64},
		"beside its GPUs the host charges $0.00000072 for a GiB of disk a month: you pay for 10 GiB of disk":                       {DiskNanoUSDPerGiBHour: 1},
	} {
		if got := besideLine(tariff, 10<<10, 1e9); got != want {
			t.Errorf("%+v: got %q, want %q", tariff, got, want)
		}
	}
}

// TestShowJob: what the tunnel carried, how much of it is paid for, and that more is slow.
func TestShowJob(t *testing.T) {
	now := time.Now()
	job := func(change ...func(*api.Job)) string {
		j := api.Job{
			ID: "j-one", State: "running", Image: "python:3", Command: []string{"python3\x1b[1m"}, GPUCount: 2, GPUModel: "any", RateNanoUSDPerHour: 400_000_000,
			Lease: "l-1", Host: "alpha", Provider: "12D3KooWabcdefgh", BilledMS: 1_800_000, MaxDurationMS: 3_600_000, HeldNanoUSD: 417_000_000,
			Accepted: now.Add(-time.Hour), DiskMiB: 10 << 10, TrafficBytes: 1e9, Tariff: charging("").Tariff,
			Extras: api.Extras{IngressBytes: 1e9, EgressBytes: 40e6, DiskCostNanoUSD: 1_000_000, TrafficCostNanoUSD: 5_400_000}, CostNanoUSD: 206_400_000,
		}
		for _, f := range change {
			f(&j)
		}
		var b strings.Builder
		if err := writeJob(&b, &j, now); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	const slow = "the 1 GB each way that you pay for are used up: more costs nothing and may be slow; --traffic 10GB pays for more the next time"
	for _, tt := range []struct {
		name       string
		change     func(*api.Job)
		want, lack string
	}{
		{"all", func(*api.Job) {}, "disk      10 GiB at $0.144 for a GiB a month: $0.001\n", slow},
		{"traffic", func(*api.Job) {}, "traffic   1 GB in and 40 MB out, of which at most 1 GB each way are paid for, at $0.005 for a GB in and $0.01 out: $0.0054\n", "\x1b"},
		{"cost", func(*api.Job) {}, "cost      $0.2064 so far, $0.417 kept aside\n", ""},
		{"a byte too much", func(j *api.Job) { j.IngressBytes++ }, slow, ""},
		{"too much of what is free", func(j *api.Job) { j.EgressBytes, j.EgressNanoUSDPerGB = 5e9, 0 }, "5 GB out", slow},
		{"a host that charges nothing", func(j *api.Job) { j.IngressBytes, j.Tariff = 5e9, api.Tariff{} }, "traffic   5 GB in and 40 MB out, which the host does not charge for\n", slow},
		{"its disk", func(j *api.Job) { j.Tariff = api.Tariff{} }, "disk      10 GiB, which the host does not charge for\n", ""},
		{"no host yet", func(j *api.Job) { j.Lease, j.Provider, j.Tariff = "", "", api.Tariff{} }, "traffic   at most 1 GB each way are paid for\n", "host "},
		{"ended", func(j *api.Job) { j.Ended, j.ExitCode, j.State = &now, new(3), "done" }, "state     done, exit 3\n", "so far"},
	} {
		if got := job(tt.change); !strings.Contains(got, tt.want) || tt.lack != "" && strings.Contains(got, tt.lack) {
			t.Errorf("%s: want %q and not %q in\n%s", tt.name, tt.want, tt.lack, got)
		}
	}
	if got := slowLine(broker.MaxTraffic); !strings.Contains(got, "the 1000 TB each way") || strings.Contains(got, "--traffic") {
		t.Errorf("of the most: %s", got)
	}
}

// TestQuotedTariff: a broker that says other prices for disk and traffic than the host signed is not believed.
func TestQuotedTariff(t *testing.T) {
	provider := newKey(t)
	const job = broker.JobID("j-aaaaaaaaaaaaaaaaaaaaaaaaaa")
	g := broker.Grant{
		Lease: "l-aaaaaaaaaaaaaaaaaaaaaaaaaa", Job: job, GPUs: []broker.GPULease{{UUID: "SIM-1", Epoch: 1}}, TunnelKey: tunnel.Key{2}, Endpoints: []string{"192.0.2.7:7072"},
		Rate: 400_000_000, Firm: time.Minute, Tariff: charging("").BrokerTariff(),
	}
	answer, err := wire.SealAnswer(provider, broker.Answer{Lease: g.Lease, Grant: &g})
	if err != nil {
		t.Fatal(err)
	}
	q := api.FirmQuote{
		ID: string(job), State: "quoted", Provider: string(provider.ID()), RateNanoUSDPerHour: 400_000_000, Tariff: charging("").Tariff, Answer: answer,
	}
	if err := checkQuote(q, time.Minute); err != nil {
		t.Errorf("a good one: %v", err)
	}
	q.EgressNanoUSDPerGB++
	if err := checkQuote(q, time.Minute); err == nil || !strings.Contains(err.Error(), "signed other prices for disk and traffic") {
		t.Errorf("another tariff: %v", err)
	}
}

// TestUsedUpIsSaidOnce: who follows a job hears once that its paid traffic is used up, and only where it has a price.
func TestUsedUpIsSaidOnce(t *testing.T) {
	j := api.Job{ID: "j-one", TrafficBytes: 1e9, Tariff: charging("").Tariff, Extras: api.Extras{EgressBytes: 1e9}}
	asked := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked++
		if err := json.NewEncoder(w).Encode(j); err != nil {
			t.Error(err)
		}
	}))
	defer server.Close()
	client, err := api.NewClient(server.URL, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	var said strings.Builder
	f := &follower{market: &market{Client: client}, view: newView(&said, false), record: record{Job: "j-one"}}
	f.lookAtTraffic(t.Context()) // it has no host yet
	f.session = &session{}
	f.lookAtTraffic(t.Context()) // whose traffic costs nothing
	if asked != 0 {
		t.Errorf("the broker was asked %d times where traffic has no price", asked)
	}
	f.session.lease.Tariff = j.Tariff
	f.lookAtTraffic(t.Context())
	if said.String() != "" {
		t.Errorf("before it is used up: %q", said.String())
	}
	j.EgressBytes++
	f.lookAtTraffic(t.Context())
	f.lookAtTraffic(t.Context())
	if got := said.String(); strings.Count(got, "\n") != 1 || !strings.HasPrefix(got, "rialto: the 1 GB each way that you pay for are used up") {
		t.Errorf("said %q", got)
	}
}
