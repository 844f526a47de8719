package broker

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"math"
	"slices"
	"time"

	"rialto/pricing"
)

// Cost is what a job is expected to cost its customer on an offer, and what that is made of. It is what offers are
// ranked by: it is no bill, and no bill has its part Start.
//
//	Run     = rate · T
//	Disk    = S · T
//	Traffic = N · Query.Traffic, both ways
//	Start   = (rate + S) · (R + H)
//	Failure = (rate + S) · (E[T] − T)   E[T] = T/C · (1/λ + R) · (exp(λ·C) − 1),  C = min(T, 24 h)
//	Waiting = V · (R + H)               V = [Query.WaitRate]
//	R       = setup + φ · missing bytes / inbound rate
//	H       = (1 − f)/f · MarketConfig.HoldTTL
//
// rate is that of all GPUs of the job, S what its disk and N what a byte costs by the host's [Tariff], T how long it is expected to run, R the expected time from the lease's grant to
// ready, f the host's [Record.FillRate] and H the time that holds which it does not honour are expected to cost, each as
// much as one without an answer, and λ the host's [Record.Hazard]. The meter begins at ready, so the market bills nothing of R; but who pays a
// rate for an hour with the GPUs loses at least as much by an hour without them, and that is Start. E[T] is the time to
// finish under failures that come at rate λ and throw the job back to its last checkpoint: the renewal argument of Duda
// (The effects of checkpointing on program execution time, 1983). The market does not know how often a job keeps
// its state; one that runs longer than a day is taken for one that does so once a day. What R is computed from, see
// [Startup].
//
// Amounts are exact and rounded once each; R and E[T] are rounded to milliseconds, so that the last bit of a float
// decides nothing. All parts grow, or stay, with price, hazard, failed holds and missing bytes.
type Cost struct {
	Run, Disk, Traffic, Start, Failure, Waiting pricing.Money

	Total pricing.Money // the sum

	Ready time.Duration // R
	// Sized says that the query names an image or weights, and that the market knows the size of all of them that count.
	// Otherwise Ready is without what has to be fetched, and MissBytes and HeldBytes are zero.
	Sized     bool
	MissBytes int64 // of image and weights, not on the host
	HeldBytes int64 // on the host
}

// priced is what the money of a cost follows from.
type priced struct {
	charge Charge
	run    time.Duration // T
	ready  time.Duration // R
	hold   time.Duration // H
	hazard float64       // λ, per hour
	wait   pricing.Rate  // V
}

const (
	usualRun        = time.Hour      // of a search that does not say how long its job runs: what `rialto run` asks for
	checkpointEvery = 24 * time.Hour // C, at most
	// mostLost bounds E[T] − T: about 114 years. With more, offers differ by price alone.
	mostLost = 1e6 * time.Hour
	// mostCost bounds each part, so that no sum overflows. It is more than the dearest job for the longest duration.
	mostCost = pricing.Money(math.MaxInt64 / 8)
)

// money fills in the amounts.
func (c *Cost) money(p priced) {
	c.Run = boundedCost(p.charge.GPUs, p.run)
	c.Disk = boundedCost(p.charge.Disk, p.run)
	c.Traffic = min(p.charge.Traffic, mostCost)
	c.Start = boundedCost(p.charge.Hourly(), p.ready+p.hold)
	c.Failure = boundedCost(p.charge.Hourly(), lost(p.run, p.ready, p.hazard))
	c.Waiting = boundedCost(p.wait, p.ready+p.hold)
	c.Total = c.Run + c.Disk + c.Traffic + c.Start + c.Failure + c.Waiting
}

func boundedCost(r pricing.Rate, d time.Duration) pricing.Money {
	if r == 0 {
		return 0 // as most are for disk and waiting: offers are priced by the thousand
	}
	m, err := r.Cost(d)
	if err != nil {
		return mostCost // too large: neither is below zero
	}
	return min(m, mostCost)
}

