package broker

import (
	"fmt"
	"slices"
	"time"

	"rialto/pricing"
)

// Ask is what an offer sells now, as far as prices are concerned.
type Ask struct {
	Provider  PeerID
	Model     string
	Region    string
	Rate      pricing.Rate // per GPU-hour
	Reserved  pricing.Rate // likewise, for who commits to a term; zero: there is none
	MinBid    pricing.Rate // likewise, of an interruptible job at least; zero: none is taken
	GPUs      int
	Free      int // that can be leased now
	CPUs      int // per GPU
	MemoryMiB uint64
	Level     Level
	Simulated bool
}

// Asks returns all live offers as asks, by provider and offer.
func (m *Market) Asks() []Ask {
	out := make([]Ask, len(m.offers))
	for i, o := range m.offers {
		out[i] = Ask{
			Provider: o.Provider, Model: o.GPUs[0].Model, Region: o.Region, Rate: o.Rate, Reserved: o.ReservedRate, MinBid: o.MinBid, GPUs: len(o.GPUs), Free: m.available(o),
			CPUs: o.CPUs, MemoryMiB: o.MemoryMiB, Level: o.Level(), Simulated: o.Simulated(),
		}
	}
	return out
}

// Bid is what a job that waits would pay, as far as prices are concerned.
type Bid struct {
	Model     string   // AnyModel: any
	MemoryMiB uint64   // least of each GPU
	Countries []string // it may run in; none: any
	Rate      pricing.Rate
	GPUs      int
	Term      pricing.Term
}

// Bids returns what jobs that wait and have a limit would pay, in no order.
func (m *Market) Bids() []Bid {
	var out []Bid
	for _, w := range m.queue.byID {
		s := &w.Spec
		if s.MaxRate == 0 { // also one that is interruptible: who saw its bid could ask just less than it
			continue
		}
		out = append(out, bidOf(s, w.query.Where))
	}
	return out
}

// bidOf is what a job with a limit, and a query, would pay.
func bidOf(s *JobSpec, where Filter) Bid {
	b := Bid{Model: s.GPU.Model, MemoryMiB: s.GPU.MinMemoryMiB, Rate: s.limit(), GPUs: s.GPU.Count, Term: termOf(s.Bid, s.Reserve)}
	if s.Region != "" {
		b.Countries = []string{s.Region}
	}
	b.narrow(where)
	return b
}

// PriceTerm is the term that the lease's price is one of.
func (l *Lease) PriceTerm() pricing.Term { return termOf(l.Bid, l.Term) }

func termOf(bid pricing.Rate, reserved time.Duration) pricing.Term {
	switch {
	case bid > 0:
		return pricing.Interruptible
	case reserved > 0:
		return pricing.Reserved
	}
	return pricing.OnDemand
}

// narrow takes from a query what says whose book the bid belongs in.
func (b *Bid) narrow(where Filter) {
	for _, p := range where.predicates {
		switch {
		case p.op != OpEqual && p.op != OpIn && p.op != OpAtLeast || p.values[0].null:
		case p.field.id == fieldRegion && len(b.Countries) == 0:
			for _, v := range p.values {
				b.Countries = append(b.Countries, v.s)
			}
		case p.field.id == fieldModel && b.Model == AnyModel && len(p.values) == 1:
			b.Model = p.values[0].s
		case p.field.id == fieldGPURAM && p.op == OpAtLeast:
			b.MemoryMiB = max(b.MemoryMiB, uint64(max(0, p.values[0].n))>>20) //nolint:gosec // not negative
		}
	}
}

// In reports whether the bid belongs in the book of a cell: it is for the cell's term, GPUs of its model have enough memory as sold, and some of
// its countries are allowed. What else the job asks for is not looked at.
func (b *Bid) In(c pricing.Cell) bool {
	switch {
	case b.Term != c.Term:
		return false
	case b.Model != AnyModel && b.Model != c.Model:
		return false
	case b.Model == AnyModel && b.MemoryMiB > modelMemory(c.Model):
		return false
	}
	return c.Region == pricing.AnyRegion || len(b.Countries) == 0 ||
		slices.ContainsFunc(b.Countries, func(country string) bool { return pricing.RegionGroup(country) == c.Region })
}

// PriceRow is a cell's newest print and what is on offer.
type PriceRow struct {
	Print      pricing.Print
	InputsHash string // of the print's receipt; empty: not printed yet
	Hedonic    pricing.Hedonic
	Fix        PriceFix

	Asks []pricing.Ask   // cheapest first; operators are pseudonyms
	Bids []pricing.Level // of jobs that wait for an offer, the highest first; who waits is not told
	// Of an interruptible cell: what the newest of its leases that run pays, and the ones that ended lately, as they came.
	Clearing pricing.Rate
	Runs     []pricing.SpotRun
	Waits    []pricing.SpotWait // of jobs that name the model, those that are over, as they ended, and then the others
	WaitsAt  int64              // when they were read, in Unix seconds

	Offers    int
	Providers int
	FreeGPUs  int
	GPUs      int
}

// PriceFix is a daily fix; zero: none was made yet.
type PriceFix struct {
	At    time.Time
	Value pricing.Rate
}

// PriceBoard is what readers see of prices. It and all that it holds are shared and must not be changed.
type PriceBoard struct {
	At     time.Time // when asks were read
	Seq    uint64    // of the newest change
	Rows   []PriceRow
	Health MarketHealth
}

// Row returns a cell's row, or [ErrNotFound].
func (b *PriceBoard) Row(c pricing.Cell) (*PriceRow, error) {
	for i := range b.Rows {
		if b.Rows[i].Print.Cell == c {
			return &b.Rows[i], nil
		}
	}
	return nil, fmt.Errorf("cell %s: %w: nothing was offered or traded in it", c, ErrNotFound)
}

// MarketHealth says how the market did in the last 24 hours.
type MarketHealth struct {
	Holds         int           // decided: GPUs that a provider was asked for
	Granted       int           // of these; the others were refused or not answered, so the offer was not what it said
	Starts        int           // leases settled that had become ready
	MedianStart   time.Duration // from the grant until ready
	Interruptions int           // of the starts: the provider lost or ended them
	GPUSeconds    int64         // paid
}

// PriceEvent is a change that a stream tells. Of each cell and kind the newest stands for those before it.
type PriceEvent struct {
	Seq  uint64
	Kind PriceKind
	Cell pricing.Cell
	Row  *PriceRow // as it was then

	// With PriceTrade: the newest, without its parties, and how many there were in the cell since the broker's start.
	Trade  pricing.Trade
	Trades uint64
}

// PriceKind is a kind of change.
type PriceKind string

// Kinds of change.
const (
	PricePrint PriceKind = "price" // a new print
	PriceDepth PriceKind = "depth" // asks and bids by price
	PriceTrade PriceKind = "trade" // a lease was settled
	PriceOffer PriceKind = "offer" // offers and GPUs, free or not
)
