package broker

import (
	"math"
	"strconv"
	"strings"
	"time"
)

// listing is an offer as a query sees it.
type listing struct {
	*Offer
	market *Market // nil: what only the market knows is not known
	query  *Query
}

// read returns what an offer has, and false if nobody says.
func (l listing) read(f fieldID) (value, bool) {
	o, gpu := l.Offer, &l.GPUs[0]
	count := int64(l.query.GPU.Count)
	switch f {
	case fieldModel:
		return value{s: gpu.Model}, true
	case fieldJobGPUs:
		return number(min(int64(len(o.GPUs)), count)), true
	case fieldGPUs:
		return number(int64(len(o.GPUs))), true
	case fieldFree, fieldRentable, fieldRented:
		return l.readFree(f)
	case fieldGPURAM:
		return size(soldMemory(o)), true
	case fieldGPURAMExact:
		return size(gpuMemory(o)), true
	case fieldGPUTotalRAM:
		return number(size(soldMemory(o)).n * count), true
	case fieldPrice:
		return number(int64(o.RateFor(l.query.Reserve))), true
	case fieldMinBid:
		return number(int64(o.MinBid)), o.MinBid > 0
	case fieldBasePrice, fieldTotalPrice:
		c, err := o.Tariff.charge(o.RateFor(l.query.Reserve), l.query.GPU.Count, l.query.disk(), 0)
		if f == fieldBasePrice {
			return number(int64(c.GPUs)), err == nil
		}
		return number(int64(c.Hourly())), err == nil
	case fieldAllInPrice, fieldDiskPrice, fieldJobDiskPrice, fieldIngressPrice, fieldEgressPrice:
		return l.readTariff(f)
	case fieldReservedPrice:
		return number(int64(o.ReservedRate)), o.ReservedRate > 0
	case fieldReservedMin:
		return number(o.ReservedMin.Milliseconds()), o.ReservedRate > 0
	case fieldCPUs:
		return number(int64(o.CPUs) * count), true
	case fieldCPUsPerGPU:
		return number(int64(o.CPUs)), true
	case fieldMemory:
		return number(size(o.MemoryMiB).n * count), true
	case fieldMemoryPerGPU:
		return size(o.MemoryMiB), true
	case fieldDisk:
		return size(o.DiskMiB), o.DiskMiB > 0
	case fieldRegion:
		return value{s: o.Region}, o.Region != ""
	case fieldProvider:
		return value{s: string(o.Provider)}, true
	case fieldHost:
		return value{s: o.Host}, true
	case fieldOffer:
		return value{s: string(o.ID)}, true
	case fieldLevel:
		return number(int64(o.level())), true
	case fieldVerified:
		return truth(o.level() >= LevelNVML), true
	case fieldSimulated:
		return truth(o.Simulated()), true
	case fieldExternal:
		return truth(false), true
	case fieldDriver:
		return version(gpu.Driver)
	case fieldCUDA:
		return version(gpu.CUDA)
	case fieldCompute:
		return number(int64(gpu.ComputeMajor)*100 + int64(gpu.ComputeMinor)*10), gpu.ComputeMajor > 0
	case fieldArch:
		return value{s: "nvidia"}, true
	case fieldPower:
		return l.readPower()
	case fieldHasImage:
		return truth(l.query.imageOn(o)), l.query.Image != "" || l.query.Root != ""
	case fieldAgent:
		return value{s: o.Agent}, o.Agent != ""
	case fieldReliability, fieldHoursSeen, fieldFailures, fieldFillRate:
		return l.readRecord(f)
	case fieldReady, fieldMiss:
		return l.readStart(f)
	case fieldUnknown:
	}
	return value{}, false
}

// readTariff returns what an offer charges beside its GPUs, or with them.
func (l listing) readTariff(f fieldID) (value, bool) {
	switch t := &l.Tariff; f {
	case fieldAllInPrice:
		r, ok := l.query.allIn(l.Offer)
		return number(int64(r)), ok
	case fieldJobDiskPrice:
		r, err := l.query.diskPrice(l.Offer)
		return number(int64(r)), err == nil
	case fieldIngressPrice:
		return number(int64(t.Ingress)), true
	case fieldEgressPrice:
		return number(int64(t.Egress)), true
	default:
		return number(int64(t.Disk)), true
	}
}

