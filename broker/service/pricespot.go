package service

import (
	"slices"
	"time"

	"rialto/broker"
	"rialto/pricing"
)

const (
	// maxSpotRuns bounds the runs of a cell that survival is estimated from; the newest count.
	maxSpotRuns = 1024
	// runMemory is for how long they count: bids of another week are of another market.
	runMemory = 7 * 24 * time.Hour
)

// spotCell is what an interruptible cell has beside the others.
type spotCell struct {
	clearing pricing.Rate      // what the newest lease that runs pays
	runs     []pricing.SpotRun // that ended, oldest first; shared, so never changed
}

// ran keeps an interruptible lease that became ready and has ended.
func (c *spotCell) ran(l *broker.Ending) {
	if l.Bid == 0 || l.Ready.IsZero() {
		return
	}
	r := pricing.SpotRun{Ended: l.At.Unix(), Bid: l.Bid, Ran: int64(l.Billed / time.Second), By: l.Displaced}
	oldest := r.Ended - int64(runMemory/time.Second)
	from := slices.IndexFunc(c.runs, func(r pricing.SpotRun) bool { return r.Ended >= oldest })
	if from < 0 {
		from = len(c.runs)
	}
	from = max(from, len(c.runs)+1-maxSpotRuns)
	c.runs = append(slices.Clone(c.runs[from:]), r)
}

// modelWaits are waits of jobs that name one model. They are kept beside the cells, because who waits may be the first to
// whom a model is something.
type modelWaits struct {
	over  []broker.Wait // oldest first
	still []broker.Wait
}

// waited keeps waits that are over, in the order in which they came, and those that are not, and returns what changed.
func (b *priceBook) waited(over, still []broker.Wait) []broker.PriceEvent {
	changed := map[string]bool{}
	for i := range over {
		if m := b.waitsOf(over[i].Bid.Model); m != nil {
			m.over = recent(append(m.over, over[i]))
			changed[over[i].Bid.Model] = true
		}
	}
	now := map[string][]broker.Wait{}
	for i := range still {
		now[still[i].Bid.Model] = append(now[still[i].Bid.Model], still[i])
	}
	for model := range now {
		b.waitsOf(model)
	}
	for model, m := range b.waits { // each is changed by itself
		same := func(x, y broker.Wait) bool { return x.Job == y.Job && x.Change == y.Change }
		if !slices.EqualFunc(m.still, now[model], same) {
			m.still, changed[model] = now[model], true
		}
	}
	var events []broker.PriceEvent
	for _, cell := range b.sorted() {
		if cell.Term == pricing.Interruptible && changed[cell.Model] {
			events = append(events, broker.PriceEvent{Kind: broker.PriceOffer, Cell: cell})
		}
	}
	return events
}

// waitsOf returns the waits of a model; nil: of any model, or there is no room.
func (b *priceBook) waitsOf(model string) *modelWaits {
	m := b.waits[model]
	if m == nil && model != broker.AnyModel && len(b.waits) < maxCells {
		m = &modelWaits{}
		b.waits[model] = m
	}
	return m
}

// recent drops waits that are too old or too many.
func recent(waits []broker.Wait) []broker.Wait {
	oldest := waits[len(waits)-1].At.Add(-runMemory)
	from := slices.IndexFunc(waits, func(w broker.Wait) bool { return !w.At.Before(oldest) })
	return waits[max(from, len(waits)-maxSpotRuns):]
}

// waitsFor are the waits that a cell tells: of jobs that name its model and may run in its region.
func (b *priceBook) waitsFor(cell pricing.Cell) []pricing.SpotWait {
	m := b.waits[cell.Model]
	if cell.Term != pricing.Interruptible || m == nil {
		return nil
	}
	return append(waitsIn(cell, m.over), waitsIn(cell, m.still)...)
}

func waitsIn(cell pricing.Cell, waits []broker.Wait) []pricing.SpotWait {
	var out []pricing.SpotWait
	for i := range waits {
		if w := &waits[i]; w.Bid.In(cell) {
			out = append(out, w.Spot())
		}
	}
	return out
}

// cleared takes what interruptible leases pay, those granted last at the end, and returns what changed.
func (b *priceBook) cleared(spots []broker.Spot) []broker.PriceEvent {
	now := map[pricing.Cell]pricing.Rate{}
	for i := range spots {
		s := &spots[i]
		for _, cell := range cellsOf(s.Model, pricing.Interruptible, tierOf(s.Level, s.Simulated), s.Region) {
			now[cell] = s.Rate
			b.cellOf(cell)
		}
	}
	var events []broker.PriceEvent
	for _, cell := range b.sorted() {
		if c := b.cells[cell]; c.clearing != now[cell] {
			c.clearing = now[cell]
			events = append(events, broker.PriceEvent{Kind: broker.PriceOffer, Cell: cell})
		}
	}
	return events
}
