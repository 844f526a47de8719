package main

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"rialto/broker"
	"rialto/broker/api"
	"rialto/cmd/internal/cli"
	"rialto/pricing"
)

// extrasFlags declares how much disk and traffic a request wants.
func (r *request) extrasFlags(f *pflag.FlagSet) {
	f.Var(&value[uint64]{to: &r.diskMiB, parse: parseDisk, kind: "size", text: "10GiB"}, "disk", "what the job may write, such as 50GiB")
	f.Var(&value[int64]{to: &r.traffic, parse: parseTraffic, kind: "bytes", text: "1GB"}, "traffic", "bytes each way that you pay for at most, such as 20GB; more is slow")
}

// parseDisk reads a size that a job may write.
func parseDisk(s string) (uint64, error) {
	mib, err := cli.ParseMiB(s)
	switch {
	case err != nil:
		return 0, err
	case mib < broker.MinDiskMiB:
		return 0, fmt.Errorf("size %q: too small; the least is %dMiB", s, broker.MinDiskMiB)
	case mib > broker.MaxDiskMiB:
		return 0, fmt.Errorf("size %q: too large; the most is %dMiB", s, broker.MaxDiskMiB)
	}
	return mib, nil
}

// parseTraffic reads how many bytes a customer may pay for.
func parseTraffic(s string) (int64, error) {
	n, err := cli.ParseTraffic(s)
	switch {
	case err != nil:
		return 0, err
	case n < 1:
		return 0, fmt.Errorf("traffic %q: too little; the least is 1B", s)
	case n > broker.MaxTraffic:
		return 0, fmt.Errorf("traffic %q: too much; the most is %dTB", s, broker.MaxTraffic/1e12)
	}
	return n, nil
}

// extras is the part of the job's spec that disk and traffic are paid by.
func (r *request) extras() *broker.JobSpec {
	return &broker.JobSpec{GPU: r.gpu, DiskMiB: r.diskMiB, Traffic: r.traffic}
}

// chargeOf is what a host asks of the job, on demand or at the reserved price that the job earns.
func (r *request) chargeOf(o api.Offer) (broker.Charge, error) {
	return r.extras().Charge(hourly(o), o.BrokerTariff())
}

// sentence makes a line of talk one of an answer.
func sentence(s string) string { return strings.ToUpper(s[:1]) + s[1:] + "." }

// diskFor says what the disk of an expected cost is.
func diskFor(o api.Offer, r *request) string {
	return fmt.Sprintf("%s at %s for a GiB a month", cli.FormatMiB(r.extras().Disk()), perMonth(o.Tariff))
}

// trafficFor says what the traffic of an expected cost is.
func trafficFor(o api.Offer, r *request) string {
	return fmt.Sprintf("%s each way, if so much is carried, at %s", cli.FormatTraffic(r.extras().PaidTraffic()), perGB(o.Tariff))
}

// perMonth is the price of a GiB for a month of 720 hours, as disks are priced elsewhere, to a tenth of a cent where that is
// more than nothing.
func perMonth(t api.Tariff) string {
	if t.DiskNanoUSDPerGiBHour > math.MaxInt64/pricing.HoursPerMonth {
		return "more than can be said"
	}
	return roundedMoney(t.DiskNanoUSDPerGiBHour * pricing.HoursPerMonth)
}

// roundedMoney is an amount to three significant figures, and to cents if it is more than a dollar.
func roundedMoney(nanos int64) string {
	unit := int64(1)
	for nanos/unit >= 1000 && unit < 10_000_000 {
		unit *= 10
	}
	if nanos > math.MaxInt64-unit {
		return pricing.Money(nanos).String()
	}
	return pricing.Money((nanos + unit/2) / unit * unit).String()
}