func (l listing) readFree(f fieldID) (value, bool) {
	if l.market == nil {
		return value{}, false
	}
	free := l.market.available(l.Offer)
	switch f {
	case fieldRentable:
		return truth(free >= l.query.GPU.Count), true
	case fieldRented:
		return truth(free < l.query.GPU.Count), true
	default:
		return number(int64(free)), true
	}
}

func (l listing) readRecord(f fieldID) (value, bool) {
	if l.market == nil {
		return value{}, false
	}
	r := l.market.RecordOf(l.Provider)
	switch f {
	case fieldHoursSeen:
		return number(int64(r.Seen / time.Hour)), true
	case fieldFailures:
		return number(int64(r.Failures)), true
	case fieldFillRate:
		return number(r.FillRate()), true
	default:
		return number(r.Reliability()), true
	}
}

// readStart returns what the market expects of a start of the image that is asked with.
func (l listing) readStart(f fieldID) (value, bool) {
	if l.market == nil {
		return value{}, false
	}
	c := l.market.start(l.query, l.Offer)
	if f == fieldMiss {
		return number(c.MissBytes), c.Sized
	}
	return number(c.Ready.Milliseconds()), c.Sized
}

// readPower returns the lowest limit of the offer's GPUs.
func (l listing) readPower() (value, bool) {
	least := l.GPUs[0].PowerLimitMW
	for _, g := range l.GPUs {
		least = min(least, g.PowerLimitMW)
	}
	return number(int64(min(least, math.MaxInt64))), least > 0
}

func number(n int64) value { return value{n: n} }

// size is a value in bytes. The market's bounds keep 64 GPUs of it below 2^63.
func size(mib uint64) value { return number(int64(min(mib, math.MaxInt64>>27)) << 20) } //nolint:gosec // bounded

func truth(b bool) value {
	if b {
		return number(1)
	}
	return number(0)
}

// version reads up to three numbers below 1000 as one that orders like them, as Vast writes drivers: 535.86.05 is
// 535086005.
func version(s string) (value, bool) {
	var n int64
	more := true
	for range 3 {
		n *= 1000
		if !more {
			continue
		}
		var part string
		part, s, more = strings.Cut(s, ".")
		v, err := strconv.ParseUint(part, 10, 64)
		if err != nil || v > 999 {
			return value{}, false
		}
		n += int64(v) //nolint:gosec // below 1000
	}
	return number(n), !more
}

// level is that of the least proved GPU.
func (o *Offer) level() Level {
	least := LevelNVML
	for _, g := range o.GPUs {
		least = min(least, g.Level)
	}
	return least
}

// NominalMiB returns the memory of the GPU as the card is sold, in MiB: a driver reports up to 7 % less, because
// ECC and firmware keep some. A card of another size than its model's (a modded one) has the nearest size that is
// sold, within 7 %; otherwise what its driver reports. (The 7 % are those of gpuhunt's correct_gpu_memory_gib.)
func (g *GPU) NominalMiB() uint64 {
	off := func(m *Model) uint64 { return max(m.MemoryMiB, g.MemoryMiB) - min(m.MemoryMiB, g.MemoryMiB) }
	near := func(m *Model) bool { return off(m) <= m.MemoryMiB*7/100 }
	for i := range modelTable {
		if m := &modelTable[i]; m.Name == g.Model && near(m) {
			return m.MemoryMiB
		}
	}
	best := &Model{MemoryMiB: g.MemoryMiB}
	for i := range modelTable {
		if m := &modelTable[i]; near(m) && (best.Name == "" || off(m) < off(best)) {
			best = m
		}
	}
	return best.MemoryMiB
}

// soldMemory is the nominal memory of the offer's smallest GPU.
func soldMemory(o *Offer) uint64 {
	least := &o.GPUs[0]
	for i := range o.GPUs {
		if o.GPUs[i].MemoryMiB < least.MemoryMiB {
			least = &o.GPUs[i]
		}
	}
	return least.NominalMiB()
}
