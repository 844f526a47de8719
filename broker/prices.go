package broker

import (
	"fmt"
	"time"

	"rialto/pricing"
)

// Ask is what an offer sells now, as far as prices are concerned.
type Ask struct {
	Provider  PeerID
	Model     string
	Region    string
	Rate      pricing.Rate // per GPU-hour
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
			Provider: o.Provider, Model: o.GPUs[0].Model, Region: o.Region, Rate: o.Rate, GPUs: len(o.GPUs), Free: m.available(o),
			CPUs: o.CPUs, MemoryMiB: o.MemoryMiB, Level: o.Level(), Simulated: o.Simulated(),
		}
	}
	return out
}

// PriceRow is a cell's newest print and what is on offer.
type PriceRow struct {
	Print      pricing.Print
	InputsHash string // of the print's receipt; empty: not printed yet
	Hedonic    pricing.Hedonic
	Fix        PriceFix

	Asks      []pricing.Ask // cheapest first; operators are pseudonyms
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
	PriceDepth PriceKind = "depth" // asks by price
	PriceTrade PriceKind = "trade" // a lease was settled
	PriceOffer PriceKind = "offer" // offers and GPUs, free or not
)
