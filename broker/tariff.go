package broker

import (
	"cmp"
	"fmt"
	"math"
	"math/bits"
	"time"

	"rialto/pricing"
)

// Tariff is what a host charges for beside its GPUs. The zero Tariff charges for nothing else.
//
// The disk is what a workload may write to ([JobSpec].DiskMiB), and costs for as long as its meter runs: a reservation's unused rest,
// or seconds that another's rest has paid, are of GPUs alone.
//
// Traffic is what the job's tunnel carries, in bytes of WireGuard's packets. The host counts it, and nobody can prove
// another count: the customer's end comes and goes, and both ends have the keys. So what a customer pays for is bounded
// by his own signed word, [JobSpec].Traffic. All of it counts as paid in the hold, in the limit on the price and in the cost that
// offers are ranked by, so that a host which overstates what it carried gains nothing over one that asked for as much.
// What is beyond it is not billed, and a host that charges may slow it down. Blocks of images and weights are never billed: they do
// not go through the tunnel, and stay with the host.
type Tariff struct {
	Disk    pricing.Rate  `json:",omitzero"` // per GiB-hour
	Ingress pricing.Money `json:",omitzero"` // per GB, 10^9 bytes, that reach the job
	Egress  pricing.Money `json:",omitzero"` // likewise, that leave it
}

// Traffic counts bytes that a job's tunnel carried.
type Traffic struct {
	Ingress int64 `json:",omitzero"` // that reached the job
	Egress  int64 `json:",omitzero"` // that left it
}

// What a job may write and has carried for money if its spec does not say.
const (
	UsualDiskMiB = 10 << 10
	UsualTraffic = int64(1e9)
)

// Bounds of what jobs and hosts may ask.
const (
	MinDiskMiB = 16
	MaxDiskMiB = 16<<20 - 1 // the longest file of most hosts' file systems
	MaxTraffic = int64(1e15)

	maxDiskRate     = pricing.Rate(pricing.USD) // per GiB-hour: thousands of times what disks cost
	maxTrafficPrice = 10 * pricing.USD          // per GB: a hundred times the dearest cloud's
)

// Disk is how much the workload may write, in MiB.
func (s *JobSpec) Disk() uint64 { return cmp.Or(s.DiskMiB, UsualDiskMiB) }

// PaidTraffic is how many bytes, each way, the customer pays for at most.
func (s *JobSpec) PaidTraffic() int64 { return cmp.Or(s.Traffic, UsualTraffic) }

// Validate checks that a market takes the tariff. The error is a [*FieldError].
func (t Tariff) Validate() error {
	var c checker
	t.check(&c, "tariff")
	return c.err
}

func (t Tariff) check(c *checker, field string) {
	c.that(t.Disk >= 0 && t.Disk <= maxDiskRate, field+".disk", "%v for a GiB: want $0.00/h to %v", t.Disk, maxDiskRate)
	c.that(t.Ingress >= 0 && t.Ingress <= maxTrafficPrice, field+".ingress", "%v for a GB: want $0.00 to %v", t.Ingress, maxTrafficPrice)
	c.that(t.Egress >= 0 && t.Egress <= maxTrafficPrice, field+".egress", "%v for a GB: want $0.00 to %v", t.Egress, maxTrafficPrice)
}

func (s *JobSpec) checkTariff(c *checker) {
	c.that(s.DiskMiB == 0 || s.DiskMiB >= MinDiskMiB && s.DiskMiB <= MaxDiskMiB, "disk", "%d MiB: want %d to %d", s.DiskMiB, MinDiskMiB, MaxDiskMiB)
	c.that(s.Traffic >= 0 && s.Traffic <= MaxTraffic, "traffic", "%d bytes: want 1 to %d", s.Traffic, MaxTraffic)
}

// within reports whether nothing costs more than at another tariff.
func (t Tariff) within(most Tariff) bool {
	return t.Disk <= most.Disk && t.Ingress <= most.Ingress && t.Egress <= most.Egress
}

// raised is the dearer of two tariffs in each part.
func (t Tariff) raised(by Tariff) Tariff {
	return Tariff{Disk: max(t.Disk, by.Disk), Ingress: max(t.Ingress, by.Ingress), Egress: max(t.Egress, by.Egress)}
}

// Charge is what a host asks of a job.
type Charge struct {
	GPUs    pricing.Rate  // of all of them
	Disk    pricing.Rate  // of all of it
	Traffic pricing.Money // of all that the customer pays for
}

// charge returns what so much costs at the tariff and at a rate per GPU.
func (t Tariff) charge(perGPU pricing.Rate, gpus int, diskMiB uint64, traffic int64) (Charge, error) {
	all, err := perGPU.MulInt(int64(gpus))
	if err != nil || t == (Tariff{}) {
		return Charge{GPUs: all}, err
	}
	disk, err := t.Disk.PerGiB(diskMiB)
	if err != nil {
		return Charge{}, err
	}
	carried, err := t.Carried(Traffic{traffic, traffic}, traffic)
	return Charge{GPUs: all, Disk: disk, Traffic: carried}, err
}

