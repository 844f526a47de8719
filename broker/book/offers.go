package book

import (
	"math"
	"math/bits"
	"strings"
	"time"

	"rialto/broker"
	"rialto/pricing"
)

// Offers is an [Index] of a market's offers: what [broker.Index] asks for. The market asks every predicate and computes
// every cost itself; what is in the records only keeps most offers from being looked at.
type Offers struct {
	x       *Index
	listed  []*broker.Listed // by the index of their slot
	models  numbers
	regions numbers
}

var _ broker.Index = (*Offers)(nil)

// NewOffers returns an empty index of offers, for one market.
func NewOffers() *Offers {
	return &Offers{x: New(), models: numbers{most: MaxModel}, regions: numbers{most: 255}}
}

// free is the attribute of a record that says how many GPUs can be asked for.
const free = Ports

// numbers gives names numbers from 1 on. Those of which there are too many share zero, as does the empty one.
type numbers struct {
	most   int
	of     map[string]int
	shared bool // by more than the empty name
}

func (n *numbers) add(name string) int {
	if name == "" {
		return 0
	}
	if i, ok := n.of[name]; ok {
		return i
	}
	if len(n.of) == n.most {
		n.shared = true
		return 0
	}
	if n.of == nil {
		n.of = map[string]int{}
	}
	n.of[name] = len(n.of) + 1
	return len(n.of)
}

// find returns the numbers that a name may have.
func (n *numbers) find(name string) (all []int) {
	if i, ok := n.of[name]; ok {
		all = append(all, i)
	}
	if n.shared || name == "" {
		all = append(all, 0)
	}
	return all
}

func foldRegion(s string) string { return strings.ReplaceAll(strings.ToLower(s), "_", " ") }

func (o *Offers) record(l *broker.Listed) Record {
	of := l.Offer
	return Record{
		Price:  min(l.Rate, MaxPrice),
		VRAM:   uint32(min(of.SoldMemory(), math.MaxUint32)), //nolint:gosec // bounded
		Model:  uint16(o.models.add(broker.FoldModel(of.GPUs[0].Model))),
		Region: uint8(o.regions.add(foldRegion(of.Region))),
		GPUs:   uint8(min(len(of.GPUs), 255)),
		Ports:  uint16(min(l.Free, math.MaxUint16)),

		StoragePrice: units(of.Tariff.Disk, perStorage), DownPrice: units(of.Tariff.Ingress, perTraffic), UpPrice: units(of.Tariff.Egress, perTraffic),
	}
}

// perTraffic is nanodollars per GB, for a unit of DownPrice or UpPrice.
const perTraffic = 1e9 * perByte

// units returns how many units a price has, rounded down, so that none seems dearer than it is.
func units[P pricing.Money | pricing.Rate](price, unit P) uint16 {
	return uint16(min(price/unit, math.MaxUint16))
}

// Put implements [broker.Index]. An offer beyond [MaxOffers] is not listed: a market has that many GPUs only if somebody
// makes them up.
func (o *Offers) Put(l *broker.Listed) {
	r := o.record(l)
	if l.Slot != 0 {
		if err := o.x.Patch(Slot(l.Slot), &r); err == nil {
			return
		}
	}
	s, err := o.x.Insert(&r, time.Unix(math.MaxUint32, 0))
	if err != nil {
		return
	}
	l.Slot = uint32(s)
	for int(s.index()) >= len(o.listed) {
		o.listed = append(o.listed, nil)
	}
	o.listed[s.index()] = l
}

// Drop implements [broker.Index].
func (o *Offers) Drop(l *broker.Listed) {
	if o.x.Remove(Slot(l.Slot)) == nil {
		o.listed[Slot(l.Slot).index()] = nil
	}
	l.Slot = 0
}

// Walk implements [broker.Index].
func (o *Offers) Walk(want *broker.Want, g broker.Goal) {
	q, ok := o.query(want)
	if !ok {
		return
	}
	o.x.mu.RLock()
	defer o.x.mu.RUnlock()
	w := o.x.walker(&q)
	defer o.x.walkers.Put(w)
	w.exhaustive = true
	w.start(0, rankCost)
	w.run(&walk{walk: w, listed: o.listed, goal: g})
}

// query is what the index knows of what is wanted; false: nothing can match.
func (o *Offers) query(want *broker.Want) (q Query, ok bool) {
	for _, name := range want.Models {
		for _, n := range o.models.find(broker.FoldModel(name)) {
			q.Models = append(q.Models, uint16(n)) //nolint:gosec // at most MaxModel
		}
	}
	for _, name := range want.Regions {
		for _, n := range o.regions.find(foldRegion(name)) {
			q.Regions[n>>6] |= 1 << (n & 63)
		}
	}
	if len(want.Models) > 0 && len(q.Models) == 0 || len(want.Regions) > 0 && q.Regions == (Set{}) {
		return q, false
	}
	if want.GPUs > 1 {
		for n := want.GPUs; n <= 255; n++ {
			q.GPUs[n>>6] |= 1 << (n & 63)
		}
	}
	if want.Free > 0 {
		q.Bounds = append(q.Bounds, Bound{Attribute: free, Min: uint32(want.Free), Max: Unbounded}) //nolint:gosec // a count
	}
	if want.MemoryMiB > 0 {
		q.Bounds = append(q.Bounds, Bound{Attribute: VRAM, Min: uint32(min(want.MemoryMiB, math.MaxUint32)), Max: Unbounded}) //nolint:gosec // bounded
	}
	if want.MaxRate < MaxPrice {
		q.MaxPrice = want.MaxRate
	}
	return q, true
}

// walk shows a market what passes.
type walk struct {
	walk   *walker
	listed []*broker.Listed
	goal   broker.Goal
}

func (v *walk) beaten(bound float64, _ Slot) bool { return !v.goal.Wanted(pricing.Rate(bound)) }

// first asks the planes for what a host may charge beside its GPUs at the leaf's lowest price.
func (v *walk) first(_ *cursor, e *entry) (*program, bool) {
	most := v.goal.Most(e.first.price)
	w := v.walk
	p, census := &w.limits, &w.x.census
	p.steps = p.steps[:0]
	p.atMost(StoragePrice, bounded(most.Disk, perStorage), census)
	p.atMost(DownPrice, bounded(most.Ingress, perTraffic), census)
	p.atMost(UpPrice, bounded(most.Egress, perTraffic), census)
	p.worthwhile()
	return p, true
}

// bounded is units for a bound, which may be above all prices.
func bounded[P pricing.Money | pricing.Rate](price, unit P) uint32 {
	return uint32(min(price/unit, Unbounded))
}

func (v *walk) visit(c *cursor, e *entry, m mask) bool {
	w := v.walk
	slots := w.slots(c, e)
	for i, word := range m {
		for ; word != 0; word &= word - 1 {
			s := slots[i<<6+bits.TrailingZeros64(word)]
			r := w.x.pages.record(s)
			if w.q.MaxPrice > 0 && r.Price > w.q.MaxPrice || !v.goal.Wanted(r.Price) {
				return true
			}
			if w.q.Matches(r) {
				v.goal.Visit(v.listed[s.index()])
			}
		}
	}
	return false
}
