package booktest

import (
	"math/rand/v2"

	"rialto/broker/book"
)

// Class is a kind of query.
type Class uint8

// Classes of queries, by what is asked.
const (
	Typical     Class = iota // one model, each constraint half of the time, half with a set of regions
	Heavy                    // one model, nearly all constraints, rare flags, often one country
	AnyModel                 // floors of memory and capability
	ThreeModels              // as typical, of any of three models
	NoMatchOne               // what no offer of the commonest model has
	NoMatchAny               // what no offer has
	classes
)

func (c Class) String() string {
	return [classes]string{"typical", "heavy", "any model", "three models", "no match", "no match anywhere"}[c]
}

// Mixed draws a class: 55 % typical, 20 % heavy, 10 % any model, 10 % three models, 5 % without a match.
func Mixed(r *rand.Rand) Class {
	switch f := r.Float64(); {
	case f < 0.55:
		return Typical
	case f < 0.75:
		return Heavy
	case f < 0.85:
		return AnyModel
	case f < 0.95:
		return ThreeModels
	default:
		return NoMatchOne
	}
}

// Query draws a query of a class for 20 offers.
func (m *Market) Query(r *rand.Rand, c Class) *book.Query {
	q := &book.Query{K: 20}
	p := 0.5
	switch c {
	case Typical, Heavy:
		q.Models = []uint16{uint16(m.models.draw(r))}
		q.GPUs = count(r)
	case ThreeModels:
		for range 3 {
			q.Models = append(q.Models, uint16(m.models.draw(r)))
		}
		q.GPUs = count(r)
	case AnyModel:
		q.GPUs = count(r)
		q.Bounds = []book.Bound{
			{Attribute: book.VRAM, Min: []uint32{8, 12, 16, 24, 40, 48, 80}[r.IntN(7)] << 10, Max: book.Unbounded},
			{Attribute: book.Capability, Min: []uint32{70, 75, 80, 86, 89}[r.IntN(5)], Max: book.Unbounded},
		}
	case NoMatchOne, NoMatchAny:
		// Each alone matches many; together they match none: [Market] makes no such offer.
		q.With, q.Without = DataCentre, StaticIP
		q.Bounds = []book.Bound{{Attribute: book.Down, Min: 500, Max: book.Unbounded}}
		if c == NoMatchOne {
			q.Models = []uint16{0}
			q.GPUs = book.SetOf(1)
		}
		return q
	case classes:
	}
	if c == Heavy {
		p = 0.9
		for _, f := range []book.Flags{Secure, NVLink, ECC, StaticIP} {
			if r.Float64() < 0.25 {
				q.With |= f
			}
		}
	}
	m.constrain(r, q, p)
	m.where(r, q, c)
	return q
}

func (m *Market) constrain(r *rand.Rand, q *book.Query, p float64) {
	if r.Float64() < 0.8 {
		q.With |= Verified
	}
	scale := uint32(q.GPUs.Len())
	for n := range uint8(9) {
		if q.GPUs.Has(n) {
			scale = uint32(n)
		}
	}
	floor := func(a book.Attribute, of ...uint32) {
		if r.Float64() < p {
			q.Bounds = append(q.Bounds, book.Bound{Attribute: a, Min: of[r.IntN(len(of))], Max: book.Unbounded})
		}
	}
	floor(book.RAM, 16<<10*scale, 32<<10*scale, 48<<10*scale)
	floor(book.Disk, 50<<10*scale, 100<<10*scale, 200<<10*scale)
	floor(book.Cores, 4*scale, 8*scale, 12*scale)
	floor(book.Down, 100, 200, 500)
	floor(book.Up, 100, 200, 300)
	floor(book.PCIe, 6000, 10_000)
	floor(book.DiskBandwidth, 800, 1500)
	floor(book.CUDA, 118, 121, 124)
	floor(book.Ports, 5, 20)
	floor(book.Hours, 24, 168)
	if r.Float64() < p {
		q.Bounds = append(q.Bounds, book.Bound{
			Attribute: book.Unreliability, Max: []uint32{50_000, 20_000, 10_000, 5_000}[r.IntN(4)],
		})
	}
}

func (m *Market) where(r *rand.Rand, q *book.Query, c Class) {
	n := 0
	switch {
	case c == Heavy && r.Float64() < 0.35:
		n = 1
	case r.Float64() < 0.5:
		n = 2 + r.IntN(6)
	}
	for range n {
		set := book.SetOf(uint8(m.regions.draw(r) + 1))
		for i := range q.Regions {
			q.Regions[i] |= set[i]
		}
	}
}

func count(r *rand.Rand) book.Set {
	switch f := r.Float64(); {
	case f < 0.6:
		return book.SetOf(1)
	case f < 0.75:
		return book.SetOf(2)
	case f < 0.85:
		return book.SetOf(4)
	default:
		return book.SetOf(8)
	}
}

// Node draws a query for nodes of eight GPUs.
func (m *Market) Node(r *rand.Rand) *book.Query {
	q := &book.Query{K: 1, Models: []uint16{uint16(m.models.draw(r))}, GPUs: book.SetOf(8)}
	m.constrain(r, q, 0.3)
	return q
}

// Job draws a job: a day, an hour, ten minutes with an image of 20 GB, or an endpoint for which somebody waits. Some
// of the slots hold a part of its bytes.
func (m *Market) Job(r *rand.Rand, slots []book.Slot) *book.Job {
	j := &book.Job{Setup: 3, Before: 0.3, Bytes: 4e9, BilledStart: 1, Storage: 20}
	for i := range m.Kinds {
		j.Speed = append(j.Speed, m.Kinds[i].Speed)
		j.Median = append(j.Median, m.Kinds[i].Score)
	}
	switch r.IntN(4) {
	case 0:
		j.Work, j.Checkpoint, j.Restore = 24*3600*0.1, 3600, 60
	case 1:
		j.Work = 3600 * 0.1
	case 2:
		j.Work, j.Bytes, j.Before = 600*0.1, 20e9, 1
	case 3:
		j.Work, j.Bytes, j.Load, j.Waiting = 3600*0.1, 20e9, 20e9, 1e9/3600
	}
	j.Held = make(map[book.Slot]uint16)
	for range min(200, len(slots)) {
		j.Held[slots[r.IntN(len(slots))]] = uint16(r.IntN(1 << 16))
	}
	return j
}