// Carried returns what traffic costs, of which no more than paid bytes each way are billed.
func (t Tariff) Carried(n Traffic, paid int64) (pricing.Money, error) {
	in, err := t.Ingress.PerGB(min(n.Ingress, paid))
	if err != nil {
		return 0, err
	}
	out, err := t.Egress.PerGB(min(n.Egress, paid))
	if err != nil {
		return 0, err
	}
	return in.Add(out)
}

// Beyond reports in which directions that have a price traffic was more than paid bytes.
func (t Tariff) Beyond(n Traffic, paid int64) (ingress, egress bool) {
	return t.Ingress > 0 && n.Ingress > paid, t.Egress > 0 && n.Egress > paid
}

// Charge returns what a host with a tariff asks of the job at a rate per GPU. The error is pricing.ErrOverflow, or
// pricing.ErrNegative for a tariff below zero.
func (s *JobSpec) Charge(perGPU pricing.Rate, t Tariff) (Charge, error) {
	return t.charge(perGPU, s.GPU.Count, s.Disk(), s.PaidTraffic())
}

// AllIn is the lowest limit on the price, [JobSpec].MaxRate, that a host keeps to which charges the job so much.
func (s *JobSpec) AllIn(perGPU pricing.Rate, c Charge) pricing.Rate {
	return c.allIn(perGPU, s.GPU.Count, s.MaxDuration)
}

// Hourly is what an hour costs beside the traffic.
func (c Charge) Hourly() pricing.Rate { return c.GPUs + c.Disk }

// Cost is what so long costs, with all the traffic.
func (c Charge) Cost(d time.Duration) (pricing.Money, error) {
	gpus, err := c.GPUs.Cost(d)
	if err != nil {
		return 0, err
	}
	disk, err := c.Disk.Cost(d)
	return gpus + disk + c.Traffic, err
}

// Buys is how long an amount pays for, with all the traffic.
func (c Charge) Buys(m pricing.Money) (time.Duration, error) {
	if m < c.Traffic {
		return 0, nil
	}
	return c.Hourly().Buys(m - c.Traffic)
}

// allIn is the price per GPU-hour with disk and traffic, if the job runs for so long: rounded up, so that what keeps to it
// as a limit costs no more.
func (c Charge) allIn(perGPU pricing.Rate, gpus int, run time.Duration) pricing.Rate {
	if c.Disk == 0 && c.Traffic == 0 {
		return perGPU
	}
	// Traffic is at most 2·10^16 nanodollars, an hour 3.6·10^12 nanoseconds.
	hi, lo := bits.Mul64(uint64(c.Traffic), uint64(time.Hour)) //nolint:gosec // not below zero
	if hi >= uint64(run) {                                     //nolint:gosec // not below zero
		return math.MaxInt64
	}
	spread, rest := bits.Div64(hi, lo, uint64(run)) //nolint:gosec // not below zero
	if rest > 0 {
		spread++
	}
	n := uint64(gpus)                                                  //nolint:gosec // at least one
	extra, carry := bits.Add64(spread, uint64(c.Disk)+n-1, 0)          //nolint:gosec // not below zero
	if extra /= n; carry > 0 || extra > uint64(math.MaxInt64-perGPU) { //nolint:gosec // not below zero
		return math.MaxInt64
	}
	return perGPU + pricing.Rate(extra) //nolint:gosec // was compared
}

// disk is how much the query's job may write, in MiB.
func (q *Query) disk() uint64 { return cmp.Or(q.DiskMiB, UsualDiskMiB) }

// traffic is how many bytes each way the query's customer pays for.
func (q *Query) traffic() int64 { return cmp.Or(q.Traffic, UsualTraffic) }

// charge is what a query's job is asked for on an offer, as far as the offer says.
func (q *Query) charge(o *Offer) (Charge, error) {
	return o.Tariff.charge(q.rateOf(o), q.GPU.Count, q.disk(), q.traffic())
}

// allIn is the price per GPU-hour that a query's job has on an offer with disk and traffic; false: more than can be said.
func (q *Query) allIn(o *Offer) (pricing.Rate, bool) {
	c, err := q.charge(o)
	if err != nil {
		return 0, false
	}
	r := c.allIn(q.rateOf(o), q.GPU.Count, q.run())
	return r, r < math.MaxInt64
}

// diskPrice is what the query's disk costs on an offer.
func (q *Query) diskPrice(o *Offer) (pricing.Rate, error) { return o.Tariff.Disk.PerGiB(q.disk()) }

// charge is what a lease's host asks.
func (t *turn) charge(l *Lease, j *Job) Charge {
	c, err := j.Spec.Charge(l.Rate, l.Tariff)
	if err != nil {
		t.broken(fmt.Sprintf("lease %s: charge: %v", l.ID, err))
	}
	return c
}

// extras say what of a lease's bill is not for its GPUs, for people.
func (l *Lease) extras() []string {
	var out []string
	if l.DiskCost > 0 {
		out = append(out, fmt.Sprintf("%v of it for the disk", l.DiskCost))
	}
	if l.TrafficCost > 0 {
		out = append(out, fmt.Sprintf("%v of it for traffic: %.1f MB in, %.1f MB out", l.TrafficCost, float64(l.Traffic.Ingress)/1e6, float64(l.Traffic.Egress)/1e6))
	}
	return out
}
