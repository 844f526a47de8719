package service

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"rialto/broker"
	"rialto/pricing"
)

// Notes of prices. They are written once, so that what was printed stays.
const (
	priceSecret = "price/secret" // the key of pseudonyms
	priceFirst  = "price/first"  // the day of the first print
	// "price/<day>/beat/<unix seconds>" is empty JSON: a print was made then. "price/<day>/cell/<cell>/<unix seconds>" is
	// a printRecord: what was printed then of a cell and until its next record or the end of the day, as long as beats go on.
	priceDays = "price/"
)

const daySeconds = int64(86400)

// printRecord is a print as it is kept. The trades behind it are the ledger's leases.
type printRecord struct {
	Print   pricing.Print
	BestAsk pricing.Rate
	Hedonic pricing.Hedonic
	Hash    string        // of the receipt's inputs
	Asks    []pricing.Ask `json:",omitempty"` // that an indicative print depends on, with pseudonyms
	Fix     broker.PriceFix
}

// newPrint is a print before it is saved and shown.
type newPrint struct {
	receipt pricing.Receipt
	bestAsk pricing.Rate
	fix     broker.PriceFix
	save    bool // it differs from the one that was saved last
}

func priceDay(at int64) string { return time.Unix(at, 0).UTC().Format("20060102") }

func beatKey(at int64) string { return fmt.Sprintf("%s%s/beat/%d", priceDays, priceDay(at), at) }

func cellKey(c pricing.Cell, at int64) string {
	return fmt.Sprintf("%s%s/cell/%s/%d", priceDays, priceDay(at), c, at)
}

// pseudonyms names parties in public: the first 16 bytes of HMAC-SHA256(secret, day 0 cell 0 party), so that a party can
// be told from another within a cell and a day, and followed no further. It is not safe for concurrent use.
type pseudonyms struct {
	secret []byte
	day    string
	cached map[partyIn]string
}

type partyIn struct {
	cell  pricing.Cell
	party string
}

func (p *pseudonyms) of(day string, cell pricing.Cell, party string) string {
	if p.day != day || p.cached == nil {
		p.day, p.cached = day, map[partyIn]string{}
	}
	key := partyIn{cell, party}
	if name, ok := p.cached[key]; ok {
		return name
	}
	mac := hmac.New(sha256.New, p.secret)
	fmt.Fprintf(mac, "%s\x00%s\x00%s", day, cell, party)
	name := hex.EncodeToString(mac.Sum(nil)[:16])
	p.cached[key] = name
	return name
}

// hide gives the parties of trades and asks the pseudonyms that they have at a time.
func (p *pseudonyms) hide(at int64, cell pricing.Cell, trades []pricing.Trade, asks []pricing.Ask) ([]pricing.Trade, []pricing.Ask) {
	day := priceDay(at)
	trades, asks = slices.Clone(trades), slices.Clone(asks)
	for i := range trades {
		t := &trades[i]
		t.Provider, t.Operator, t.Customer = p.of(day, cell, t.Provider), p.of(day, cell, t.Operator), p.of(day, cell, t.Customer)
	}
	for i := range asks {
		asks[i].Operator = p.of(day, cell, asks[i].Operator)
	}
	return trades, asks
}

// unfitted reports whether a cell with trades has other hedonic coefficients than those in force at a time.
func (b *priceBook) unfitted(at int64) bool {
	for _, c := range b.cells {
		if c.total > 0 && c.hedonic.FittedAt != pricing.HedonicTime(at) {
			return true
		}
	}
	return false
}

// fit fits the coefficients in force at a time from the trades of each cell.
func (b *priceBook) fit(at int64, trades map[pricing.Cell][]pricing.Trade) {
	for cell, c := range b.cells {
		if when := pricing.HedonicTime(at); c.hedonic.FittedAt != when {
			obs, operators := pricing.Observations(trades[cell], when)
			c.hedonic = pricing.FitHedonic(obs, operators, when)
		}
	}
}

// prepare makes the prints of a time, of all cells; it changes nothing that is shown.
func (b *priceBook) prepare(at int64) map[pricing.Cell]*newPrint {
	prints := map[pricing.Cell]*newPrint{}
	for cell, c := range b.cells {
		in := pricing.Inputs{Cell: cell, At: at, Hedonic: c.hedonic}
		in.Trades, in.Asks = b.names.hide(at, cell, c.trades, pricing.NearestAsks(c.offer.asks, pricing.ParamsV1().AskGPUs))
		p := &newPrint{receipt: pricing.NewReceipt(in), fix: c.fix}
		if len(c.offer.asks) > 0 {
			p.bestAsk = c.offer.asks[0].Rate
		}
		if at%daySeconds == pricing.FixTime {
			if v, ok := pricing.DailyFix(c.lastHour(at)); ok {
				p.fix = broker.PriceFix{At: time.Unix(at, 0).UTC(), Value: v}
			}
		}
		p.save = c.differs(p)
		prints[cell] = p
	}
	return prints
}

// differs reports whether a print is not what the last saved one says.
func (c *priceCell) differs(p *newPrint) bool {
	was, now := &c.saved, &p.receipt
	print := now.Print
	if print.Quality == pricing.Stale && (was.At == 0 || was.Print.Quality == pricing.Stale) {
		return false
	}
	print.At = was.Print.At
	// A day's first print differs from the one before it in its pseudonyms, so that each day has all that it needs.
	return print != was.Print || was.Hedonic != now.Hedonic || p.fix != c.fix ||
		p.bestAsk != c.savedAsk || !slices.Equal(was.Trades, now.Trades) || !slices.Equal(was.Asks, now.Asks)
}

