package main

import (
	"errors"
	"strings"
	"testing"
	"time"

	"rialto/broker/api"
	"rialto/pricing"
)

// TestCheckFit: coefficients that were not fitted to what the broker shows are found.
func TestCheckFit(t *testing.T) {
	monday := time.Unix(pricing.HedonicTime(1_800_000_000), 0).UTC()
	honest := func() *verified {
		var v verified
		var obs []pricing.Observation
		for i := range 40 {
			o := pricing.Observation{Rate: pricing.Rate(300_000_000 + i*5_000_000), GPUs: 1, CPUs: 4 + i/10, MemoryMiB: 32 << 10}
			obs = append(obs, o)
			v.Fit.Observations = append(v.Fit.Observations, api.FitObservation{RateNanoUSDPerHour: int64(o.Rate), GPUs: o.GPUs, CPUs: o.CPUs, MemoryMiB: o.MemoryMiB})
		}
		h := pricing.FitHedonic(obs, 6, monday.Unix())
		v.Fit.Hedonic = api.Hedonic{
			FittedAt: &monday, Trades: h.Trades, Operators: h.Operators, Identity: h.IsIdentity(),
			BaseGPUs: h.BaseGPUs, BaseCPUs: h.BaseCPUs, BaseMemoryMiB: h.BaseMemoryMiB, GPUsPPM: h.GPUs, CPUsPPM: h.CPUs, MemoryPPM: h.Memory,
		}
		v.Receipt.Hedonic = v.Fit.Hedonic
		v.Receipt.Hedonic.FittedAt = new(monday)
		return &v
	}
	if v := honest(); checkFit(v) != nil || v.Receipt.Hedonic.Identity {
		t.Fatalf("an honest fit: %v, %+v", checkFit(v), v.Receipt.Hedonic)
	}
	if err := checkFit(&verified{Receipt: api.PriceReceipt{Hedonic: api.Hedonic{Identity: true}}}); err != nil {
		t.Errorf("never fitted, and nothing adjusted: %v", err)
	}
	for name, forge := range map[string]func(v *verified){
		"a coefficient of the receipt": func(v *verified) { v.Receipt.Hedonic.CPUsPPM += 100 },
		"a coefficient of both":        func(v *verified) { v.Receipt.Hedonic.CPUsPPM += 100; v.Fit.Hedonic.CPUsPPM += 100 },
		"another week":                 func(v *verified) { v.Fit.Hedonic.FittedAt = new(monday.AddDate(0, 0, -7)) },
		"no time":                      func(v *verified) { v.Receipt.Hedonic.FittedAt = nil },
		"no fit":                       func(v *verified) { v.Fit = api.PriceFit{} },
		"a trade":                      func(v *verified) { v.Fit.Observations[3].CPUs = 64 },
		"no trades":                    func(v *verified) { v.Fit.Observations = nil },
	} {
		v := honest()
		forge(v)
		if err := checkFit(v); !errors.Is(err, pricing.ErrReceipt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestWriteVerified: a firm price says what it rests on, and what moving it would take.
func TestWriteVerified(t *testing.T) {
	monday := time.Unix(pricing.HedonicTime(1_800_000_000), 0).UTC()
	v := verified{Holds: true, Wash: &washed{OneNanoUSD: 12_344_999_999, SharePPM: 10_000}}
	v.Receipt = api.PriceReceipt{
		Cell: "RTX_4090:on_demand:any:nvml", At: time.Unix(1_800_000_000, 0),
		Print:   api.ReceiptPrint{Quality: "firm", IndexNanoUSDPerHour: 400_000_000, Trades: 50, Operators: 6, HHI: 1834, Trimmed: 2, Related: 1},
		Hedonic: api.Hedonic{FittedAt: &monday, Trades: 60, Operators: 7, BaseGPUs: 1, BaseCPUs: 8, BaseMemoryMiB: 32 << 10, CPUsPPM: 200_000, MemoryPPM: -1_300},
	}
	var b strings.Builder
	if err := writeVerified(&b, v); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"HOLDS RTX_4090:on_demand:any:nvml at 2027-01-15T08:00:00Z: $0.40/h per GPU, firm\n", "from 50 trades of 6 operators, 1 more left out, 2 trimmed",
		"trades with oneself of $12.34 by one operator, of more than any by three; operators' concentration (HHI) is 1834 of 10000.\n",
		"Adjusted to 8 CPUs and 32 GiB for each GPU of 1, by elasticities of +0.2000, -0.0013 and +0.0000, fitted again from 60 trades of 7 operators.\n",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, &b)
		}
	}
}
