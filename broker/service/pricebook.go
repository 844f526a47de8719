package service

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"rialto/broker"
	"rialto/pricing"
)

const (
	// maxCells bounds the cells that prices are kept of. Models that are on the market's list have room in any case, or
	// nearly; strangers' names share maxOddCells.
	maxCells    = 512
	maxOddCells = 64
	// maxTape bounds the leases of the last day that the market's health is made of; the newest count.
	maxTape = 100_000
)

// priceBook is all that is known of prices, in memory. It is the recorder's alone; what it does depends on the leases and
// offers that it is told, in order, and on nothing else, so that it can be made again from what is durable.
type priceBook struct {
	self    broker.PeerID
	names   pseudonyms
	cells   map[pricing.Cell]*priceCell
	waits   map[string]*modelWaits
	odd     int             // cells of models that are not on the list
	known   map[string]bool // models on the list
	tape    []tapeEntry     // leases over in the last day, oldest first
	printed int64           // Unix seconds of the newest print
}

// priceCell is one cell.
type priceCell struct {
	cell       pricing.Cell
	trades     []pricing.Trade // of the window, oldest first, with their real parties
	total      uint64          // trades since the start
	firm       pricing.History
	indicative pricing.History
	last       pricing.Receipt // of the newest print; its inputs are pseudonyms
	saved      pricing.Receipt // of the newest that was saved
	savedAsk   pricing.Rate    // the best ask then
	hedonic    pricing.Hedonic
	recent     []recentPrint // firm ones of the last hour
	fix        broker.PriceFix
	offer      cellOffer
	spotCell
}

type recentPrint struct {
	at    int64
	value pricing.Rate
}

// cellOffer is what is on offer in a cell; operators have their real names.
type cellOffer struct {
	asks      []pricing.Ask
	bids      []pricing.Level // by tick, the highest first
	offers    int
	providers int
	gpus      int
}

// tapeEntry is what the market's health counts of a lease.
type tapeEntry struct {
	at          time.Time
	granted     bool
	ready       bool
	start       time.Duration
	interrupted bool
	gpuSeconds  int64
}

func newPriceBook(self broker.PeerID, secret []byte) *priceBook {
	b := &priceBook{self: self, names: pseudonyms{secret: secret}, cells: map[pricing.Cell]*priceCell{}, waits: map[string]*modelWaits{}, known: map[string]bool{}}
	for _, m := range broker.Models() {
		b.known[m.Name] = true
	}
	return b
}

// tierOf is the tier of proof of GPUs.
func tierOf(l broker.Level, simulated bool) string {
	if simulated {
		return pricing.TierSimulated
	}
	return l.String()
}

// cellsTraded are the cells of a lease. One in the rest of a reservation is no trade: that was one.
func cellsTraded(l *broker.Ending) []pricing.Cell {
	if l.Rest {
		return nil
	}
	return cellsOf(l.Model, l.Term, tierOf(l.Level, l.Simulated), l.Region)
}

// cellsOf are the cells of GPUs for a term in a country: the one of all regions, and that of its group.
func cellsOf(model string, term pricing.Term, tier, country string) []pricing.Cell {
	c := pricing.Cell{Model: model, Term: term, Region: pricing.AnyRegion, Tier: tier}
	cells := []pricing.Cell{c}
	if c.Region = pricing.RegionGroup(country); c.Region != "" {
		cells = append(cells, c)
	}
	return cells
}

// cellOf returns a cell, made if there is room; nil: there is none.
func (b *priceBook) cellOf(c pricing.Cell) *priceCell {
	if p := b.cells[c]; p != nil {
		return p
	}
	if len(b.cells) >= maxCells || !b.known[c.Model] && b.odd >= maxOddCells {
		return nil
	}
	if !b.known[c.Model] {
		b.odd++
	}
	p := &priceCell{cell: c}
	b.cells[c] = p
	return p
}

// tradeOf makes a trade of a settled lease. A provider is its own operator: nothing says yet who is behind two of them.
func tradeOf(l *broker.Ending, self broker.PeerID) pricing.Trade {
	return pricing.Trade{
		ID: pricing.TradeID(string(l.Lease)), Settled: l.At.Unix(), Agreed: l.Granted.Unix(), GPUs: l.GPUs, Rate: l.Rate,
		GPUSeconds: int64(l.Billed/time.Second) * int64(l.GPUs), Provider: string(l.Provider), Operator: string(l.Provider),
		Customer: string(l.Customer), Canary: l.Customer == self, CPUs: l.CPUs, MemoryMiB: int64(l.MemoryMiB), //nolint:gosec // bounded by the offer's rules
	}
}

// ended takes a lease that is over, and returns what a stream tells of it.
func (b *priceBook) ended(l *broker.Ending) []broker.PriceEvent {
	cancelled := l.Granted.IsZero() && l.Last && l.Job == broker.JobCancelled // by the customer, before the answer
	if !cancelled {
		entry := tapeEntry{at: l.At, granted: !l.Granted.IsZero(), ready: !l.Ready.IsZero()}
		if entry.ready {
			entry.start, entry.interrupted = l.Ready.Sub(l.Granted), l.Last && l.Job == broker.JobFailed
			entry.gpuSeconds = int64(l.Billed/time.Second) * int64(l.GPUs)
		}
		b.tape = append(b.tape, entry)
		if len(b.tape) > maxTape {
			b.tape = slices.Clone(b.tape[maxTape/10:])
		}
	}
	if l.Billed < time.Second || l.Rate <= 0 {
		return nil // nothing was traded
	}
	t := tradeOf(l, b.self)
	var events []broker.PriceEvent
	for _, cell := range cellsTraded(l) {
		c := b.cellOf(cell)
		if c == nil {
			continue
		}
		c.total++
		c.take(t)
		c.ran(l)
		public := t
		public.Provider, public.Operator, public.Customer = "", "", ""
		events = append(events, broker.PriceEvent{Kind: broker.PriceTrade, Cell: cell, Trade: public, Trades: c.total})
	}
	return events
}

