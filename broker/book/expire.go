package book

import (
	"fmt"
	"math"
	"time"
)

// expireAt sets when a slot expires.
func (x *Index) expireAt(s Slot, t time.Time) {
	pg, j := x.pages.at(s.index())
	pg.expires[j] = seconds(t)
	pg.soonest = min(pg.soonest, pg.expires[j])
}

// Touch says that an offer stands until then: a heartbeat. It waits for no search. It fails with [ErrNoSlot].
func (x *Index) Touch(s Slot, expires time.Time) error {
	x.writing.Lock()
	defer x.writing.Unlock()
	if x.pages.status(s) == vacant {
		return fmt.Errorf("slot %d: %w", s, ErrNoSlot)
	}
	x.expireAt(s, expires)
	return nil
}

// expireBatch is how many slots leave the market at once at most, so that searches wait for less than a millisecond.
const expireBatch = 256

// Expire removes all offers, rented ones too, that expire at or before now, and returns them. Offers expire on whole
// seconds. There is no wheel of timers: each page of 4,096 slots knows a time before which none of its offers expires,
// so with heartbeats a page is read about once in a lifetime of its offers.
func (x *Index) Expire(now time.Time) []Slot {
	x.writing.Lock()
	defer x.writing.Unlock()
	at := uint32(min(max(now.Unix(), 0), math.MaxUint32))
	var gone []Slot
	for i, pg := range x.pages.list {
		if pg.soonest > at {
			continue
		}
		soonest := uint32(math.MaxUint32)
		for j := range uint32(pageSize) {
			switch {
			case pg.status[j] == vacant:
			case pg.expires[j] <= at:
				gone = append(gone, x.pages.slot(uint32(i)<<pageBits|j))
			default:
				soonest = min(soonest, pg.expires[j])
			}
		}
		pg.soonest = soonest
	}
	for rest := gone; len(rest) > 0; {
		n := min(len(rest), expireBatch)
		x.removeAll(rest[:n])
		rest = rest[n:]
	}
	return gone
}

func (x *Index) removeAll(gone []Slot) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, s := range gone {
		if x.pages.status(s) == live {
			x.leave(s, x.pages.record(s))
		}
		x.pages.vacate(s)
	}
}
