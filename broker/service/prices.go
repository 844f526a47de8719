package service

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"rialto/broker"
	"rialto/pricing"
)

const (
	// priceTick is how often what is on offer is read, at most; priceShare is how much longer than the reading the pause
	// after it is, so that a large market pays with the age of its depth and not with the writer's time.
	priceTick  = time.Second
	priceShare = 20
	// maxHistoryDays bounds how far back prints are read at a start: as far as daily bars go.
	maxHistoryDays = pricing.MaxPoints
)

// prices records trades and prints, in a goroutine of its own, and shows them. Readers and the writer never wait for each
// other: what is shown is a board that is replaced whole.
type prices struct {
	s     *Service
	board atomic.Pointer[broker.PriceBoard] // nil: not loaded yet
	hub   *priceHub

	mu     sync.RWMutex
	book   *priceBook // its histories; changed by the recorder alone, with mu held
	secret []byte     // set before book is

	seen broker.Ending // the last that was taken; the recorder's
	over broker.Wait   // likewise

	forecasting sync.Mutex
	forecasts   map[forecastKey]pricing.Forecast

	washing sync.Mutex // one is made at a time: it takes a second of a cell of the most trades
	washes  map[pricing.Cell]washedPrint
}

// washedPrint is what moving a print would take.
type washedPrint struct {
	wash  pricing.Wash
	print pricing.Print
}

type forecastKey struct {
	cell    pricing.Cell
	quality pricing.Quality
}

func newPrices(s *Service) *prices {
	return &prices{s: s, hub: newPriceHub(), forecasts: map[forecastKey]pricing.Forecast{}, washes: map[pricing.Cell]washedPrint{}}
}

// run loads what was printed and goes on until ctx ends.
func (p *prices) run(ctx context.Context) {
	if err := p.load(ctx); err != nil {
		if ctx.Err() == nil {
			p.s.c.Logger.Error("no prices: what was printed cannot be read", "err", err)
		}
		return
	}
	again := time.NewTimer(0)
	defer again.Stop()
	said := "" // what was logged last
	for {
		select {
		case <-ctx.Done():
			return
		case <-again.C:
		}
		begun := time.Now()
		problem := ""
		if err := p.step(ctx); err != nil && ctx.Err() == nil {
			problem = err.Error()
		}
		if problem != said && problem != "" { // once, and not each second
			p.s.c.Logger.Warn("prices are not up to date", "err", problem)
		}
		said = problem
		again.Reset(max(priceTick, priceShare*time.Since(begun)))
	}
}

// load makes the book again from the ledger: trades from leases, prints from notes, in the order of their times.
func (p *prices) load(ctx context.Context) error {
	secret, err := p.s.c.Store.Note(ctx, priceSecret)
	if errors.Is(err, broker.ErrNotFound) {
		secret = make([]byte, 32)
		if _, err := rand.Read(secret); err != nil {
			return err
		}
		err = p.s.do(ctx, len(secret), func(_ context.Context, b *batch) error {
			b.notes[priceSecret] = secret
			return nil
		})
	}
	if err != nil {
		return fmt.Errorf("the key of pseudonyms: %w", err)
	}
	book := newPriceBook(p.s.c.Market.Self, secret)
	taken := func(e *broker.Ending) { book.ended(e) }
	first, err := p.s.c.Store.Note(ctx, priceFirst)
	if err != nil && !errors.Is(err, broker.ErrNotFound) {
		return err
	}
	today := time.Now().UTC().Truncate(24 * time.Hour)
	day, err := time.Parse("20060102", string(first))
	if err != nil {
		day = today.AddDate(0, 0, 1) // nothing was printed
	}
	if oldest := today.AddDate(0, 0, -maxHistoryDays); day.Before(oldest) {
		day = oldest
	}
	for ; !day.After(today.AddDate(0, 0, 1)); day = day.AddDate(0, 0, 1) { // the clock may have been set back since
		notes, err := p.s.c.Store.Notes(ctx, priceDays+day.Format("20060102")+"/")
		if err != nil {
			return err
		}
		prints, err := parsePrints(notes)
		if err != nil {
			return err
		}
		for _, at := range prints.beats {
			if err := p.drain(ctx, time.Unix(at, 0), taken); err != nil {
				return err
			}
			book.replay(at, prints.records[at])
		}
		for at := range prints.records { // of a crash before its beat
			book.printed = max(book.printed, at)
		}
	}
	if err := p.drain(ctx, time.Time{}, taken); err != nil {
		return err
	}
	p.mu.Lock()
	p.book, p.secret = book, secret
	p.mu.Unlock()
	return nil
}