// take keeps a trade that is long enough for the index.
func (c *priceCell) take(t pricing.Trade) {
	if t.GPUSeconds < pricing.ParamsV1().MinPaid*int64(t.GPUs) {
		return
	}
	c.trades = append(c.trades, t)
	if len(c.trades) > 2*pricing.MaxTrades {
		c.trades = slices.Clone(c.trades[pricing.MaxTrades:])
	}
	if t.Operator != t.Customer && !t.Canary {
		c.firm.AddTrade(&t)
	}
}

// offered takes what is on offer and what is bid for, and returns what changed.
func (b *priceBook) offered(asks []broker.Ask, bids []broker.Bid) []broker.PriceEvent {
	now := map[pricing.Cell]*cellOffer{}
	providers := map[pricing.Cell]map[broker.PeerID]bool{}
	add := func(a *broker.Ask, term pricing.Term, rate pricing.Rate) {
		for _, cell := range cellsOf(a.Model, term, tierOf(a.Level, a.Simulated), a.Region) {
			o := now[cell]
			if o == nil {
				o = &cellOffer{}
				now[cell], providers[cell] = o, map[broker.PeerID]bool{}
			}
			providers[cell][a.Provider] = true
			o.offers++
			o.gpus += a.GPUs
			if a.Free > 0 && rate >= 0 && rate <= pricing.MaxRate {
				o.asks = append(o.asks, pricing.Ask{Rate: rate, GPUs: a.Free, Operator: string(a.Provider)})
			}
		}
	}
	for i := range asks {
		add(&asks[i], pricing.OnDemand, asks[i].Rate)
		if asks[i].Reserved > 0 {
			add(&asks[i], pricing.Reserved, asks[i].Reserved)
		}
		if asks[i].MinBid > 0 {
			add(&asks[i], pricing.Interruptible, asks[i].MinBid)
		}
	}
	for cell, o := range now {
		o.providers = len(providers[cell])
		slices.SortStableFunc(o.asks, func(x, y pricing.Ask) int {
			return cmp.Or(cmp.Compare(x.Rate, y.Rate), cmp.Compare(x.Operator, y.Operator), cmp.Compare(x.GPUs, y.GPUs))
		})
	}
	var events []broker.PriceEvent
	for _, cell := range slices.SortedFunc(maps.Keys(now), compareCells) {
		b.cellOf(cell)
	}
	for i := range bids {
		if bids[i].Model != broker.AnyModel { // so that it has a book while nobody offers the model
			b.cellOf(pricing.Cell{Model: bids[i].Model, Term: bids[i].Term, Region: pricing.AnyRegion, Tier: pricing.TierNVML})
		}
	}
	for _, cell := range b.sorted() {
		c := b.cells[cell]
		var o cellOffer
		if p := now[cell]; p != nil {
			o = *p
		}
		o.bids = bidsIn(cell, bids)
		was := c.offer
		c.offer = o
		if !slices.Equal(was.asks, o.asks) || !slices.Equal(was.bids, o.bids) {
			events = append(events, broker.PriceEvent{Kind: broker.PriceDepth, Cell: cell})
		}
		if was.offers != o.offers || was.providers != o.providers || was.gpus != o.gpus || free(was.asks) != free(o.asks) {
			events = append(events, broker.PriceEvent{Kind: broker.PriceOffer, Cell: cell})
		}
	}
	return events
}

// bidsIn are the bids of a cell's book.
func bidsIn(cell pricing.Cell, bids []broker.Bid) []pricing.Level {
	var all []pricing.Level
	for i := range bids {
		if b := &bids[i]; b.In(cell) {
			all = append(all, pricing.Level{Rate: b.Rate, GPUs: b.GPUs})
		}
	}
	return pricing.BidLevels(all)
}

func free(asks []pricing.Ask) int {
	n := 0
	for _, a := range asks {
		n += a.GPUs
	}
	return n
}

// sorted returns the cells in the order of their text.
func (b *priceBook) sorted() []pricing.Cell {
	return slices.SortedFunc(maps.Keys(b.cells), compareCells)
}

func compareCells(a, b pricing.Cell) int {
	return cmp.Or(cmp.Compare(a.Model, b.Model), cmp.Compare(a.Term, b.Term), cmp.Compare(a.Tier, b.Tier), cmp.Compare(a.Region, b.Region))
}

// health counts the tape of the day before now.
func (b *priceBook) health(now time.Time) broker.MarketHealth {
	from, _ := slices.BinarySearchFunc(b.tape, now.Add(-24*time.Hour), func(e tapeEntry, t time.Time) int { return e.at.Compare(t) })
	b.tape = b.tape[from:]
	var h broker.MarketHealth
	var starts []time.Duration
	for _, e := range b.tape {
		h.Holds++
		if e.granted {
			h.Granted++
		}
		if e.ready {
			h.Starts++
			starts = append(starts, e.start)
		}
		if e.interrupted {
			h.Interruptions++
		}
		h.GPUSeconds += e.gpuSeconds
	}
	if n := len(starts); n > 0 {
		slices.Sort(starts)
		h.MedianStart = starts[n/2]
	}
	return h
}
