package service

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"rialto/broker"
	"rialto/pricing"
)

// priceHub keeps the newest change of each kind in each cell: whoever reads slowly, or comes back, gets what is true now
// and none of what was in between, so that nothing grows with a slow reader.
type priceHub struct {
	mu      sync.Mutex
	seq     uint64
	latest  map[hubKey]broker.PriceEvent
	changed chan struct{}
}

type hubKey struct {
	kind broker.PriceKind
	cell pricing.Cell
}

// newPriceHub starts counting at the microseconds of the clock: numbers go on growing over restarts, because a market
// changes less than a million times a second.
func newPriceHub() *priceHub {
	return &priceHub{seq: uint64(time.Now().UnixMicro()), latest: map[hubKey]broker.PriceEvent{}, changed: make(chan struct{})} //nolint:gosec // after 1970
}

// number gives events their numbers and returns the newest.
func (h *priceHub) number(events []broker.PriceEvent) uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	seq := h.seq
	for i := range events {
		seq++
		events[i].Seq = seq
	}
	return seq
}

// publish shows numbered events.
func (h *priceHub) publish(events []broker.PriceEvent) {
	if len(events) == 0 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range events {
		h.latest[hubKey{e.Kind, e.Cell}] = e
		h.seq = max(h.seq, e.Seq)
	}
	if len(h.latest) > 8*maxCells { // cells come and go
		for key, e := range h.latest {
			if h.seq-e.Seq > 16*maxCells {
				delete(h.latest, key)
			}
		}
	}
	close(h.changed)
	h.changed = make(chan struct{})
}

func (h *priceHub) since(after uint64) ([]broker.PriceEvent, uint64, <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []broker.PriceEvent
	for _, e := range h.latest {
		if e.Seq > after {
			out = append(out, e)
		}
	}
	slices.SortFunc(out, func(a, b broker.PriceEvent) int { return cmp.Compare(a.Seq, b.Seq) })
	return out, h.seq, h.changed
}
