package api

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"rialto/broker"
	"rialto/pricing"
)

// changes is a market of one cell in which one offer changes.
type changes struct {
	Market
	mu      sync.Mutex
	seq     uint64
	changed chan struct{}
}

func (c *changes) change() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seq++
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *changes) PriceChanges(after uint64) ([]broker.PriceEvent, uint64, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []broker.PriceEvent
	if c.seq > after {
		cell := pricing.Cell{Model: "T4", Term: pricing.OnDemand, Region: pricing.AnyRegion, Tier: pricing.TierNVML}
		out = []broker.PriceEvent{{Seq: c.seq, Kind: broker.PriceOffer, Cell: cell, Row: &broker.PriceRow{}}}
	}
	return out, c.seq, c.changed
}

// TestPriceStreamIsConflated: a thousand changes a second make ten events, a quiet market a beat each 15 seconds, and a
// reader that stands still is told that it missed something.
func TestPriceStreamIsConflated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &changes{changed: make(chan struct{})}
		s := &Server{c: Config{Market: m, Logger: slog.New(slog.DiscardHandler)}}
		var mu sync.Mutex
		var stall time.Duration
		var got []string
		write := func(format string, args ...any) error {
			mu.Lock()
			defer mu.Unlock()
			time.Sleep(stall)
			stall = 0
			text, _, _ := strings.Cut(fmt.Sprintf(format, args...), "\ndata")
			got = append(got, strings.ReplaceAll(strings.TrimSpace(text), "\n", " "))
			return nil
		}
		// written waits and returns what was written meanwhile.
		written := func(d time.Duration) []string {
			time.Sleep(d)
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			out := got
			got = nil
			return out
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- s.followPrices(ctx, write, priceFilter{}, 0) }()
		for range 2000 {
			m.change()
			time.Sleep(time.Millisecond)
		}
		all := written(time.Second)
		if n := len(all); n < 19 || n > 22 || all[n-1] != "id: 2000 event: offer" {
			t.Errorf("2 s of changes made %d writes, want 20 and the last change: %v", n, all)
		}
		if beats := written(46 * time.Second); len(beats) != 3 || beats[0] != ":" {
			t.Errorf("46 quiet seconds: %q", beats)
		}
		mu.Lock()
		stall = 5 * time.Second
		mu.Unlock()
		m.change()
		time.Sleep(time.Second)
		m.change()
		want := []string{"id: 2001 event: offer", "event: reset", "id: 2002 event: offer"}
		if slow := written(8 * time.Second); fmt.Sprint(slow) != fmt.Sprint(want) {
			t.Errorf("a slow reader: got %q, want %q", slow, want)
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("ended with %v", err)
		}
	})
}

func TestWatchersAreBounded(t *testing.T) {
	w := newWatchers(20)
	for i := range maxAddressStreams {
		if !w.enter("a", true) {
			t.Fatalf("stream %d of an address was refused", i+1)
		}
	}
	if w.enter("a", true) || !w.enter("b", true) || !w.enter("", false) {
		t.Error("an address has more than its part, or another pays for it")
	}
	for range 2 {
		w.enter("", false)
	}
	if w.enter("", false) {
		t.Error("more streams than there may be in all")
	}
	for range maxAddressStreams {
		w.leave("a")
	}
	if _, there := w.by["a"]; there || !w.enter("a", true) {
		t.Error("an address that left is not forgotten")
	}
}

// FuzzPriceReceipt: whatever a broker sends as a receipt is judged, and what holds is what it says.
func FuzzPriceReceipt(f *testing.F) {
	cell := pricing.Cell{Model: "T4", Term: pricing.OnDemand, Region: pricing.AnyRegion, Tier: pricing.TierNVML}
	in := pricing.Inputs{Cell: cell, At: 1_800_000_000, Asks: []pricing.Ask{{Rate: 5, GPUs: 2, Operator: "a"}}}
	for range 6 {
		i := len(in.Trades)
		op := string(rune('a' + i%3))
		in.Trades = append(in.Trades, pricing.Trade{
			ID: pricing.TradeID(fmt.Sprint(i)), Settled: in.At - 60, Agreed: in.At - 4000, GPUs: 1, Rate: 7, GPUSeconds: 3600, Provider: op, Operator: op, Customer: "c",
		})
		r := pricing.NewReceipt(in)
		text, err := json.Marshal(priceReceiptOf(&r))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var r PriceReceipt
		if json.Unmarshal(text, &r) != nil || r.Verify() != nil {
			return
		}
		sum := sha256.Sum256([]byte(r.Canonical))
		if r.InputsHash != hex.EncodeToString(sum[:]) || r.Print.Trades > len(r.Trades) {
			t.Errorf("%s holds", text)
		}
	})
}