// lastHour returns the firm prints of the hour before.
func (c *priceCell) lastHour(at int64) []pricing.Rate {
	var out []pricing.Rate
	for _, r := range c.recent {
		if r.at >= at-pricing.Hour && r.at < at {
			out = append(out, r.value)
		}
	}
	return out
}

// records returns the notes of prints, the beat among them, in parts that fit a batch; none if there is nothing to say.
func records(at int64, prints map[pricing.Cell]*newPrint) ([]map[string][]byte, error) {
	const most = 64 // 4 KiB each
	parts := []map[string][]byte{{}}
	alive := false
	for _, cell := range slices.SortedFunc(maps.Keys(prints), compareCells) {
		p := prints[cell]
		alive = alive || p.save || p.receipt.Print.Quality != pricing.Stale
		if !p.save {
			continue
		}
		value, err := json.Marshal(printRecord{
			Print: p.receipt.Print, BestAsk: p.bestAsk, Hedonic: p.receipt.Hedonic, Hash: p.receipt.InputsHash, Asks: p.receipt.Asks, Fix: p.fix,
		})
		if err != nil {
			return nil, err
		}
		last := parts[len(parts)-1]
		if len(last) >= most {
			last = map[string][]byte{}
			parts = append(parts, last)
		}
		last[cellKey(cell, at)] = value
	}
	if !alive {
		return nil, nil
	}
	parts[len(parts)-1][beatKey(at)] = []byte("{}") // the last part: no beat without its prints
	return parts, nil
}

// show takes prints into the book, and returns what changed.
func (b *priceBook) show(at int64, prints map[pricing.Cell]*newPrint) []broker.PriceEvent {
	b.printed = at
	var events []broker.PriceEvent
	for _, cell := range b.sorted() {
		p, c := prints[cell], b.cells[cell]
		if p == nil {
			continue
		}
		c.print(p)
		events = append(events, broker.PriceEvent{Kind: broker.PricePrint, Cell: cell})
		if p.receipt.Print.Quality == pricing.Stale && !b.known[cell.Model] && len(c.trades) == 0 && c.offer.offers == 0 {
			delete(b.cells, cell) // a stranger's name, gone
			b.odd--
		}
	}
	return events
}

func (c *priceCell) print(p *newPrint) {
	r := &p.receipt
	c.last, c.fix = *r, p.fix
	if p.save {
		c.saved, c.savedAsk = *r, p.bestAsk
	}
	oldest := r.At - pricing.ParamsV1().Window
	keep, _ := slices.BinarySearchFunc(c.trades, oldest, func(t pricing.Trade, at int64) int { return int(t.Settled - at) })
	c.trades = c.trades[keep:]
	switch r.Print.Quality {
	case pricing.Firm:
		c.firm.AddPrint(r.At, r.Print.Index, p.bestAsk)
		c.recent = append(c.recent, recentPrint{r.At, r.Print.Index})
		if len(c.recent) > 2*pricing.FixPrints {
			c.recent = slices.Clone(c.recent[pricing.FixPrints:])
		}
	case pricing.Indicative:
		c.indicative.AddPrint(r.At, r.Print.Index, p.bestAsk)
	case pricing.Stale:
	}
}

// dayOfPrints is what one day's notes say.
type dayOfPrints struct {
	beats   []int64
	records map[int64][]*printRecord
}

// parsePrints reads notes of prints; the error names the one that cannot be read.
func parsePrints(notes map[string][]byte) (dayOfPrints, error) {
	d := dayOfPrints{records: map[int64][]*printRecord{}}
	for _, key := range slices.Sorted(maps.Keys(notes)) {
		at, err := strconv.ParseInt(key[strings.LastIndexByte(key, '/')+1:], 10, 64)
		if err != nil {
			return d, fmt.Errorf("note %s: %w", key, err)
		}
		if strings.Contains(key, "/beat/") {
			d.beats = append(d.beats, at)
			continue
		}
		r := new(printRecord)
		dec := json.NewDecoder(bytes.NewReader(notes[key]))
		dec.DisallowUnknownFields()
		if err := dec.Decode(r); err != nil {
			return d, fmt.Errorf("note %s: %w", key, err)
		}
		if _, err := dec.Token(); !errors.Is(err, io.EOF) || r.Print.At != at {
			return d, fmt.Errorf("note %s: it is not a print of that time", key)
		}
		d.records[at] = append(d.records[at], r)
	}
	slices.Sort(d.beats)
	return d, nil
}

// replay shows the prints of a time again: its records, and of the other cells what they said before.
func (b *priceBook) replay(at int64, records []*printRecord) {
	prints := map[pricing.Cell]*newPrint{}
	for cell, c := range b.cells {
		if c.saved.At != 0 && priceDay(c.saved.At) == priceDay(at) {
			again := c.saved
			again.At, again.Print.At = at, at
			prints[cell] = &newPrint{receipt: again, bestAsk: c.savedAsk, fix: c.fix}
		}
	}
	for _, r := range records {
		c := b.cellOf(r.Print.Cell)
		if c == nil {
			continue
		}
		c.hedonic = r.Hedonic
		prints[r.Print.Cell] = &newPrint{
			receipt: pricing.Receipt{
				Inputs: pricing.Inputs{Cell: r.Print.Cell, At: at, Hedonic: r.Hedonic, Asks: r.Asks}, Print: r.Print, InputsHash: r.Hash,
			},
			bestAsk: r.BestAsk, fix: r.Fix, save: true,
		}
	}
	b.show(at, prints)
}
