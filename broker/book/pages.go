package book

import "slices"

const (
	pageBits = 12
	pageSize = 1 << pageBits
)

// status of a slot.
type status uint8

const (
	vacant status = iota
	live          // in its ladders
	rented        // known, not on offer
)

// page is what the index knows of a run of slots.
type page struct {
	records [pageSize]Record
	next    [pageSize]uint32 // live slots of a site, in a ring without its head; by index, zero: none
	prev    [pageSize]uint32
	status  [pageSize]status
	gen     [pageSize]uint8 // of the last use; 1…255

	// Heartbeats write these, and no search reads them.
	expires [pageSize]uint32 // seconds since 1970 at which the offer is gone
	soonest uint32           // no offer of the page expires before that
}

// pages is a growing array of slots. Index zero is never used.
type pages struct {
	list []*page
	free []uint32 // indices to use again, the one that was vacated first at head
	head int
	used uint32 // indices below are or were in use
}

func (p *pages) record(s Slot) *Record {
	i := s.index()
	return &p.list[i>>pageBits].records[i&(pageSize-1)]
}

func (p *pages) at(i uint32) (*page, uint32) { return p.list[i>>pageBits], i & (pageSize - 1) }

// take returns a vacant slot, or zero when all are in use. Slots are used again as late as possible.
func (p *pages) take() Slot {
	var i uint32
	switch full := p.used >= MaxOffers; {
	case p.head < len(p.free) && (full || len(p.free)-p.head >= pageSize):
		i = p.free[p.head]
		p.head++
		if p.head >= pageSize && p.head >= len(p.free)/2 {
			p.free = slices.Delete(p.free, 0, p.head)
			p.head = 0
		}
	case full:
		return 0
	default:
		p.used = max(p.used, 1)
		i = p.used
		if int(i>>pageBits) == len(p.list) {
			p.list = append(p.list, new(page))
		}
		p.used++
	}
	pg, j := p.at(i)
	if pg.gen[j]++; pg.gen[j] == 0 {
		pg.gen[j] = 1
	}
	return Slot(uint32(pg.gen[j])<<indexBits | i)
}

func (p *pages) vacate(s Slot) {
	pg, j := p.at(s.index())
	pg.status[j] = vacant
	pg.records[j] = Record{}
	p.free = append(p.free, s.index())
}

// status returns what a slot is now: vacant when it was used again.
func (p *pages) status(s Slot) status {
	i := s.index()
	if i == 0 || i >= p.used {
		return vacant
	}
	pg, j := p.at(i)
	if pg.gen[j] != uint8(s>>indexBits) {
		return vacant
	}
	return pg.status[j]
}

// slot returns the slot that uses an index now.
func (p *pages) slot(i uint32) Slot {
	pg, j := p.at(i)
	return Slot(uint32(pg.gen[j])<<indexBits | i)
}
