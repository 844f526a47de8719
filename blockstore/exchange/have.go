package exchange

import (
	"time"

	"rialto/blockstore"
	"rialto/blockstore/exchange/internal/fast"
	"rialto/blockstore/exchange/internal/wire"
)

const (
	// Peers in a swarm are asked again what they have after haveEvery, or more if they are many, and after up to
	// haveMost when nothing is new; and not of much more than the horizon, so that twenty of them cost 0.5 MB/s.
	haveEvery, haveMost = 250 * time.Millisecond, 2 * time.Second
	haveAgain           = 2 * horizon
)

// learn takes a peer's answer to HAVE.
func (d *Download) learn(s *source, r fast.Reply, now time.Time) {
	if s.dead {
		return
	}
	s.meter.trip(r.Took)
	fresh, again := false, s.answered
	s.asking, s.answered, s.ready, s.partial = false, true, true, false
	for i, c := range r.Have {
		it := d.items[c]
		if it == nil {
			continue
		}
		here := r.Bits.Has(i)
		fresh = fresh || here && !s.has.has(it.index)
		s.learn(it, here)
		s.partial = s.partial || !here
		if here {
			d.reroute(it)
		} else {
			d.judge(it)
		}
	}
	if !fresh {
		s.haveWait = min(2*s.haveWait, haveMost)
	} else {
		s.haveWait = haveEvery * time.Duration(1+len(d.sources)/8)
	}
	if fresh && again {
		s.grew = now
	}
	s.nextHave = now.Add(s.haveWait)
}

// learn notes whether the source has an item.
func (s *source) learn(it *item, has bool) {
	s.forget(it)
	if s.dead {
		return
	}
	if has {
		s.has.set(it.index)
		it.holders++
	} else {
		s.lacks.set(it.index)
		it.lackers++
	}
}

// forget makes it unknown whether the source has an item.
func (s *source) forget(it *item) {
	if s.has.has(it.index) {
		s.has.clear(it.index)
		it.holders--
	}
	if s.lacks.has(it.index) {
		s.lacks.clear(it.index)
		it.lackers--
	}
}

// askHaves asks peers what they have of what is wanted: once each, and those in a swarm again and again.
func (d *Download) askHaves(now time.Time) {
	for _, s := range d.sources {
		if s.swap != nil || s.asking || s.answered && (!s.partial || now.Before(s.nextHave)) {
			continue
		}
		most := wire.MaxAsked
		switch {
		case len(d.known) == 1:
			most = 1 // for the round trip only
		case s.answered:
			most = haveAgain
		}
		var ask []blockstore.CID
		for _, it := range d.urgent {
			if len(ask) < most && !s.has.has(it.index) {
				ask = append(ask, it.cid)
			}
		}
		for _, it := range d.queue {
			if len(ask) == most {
				break
			}
			if !s.has.has(it.index) {
				ask = append(ask, it.cid)
			}
		}
		if len(ask) > 0 {
			s.asking = true
			s.lanes[0].stream.Have(ask)
		}
	}
}
