package markettest_test

import (
	"math/big"
	"time"

	"pgregory.net/rapid"

	"rialto/broker"
	"rialto/pricing"
)

// tab is what a job is asked for on a host, by the test's own arithmetic.
type tab struct {
	gpus, disk *big.Int // nanodollars an hour
	tariff     broker.Tariff
	paid       int64 // bytes each way
}

func tabOf(s *broker.JobSpec, rate pricing.Rate, of broker.Tariff) tab {
	gib, b := big.NewInt(10), tab{tariff: of, paid: 1e9}
	if s.Traffic > 0 {
		b.paid = s.Traffic
	}
	b.gpus = new(big.Int).Mul(big.NewInt(int64(rate)), big.NewInt(int64(s.GPU.Count)))
	b.disk = gib.Mul(gib, big.NewInt(int64(of.Disk)))
	if s.DiskMiB > 0 {
		b.disk = part(big.NewInt(int64(of.Disk)), int64(s.DiskMiB), 1024)
	}
	return b
}

// part is n/of of an amount, a half to the even one.
func part(amount *big.Int, n, of int64) *big.Int {
	all, whole := new(big.Int).Mul(amount, big.NewInt(n)), big.NewInt(of)
	q, rest := new(big.Int).QuoRem(all, whole, new(big.Int))
	if c := rest.Lsh(rest, 1).Cmp(whole); c > 0 || c == 0 && q.Bit(0) == 1 {
		q.Add(q, big.NewInt(1))
	}
	return q
}

func during(hourly *big.Int, d time.Duration) pricing.Money {
	return pricing.Money(part(hourly, int64(d), int64(time.Hour)).Int64())
}

// carried is what traffic costs.
func (b *tab) carried(n broker.Traffic) pricing.Money {
	in := part(big.NewInt(int64(b.tariff.Ingress)), min(n.Ingress, b.paid), 1e9)
	out := part(big.NewInt(int64(b.tariff.Egress)), min(n.Egress, b.paid), 1e9)
	return pricing.Money(in.Int64() + out.Int64())
}

func (b *tab) mostTraffic() pricing.Money {
	return b.carried(broker.Traffic{Ingress: b.paid, Egress: b.paid})
}

// need is what has to be held for a job on a host: what its customer names, or else all that it may cost there.
func need(s *broker.JobSpec, rate pricing.Rate, of broker.Tariff) pricing.Money {
	b := tabOf(s, max(rate, s.Bid), of)
	switch {
	case s.MaxCost > 0:
		return s.MaxCost / pricing.Money(max(1, s.Nodes))
	case s.MaxRate > 0:
		return during(tabOf(s, s.MaxRate, of).gpus, s.MaxDuration)
	}
	return during(b.gpus, s.MaxDuration) + during(b.disk, s.MaxDuration) + b.mostTraffic()
}

// lasts is how long a job may run there.
func lasts(s *broker.JobSpec, rate pricing.Rate, of broker.Tariff) time.Duration {
	b := tabOf(s, rate, of)
	hourly, left := new(big.Int).Add(b.gpus, b.disk), int64(need(s, rate, of)-b.mostTraffic())
	switch {
	case s.MaxCost == 0:
		return s.MaxDuration
	case left < 0:
		return 0
	case hourly.Sign() == 0:
		return s.MaxDuration
	}
	left3600 := new(big.Int).Mul(big.NewInt(left), big.NewInt(int64(time.Hour)))
	if left3600.Quo(left3600, hourly); !left3600.IsInt64() {
		return s.MaxDuration
	}
	return min(s.MaxDuration, time.Duration(left3600.Int64()))
}

// checkBill recomputes what a lease costs, from the reports that its host sent.
func (h *history) checkBill(t *rapid.T, l *broker.Lease) {
	j := h.world.Jobs[l.Job]
	b, held := tabOf(&j.Spec, l.Rate, l.Tariff), h.most[j.ID]
	gpus := during(b.gpus, l.Billed-l.Covered+l.Unused)
	disk := min(during(b.disk, l.Billed), held-gpus)
	traffic := pricing.Money(0)
	if l.Billed > 0 {
		traffic = min(b.carried(l.Traffic), held-gpus-disk)
	}
	limit := lasts(&j.Spec, l.Rate, l.Tariff)
	switch {
	case l.DiskCost != disk || l.TrafficCost != traffic || l.Cost != gpus+disk+traffic:
		t.Fatalf("lease %s: %v, %v of it for disk and %v for traffic; want %v and these two, %v and %v: %+v", l.ID, l.Cost, l.DiskCost, l.TrafficCost, gpus, disk, traffic, l)
	case l.Cost > held || gpus < 0 || disk < 0 || traffic < 0:
		t.Fatalf("lease %s: %v, and %v were held", l.ID, l.Cost, held)
	case l.Billed > limit:
		t.Fatalf("lease %s: billed %v, its money lasts for %v", l.ID, l.Billed, limit)
	case l.Seq > 0 && l.Traffic != h.said[l.ID][l.Seq].Traffic:
		t.Fatalf("lease %s: its host has carried %+v, the market says %+v", l.ID, h.said[l.ID][l.Seq].Traffic, l.Traffic)
	}
	if s := &j.Spec; s.MaxRate > 0 && l.Cost > during(tabOf(s, s.MaxRate, l.Tariff).gpus, s.MaxDuration) {
		t.Fatalf("lease %s: %v is more than %v for %v", l.ID, l.Cost, s.MaxRate, s.MaxDuration)
	}
	if s := &j.Spec; s.MaxCost > 0 && l.Cost > s.MaxCost/pricing.Money(max(1, s.Nodes)) {
		t.Fatalf("lease %s: %v is more than its budget", l.ID, l.Cost)
	}
}

// checkHeld wants what is held for a job that has a host, or asks one, to pay for all that may come, and what its
// customer has named to be held, no more and no less.
func (h *history) checkHeld(t *rapid.T, j *broker.Job) {
	l, ok := h.world.Leases[j.Lease]
	if serves := ok && j.State != broker.JobQueued; j.State.Terminal() || !serves && j.Spec.MaxCost == 0 && j.Spec.MaxRate == 0 {
		return
	}
	want := need(&j.Spec, l.Rate, l.Tariff)
	if named := j.Spec.MaxCost > 0 || j.Spec.MaxRate > 0; j.Hold < want || named && j.Hold != want {
		t.Fatalf("job %s: holds %v, want %v: lease %+v", j.ID, j.Hold, want, l)
	}
	// A term that the budget pays to the nanodollar may last for a moment less: it is rounded in two parts.
	if least := max(time.Second, l.Term-time.Millisecond); l.State == broker.LeaseHolding && lasts(&j.Spec, l.Rate, l.Tariff) < least {
		t.Fatalf("job %s: it asks a host on which its money lasts for %v, want %v", j.ID, lasts(&j.Spec, l.Rate, l.Tariff), least)
	}
}

// checkTariffs wants a lease to have the prices that its host asked for when it was asked, from then on.
func (h *history) checkTariffs(before map[broker.LeaseID]broker.Lease) {
	for id, l := range h.world.Leases {
		if was, ok := before[id]; ok && (was.Tariff != l.Tariff || was.Rate != l.Rate) {
			h.Fatalf("lease %s: the price has changed: %+v, before %+v", id, l, was)
		} else if posted := h.posted[l.Provider]; !ok && l.Tariff != posted {
			h.Fatalf("lease %s: at %+v, its host asks for %+v", id, l.Tariff, posted)
		}
	}
}
