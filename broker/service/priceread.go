package service

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"rialto/broker"
	"rialto/pricing"
)

// Prices returns what is known of prices now. It is shared and must not be changed.
func (s *Service) Prices(context.Context) (*broker.PriceBoard, error) {
	if err := s.Ready(); err != nil {
		return nil, err
	}
	b := s.prices.board.Load()
	if b == nil {
		return nil, fmt.Errorf("prices are being read: %w", broker.ErrUnavailable)
	}
	return b, nil
}

// PriceHistory returns the rows of a cell's history, see [pricing.History.Rows].
func (s *Service) PriceHistory(ctx context.Context, cell pricing.Cell, q pricing.Quality, step int64, from, to time.Time) ([]pricing.Bar, error) {
	if _, err := s.Prices(ctx); err != nil {
		return nil, err
	}
	p := s.prices
	p.mu.RLock()
	defer p.mu.RUnlock()
	c := p.book.cells[cell]
	if c == nil {
		return nil, fmt.Errorf("cell %s: %w: nothing was offered or traded in it", cell, broker.ErrNotFound)
	}
	h := &c.firm
	if q == pricing.Indicative {
		h = &c.indicative
	}
	rows, err := h.Rows(step, from.Unix(), to.Unix())
	if err != nil {
		return nil, &broker.FieldError{Field: "step", Problem: err.Error()}
	}
	return rows, nil
}

// PriceForecast forecasts a cell's index. It is made once an hour.
func (s *Service) PriceForecast(ctx context.Context, cell pricing.Cell, q pricing.Quality) (pricing.Forecast, error) {
	rows, err := s.PriceHistory(ctx, cell, q, pricing.Hour, time.Time{}, time.Unix(1<<40, 0))
	if err != nil {
		return pricing.Forecast{}, err
	}
	rows = slices.DeleteFunc(rows, func(b pricing.Bar) bool { return b.Seq == 0 }) // its hour is not over
	if len(rows) == 0 {
		return pricing.Forecast{}, fmt.Errorf("cell %s: %w: no %s price was printed for an hour yet", cell, broker.ErrNotFound, q)
	}
	known := slices.MaxFunc(rows, func(a, b pricing.Bar) int { return cmp.Compare(a.Start, b.Start) }).Start + pricing.Hour
	p := s.prices
	p.forecasting.Lock()
	defer p.forecasting.Unlock()
	key := forecastKey{cell, q}
	f, ok := p.forecasts[key]
	if !ok || f.At != known {
		f = pricing.MakeForecast(rows)
		if len(p.forecasts) > 2*maxCells {
			clear(p.forecasts)
		}
		p.forecasts[key] = f
	}
	if len(f.Points) == 0 {
		return f, fmt.Errorf("cell %s: %w: no %s price was printed for an hour yet", cell, broker.ErrNotFound, q)
	}
	return f, nil
}

// PriceReceipt returns the receipt of a cell's newest print at a time, or of the newest for the zero time.
func (s *Service) PriceReceipt(ctx context.Context, cell pricing.Cell, at time.Time) (pricing.Receipt, error) {
	board, err := s.Prices(ctx)
	if err != nil {
		return pricing.Receipt{}, err
	}
	if at.IsZero() {
		row, err := board.Row(cell)
		if err != nil {
			return pricing.Receipt{}, err
		}
		if row.Print.At == 0 {
			return pricing.Receipt{}, fmt.Errorf("%s: %w: nothing was printed yet, but will be within a minute", cell, broker.ErrNotFound)
		}
		at = time.Unix(row.Print.At, 0)
	}
	none := fmt.Errorf("print of %s at %s: %w: there was none on that day before", cell, at.UTC().Format(time.RFC3339), broker.ErrNotFound)
	beats, err := s.prints(ctx, priceDays+priceDay(at.Unix())+"/beat/")
	if err != nil {
		return pricing.Receipt{}, err
	}
	n, exact := slices.BinarySearch(beats.beats, at.Unix())
	if exact {
		n++
	}
	if n == 0 {
		return pricing.Receipt{}, none
	}
	beat := beats.beats[n-1]
	kept, err := s.prints(ctx, priceDays+priceDay(beat)+"/cell/"+cell.String()+"/")
	if err != nil {
		return pricing.Receipt{}, err
	}
	var record *printRecord
	for when, list := range kept.records {
		if when <= beat && (record == nil || when > record.Print.At) {
			record = list[0]
		}
	}
	if record == nil {
		return pricing.Receipt{}, none
	}
	return s.prices.receipt(ctx, record, beat)
}

