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
