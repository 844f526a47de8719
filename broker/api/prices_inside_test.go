package api

import (
	"context"
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
		var stall time.Duration
		var got []string
		write := func(format string, args ...any) error {
			time.Sleep(stall)
			stall = 0
			text, _, _ := strings.Cut(fmt.Sprintf(format, args...), "\ndata")
			got = append(got, strings.ReplaceAll(strings.TrimSpace(text), "\n", " "))
			return nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- s.followPrices(ctx, write, priceFilter{}, 0) }()
		for range 2000 {
			m.change()
			time.Sleep(time.Millisecond)
		}
		synctest.Wait()
		if n := len(got); n < 19 || n > 22 {
			t.Errorf("2 s of changes made %d writes, want 20: %v", n, got)
		}
		time.Sleep(time.Second)
		if last := got[len(got)-1]; last != "id: 2000 event: offer" {
			t.Errorf("the last change was not told: %v", last)
		}
		before := len(got)
		time.Sleep(46 * time.Second)
		if beats := got[before:]; len(beats) != 3 || beats[0] != ":" {
			t.Errorf("46 quiet seconds: %q", beats)
		}
		before = len(got)
		stall = 5 * time.Second
		m.change()
		time.Sleep(time.Second)
		m.change()
		time.Sleep(10 * time.Second)
		want := []string{"id: 2001 event: offer", "event: reset", "id: 2002 event: offer"}
		if fmt.Sprint(got[before:]) != fmt.Sprint(want) {
			t.Errorf("a slow reader: got %q, want %q", got[before:], want)
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
