package vast

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math/big"
	"strconv"

	"rialto/broker"
	"rialto/pricing"
)

// searchedDiskMiB is the disk whose price a search shows if it does not say: what Vast's clients take for it.
const searchedDiskMiB = 5 << 10

// disk returns a member's size in MiB, zero if it is missing or null. It is in GiB, which Vast calls GB; a part of a MiB
// counts as a whole one.
func (r *reader) disk(key string) uint64 {
	n, ok := r.rational(key)
	if !ok {
		return 0
	}
	n.Mul(n, big.NewRat(1024, 1))
	mib := new(big.Int).Add(n.Num(), n.Denom())
	mib.Div(mib.Sub(mib, big.NewInt(1)), n.Denom())
	if !mib.IsUint64() || mib.Uint64() < broker.MinDiskMiB || mib.Uint64() > broker.MaxDiskMiB {
		r.fail(key, fmt.Sprintf("%s: want %s to %s GB, of 2^30 bytes", shown(r.raw(key)), gibibytes(broker.MinDiskMiB), gibibytes(broker.MaxDiskMiB)))
		return 0
	}
	return mib.Uint64()
}

// gibibytes is a size in GiB, exactly.
func gibibytes(mib uint64) json.Number {
	return json.Number(strconv.FormatFloat(float64(mib)/1024, 'f', -1, 64))
}

// kibibytes is a count of bytes in KiB, the unit of Vast's counters of traffic.
func kibibytes(n int64) json.Number {
	return json.Number(strconv.FormatFloat(float64(n)/1024, 'f', 3, 64))
}

// space is the disk of an offer; nil if it does not say.
func space(mib uint64) any {
	if mib == 0 {
		return nil
	}
	return gibibytes(mib)
}

// hourly is a price for a month by the hour, in nanodollars.
func hourly(perMonth *big.Rat) *big.Rat {
	return new(big.Rat).Mul(perMonth, big.NewRat(int64(pricing.USD), pricing.HoursPerMonth))
}

// nearest is the nearest whole number.
func nearest(n *big.Rat) *big.Rat {
	whole, _ := new(big.Rat).SetString(n.FloatString(0))
	return whole
}

// monthly is a price for a month, the shortest that is the same by the hour: what an owner said, and not what is left of it.
func monthly(perHour pricing.Rate) json.Number {
	exact := big.NewRat(int64(perHour)*pricing.HoursPerMonth, int64(pricing.USD))
	text := ""
	for decimals := range 10 {
		text = exact.FloatString(decimals)
		if said, ok := new(big.Rat).SetString(text); ok && nearest(hourly(said)).Cmp(big.NewRat(int64(perHour), 1)) == 0 {
			break
		}
	}
	return json.Number(text)
}

// diskRate is what a disk costs on a host.
func diskRate(t broker.Tariff, mib uint64) pricing.Rate {
	rate, err := t.Disk.PerGiB(mib)
	if err != nil {
		return 0 // not with the market's bounds on both
	}
	return rate
}

// costs are the prices of an hour, as Vast's clients read them inside a cell.
func costs(gpus, disk pricing.Rate) row {
	return row{{"gpuCostPerHour", dollars(int64(gpus))}, {"diskHour", dollars(int64(disk))}, {"totalHour", dollars(int64(gpus + disk))}}
}

// trafficNote says what traffic costs on a host that charges for it; empty: it does not.
func trafficNote(t broker.Tariff, spec *broker.JobSpec) string {
	if t.Ingress == 0 && t.Egress == 0 {
		return ""
	}
	return fmt.Sprintf("traffic through its tunnel costs %v/GB that reaches it and %v/GB that leaves it, of at most %g GB each way: its host may slow down what is beyond",
		t.Ingress, t.Egress, float64(spec.PaidTraffic())/1e9)
}

// charge is what the instance is asked for. Before there is a lease nobody knows more than what its customer pays at most,
// disk and traffic with it.
func (i *instance) charge() broker.Charge {
	spec, rate := &i.job.Spec, i.lease.Rate
	if i.lease.ID == "" {
		rate = cmp.Or(spec.MaxRate, spec.Bid)
	}
	c, err := spec.Charge(rate, i.lease.Tariff)
	if err != nil {
		return broker.Charge{} // not with the market's bounds on both
	}
	return c
}

// prices are the cells of what the instance costs, and of what it has cost.
func (i *instance) prices() row {
	l, c := &i.lease, i.charge()
	base := dollars(int64(c.GPUs))
	leased := func(v json.Number) any { // nil before there is a lease
		if l.ID == "" {
			return nil
		}
		return v
	}
	return row{
		{"dph_base", base},
		{"dph_total", dollars(int64(c.Hourly()))},
		{"is_bid", i.job.Spec.Bid > 0},
		{"min_bid", base},
		{"instance", costs(c.GPUs, c.Disk)},
		{"storage_cost", leased(monthly(l.Tariff.Disk))},
		{"storage_total_cost", leased(dollars(int64(c.Disk)))},
		{"inet_up_cost", leased(dollars(int64(l.Tariff.Egress)))},
		{"inet_down_cost", leased(dollars(int64(l.Tariff.Ingress)))},
		{"inet_up_billed", leased(kibibytes(l.Traffic.Egress))}, // all that was carried, by the host's count
		{"inet_down_billed", leased(kibibytes(l.Traffic.Ingress))},
		{"cost", dollars(int64(l.Cost))},                // ours: billed so far
		{"disk_cost", dollars(int64(l.DiskCost))},       // ours: what of it is for the disk
		{"traffic_cost", dollars(int64(l.TrafficCost))}, // ours: what of it is for traffic
		{"hold", dollars(int64(i.job.Hold))},            // ours: kept aside
	}
}
