package service

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"rialto/broker"
)

const (
	// accuseWindow is how long an accusation counts: a disk or memory that is broken costs each host that is sent to it
	// one block, four times a day.
	accuseWindow = 6 * time.Hour
	// minAccusers is how many providers it takes. One alone could silence a rival; two that are not the same person need
	// a lease each whose hold named the rival, and gain nothing: to be named earns no money.
	minAccusers = 2
	// maxVoices bounds those whom one provider accuses at a time, to as many as a hold names: who accuses everybody is
	// heard no further.
	maxVoices = 8
	// accuseGrain is how often the same accusation is written.
	accuseGrain = time.Minute
	// maxAccusations bounds those that are remembered, which take up to 600 bytes each. One that counts gives way last.
	maxAccusations = 2048

	poisonHints = "poison/" // + slot → accusation
)

// accusation is a provider's last word against a peer, as it is kept.
type accusation struct {
	broker.Accusation

	Accused broker.PeerID
}

// heard reports whether an accusation counts at a time.
func (a *accusation) heard(now time.Time) bool { return a.Counts && a.fresh(now) }

func (a *accusation) fresh(now time.Time) bool { return now.Sub(a.At) < accuseWindow }

// poisonBook remembers accusations, in memory and as hints of the store, each in a slot: the store deletes nothing, so
// that what is new must take the place of what is old. Methods are safe for concurrent use.
type poisonBook struct {
	mu    sync.Mutex
	slots [maxAccusations]*accusation
}

func poisonKey(slot int) string { return fmt.Sprintf("%s%04d", poisonHints, slot) }

// restore takes what was kept. What cannot be read was written by another version, and is only a hint.
func (b *poisonBook) restore(hints map[string][]byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for key, value := range hints {
		var slot int
		a := new(accusation)
		_, err := fmt.Sscanf(strings.TrimPrefix(key, poisonHints), "%d", &slot)
		if err == nil {
			err = json.Unmarshal(value, a)
		}
		if err == nil && slot >= 0 && slot < maxAccusations && a.Accuser != "" && a.Accused != "" {
			b.slots[slot] = a
		}
	}
}

// put remembers an accusation and returns its slot; -1 if it is no news.
func (b *poisonBook) put(a *accusation) (slot int, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now, slot, voices := a.At, -1, 0
	for i, old := range b.slots {
		switch {
		case old == nil:
			if slot < 0 || b.slots[slot] != nil {
				slot = i
			}
		case old.Accuser == a.Accuser && old.Accused == a.Accused:
			return b.again(i, a), nil
		default:
			if old.Accuser == a.Accuser && old.fresh(now) {
				voices++
			}
			if slot < 0 || b.slots[slot] != nil && b.cheaper(old, b.slots[slot], now) {
				slot = i
			}
		}
	}
	if voices >= maxVoices {
		return -1, fmt.Errorf("%s accuses %d others already: %w", a.Accuser, voices, broker.ErrConflict)
	}
	b.slots[slot] = a
	return slot, nil
}

// again takes an accusation that was made before. One that proves nothing leaves one that does as it is.
func (b *poisonBook) again(slot int, a *accusation) int {
	old := b.slots[slot]
	if old.heard(a.At) && !a.Counts || a.At.Sub(old.At) < accuseGrain && old.Counts == a.Counts {
		return -1
	}
	a.Times += old.Times
	b.slots[slot] = a
	return slot
}

// cheaper reports whether x gives way before y.
func (*poisonBook) cheaper(x, y *accusation, now time.Time) bool {
	if a, b := x.heard(now), y.heard(now); a != b {
		return b
	}
	return x.At.Before(y.At)
}

func (b *poisonBook) at(slot int) *accusation {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.slots[slot]
}

// standing says how many count against a peer, and until when it is distrusted for that; zero: it is not. It is until
// fewer than minAccusers are left, so that none of them alone makes it longer.
func (b *poisonBook) standing(p broker.PeerID, now time.Time) (accusers int, until time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var times []time.Time
	for _, a := range b.slots {
		if a != nil && a.Accused == p && a.heard(now) {
			times = append(times, a.At)
		}
	}
	if len(times) < minAccusers {
		return len(times), time.Time{}
	}
	slices.SortFunc(times, func(x, y time.Time) int { return y.Compare(x) })
	return len(times), times[minAccusers-1].Add(accuseWindow)
}

// distrusted lists those who are, sorted.
func (b *poisonBook) distrusted(now time.Time) []broker.PeerID {
	b.mu.Lock()
	voices := map[broker.PeerID]int{}
	for _, a := range b.slots {
		if a != nil && a.heard(now) {
			voices[a.Accused]++
		}
	}
	b.mu.Unlock()
	maps.DeleteFunc(voices, func(_ broker.PeerID, n int) bool { return n < minAccusers })
	return slices.Sorted(maps.Keys(voices))
}

// list is all that is remembered, by accused.
func (b *poisonBook) list(now time.Time) []broker.Accused {
	b.mu.Lock()
	by := map[broker.PeerID][]broker.Accusation{}
	for _, a := range b.slots {
		if a != nil {
			by[a.Accused] = append(by[a.Accused], a.Accusation)
		}
	}
	b.mu.Unlock()
	list := make([]broker.Accused, 0, len(by))
	for p, all := range by {
		slices.SortFunc(all, func(x, y broker.Accusation) int {
			return cmp.Or(y.At.Compare(x.At), cmp.Compare(x.Accuser, y.Accuser))
		})
		accusers, until := b.standing(p, now)
		list = append(list, broker.Accused{Peer: p, Accusers: accusers, Until: until, Accusations: all})
	}
	slices.SortFunc(list, func(x, y broker.Accused) int {
		return cmp.Or(cmp.Compare(y.Accusers, x.Accusers), cmp.Compare(x.Peer, y.Peer))
	})
	return list
}