// lost returns E[T] − T: the time that failures are expected to cost.
func lost(run, ready time.Duration, hazard float64) time.Duration {
	if hazard <= 0 || run <= 0 {
		return 0
	}
	hours := run.Hours()
	between := min(hours, checkpointEvery.Hours())
	expected := hours / between * (1/hazard + ready.Hours()) * math.Expm1(hazard*between)
	return milliseconds(expected-hours, mostLost)
}

// milliseconds rounds hours to whole milliseconds, at least zero and at most most.
func milliseconds(hours float64, most time.Duration) time.Duration {
	if !(hours < most.Hours()) { // also NaN
		return most
	}
	return time.Duration(math.Round(max(0, hours)*3.6e6)) * time.Millisecond
}

// run is how long the query's job is expected to run, or to be paid for.
func (q *Query) run() time.Duration { return max(cmp.Or(q.Run, usualRun), q.Reserve) }

// cost estimates what the query's job costs on an offer that asks so much for it.
func (m *Market) cost(q *Query, o *Offer, charge Charge) Cost {
	c := m.start(q, o)
	r := m.RecordOf(o.Provider)
	c.money(priced{
		charge: charge, run: q.run(), ready: c.Ready, hold: r.unfilled(m.cfg.HoldTTL), hazard: r.Hazard(), wait: q.WaitRate,
	})
	return c
}

// spread changes the order of the offers that are as good as the best: expected to cost at most one per cent more, and
// to hold no less of the image where it is not known how much that is worth. They come in the order of a lottery
// in which each has as many lots as jobs like this one fit into its free GPUs, so that many equal jobs do not all ask one
// host. The lots follow from the job's signature and the offer alone: equal histories, equal answers.
func (m *Market) spread(q *Query, all []candidate, places []standing) {
	if q.lottery == "" || len(places) < 2 {
		return
	}
	seed := seedOf(q.lottery)
	best := &all[places[0].at]
	limit := asGood(best.cost.Total)
	var as, after []standing
	for i, p := range places {
		if p.total > limit {
			after = append(after, places[i:]...)
			break
		}
		if c := &all[p.at]; c.asGoodAs(best, limit) {
			p.lot = lot(seed, nameOf(c.offer), m.available(c.offer)/q.GPU.Count)
			as = append(as, p)
		} else {
			after = append(after, p)
		}
	}
	slices.SortFunc(as, func(a, b standing) int { return cmp.Or(cmp.Compare(a.lot, b.lot), a.compare(b)) })
	copy(places[copy(places, as):], after)
}

// asGood is the most that an offer may cost which is as good as the best.
func asGood(best pricing.Money) pricing.Money { return best + best/100 }

// asGoodAs reports whether an offer is as good as the best, see [Market.spread].
func (c candidate) asGoodAs(best *candidate, limit pricing.Money) bool {
	known := c.cost.Sized && best.cost.Sized
	return c.cost.Total <= limit && (known || c.weights >= best.weights && (c.image || !best.image))
}

func seedOf(lottery string) uint64 {
	sum := sha256.Sum256([]byte("rialto lottery 1\x00" + lottery))
	return binary.BigEndian.Uint64(sum[:])
}

// nameOf is what an offer takes part in lotteries with.
func nameOf(o *Offer) uint64 { return fnv1a(string(o.Provider), string(o.ID)) }

// lot is the least of as many random numbers as there are lots, at least one: the chance to have the least of all is
// the share of the lots. Who names offers does not know the seed beforehand.
func lot(seed, name uint64, lots int) uint64 {
	x := mixed(seed ^ name)
	least := uint64(math.MaxUint64)
	for range max(1, lots) {
		x += 0x9e3779b97f4a7c15
		least = min(least, mixed(x))
	}
	return least
}

// mixed is the output function of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
func mixed(z uint64) uint64 {
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// fnv1a is hash/fnv's 64-bit FNV-1a of texts with a zero byte between, without an allocation for each offer.
func fnv1a(texts ...string) uint64 {
	h := uint64(14695981039346656037)
	for _, text := range texts {
		for i := range len(text) {
			h = (h ^ uint64(text[i])) * 1099511628211
		}
		h *= 1099511628211
	}
	return h
}
