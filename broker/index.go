package broker

import (
	"math"
	"slices"
	"time"

	"rialto/pricing"
)

// Index finds a market's offers without looking at all of them. It may show more than what is wanted and never less: the
// market asks every predicate and computes the cost of what it is shown, so that an index decides how long a search takes
// and nothing else. The market calls Put and Drop in its steps, one at a time; Walk also from searches, several at a time,
// but never during a step.
type Index interface {
	// Put lists an offer, or takes note that the free GPUs of a listed one changed. The index may keep it until it is
	// dropped and reads it whenever it likes: whoever changes it, puts it again.
	Put(l *Listed)
	// Drop forgets an offer.
	Drop(l *Listed)
	// Walk shows the goal every offer that may be what is wanted, cheap ones first as far as that costs nothing, until
	// it wants none that are left.
	Walk(w *Want, g Goal)
}

// Goal is what a walk is for.
type Goal interface {
	// Wanted reports whether an offer that costs so much per GPU-hour may be of use. Where one is not, no dearer one is;
	// what was wanted before may be not any more.
	Wanted(rate pricing.Rate) bool
	// Most is what an offer that costs so much per GPU-hour, or more, may charge beside that to be of use: none with any part
	// of its tariff above it is.
	Most(rate pricing.Rate) Tariff
	// Visit looks at an offer.
	Visit(l *Listed)
}

// Listed is an offer in an index.
type Listed struct {
	Offer *Offer
	Rate  pricing.Rate // per GPU-hour, that it is listed at
	Free  int          // GPUs that can be asked for now
	Slot  uint32       // the index's own number of it

	name     uint64  // a hash of provider and id
	reserved *Listed // the same offer at its reserved rate; nil: it has none
}

// Want is what an index may know of a query. Zero fields match everything.
type Want struct {
	Models    []string // one of these, as [SameModel] compares
	Regions   []string // one of these, in capitals
	GPUs      int      // at least so many
	Free      int      // of them, at least so many that can be asked for now
	MemoryMiB uint64   // of each, as [Offer.SoldMemory]
	MaxRate   pricing.Rate
}

// want returns what an index may know of predicates.
func wantOf(q *Query, ps []Predicate, free bool) Want {
	w := Want{GPUs: q.GPU.Count}
	if free {
		w.Free = q.GPU.Count
	}
	for _, p := range ps {
		if p.values[0].null {
			continue
		}
		least := func(n int64) bool { return p.op == OpAtLeast || p.op == OpMore || p.op == OpEqual && n > 0 }
		// What a bid pays is not the price that an offer is listed at, and may be less.
		switch v := p.values[0]; {
		case p.field.id == fieldModel && (p.op == OpEqual || p.op == OpIn):
			w.Models = narrowed(w.Models, p.values)
		case p.field.id == fieldRegion && (p.op == OpEqual || p.op == OpIn):
			w.Regions = narrowed(w.Regions, p.values)
		case p.field.id == fieldGPURAM && least(v.n):
			w.MemoryMiB = max(w.MemoryMiB, uint64(v.n)>>20) //nolint:gosec // not below zero
		case (p.field.id == fieldPrice || p.field.id == fieldAllInPrice && q.Bid == 0) && (p.op == OpAtMost || p.op == OpLess || p.op == OpEqual):
			if r := pricing.Rate(v.n); r > 0 && (w.MaxRate == 0 || r < w.MaxRate) {
				w.MaxRate = r
			}
		}
	}
	return w
}

// narrowed returns the names that a second predicate allows, if there was none before; else the first ones, which are no
// fewer than what both allow.
func narrowed(names []string, values []value) []string {
	if names != nil || slices.ContainsFunc(values, func(v value) bool { return v.null }) {
		return names
	}
	for _, v := range values {
		names = append(names, v.s)
	}
	return names
}

// SameModel reports whether two names are of one model: they differ in case and signs alone.
func SameModel(a, b string) bool { return sameModel(a, b) }

// FoldModel returns what all names of a model have in common.
func FoldModel(s string) string { return foldModel(s) }

// SoldMemory is the memory of the offer's smallest GPU as the card is sold, in MiB.
func (o *Offer) SoldMemory() uint64 { return soldMemory(o) }

// floor is the least that a query's job can cost on any host, by the rate and the tariff.
type floor struct {
	gpus             int64
	run, start, lost time.Duration
	waiting          pricing.Money
	diskMiB          uint64
	traffic          int64
}

func (m *Market) floorOf(q *Query) floor {
	run := q.run()
	ready := min(usualSetup, m.starts.fastest)
	hazard := priorFailures / (priorHours + m.longest.Hours())
	// Less the last bit of a float, which may have rounded to the next millisecond.
	gpus := int64(q.GPU.Count)
	if q.Bid > 0 {
		gpus = 0 // what it pays does not follow from the price that the index knows
	}
	return floor{
		gpus: gpus, run: run, start: ready, lost: max(0, lost(run, ready, hazard)-time.Millisecond),
		waiting: boundedCost(q.WaitRate, ready), diskMiB: q.disk(), traffic: q.traffic(),
	}
}

func (f *floor) cost(offered pricing.Rate) pricing.Money {
	rate, err := offered.MulInt(f.gpus)
	if err != nil {
		return 0
	}
	return boundedCost(rate, f.run) + boundedCost(rate, f.start) + boundedCost(rate, f.lost) + f.waiting
}

// of is the least that the job costs on a host at the price that it is listed at.
func (f *floor) of(l *Listed) pricing.Money { return f.cost(l.Rate) + f.beside(&l.Offer.Tariff) }

// beside is the least that the job costs beside its GPUs.
func (f *floor) beside(t *Tariff) pricing.Money {
	if *t == (Tariff{}) {
		return 0
	}
	c, err := t.charge(0, 1, f.diskMiB, f.traffic)
	if err != nil {
		return 0
	}
	return boundedCost(c.Disk, f.run) + min(c.Traffic, mostCost)
}

// most is the tariff of which no part costs the job more than an amount.
func (f *floor) most(amount pricing.Money) Tariff {
	// An amount that was rounded up may have been half a nanodollar less, and so may an hour of the disk.
	hours := f.run.Hours()
	room := (1 + 1e-9) * (float64(max(0, amount)) + 1 + hours)
	within := func(price float64) float64 { return min(price, 1<<62) }
	traffic := pricing.Money(within(room * 1e9 / float64(f.traffic)))
	return Tariff{Disk: pricing.Rate(within(room * 1024 / (float64(f.diskMiB) * hours))), Ingress: traffic, Egress: traffic}
}

// unbounded is above all tariffs.
func unbounded() Tariff {
	return Tariff{Disk: math.MaxInt64, Ingress: math.MaxInt64, Egress: math.MaxInt64}
}
