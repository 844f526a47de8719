package agent

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"rialto/broker"
	"rialto/pricing"
)

// tariff charges for everything: $0.01/h for the 10 GiB that a job has, and $0.03 for a GB each way.
var tariff = broker.Tariff{Disk: 1_000_000, Ingress: 10_000_000, Egress: 20_000_000}

// A host keeps its prices for disk and traffic, whatever its broker says, and what a customer signed as the most per hour
// or in all covers them.
func TestTariff(t *testing.T) {
	lower := func(change func(*broker.Tariff)) broker.Tariff {
		x := tariff
		change(&x)
		return x
	}
	for name, c := range map[string]struct {
		tariff  broker.Tariff // of the hold
		spec    func(*broker.JobSpec)
		refusal string // "": granted
	}{
		"as asked":            {tariff: tariff},
		"the owner asks more": {tariff: broker.Tariff{Disk: 1_000_001, Ingress: 10_000_001, Egress: 20_000_001}},
		"disk":                {tariff: lower(func(x *broker.Tariff) { x.Disk-- }), refusal: "a GiB of disk costs $0.001/h, not $0.000999999/h"},
		"ingress":             {tariff: lower(func(x *broker.Tariff) { x.Ingress-- }), refusal: "a GB to the job costs $0.01, not $0.009999999"},
		"egress":              {tariff: lower(func(x *broker.Tariff) { x.Egress = 0 }), refusal: "a GB from the job costs $0.02, not $0.00"},
		"none":                {refusal: "a GiB of disk costs"},
		"the limit pays it":   {tariff: tariff, spec: func(s *broker.JobSpec) { s.MaxRate = rate + 40_000_000 }},
		"above the limit":     {tariff: tariff, spec: func(s *broker.JobSpec) { s.MaxRate = rate + 39_999_999 }, refusal: "the price is above the customer's limit"},
		"more traffic":        {tariff: tariff, spec: func(s *broker.JobSpec) { s.MaxRate, s.Traffic = rate+40_000_000, 2e9 }, refusal: "the price is above the customer's limit"},
		"its query":           {tariff: tariff, spec: func(s *broker.JobSpec) { s.Where = "all_in_price<=0.43/h" }, refusal: "does not satisfy the job's all_in_price<="},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.config.Tariff = tariff
				w.start()
				spec := w.spec()
				if c.spec != nil {
					c.spec(&spec)
				}
				h := w.holdOf("one", spec)
				h.Tariff = c.tariff
				a := w.ask(h)
				if granted := a.Grant != nil; granted != (c.refusal == "") || !strings.Contains(a.Refusal, c.refusal) {
					t.Fatalf("got %+v, want %q", a, c.refusal)
				}
				if o := w.agent.offerSet(t.Context()).Offers[0]; o.Tariff != tariff {
					t.Errorf("offered: %+v", o)
				}
				if s := w.agent.Status(); s.Tariff() != tariff || s.Rate != int64(rate) {
					t.Errorf("status: %+v", s)
				}
				w.mustStop()
			})
		})
	}
}

// A firm quote is the host's word for all of its prices.
func TestQuoteRepeatsTheTariff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.config.Tariff = tariff
		w.start()
		h := w.quote("one")
		h.Tariff = tariff
		if a := w.ask(h); a.Grant == nil || a.Grant.Tariff != tariff || a.Grant.Rate != rate {
			t.Errorf("%+v: %+v", a, a.Grant)
		}
		w.mustStop()
	})
}

// The signed budget pays disk and traffic, too: what is left of it bounds the job.
func TestBudgetPaysDiskAndTraffic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.config.Tariff = tariff
		w.start()
		w.broker.set(func(b *fakeBroker) { b.ttl = time.Hour })
		spec := w.spec()
		tenMinutes, err := (rate + 10_000_000).Cost(10 * time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		spec.MaxCost = tenMinutes + 30_000_000
		h := w.holdOf("one", spec)
		h.Tariff = tariff
		if a := w.ask(h); a.Grant == nil {
			t.Fatal(a.Refusal)
		}
		if err := w.confirmFor(h.Lease, time.Hour, 24*time.Hour); err != nil {
			t.Fatal(err)
		}
		w.settle()
		if got := w.runtime.box(h.Lease).watch(); got > 10*time.Minute || got < 10*time.Minute-time.Second {
			t.Errorf("the watchdog ends the workload after %v, the budget buys 10m", got)
		}
		w.mustStop()
	})
}

// A job may write what its customer signed, as far as the host lets one write so much.
func TestDiskOfAJob(t *testing.T) {
	for name, c := range map[string]struct {
		perJob, free, wants uint64 // MiB
		launched            uint64
		refusal             string
	}{
		"no word":         {perJob: 100 << 10, free: 1 << 20, launched: 10 << 10},
		"its word":        {perJob: 100 << 10, free: 1 << 20, wants: 50 << 10, launched: 50 << 10},
		"a little":        {perJob: 100 << 10, free: 1 << 20, wants: 16, launched: 16},
		"a small host":    {perJob: 1 << 10, free: 1 << 20, launched: 1 << 10},
		"too much":        {perJob: 100 << 10, free: 1 << 20, wants: 100<<10 + 1, refusal: "a job may write at most 102400 MiB, not 102401"},
		"full":            {perJob: 100 << 10, free: 50 << 10, wants: 50 << 10, refusal: "the host has 51200 MiB of disk free: its 0 other jobs may still write 0 MiB, 100 MiB stay free, and a job may write 51200 MiB"},
		"unlimited":       {free: 50 << 10},
		"unlimited, full": {free: 50 << 10, wants: 50 << 10, refusal: "the host has 51200 MiB of disk free"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				d := w.limitDisk(c.free, c.perJob)
				w.start()
				spec := w.spec()
				spec.DiskMiB = c.wants
				h := w.holdOf("one", spec)
				a := w.ask(h)
				if granted := a.Grant != nil; granted != (c.refusal == "") || !strings.Contains(a.Refusal, c.refusal) {
					t.Fatalf("got %+v, want %q", a, c.refusal)
				}
				if c.refusal != "" {
					w.mustStop()
					return
				}
				if got := w.runtime.box(h.Lease).launch.DiskMiB; got != c.launched {
					t.Errorf("launched with %d MiB, want %d", got, c.launched)
				}
				if c.perJob > 0 && d.aside != c.launched {
					t.Errorf("%d MiB are set aside, want %d", d.aside, c.launched)
				}
				w.mustStop()
			})
		})
	}
}

// What no broker would list is not offered, and no price is asked for a disk that nobody gets.
func TestTariffIsChecked(t *testing.T) {
	for want, c := range map[string]struct {
		tariff broker.Tariff
		perJob uint64
	}{
		"tariff.disk":                  {tariff: broker.Tariff{Disk: -1}},
		"tariff.egress":                {tariff: broker.Tariff{Egress: 11 * pricing.USD}},
		"pays for 10240 MiB of disk, ": {tariff: broker.Tariff{Disk: 1}, perJob: 10<<10 - 1},
	} {
		w := newWorld(t)
		w.config.Network, w.config.Tariff, w.config.DiskPerJobMiB = &fakeNet{}, c.tariff, c.perJob
		if _, err := New(w.config); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", c, err, want)
		}
	}
}
