package pricing

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
)

// Limits of what a price is computed from.
const (
	// MaxRate bounds the rate of a trade or an ask; beyond it sums of weighted rates would not surely fit.
	MaxRate = Rate(1_000_000 * USD)
	// MaxTrades bounds the trades behind one print: the newest count.
	MaxTrades = 4096
	// MaxTradeGPUs bounds the GPUs of one trade.
	MaxTradeGPUs = 64
	// maxPaid bounds a trade's paid time: a year of GPU-seconds of that many GPUs.
	maxPaid = 366 * 86400 * MaxTradeGPUs
)

// Trade is an executed lease: it was settled, and what it says was paid. Parties are names that only have to be equal
// where the parties are; a receipt has pseudonyms.
type Trade struct {
	ID         string // of [TradeID]
	Settled    int64  // Unix seconds: when the bill was final; a trade is executed then
	Agreed     int64  // Unix seconds: when the lease, and with it the rate, was agreed
	GPUs       int
	Rate       Rate  // per GPU-hour, of the GPUs alone: disk and traffic are lines of their own in the bill
	GPUSeconds int64 // paid: billed seconds × GPUs
	Provider   string
	Operator   string // who is behind the provider
	Customer   string // who is behind the customer, by the same names
	Canary     bool   // the market's own probe

	// What came with a GPU, for the hedonic adjustment; zero: not known.
	CPUs      int
	MemoryMiB int64
}

// TradeID returns a lease's name in public: the first 16 bytes of SHA-256("rialto trade 1" 0 lease), in hexadecimal. The
// lease's name has 128 random bits, so who does not know it cannot find its trade, and its parties can.
func TradeID(lease string) string {
	sum := sha256.Sum256([]byte("rialto trade 1\x00" + lease))
	return hex.EncodeToString(sum[:16])
}

// valid reports whether a trade's numbers are within their limits. A free lease has no price.
func (t *Trade) valid() bool {
	return t.Rate >= 1 && t.Rate <= MaxRate && t.GPUs >= 1 && t.GPUs <= MaxTradeGPUs &&
		t.GPUSeconds >= 0 && t.GPUSeconds <= maxPaid && t.CPUs >= 0 && t.MemoryMiB >= 0
}

// paid reports whether the trade's GPUs ran and were paid for at least seconds.
func (t *Trade) paid(seconds int64) bool { return t.GPUSeconds >= seconds*int64(t.GPUs) }

// order sorts trades by when they were settled, then by name.
func (t *Trade) order(u *Trade) int {
	return cmp.Or(cmp.Compare(t.Settled, u.Settled), cmp.Compare(t.ID, u.ID))
}

// Ask is GPUs that can be leased now at a rate.
type Ask struct {
	Rate     Rate // per GPU-hour
	GPUs     int  // free
	Operator string
}

func (a *Ask) valid() bool { return a.Rate >= 0 && a.Rate <= MaxRate && a.GPUs >= 1 && a.GPUs <= 1<<20 }
