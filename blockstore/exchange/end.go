package exchange

import (
	"errors"
	"fmt"
	"slices"
)

// fail ends all that is wanted.
func (d *Download) fail(err error) {
	for _, it := range d.items {
		d.failItem(it, err)
	}
}

// failItem ends what is waited for with an item.
func (d *Download) failItem(it *item, err error) {
	for _, ch := range it.getters {
		ch <- gotten{err: err}
	}
	it.getters = nil
	for len(it.calls) > 0 {
		d.drop(it.calls[0], err)
	}
	d.release(it)
}

// drop ends a call, and whatever nobody else wants.
func (d *Download) drop(c *call, err error) {
	c.finish(err)
	for _, it := range d.items {
		n := len(it.calls)
		if n == 0 {
			continue
		}
		it.calls = slices.DeleteFunc(it.calls, func(other *call) bool { return other == c })
		if n > 0 && len(it.calls) == 0 {
			d.room.Release(1)
			d.total--
		}
		d.release(it)
	}
}

// release forgets an item that nobody wants.
func (d *Download) release(it *item) {
	if it.done || len(it.calls) > 0 || len(it.getters) > 0 {
		return
	}
	it.done = true
	d.unqueue(it)
	d.cancelFlights(it, nil)
	if it.inHand == 0 {
		d.uncount(it)
	}
}

// judge fails an item that no source has.
func (d *Download) judge(it *item) {
	if it.waits() && d.joining == 0 && len(d.sources) > 0 && it.lackers == len(d.sources) {
		d.failItem(it, fmt.Errorf("%w: %v", ErrNotHeld, it.cid))
	}
}

// judgeAll does so for all items, and fails them when there is nobody to ask. The caller holds mu.
func (d *Download) judgeAll() {
	if d.joining > 0 {
		return
	}
	if len(d.sources) == 0 {
		err := ErrNoPeers
		if len(d.failed) > 0 {
			err = fmt.Errorf("%w: %w", ErrNoPeers, errors.Join(d.failed...))
		}
		if n := len(d.poisons); n > 0 {
			err = fmt.Errorf("%w: %s", ErrPoisoned, d.poisons[n-1].Peer)
		}
		d.fail(err)
		return
	}
	for _, it := range d.items {
		d.judge(it)
	}
}