// drain gives out the leases that were over before a time, or all, and were not given out yet.
func (p *prices) drain(ctx context.Context, before time.Time, to func(*broker.Ending)) error {
	for e, err := range p.s.c.Store.Endings(ctx, p.seen.At, p.seen.Lease) {
		if err != nil {
			return err
		}
		if !before.IsZero() && !e.At.Before(before) {
			break
		}
		to(&e)
		p.seen = e
	}
	return nil
}

// step reads the market and, when it is time, prints.
func (p *prices) step(ctx context.Context) error {
	type reading struct {
		asks []broker.Ask
		bids []broker.Bid
		spot []broker.Spot
		wait []broker.Wait
		now  time.Time
	}
	// When the writer answers, all leases that were settled before now are shown.
	read, err := ask(ctx, p.s, 0, func(_ context.Context, b *batch) (reading, error) {
		return reading{b.s.market.Asks(), b.s.market.Bids(), b.s.market.Spots(), b.s.market.Waits(), b.now}, nil
	})
	if err != nil {
		return err
	}
	every := int64(p.s.c.PrintEvery / time.Second)
	at := read.now.Unix() - read.now.Unix()%every
	before, err := p.take(ctx, time.Unix(at, 0))
	if err != nil {
		return err
	}
	over, err := p.overSince(ctx, read.now)
	if err != nil {
		return err
	}
	events := append(before, p.update(func(b *priceBook) []broker.PriceEvent {
		return slices.Concat(b.offered(read.asks, read.bids), b.cleared(read.spot), b.waited(over, read.wait))
	})...)
	printed, err := p.print(ctx, at)
	events = append(events, printed...)
	after, late := p.take(ctx, time.Time{})
	p.show(read.now, append(events, after...))
	return cmp.Or(err, late)
}

// overSince returns the waits that were over and were not taken yet; at first those of the last days.
func (p *prices) overSince(ctx context.Context, now time.Time) ([]broker.Wait, error) {
	if p.over.At.IsZero() {
		p.over.At = now.Add(-runMemory)
	}
	var over []broker.Wait
	for w, err := range p.s.c.Store.Waits(ctx, p.over) {
		if err != nil {
			return nil, err
		}
		over = append(over, w)
	}
	if n := len(over); n > 0 {
		p.over = over[n-1]
	}
	return over, nil
}

// take takes the leases that were over before a time, or all, into the book.
func (p *prices) take(ctx context.Context, before time.Time) ([]broker.PriceEvent, error) {
	var ended []broker.Ending
	err := p.drain(ctx, before, func(e *broker.Ending) { ended = append(ended, *e) })
	return p.update(func(b *priceBook) []broker.PriceEvent {
		var events []broker.PriceEvent
		for i := range ended {
			events = append(events, b.ended(&ended[i])...)
		}
		return events
	}), err
}

// update changes the book.
func (p *prices) update(fn func(*priceBook) []broker.PriceEvent) []broker.PriceEvent {
	p.mu.Lock()
	defer p.mu.Unlock()
	return fn(p.book)
}

