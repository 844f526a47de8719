package exchange

import (
	"fmt"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"rialto/blockstore"
)

// arrival is a copy of an item.
type arrival struct {
	source *source
	from   peer.ID
	item   *item
	data   []byte
	block  blockstore.Block // set once verified
}

// receive takes a copy in hand, if it is of use. The caller holds mu.
func (d *Download) receive(it *item) bool {
	if it.done {
		return false
	}
	it.inHand++
	d.unqueue(it)
	return true
}

// arrive hands a copy to be verified. There is room for all that may be asked for; more copies wait.
func (d *Download) arrive(a arrival) {
	select {
	case d.arrivals <- a:
	case <-d.done:
	}
}

// verifyAll verifies what arrives, and has sink called with it. It never waits for sink: there is room for all
// that may be asked for.
func (d *Download) verifyAll() {
	for {
		select {
		case a := <-d.arrivals:
			if a.block.Size() == 0 && !d.verify(&a) {
				continue
			}
			select {
			case d.verified <- a:
			case <-d.done:
			}
		case <-d.done:
			return
		}
	}
}

// sinkAll hands what was verified to sink.
func (d *Download) sinkAll() {
	for {
		select {
		case a := <-d.verified:
			err := d.sink(a.block)
			d.mu.Lock()
			d.sinking--
			if err != nil {
				d.cancel(err)
				d.fail(err)
			} else {
				d.sank(a.item)
			}
			d.mu.Unlock()
		case <-d.done:
			return
		}
	}
}

// verify hashes a copy, tells everybody who waits for the item, and reports whether sink shall have it. When it does,
// sinking is counted.
func (d *Download) verify(a *arrival) bool {
	b, err := blockstore.Verify(a.item.cid, a.data)
	d.mu.Lock()
	defer d.mu.Unlock()
	it := a.item
	it.inHand--
	if err != nil {
		d.poisoned(a)
		d.requeue(it)
		d.schedule()
		return false
	}
	if it.done {
		d.wasted += int64(b.Size())
		if it.inHand == 0 && !it.sunk && len(it.calls) == 0 {
			d.uncount(it)
		}
		return false
	}
	it.done, d.came = true, time.Now()
	d.bytes += int64(b.Size())
	d.from[a.from.String()] += int64(b.Size())
	d.blocks[a.from.String()]++
	d.unqueue(it)
	d.cancelFlights(it, a.data)
	for _, ch := range it.getters {
		ch <- gotten{block: b}
	}
	it.getters = nil
	if len(it.calls) == 0 {
		d.uncount(it)
		d.schedule()
		return false
	}
	a.block, it.block = b, b
	d.sinking++
	return true
}

// sank notes that sink has an item.
func (d *Download) sank(it *item) {
	d.uncount(it)
	it.block = blockstore.Block{}
	if it.sunk = true; len(it.calls) > 0 {
		d.room.Release(1)
	}
	for _, c := range it.calls {
		if c.left--; c.left == 0 && c.pulled {
			c.finish(nil)
		}
	}
	it.calls = nil
	d.schedule()
}

// poisoned drops the source of wrong bytes for good.
func (d *Download) poisoned(a *arrival) {
	d.wasted += int64(len(a.data))
	d.poison(Poison{Peer: a.from.String(), Want: a.item.cid, Got: blockstore.Sum(a.data), Size: len(a.data)})
	d.x.strike(a.from)
	if s := a.source; s.swap == nil {
		s.end(fmt.Errorf("%w instead of %v", errPoison, a.item.cid))
		d.dismiss(s)
	}
}

// poison notes a peer's first wrong bytes.
func (d *Download) poison(p Poison) {
	for _, known := range d.poisons {
		if known.Peer == p.Peer {
			return
		}
	}
	d.poisons = append(d.poisons, p)
	d.x.cfg.Poisoned(p)
}

// watch hedges, asks peers of a swarm what they have, and ends what nobody will complete. Time in which sink does
// not take what has come is not the peers'.
func (d *Download) watch() {
	tick := time.NewTicker(tickTime)
	defer tick.Stop()
	var s stall
	for {
		select {
		case <-d.done:
			return
		case now := <-tick.C:
			d.mu.Lock()
			wanted := len(d.queue)+len(d.urgent)+d.unsunk > 0
			if wanted {
				d.tick(now, &s)
			}
			d.mu.Unlock()
			if wanted {
				continue
			}
		}
		tick.Stop()
		select {
		case <-d.done:
			return
		case <-d.wake:
			tick.Reset(tickTime)
			s = stall{last: time.Now(), before: d.Fetched().Bytes}
		}
	}
}

// stall is how long too little has come.
type stall struct {
	waited time.Duration
	before int64
	last   time.Time
}

func (d *Download) tick(now time.Time, s *stall) {
	since := now.Sub(s.last)
	s.last = now
	if len(d.sources) == 0 && d.joining == 0 {
		d.judgeAll()
		return
	}
	if d.swap != nil {
		d.swap.tick(since)
	}
	d.askHaves(now)
	d.hedge(now)
	d.schedule()
	switch {
	case len(d.sources) == 0:
		*s = stall{last: now, before: d.bytes}
	case d.sinking > 0:
	default:
		if s.waited += min(since, 5*tickTime); s.waited < d.x.cfg.Patience {
			return
		}
		if n := d.bytes - s.before; n < d.x.cfg.MinProgress {
			d.fail(fmt.Errorf("%w: %d bytes in %v", ErrStalled, n, s.waited))
		}
		s.waited, s.before = 0, d.bytes
	}
}
