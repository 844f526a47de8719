package exchange

import (
	"slices"
	"time"

	"rialto/blockstore"
)

// item is one block that somebody wants or wanted.
type item struct {
	cid   blockstore.CID
	cost  int64 // its size, or the most that it can be
	index int   // of its bit in what is known about sources

	calls   []*call         // of Fetch
	getters []chan<- gotten // of Get, with room for one
	since   time.Time       // when it was wanted

	queued  bool // in queue or urgent
	flights []*flight
	inHand  int              // copies that came and were not verified yet
	counted bool             // cost is in the download's out
	done    bool             // nobody wants it any more
	block   blockstore.Block // for as long as sink does not have it
	sunk    bool             // sink has it

	holders, lackers int // sources that are known to have it, or not
}

type gotten struct {
	block blockstore.Block
	err   error
}

// call is one call of Fetch.
type call struct {
	left   int
	pulled bool // left will not grow
	end    chan struct{}
	err    error
}

func (c *call) finish(err error) {
	select {
	case <-c.end:
	default:
		c.err = err
		close(c.end)
	}
}

// flight is a question for an item to a source.
type flight struct {
	item      *item
	source    *source
	lane      *lane
	at        time.Time
	cost      int64
	cancelled bool
	again     bool    // a hedge
	from      *flight // in bulk, that this one moves
}

// weigh sets how much of the source's window the flight takes.
func (f *flight) weigh(cost int64) {
	f.lane.out += cost - f.cost
	f.source.out += cost - f.cost
	f.cost = cost
}

// alive returns the flights that were not taken back.
func (it *item) alive() int {
	n := 0
	for _, f := range it.flights {
		if !f.cancelled {
			n++
		}
	}
	return n
}

// last returns the last flight that was not taken back.
func (it *item) last() *flight {
	for _, f := range slices.Backward(it.flights) {
		if !f.cancelled {
			return f
		}
	}
	return nil
}

// at reports whether the source was asked for the item.
func (it *item) at(s *source) bool {
	for _, f := range it.flights {
		if f.source == s && !f.cancelled {
			return true
		}
	}
	return false
}

// asked returns the question for the item to a source whose answer has not come, taken back or not; nil: there is none.
func (it *item) asked(s *source) *flight {
	for _, f := range it.flights {
		if f.source == s {
			return f
		}
	}
	return nil
}

// waits reports whether the item has to be asked for.
func (it *item) waits() bool { return !it.done && it.inHand == 0 && it.alive() == 0 }

// bits is a set of small numbers.
type bits []uint64

func (b *bits) has(i int) bool { return i>>6 < len(*b) && (*b)[i>>6]&(1<<(i&63)) != 0 }

func (b *bits) set(i int) {
	for len(*b) <= i>>6 {
		*b = append(*b, 0)
	}
	(*b)[i>>6] |= 1 << (i & 63)
}

func (b *bits) clear(i int) {
	if i>>6 < len(*b) {
		(*b)[i>>6] &^= 1 << (i & 63)
	}
}
