package main

import (
	"strings"
	"testing"
	"time"

	"rialto/broker/api"
)

func TestRestsAreShown(t *testing.T) {
	now := time.Now()
	later, before := now.Add(time.Hour), now.Add(-time.Hour)
	jobs := []api.Job{
		{ID: "j-left", Host: "alpha\x1b", Ended: &before, ReservedUntil: &later, UnusedNanoUSD: 1},
		{ID: "j-over", Ended: &before, ReservedUntil: &before, UnusedNanoUSD: 1},
		{ID: "j-failed", Ended: &before, ReservedUntil: &later},
		{ID: "j-runs", ReservedUntil: &later},
		{ID: "j-on-demand", Ended: &before},
	}
	var out strings.Builder
	if err := writeRests(&out, jobs, now); err != nil {
		t.Fatal(err)
	}
	if got := out.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "rialto run --on j-left IMAGE") || strings.Contains(got, "\x1b") {
		t.Errorf("got %q", got)
	}
}

func TestBillLine(t *testing.T) {
	b := bill{RateNanoUSDPerHour: 300_000_000, GPUs: 1, CostNanoUSD: 2_500_000, billed: 30 * time.Second}
	for _, c := range []struct {
		change func(b *bill)
		want   string
	}{
		{func(*bill) {}, "30.0 s × $0.30/h × 1 GPU = $0.0025, fee included"},
		{func(b *bill) { b.CostNanoUSD = 1_000_000 }, "30.0 s × $0.30/h × 1 GPU = $0.0025, of which $0.001 are to be paid, fee included: a reservation has paid the rest"},
		{
			func(b *bill) { b.unused, b.UnusedCostNanoUSD, b.CostNanoUSD = 90*time.Second, 7_500_000, 10_000_000 },
			"30.0 s × $0.30/h × 1 GPU = $0.0025, and unused reservation 1m 30s × $0.30/h × 1 GPU = $0.0075: $0.01 in all, fee included",
		},
		{
			func(b *bill) { b.DiskMiB, b.DiskCostNanoUSD, b.CostNanoUSD = 10<<10, 16_667, 2_516_667 },
			"30.0 s × $0.30/h × 1 GPU = $0.0025, and $0.000016667 for 10 GiB of disk: $0.002516667 in all, fee included",
		},
		{
			func(b *bill) {
				b.IngressBytes, b.EgressBytes, b.TrafficCostNanoUSD, b.CostNanoUSD = 1_200_000_000, 40_000_000, 5_400_000, 7_900_000
			},
			"30.0 s × $0.30/h × 1 GPU = $0.0025, and $0.0054 for traffic, 1.2 GB in and 40 MB out: $0.0079 in all, fee included",
		},
		{
			func(b *bill) { b.DiskMiB, b.DiskCostNanoUSD, b.CostNanoUSD = 10<<10, 16_667, 1_016_667 },
			"30.0 s × $0.30/h × 1 GPU = $0.0025, of which $0.001 are to be paid and a reservation has paid the rest, and $0.000016667 for 10 GiB of disk: $0.001016667 in all, fee included",
		},
		{
			func(b *bill) {
				b.unused, b.UnusedCostNanoUSD, b.DiskMiB, b.DiskCostNanoUSD, b.CostNanoUSD = 90*time.Second, 7_500_000, 10<<10, 16_667, 10_016_667
			},
			"30.0 s × $0.30/h × 1 GPU = $0.0025, and unused reservation 1m 30s × $0.30/h × 1 GPU = $0.0075, and $0.000016667 for 10 GiB of disk: $0.010016667 in all, fee included",
		},
	} {
		x := b
		c.change(&x)
		if got := x.line(); got != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
}
