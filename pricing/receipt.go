package pricing

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Receipt is a print with all that it was computed from, so that anybody can compute it again. Parties are pseudonyms:
// the same party has the same one within a cell.
//
// # Canonical bytes
//
// The hash of the inputs is the SHA-256 of this text, one record a line, numbers in decimal, no spaces but those shown:
//
//	rialto-index/1
//	cell <cell>
//	at <unix seconds>
//	hedonic <fitted at> <trades> <operators> <base GPUs> <base CPUs> <base MiB> <β GPUs> <β CPUs> <β MiB>
//	trade <id> <settled> <agreed> <GPUs> <nanodollars per GPU-hour> <GPU-seconds> <provider> <operator> <customer> <0 or 1: canary> <CPUs> <MiB>
//	ask <nanodollars per GPU-hour> <GPUs> <operator>
//
// with the trades that were settled in the window and paid for long enough, by time and then id, the newest [MaxTrades] of them, and the asks that an
// indicative print depends on, cheapest first; a firm one depends on none.
type Receipt struct {
	Inputs
	Print      Print
	InputsHash string // hexadecimal
}

// NewReceipt computes a print and its receipt. Parties must be words without spaces already.
func NewReceipt(in Inputs) Receipt {
	in = in.canonical()
	p := Compute(in)
	if p.Quality != Indicative {
		in.Asks = nil
	}
	return Receipt{Inputs: in, Print: p, InputsHash: in.hash()}
}

// canonical keeps what the print depends on, in order.
func (in *Inputs) canonical() Inputs {
	params := ParamsV1()
	out := *in
	out.Trades = slices.DeleteFunc(slices.Clone(in.Trades), func(t Trade) bool { return !in.counts(&t) })
	slices.SortFunc(out.Trades, func(a, b Trade) int { return a.order(&b) })
	out.Trades = out.Trades[max(0, len(out.Trades)-MaxTrades):]
	out.Asks = NearestAsks(in.Asks, params.AskGPUs)
	return out
}

// Canonical returns the bytes whose hash is InputsHash.
func (in *Inputs) Canonical() []byte {
	b := fmt.Appendf(nil, "%s\ncell %s\nat %d\n", IndexMethod, in.Cell, in.At)
	h := &in.Hedonic
	b = fmt.Appendf(b, "hedonic %d %d %d %d %d %d %d %d %d\n", h.FittedAt, h.Trades, h.Operators,
		h.BaseGPUs, h.BaseCPUs, h.BaseMemoryMiB, h.GPUs, h.CPUs, h.Memory)
	for i := range in.Trades {
		t := &in.Trades[i]
		canary := 0
		if t.Canary {
			canary = 1
		}
		b = fmt.Appendf(b, "trade %s %d %d %d %d %d %s %s %s %d %d %d\n", t.ID, t.Settled, t.Agreed, t.GPUs, int64(t.Rate),
			t.GPUSeconds, t.Provider, t.Operator, t.Customer, canary, t.CPUs, t.MemoryMiB)
	}
	for _, a := range in.Asks {
		b = fmt.Appendf(b, "ask %d %d %s\n", int64(a.Rate), a.GPUs, a.Operator)
	}
	return b
}

func (in *Inputs) hash() string {
	sum := sha256.Sum256(in.Canonical())
	return hex.EncodeToString(sum[:])
}

// ErrReceipt is what [Verify] finds.
var ErrReceipt = errors.New("the receipt does not hold")

// Verify computes a receipt's print and hash again. The error matches [ErrReceipt] and says what differs.
func Verify(r Receipt) error {
	differs := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrReceipt, fmt.Sprintf(format, args...))
	}
	if len(r.Trades) > MaxTrades || len(r.Asks) > ParamsV1().AskGPUs {
		return differs("%d trades and %d asks are more than a print can depend on", len(r.Trades), len(r.Asks))
	}
	if !r.Hedonic.valid() {
		return differs("its hedonic coefficients are out of range")
	}
	for _, t := range r.Trades {
		for _, w := range []string{t.ID, t.Provider, t.Operator, t.Customer} {
			if w == "" || len(w) > 128 || strings.ContainsFunc(w, notPrinting) {
				return differs("trade %.40q has a name that is not a word", t.ID)
			}
		}
	}
	for _, a := range r.Asks {
		if a.Operator == "" || len(a.Operator) > 128 || strings.ContainsFunc(a.Operator, notPrinting) {
			return differs("an ask's operator is not a word")
		}
	}
	for i := range r.Trades[:max(0, len(r.Trades)-1)] {
		if r.Trades[i].ID == r.Trades[i+1].ID {
			return differs("trade %s counts twice", r.Trades[i].ID)
		}
	}
	again := NewReceipt(r.Inputs)
	switch {
	case len(again.Trades) != len(r.Trades):
		return differs("%d of its %d trades are not of its window, were too short or have no price", len(r.Trades)-len(again.Trades), len(r.Trades))
	case !slices.Equal(again.Trades, r.Trades) || !slices.Equal(again.Asks, r.Asks):
		return differs("its inputs are not in canonical order, or it has asks that its print does not depend on")
	case again.InputsHash != r.InputsHash:
		return differs("its inputs hash to %s, it says %.80q", again.InputsHash, r.InputsHash)
	case again.Print != r.Print:
		return differs("computed again the index is %v (%s, %d trades), it says %v (%s, %d trades)%s", again.Print.Index, again.Print.Quality,
			again.Print.Trades, r.Print.Index, r.Print.Quality, r.Print.Trades, otherwise(again.Print, r.Print))
	}
	return nil
}

// otherwise says that prints differ in what an error does not show.
func otherwise(a, b Print) string {
	if a.Index == b.Index && a.Quality == b.Quality && a.Trades == b.Trades {
		return ", and another figure differs"
	}
	return ""
}

func notPrinting(r rune) bool { return r <= ' ' || r > '~' }
