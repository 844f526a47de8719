package exchange_test

import (
	"slices"
	"sync"
	"testing"
	"time"

	"rialto/blockstore/exchange"
)

// TestUrgentComesOnce has a program read blocks, one after the other, which the bulk of a distant peer brings in about
// that order: nearly all that it reads is asked for already, or on its way. None of it may be sent again.
func TestUrgentComesOnce(t *testing.T) {
	const n, size, rtt = 200, 200_000, 50 * time.Millisecond
	a, x := start(t, exchange.Config{}), start(t, exchange.Config{})
	refs := put(t, a.store, n, size)
	l := newLink(t, tcpAddr(t, a.peer()), rtt, gbit)
	var c checked
	d := open(t, x, c.sink, through(a.peer(), l))
	done := make(chan error, 1)
	go func() { done <- d.Fetch(t.Context(), slices.Values(refs)) }()
	var readers sync.WaitGroup
	for part := range slices.Chunk(refs, n/4) { // the first comes as it is asked for, the others are asked for last
		readers.Go(func() {
			for _, r := range part {
				if c.has(r.CID) {
					continue // as from a store
				}
				if b, err := d.Get(t.Context(), r); err != nil || b.CID() != r.CID {
					t.Errorf("got %v, %v", b.CID(), err)
				}
			}
		})
	}
	readers.Wait()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	c.want(t, refs)
	if sent, most := a.Stats().ServedBytes, int64(n*size*103/100); sent > most {
		t.Errorf("the peer sent %d bytes of %d, want at most %d", sent, n*size, most)
	}
}