// print makes the prints of a time that has none, saves them and then shows them.
func (p *prices) print(ctx context.Context, at int64) ([]broker.PriceEvent, error) {
	if at <= p.book.printed {
		return nil, nil
	}
	if err := p.s.c.Store.Room(); err != nil {
		return nil, fmt.Errorf("nothing is printed: %w", err)
	}
	var trades map[pricing.Cell][]pricing.Trade
	if p.book.unfitted(at) {
		var err error
		if trades, err = p.fitted(ctx, at); err != nil {
			return nil, err
		}
	}
	p.update(func(b *priceBook) []broker.PriceEvent {
		b.fit(at, trades)
		return nil
	})
	prints := p.book.prepare(at) // the recorder alone changes the book
	parts, err := records(at, prints)
	if err != nil {
		return nil, err
	}
	for _, notes := range parts {
		size := 0
		for key, value := range notes {
			size += len(key) + len(value)
		}
		err := p.s.do(ctx, size, func(ctx context.Context, b *batch) error {
			// A note that is written again would end the broker. It can only be there if the clock was set back by days.
			for key := range notes {
				if _, err := b.note(ctx, key); !errors.Is(err, broker.ErrNotFound) {
					return cmp.Or(err, fmt.Errorf("%s: %w: that time was printed already", key, broker.ErrConflict))
				}
			}
			_, err := b.note(ctx, priceFirst)
			if errors.Is(err, broker.ErrNotFound) {
				b.notes[priceFirst] = []byte(priceDay(at))
			} else if err != nil {
				return err
			}
			maps.Copy(b.notes, notes)
			return nil
		})
		if err != nil {
			// Whatever of it was saved must not be written again.
			p.update(func(b *priceBook) []broker.PriceEvent {
				b.printed = at
				return nil
			})
			return nil, fmt.Errorf("save prints: %w", err)
		}
	}
	return p.update(func(b *priceBook) []broker.PriceEvent { return b.show(at, prints) }), nil
}

// fitted returns the trades of the weeks before the fit that is in force at a time, the newest of each cell.
func (p *prices) fitted(ctx context.Context, at int64) (map[pricing.Cell][]pricing.Trade, error) {
	when := pricing.HedonicTime(at)
	trades := map[pricing.Cell][]pricing.Trade{}
	for e, err := range p.between(ctx, when-pricing.HedonicWindow, when) {
		if err != nil {
			return nil, err
		}
		for _, cell := range cellsTraded(&e) {
			if p.book.cells[cell] == nil {
				continue
			}
			trades[cell] = newest(trades[cell], tradeOf(&e, p.s.c.Market.Self))
		}
	}
	return trades, nil
}

// newest adds a trade to those that a fit looks at, and drops the oldest when they are too many.
func newest(list []pricing.Trade, t pricing.Trade) []pricing.Trade {
	if list = append(list, t); len(list) > 2*pricing.MaxTrades {
		list = slices.Clone(list[pricing.MaxTrades:])
	}
	return list
}

// between yields the leases that were over in [from, to), in Unix seconds.
func (p *prices) between(ctx context.Context, from, to int64) iter.Seq2[broker.Ending, error] {
	return func(yield func(broker.Ending, error) bool) {
		for e, err := range p.s.c.Store.Endings(ctx, time.Unix(from, 0), "") {
			if err == nil && e.At.Unix() >= to || !yield(e, err) {
				return
			}
		}
	}
}

// show replaces the board and tells streams what changed.
func (p *prices) show(now time.Time, events []broker.PriceEvent) {
	was := p.board.Load()
	board := &broker.PriceBoard{At: now.UTC(), Health: p.book.health(now)}
	if was != nil && len(events) == 0 && priceDay(was.At.Unix()) == priceDay(now.Unix()) {
		board.Rows, board.Seq = was.Rows, was.Seq
		p.board.Store(board)
		return
	}
	for _, cell := range p.book.sorted() {
		board.Rows = append(board.Rows, p.book.row(cell, now))
	}
	kept := events[:0]
	for _, e := range events {
		if row, err := board.Row(e.Cell); err == nil {
			e.Row = row
			kept = append(kept, e)
		}
	}
	board.Seq = p.hub.number(kept)
	p.board.Store(board)
	p.hub.publish(kept)
}

func (b *priceBook) row(cell pricing.Cell, now time.Time) broker.PriceRow {
	c := b.cells[cell]
	r := broker.PriceRow{
		Print: c.last.Print, InputsHash: c.last.InputsHash, Hedonic: c.hedonic, Fix: c.fix,
		Offers: c.offer.offers, Providers: c.offer.providers, FreeGPUs: free(c.offer.asks), GPUs: c.offer.gpus,
	}
	if c.last.At == 0 {
		r.Print = pricing.Print{Cell: cell, Quality: pricing.Stale}
	}
	r.Bids, r.Clearing, r.Runs, r.Waits, r.WaitsAt = c.offer.bids, c.clearing, c.runs, b.waitsFor(cell), now.Unix()
	_, r.Asks = b.names.hide(now.Unix(), cell, nil, c.offer.asks)
	return r
}
