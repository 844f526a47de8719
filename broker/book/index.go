package book

import (
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"rialto/pricing"
)

// Errors of changes.
var (
	ErrNoSlot = errors.New("no such slot")         // it was removed, has expired, or never was
	ErrFull   = errors.New("the index is full")    // MaxOffers slots are in use
	ErrRented = errors.New("slot is rented")       // it cannot be rented again
	ErrLive   = errors.New("slot is on offer now") // it cannot be released
)

// Index is an order book. Its zero value is not usable; see [New]. All methods may be called concurrently.
type Index struct {
	// Writers hold writing for a whole change, and mu only while they change what searches read.
	writing sync.Mutex

	mu     sync.RWMutex
	pages  pages
	wide   tree[wide, *wide]
	narrow tree[narrow, *narrow]
	cells  cells
	sites  sites
	census census

	walkers sync.Pool
	// The constants of these names; tests have smaller ones.
	splitCell, maxLeaves, maxRecords int
}

// New returns an empty index.
func New() *Index {
	x := &Index{splitCell: splitCell, maxLeaves: MaxLeaves, maxRecords: MaxRecords}
	x.wide.pages, x.narrow.pages = &x.pages, &x.pages
	return x
}

// Len returns how many slots are on offer now.
func (x *Index) Len() int {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return int(x.census.live)
}

// Record returns what is known of a slot, and whether it is on offer now. It fails with [ErrNoSlot].
func (x *Index) Record(s Slot) (r Record, onOffer bool, err error) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	st := x.pages.status(s)
	if st == vacant {
		return Record{}, false, fmt.Errorf("slot %d: %w", s, ErrNoSlot)
	}
	return *x.pages.record(s), st == live, nil
}

// Insert puts an offer on the market until it expires. It fails with [ErrRecord] or [ErrFull].
func (x *Index) Insert(r *Record, expires time.Time) (Slot, error) {
	c := [1]Change{{Op: OpInsert, Record: *r, Expires: expires}}
	x.Apply(c[:])
	return c[0].Slot, c[0].Err
}

// Remove forgets a slot, on offer or rented. It fails with [ErrNoSlot].
func (x *Index) Remove(s Slot) error { return x.one(Change{Op: OpRemove, Slot: s}) }

// Rent takes a slot off the market and keeps it. It fails with [ErrNoSlot] or [ErrRented].
func (x *Index) Rent(s Slot) error { return x.one(Change{Op: OpRent, Slot: s}) }

// Release puts a rented slot back on the market. It fails with [ErrNoSlot] or [ErrLive].
func (x *Index) Release(s Slot) error { return x.one(Change{Op: OpRelease, Slot: s}) }

// Reprice changes the price of a slot, on offer or rented. It fails with [ErrNoSlot] or [ErrRecord].
func (x *Index) Reprice(s Slot, p pricing.Rate) error {
	return x.one(Change{Op: OpReprice, Slot: s, Record: Record{Price: p}})
}

// Patch replaces the record of a slot, on offer or rented. It is fastest when price, model, GPU count, region and site
// stay. It fails with [ErrNoSlot] or [ErrRecord].
func (x *Index) Patch(s Slot, r *Record) error {
	return x.one(Change{Op: OpPatch, Slot: s, Record: *r})
}

func (x *Index) one(c Change) error {
	cs := [1]Change{c}
	x.Apply(cs[:])
	return cs[0].Err
}

// Op says what a [Change] does; each is the method of that name.
type Op uint8

// Operations.
const (
	OpInsert Op = iota + 1
	OpRemove
	OpRent
	OpRelease
	OpReprice
	OpPatch
)

// Change is one of a batch.
type Change struct {
	Op      Op
	Slot    Slot      // which; with OpInsert set by Apply
	Record  Record    // with OpInsert and OpPatch; with OpReprice its price
	Expires time.Time // with OpInsert
	Err     error     // set by Apply
}

// Apply makes a batch of changes in order; searches see all of them or none. A change that fails says why in its Err and
// leaves everything as it was; the others are made.
func (x *Index) Apply(batch []Change) {
	x.writing.Lock()
	defer x.writing.Unlock()
	x.mu.Lock()
	defer x.mu.Unlock()
	for i := range batch {
		c := &batch[i]
		if c.Err = x.change(c); c.Err != nil && c.Op != OpInsert {
			c.Err = fmt.Errorf("slot %d: %w", c.Slot, c.Err)
		}
	}
}

func (x *Index) change(c *Change) error {
	if c.Op == OpInsert {
		return x.insert(c)
	}
	st := x.pages.status(c.Slot)
	if st == vacant {
		return ErrNoSlot
	}
	r := x.pages.record(c.Slot)
	switch c.Op {
	case OpRemove:
		if st == live {
			x.leave(c.Slot, r)
		}
		x.pages.vacate(c.Slot)
	case OpRent:
		if st == rented {
			return ErrRented
		}
		x.leave(c.Slot, r)
	case OpRelease:
		if st == live {
			return ErrLive
		}
		x.enter(c.Slot, r)
	case OpReprice:
		to := *r
		to.Price = c.Record.Price
		return x.replace(c.Slot, st, r, &to)
	case OpPatch:
		return x.replace(c.Slot, st, r, &c.Record)
	case OpInsert:
	}
	return nil
}

func (x *Index) insert(c *Change) error {
	c.Slot = 0
	if err := c.Record.check(); err != nil {
		return err
	}
	s := x.pages.take()
	if s == 0 {
		return ErrFull
	}
	pg, j := x.pages.at(s.index())
	pg.records[j] = c.Record
	x.expireAt(s, c.Expires)
	x.enter(s, &pg.records[j])
	c.Slot = s
	return nil
}

// replace gives a slot another record.
func (x *Index) replace(s Slot, st status, r, to *Record) error {
	if err := to.check(); err != nil {
		return err
	}
	switch {
	case st == rented:
		*r = *to
	case r.Price == to.Price && r.Model == to.Model && r.GPUs == to.GPUs && r.Region == to.Region && r.Site == to.Site:
		level := x.levelOf(r)
		was, is := encode(r, level), encode(to, level)
		x.census.count(r, -1)
		*r = *to
		x.census.count(r, 1)
		if diff := (row{was[0] ^ is[0], was[1] ^ is[1], was[2] ^ is[2]}); diff != (row{}) {
			x.cells.of(r.Model, r.GPUs).widen(r)
			x.flip(s, r, diff)
		}
	default:
		x.leave(s, r)
		*r = *to
		x.enter(s, r)
	}
	return nil
}

// enter makes a slot live.
func (x *Index) enter(s Slot, r *Record) {
	bits := encode(r, x.link(s, r))
	c := x.cells.of(r.Model, r.GPUs)
	c.widen(r)
	x.enterCell(c, key{r.Price, s}, r.Region, bits)
	x.census.count(r, 1)
	x.setStatus(s, live)
}

// leave makes a live slot a rented one.
func (x *Index) leave(s Slot, r *Record) {
	x.leaveCell(x.cells.of(r.Model, r.GPUs), key{r.Price, s}, r.Region)
	x.census.count(r, -1)
	x.setStatus(s, rented)
	x.unlink(s, r)
}

func (x *Index) setStatus(s Slot, st status) {
	pg, j := x.pages.at(s.index())
	pg.status[j] = st
}

// seconds returns a time as the index counts it: rounded up, so that nothing expires early.
func seconds(t time.Time) uint32 {
	s := t.Unix()
	if t.Nanosecond() > 0 {
		s++
	}
	return uint32(min(max(s, 0), math.MaxUint32))
}