// besideLine says what a host charges for beside its GPUs and how much of it the job may use; empty: nothing.
func besideLine(t api.Tariff, diskMiB uint64, traffic int64) string {
	var prices, uses []string
	if t.DiskNanoUSDPerGiBHour > 0 {
		prices = append(prices, perMonth(t)+" for a GiB of disk a month")
		uses = append(uses, cli.FormatMiB(diskMiB)+" of disk")
	}
	if chargesTraffic(t) {
		prices = append(prices, perGB(t))
		uses = append(uses, cli.FormatTraffic(traffic)+" of traffic each way at most")
	}
	if len(prices) == 0 {
		return ""
	}
	return fmt.Sprintf("beside its GPUs the host charges %s: you pay for %s", strings.Join(prices, ", and "), strings.Join(uses, " and "))
}

// perGB is what traffic costs, for people.
func perGB(t api.Tariff) string {
	in, out := pricing.Money(t.IngressNanoUSDPerGB), pricing.Money(t.EgressNanoUSDPerGB)
	switch {
	case in == out:
		return fmt.Sprintf("%s for a GB of traffic", in)
	case out == 0:
		return fmt.Sprintf("%s for a GB in", in)
	case in == 0:
		return fmt.Sprintf("%s for a GB out", out)
	}
	return fmt.Sprintf("%s for a GB in and %s out", in, out)
}

func chargesTraffic(t api.Tariff) bool { return t.IngressNanoUSDPerGB > 0 || t.EgressNanoUSDPerGB > 0 }

// exhausted reports whether a tunnel has carried more than its job pays for, in a direction that the host charges for.
func exhausted(t api.Tariff, x api.Extras, paid int64) bool {
	in, out := t.BrokerTariff().Beyond(broker.Traffic{Ingress: x.IngressBytes, Egress: x.EgressBytes}, paid)
	return in || out
}

// slowLine says that a job has no more paid traffic, and how the next has more.
func slowLine(paid int64) string {
	text := fmt.Sprintf("the %s each way that you pay for are used up: more costs nothing and may be slow", cli.FormatTraffic(paid))
	if paid > broker.MaxTraffic/10 {
		return text
	}
	return fmt.Sprintf("%s; --traffic %s pays for more the next time", text, strings.ReplaceAll(cli.FormatTraffic(10*paid), " ", ""))
}

// lookAtTraffic says once that the traffic that is paid for is used up.
func (f *follower) lookAtTraffic(ctx context.Context) {
	if f.slow || f.session == nil || !chargesTraffic(f.session.lease.Tariff) {
		return
	}
	job, err := f.market.Job(ctx, f.id())
	if err != nil || !exhausted(job.Tariff, job.Extras, job.TrafficBytes) {
		return // a broker that is away is told of elsewhere
	}
	f.slow = true
	f.view.talk("%s", slowLine(job.TrafficBytes))
}

// anyTariff reports whether an offer charges for anything but GPUs.
func anyTariff(offers []api.Offer) bool {
	return slices.ContainsFunc(offers, func(o api.Offer) bool { return o.Tariff != (api.Tariff{}) })
}

// diskText is what a GiB of disk costs a month on an offer.
func diskText(t api.Tariff) string {
	if t.DiskNanoUSDPerGiBHour == 0 {
		return "–"
	}
	return perMonth(t)
}

// trafficText is what traffic costs on an offer, by GB in and out: "$0.005/$0.01", or "$0.01" for both.
func trafficText(t api.Tariff) string {
	switch {
	case !chargesTraffic(t):
		return "–"
	case t.IngressNanoUSDPerGB == t.EgressNanoUSDPerGB:
		return pricing.Money(t.IngressNanoUSDPerGB).String()
	}
	return fmt.Sprintf("%s/%s", amountOr0(t.IngressNanoUSDPerGB), amountOr0(t.EgressNanoUSDPerGB))
}

func amountOr0(nanos int64) string {
	if nanos == 0 {
		return "$0"
	}
	return pricing.Money(nanos).String()
}