func (s *Service) prints(ctx context.Context, prefix string) (dayOfPrints, error) {
	notes, err := s.c.Store.Notes(ctx, prefix)
	if err != nil {
		return dayOfPrints{}, err
	}
	return parsePrints(notes)
}

// receipt makes the receipt of a print that a record says, as of a beat that it still held at. The trades are the
// ledger's, so that it fails if the ledger does not give what was printed.
func (p *prices) receipt(ctx context.Context, record *printRecord, beat int64) (pricing.Receipt, error) {
	cell := record.Print.Cell
	in := pricing.Inputs{Cell: cell, At: beat, Hedonic: record.Hedonic, Asks: record.Asks}
	params := pricing.ParamsV1()
	for e, err := range p.between(ctx, beat-params.Window, beat) {
		if err != nil {
			return pricing.Receipt{}, err
		}
		if slices.Contains(cellsTraded(&e), cell) {
			if t := tradeOf(&e, p.s.c.Market.Self); t.GPUSeconds >= params.MinPaid*int64(t.GPUs) {
				in.Trades = append(in.Trades, t)
			}
		}
	}
	names := pseudonyms{secret: p.secret}
	in.Trades, _ = names.hide(beat, cell, in.Trades, nil)
	r := pricing.NewReceipt(in)
	printed := record.Print
	printed.At = beat
	if r.Print != printed {
		return pricing.Receipt{}, fmt.Errorf("print of %s at %d: the ledger's leases give %+v, printed was %+v", cell, beat, r.Print, printed)
	}
	return r, nil
}

// PriceFit returns the hedonic fit that is in force in a cell at a time, now for the zero time, and what it looked at. The
// trades are the ledger's.
func (s *Service) PriceFit(ctx context.Context, cell pricing.Cell, at time.Time) (pricing.Hedonic, []pricing.Observation, error) {
	board, err := s.Prices(ctx)
	if err != nil {
		return pricing.Hedonic{}, nil, err
	}
	if _, err := board.Row(cell); err != nil {
		return pricing.Hedonic{}, nil, err
	}
	if at.IsZero() || at.After(board.At) {
		at = board.At
	}
	when := pricing.HedonicTime(at.Unix())
	var trades []pricing.Trade
	for e, err := range s.prices.between(ctx, when-pricing.HedonicWindow, when) {
		if err != nil {
			return pricing.Hedonic{}, nil, err
		}
		if slices.Contains(cellsTraded(&e), cell) {
			trades = newest(trades, tradeOf(&e, s.c.Market.Self))
		}
	}
	obs, operators := pricing.Observations(trades, when)
	return pricing.FitHedonic(obs, operators, when), obs, nil
}

// PriceWash returns what it would take to move a cell's newest print, and which print that was. It is made once an hour.
func (s *Service) PriceWash(ctx context.Context, cell pricing.Cell) (pricing.Wash, pricing.Print, error) {
	r, err := s.PriceReceipt(ctx, cell, time.Time{})
	if err != nil {
		return pricing.Wash{}, pricing.Print{}, err
	}
	p := s.prices
	p.washing.Lock()
	defer p.washing.Unlock()
	w, ok := p.washes[cell]
	if !ok || w.print.Quality != r.Print.Quality || r.At-w.print.At >= pricing.Hour {
		w = washedPrint{pricing.Washed(r.Inputs), r.Print}
		if len(p.washes) > maxCells {
			clear(p.washes)
		}
		p.washes[cell] = w
	}
	return w.wash, w.print, nil
}

// PriceChanges returns what changed after a number, oldest first, the number of the newest change, and a channel that is
// closed at the next.
func (s *Service) PriceChanges(after uint64) (events []broker.PriceEvent, seq uint64, changed <-chan struct{}) {
	return s.prices.hub.since(after)
}
