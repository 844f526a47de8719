//go:build linux

package histories

import (
	"context"
	"fmt"
	"math/big"
	"strings"
	"time"

	"rialto/broker"
	"rialto/broker/api"
	"rialto/broker/wire"
	"rialto/p2p/identity"
	"rialto/pricing"
)

// receipt waits for the bill of a job whose lease has ended.
func (w *world) receipt(ctx context.Context, c *customer, id broker.JobID) (r api.Receipt, err error) {
	ctx, stop := context.WithTimeout(ctx, settling)
	defer stop()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		err := w.insist(ctx, func(ctx context.Context) (err error) { r, err = c.client.Receipt(ctx, id); return err })
		if err == nil || w.outcome(err) != missing {
			return r, err
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return r, fmt.Errorf("%w: %w", ctx.Err(), err)
		}
	}
}

// compareBill computes a bill again, from what the broker has signed and what its customer has.
func (w *world) compareBill(ctx context.Context, c *customer, a *agent, j api.Job) {
	shown, err := w.receipt(ctx, c, broker.JobID(j.ID))
	if err != nil {
		w.problem("a receipt is lost", "of job %s: %v", j.ID, err)
		return
	}
	r, signer, err := wire.OpenReceipt(shown.Envelope)
	if err != nil || identity.ID(signer) != w.id {
		w.problem("bad receipt", "of job %s, by %s: %v", j.ID, signer, err)
		return
	}
	c.mu.Lock()
	p := c.byText[strings.Join(j.Command, " ")]
	c.mu.Unlock()
	spec, _, err := wire.OpenJobSpec(p.want.spec[p.spec])
	if err != nil {
		w.problem("bad spec", "of job %s: %v", j.ID, err)
		return
	}
	gpus, disk, traffic := billOf(&spec, &r)
	switch {
	case r.Tariff != a.tariff:
		w.problem("bill", "of job %s: at %+v, its host asks for %+v", j.ID, r.Tariff, a.tariff)
	case r.DiskCost != disk || r.TrafficCost != traffic || r.Cost != gpus+disk+traffic || int64(r.Cost) != j.CostNanoUSD:
		w.problem("bill", "of job %s for %d: %+v, want %v, %v for disk and %v for traffic", j.ID, j.CostNanoUSD, r, gpus+disk+traffic, disk, traffic)
	case r.Cost > spec.MaxCost:
		w.problem("bill", "of job %s: %v, its budget is %v", j.ID, r.Cost, spec.MaxCost)
	}
	w.count(func(x *result) {
		x.Bills++
		if r.DiskCost > 0 && r.TrafficCost > 0 {
			x.Extras++
		}
	})
}

// billOf is what a lease costs by its receipt: each part rounded once. What is left of the budget bounds the later ones.
func billOf(s *broker.JobSpec, r *broker.Receipt) (gpus, disk, traffic pricing.Money) {
	mib, paid := int64(10<<10), int64(1e9)
	if s.DiskMiB > 0 {
		mib = int64(s.DiskMiB) //nolint:gosec // the test's own
	}
	if s.Traffic > 0 {
		paid = s.Traffic
	}
	gpus = share(int64(r.Rate)*int64(s.GPU.Count), int64(r.Billed), int64(time.Hour))
	disk = share(int64(share(int64(r.Tariff.Disk), mib, 1024)), int64(r.Billed), int64(time.Hour))
	if r.Billed > 0 {
		traffic = share(int64(r.Tariff.Ingress), min(r.Traffic.Ingress, paid), 1e9) + share(int64(r.Tariff.Egress), min(r.Traffic.Egress, paid), 1e9)
	}
	disk = min(disk, s.MaxCost-gpus)
	return gpus, disk, min(traffic, s.MaxCost-gpus-disk)
}

// share is n/of of an amount, a half to the even one.
func share(amount, n, of int64) pricing.Money {
	twice := new(big.Int).Mul(big.NewInt(amount), big.NewInt(2*n))
	q, rest := twice.Add(twice, big.NewInt(of)).QuoRem(twice, big.NewInt(2*of), new(big.Int))
	if rest.Sign() == 0 && q.Bit(0) == 1 {
		q.Sub(q, big.NewInt(1))
	}
	return pricing.Money(q.Int64())
}
