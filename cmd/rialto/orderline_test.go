package main

import (
	"strings"
	"testing"
	"time"

	"rialto/broker"
	"rialto/pricing"
)

// noon is a Thursday.
var noon = time.Date(2026, 11, 26, 12, 0, 0, 0, time.FixedZone("CET", 3600))

func at(s string) time.Time {
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		panic(err)
	}
	return t
}

func TestOrderLine(t *testing.T) {
	whole := orderLine{
		gpu: broker.GPURequest{Model: broker.AnyModel, Count: 4}, gpuMiB: 24 << 10, region: "EU", maxRate: 350_000_000,
		maxCost: 20 * pricing.USD, until: at("2026-11-27T23:59:59+01:00"),
	}
	one := orderLine{gpu: broker.GPURequest{Model: "RTX 4090", Count: 1}, maxRate: 500_000_000, until: at("2026-11-28T12:00:00+01:00"), duration: 6 * time.Hour}
	for line, want := range map[string]orderLine{
		"4x24GiB, EU, ≤ 0.35/GPU-h, ≤ 20 total, until Friday":            whole,
		"until fri,<=$20 in all ,eu,<= $0.35/h,4 × 24 GiB":               whole,
		"RTX 4090, at most 0.50/h, for 6h, until 48h":                    one,
		"1x RTX 4090, <= 0.50/gpu-hour, for 6h, until 2026-11-28T12:00":  one,
		"1 x RTX  4090, <= 0.50/h, for 360m, until 2026-11-28T11:00:00Z": one,
		"16x80GiB, <= 2/h, until 2026-11-26":                             {gpu: broker.GPURequest{Model: broker.AnyModel, Count: 16}, gpuMiB: 80 << 10, maxRate: 2_000_000_000, until: at("2026-11-26T23:59:59+01:00")},
		"24GiB, <= 0.2/h, until tomorrow":                                {gpu: broker.GPURequest{Model: broker.AnyModel, Count: 1}, gpuMiB: 24 << 10, maxRate: 200_000_000, until: at("2026-11-27T23:59:59+01:00")},
		"any, <= 0.2/h, until today":                                     {gpu: broker.GPURequest{Model: broker.AnyModel, Count: 1}, maxRate: 200_000_000, until: at("2026-11-26T23:59:59+01:00")},
		"any, <= 0.2/h, until Wednesday":                                 {gpu: broker.GPURequest{Model: broker.AnyModel, Count: 1}, maxRate: 200_000_000, until: at("2026-12-02T23:59:59+01:00")},
	} {
		got, err := parseOrderLine(line, noon)
		if !got.until.Equal(want.until) {
			t.Errorf("%s: until %v, want %v", line, got.until, want.until)
		}
		got.until = want.until
		if err != nil || got != want {
			t.Errorf("%s:\n got  %+v, %v\n want %+v", line, got, err, want)
		}
	}
}

// TestOrderLineNamesWhatIsWrong wants each error to name the part, and to say what would be right.
func TestOrderLineNamesWhatIsWrong(t *testing.T) {
	for line, want := range map[string][]string{
		"":                                            {`order "": nothing between commas`},
		"4x24GiB,,until Friday":                       {"nothing between commas"},
		"4x24GiB, until Friday":                       {"the limit is missing, such as <= 0.35/h"},
		"<= 0.35/h, until Friday":                     {"which GPUs is missing"},
		"4x24GiB, <= 0.35/h":                          {"how long it stands is missing, such as until Friday"},
		"99x24GiB, <= 0.35/h, until Friday":           {`order "99x24GiB": 99 GPUs: want 1 to 16`},
		"0x24GiB, <= 0.35/h, until Friday":            {"0 GPUs"},
		"4x24GiB, <= 0/h, until Friday":               {`order "<= 0/h": the limit is zero`},
		"4x24GiB, <= much/h, until Friday":            {`order "<= much/h"`},
		"4x24GiB, <= 0.35/day, until Friday":          {`order "<= 0.35/day"`},
		"4x24GiB, <= 0.3/h, <= 0 total, until Friday": {"the most in all is zero"},
		"4x24GiB, <= 0.3/h, <= x total, until Friday": {`order "<= x total"`},
		"4x24GiB, <= 0.35/h, until yesterday":         {`order "until yesterday"`, "want a day such as Friday"},
		"4x24GiB, <= 0.35/h, until 2020-01-01":        {"not in the future"},
		"4x24GiB, <= 0.35/h, until -3h":               {`order "until -3h"`},
		"4x24GiB, 8GiB, <= 0.35/h, until Fri":         {`order "8GiB": which GPUs was said already: "4x24GiB"`},
		"4x24GiB, EU, DE, <= 1/h, until Fri":          {`order "DE": where was said already: "EU"`},
		"any:4, <= 1/h, until Fri":                    {"want GPUs, such as 4x24GiB"},
		strings.Repeat("x", 300):                      {"longer than 256 bytes"},
	} {
		_, err := parseOrderLine(line, noon)
		for _, part := range want {
			if err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %v, want %q in it", line, err, part)
			}
		}
	}
}

func FuzzOrderLine(f *testing.F) {
	f.Add("4x24GiB, EU, ≤ 0.35/GPU-h, ≤ 20 total, for 6h, until Friday")
	f.Add("RTX 4090,at most 1/h,until 2026-12-24T18:00")
	f.Fuzz(func(t *testing.T, line string) {
		o, err := parseOrderLine(line, noon)
		if err != nil {
			if len(err.Error()) > 1024 {
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
			return
		}
		if o.gpu.Count < 1 || o.gpu.Count > maxGPUs || o.maxRate <= 0 || o.maxCost < 0 || !o.until.After(noon) || o.duration < 0 {
			t.Errorf("%q is %+v", line, o)
		}
	})
}
