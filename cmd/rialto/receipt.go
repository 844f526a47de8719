package main

import (
	"cmp"
	"fmt"
	"time"

	"rialto/broker"
	"rialto/broker/wire"
	"rialto/cmd/internal/cli"
	"rialto/pricing"
)

// signed is what a job's customer signed, as far as it bounds the bill; of a job that was signed on another machine, what
// bounds nothing, and false.
func signed(envelope []byte) (spec broker.JobSpec, known bool) {
	spec, _, err := wire.OpenJobSpec(envelope)
	if err != nil {
		return broker.JobSpec{Reserve: broker.MaxTerm, DiskMiB: broker.MaxDiskMiB, Traffic: broker.MaxTraffic}, false
	}
	return spec, true
}

// checkReceipt opens a receipt and believes only what is signed, was signed for, and adds up.
func checkReceipt(envelope []byte, job broker.JobID, market, customer broker.PeerID, spec broker.JobSpec) (broker.Receipt, error) {
	r, signer, err := wire.OpenReceipt(envelope)
	if err != nil {
		return r, err
	}
	switch {
	case signer != market:
		return r, fmt.Errorf("signed by %s, not by the broker %s", signer, market)
	case r.Job != job:
		return r, fmt.Errorf("it is for job %s", r.Job)
	case r.Customer != customer:
		return r, cli.Hint(fmt.Errorf("it is for customer %s", r.Customer), "this machine's key is %s; the job was signed elsewhere", customer)
	}
	if len(r.Report) == 0 && r.Cost == 0 {
		return r, checkAmounts(&r, &spec, r.Traffic)
	}
	report, reporter, err := wire.OpenReport(r.Report)
	switch {
	case err != nil:
		return r, fmt.Errorf("the provider's report: %w", err)
	case reporter != r.Provider:
		return r, fmt.Errorf("the provider's report is signed by %s, not by %s", reporter, r.Provider)
	case report.Lease != r.Lease:
		return r, fmt.Errorf("the provider's report is for lease %s", report.Lease)
	case r.Unused > 0 && report.Phase != broker.PhaseExited:
		return r, fmt.Errorf("it bills %s that were not used, but the provider does not report that the container exited", r.Unused)
	case report.Used < r.Billed:
		return r, fmt.Errorf("it bills %s, but the provider reported %s", r.Billed, report.Used)
	}
	return r, checkAmounts(&r, &spec, report.Traffic)
}

// amounts are the most that the parts of a receipt may be.
type amounts struct {
	used, whole pricing.Money // of its GPUs: for what is billed, and with what was left of a reservation
	disk        pricing.Money // for what is billed
	traffic     pricing.Money // as far as its customer pays for it
}

// most computes a receipt again, each part rounded once as the broker does. A part may well be less: a reservation may have
// paid for some of it, and what is kept aside bounds them all.
func most(r *broker.Receipt, spec *broker.JobSpec) (a amounts, err error) {
	if a.used, err = costOf(r.Rate, len(r.GPUs), r.Billed); err != nil {
		return a, err
	}
	if a.whole, err = costOf(r.Rate, len(r.GPUs), r.Billed+r.Unused); err != nil {
		return a, err
	}
	disk, err := r.Tariff.Disk.PerGiB(r.DiskMiB)
	if err != nil {
		return a, err
	}
	if a.disk, err = disk.Cost(r.Billed); err != nil || r.Billed == 0 { // what was never ready costs nothing
		return a, err
	}
	a.traffic, err = r.Tariff.Carried(r.Traffic, spec.PaidTraffic())
	return a, err
}

// checkAmounts believes only what adds up, and what its host has reported.
func checkAmounts(r *broker.Receipt, spec *broker.JobSpec, reported broker.Traffic) error {
	a, err := most(r, spec)
	if err != nil {
		return err
	}
	gpus, term := r.Cost-r.DiskCost-r.TrafficCost, spec.Reserve
	switch {
	case gpus > a.whole:
		return fmt.Errorf("it says %s, but %s of %d × %s is %s", gpus, r.Billed+r.Unused, len(r.GPUs), r.Rate, a.whole)
	case r.DiskMiB > spec.Disk():
		return fmt.Errorf("it charges for %d MiB of disk, the job was signed for %d", r.DiskMiB, spec.Disk())
	case r.DiskCost > a.disk:
		return fmt.Errorf("it says %s for the disk, but %s of %s at %s for a GiB is %s", r.DiskCost, r.Billed, cli.FormatMiB(r.DiskMiB), r.Tariff.Disk, a.disk)
	case r.Traffic.Ingress > reported.Ingress || r.Traffic.Egress > reported.Egress:
		return fmt.Errorf("it counts %s, but the provider reported %s", carriedText(r.Traffic), carriedText(reported))
	case r.TrafficCost > a.traffic:
		return fmt.Errorf("it says %s for traffic, but %s, of which at most %s each way are paid for, is %s",
			r.TrafficCost, carriedText(r.Traffic), cli.FormatTraffic(spec.PaidTraffic()), a.traffic)
	case r.Cost-r.UnusedCost > a.used+a.disk+a.traffic:
		return fmt.Errorf("it says %s for the time that was used, but %s of %d × %s is %s", r.Cost-r.UnusedCost, r.Billed, len(r.GPUs), r.Rate, a.used+a.disk+a.traffic)
	case r.Unused > 0 && (r.Ready.IsZero() || r.Ended.Add(r.Unused).After(r.Ready.Add(term))):
		return fmt.Errorf("it bills %s that were not used, but of the %s that were reserved at most %s were left", r.Unused, term, max(0, r.Ready.Add(term).Sub(r.Ended)))
	case r.Fee > r.Cost:
		return fmt.Errorf("its fee %s is more than its cost %s", r.Fee, r.Cost)
	case r.Billed > r.Used:
		return fmt.Errorf("it bills %s, but the provider reported %s", r.Billed, r.Used)
	}
	return checkLimits(r, spec)
}

// checkLimits holds a receipt to what its customer signed as the most: for an hour of one GPU, with disk and traffic
// unless that is a bid, and in all.
func checkLimits(r *broker.Receipt, spec *broker.JobSpec) error {
	charge, err := spec.Charge(r.Rate, r.Tariff)
	switch {
	case err != nil:
		return err
	case spec.Bid > 0 && r.Rate > spec.Bid, spec.MaxRate > 0 && r.Rate > spec.MaxRate:
		return fmt.Errorf("it charges %s, the job was signed for %s at most", r.Rate, cmp.Or(spec.Bid, spec.MaxRate))
	case !spec.Affords(r.Rate, charge):
		return fmt.Errorf("it charges %s, and with disk and traffic more than the %s that the job was signed for at most", r.Rate, spec.MaxRate)
	case spec.MaxCost > 0 && r.Cost > spec.MaxCost/pricing.Money(max(1, spec.Nodes)):
		return fmt.Errorf("it says %s, the job was signed for %s at most", r.Cost, spec.MaxCost/pricing.Money(max(1, spec.Nodes)))
	}
	return nil
}

// carriedText is what a tunnel carried, for people.
func carriedText(n broker.Traffic) string {
	return fmt.Sprintf("%s in and %s out", cli.FormatTraffic(n.Ingress), cli.FormatTraffic(n.Egress))
}

// costOf is what a time costs on a number of GPUs, rounded once.
func costOf(rate pricing.Rate, gpus int, d time.Duration) (pricing.Money, error) {
	all, err := rate.MulInt(int64(gpus))
	if err != nil {
		return 0, err
	}
	return all.Cost(d)
}
