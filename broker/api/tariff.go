package api

import (
	"fmt"
	"strconv"

	"rialto/broker"
	"rialto/pricing"
)

// Tariff is what a host charges for beside its GPUs. Its zero value charges for nothing else.
type Tariff struct {
	DiskNanoUSDPerGiBHour int64 `json:"disk_nanousd_per_gib_hour,omitempty" doc:"for each GiB that the job may write, by the hour from ready on; missing: nothing"`
	IngressNanoUSDPerGB   int64 `json:"ingress_nanousd_per_gb,omitempty" doc:"for 10^9 bytes that reach the job through its tunnel; missing: nothing. Images and weights are never billed"`
	EgressNanoUSDPerGB    int64 `json:"egress_nanousd_per_gb,omitempty" doc:"for 10^9 bytes that leave the job through its tunnel; missing: nothing"`
}

// Extras are what a job's tunnel carried, and what of its cost is not for GPUs.
type Extras struct {
	IngressBytes       int64 `json:"ingress_bytes,omitempty" doc:"that reached the job through its tunnel, by the host's count"`
	EgressBytes        int64 `json:"egress_bytes,omitempty" doc:"that left it"`
	DiskCostNanoUSD    int64 `json:"disk_cost_nanousd,omitempty" doc:"what of the cost is for the disk"`
	TrafficCostNanoUSD int64 `json:"traffic_cost_nanousd,omitempty" doc:"what of the cost is for the traffic that the customer pays for"`
}

// TariffOf returns a tariff as it is in JSON.
func TariffOf(t broker.Tariff) Tariff {
	return Tariff{DiskNanoUSDPerGiBHour: int64(t.Disk), IngressNanoUSDPerGB: int64(t.Ingress), EgressNanoUSDPerGB: int64(t.Egress)}
}

// BrokerTariff returns the tariff in the market's own words.
func (t Tariff) BrokerTariff() broker.Tariff {
	return broker.Tariff{
		Disk: pricing.Rate(t.DiskNanoUSDPerGiBHour), Ingress: pricing.Money(t.IngressNanoUSDPerGB), Egress: pricing.Money(t.EgressNanoUSDPerGB),
	}
}

// ExtrasOf returns what a tunnel carried, and what disk and traffic cost.
func ExtrasOf(n broker.Traffic, disk, traffic pricing.Money) Extras {
	return Extras{IngressBytes: n.Ingress, EgressBytes: n.Egress, DiskCostNanoUSD: int64(disk), TrafficCostNanoUSD: int64(traffic)}
}

// checkExtras refuses what no job may ask for, and names the nearest that one may. The schema's bounds would be shown as
// floats.
func (q Query) checkExtras() error {
	wrong := func(field string, has uint64, least, most uint64) error {
		nearest := most
		if has < least {
			nearest = least
		}
		return &broker.FieldError{Field: field, Problem: fmt.Sprintf("%d: want %d to %d", has, least, most), Nearest: strconv.FormatUint(nearest, 10)}
	}
	switch {
	case q.DiskMiB != 0 && q.DiskMiB < broker.MinDiskMiB || q.DiskMiB > broker.MaxDiskMiB:
		return wrong("disk_mib", q.DiskMiB, broker.MinDiskMiB, broker.MaxDiskMiB)
	case q.TrafficBytes > broker.MaxTraffic:
		return wrong("traffic_bytes", uint64(q.TrafficBytes), 1, uint64(broker.MaxTraffic))
	}
	return nil
}
