package book

import (
	"cmp"
	"math/bits"
	"slices"
)

// kind is what a step of a program does.
type kind uint8

const (
	atLeast kind = iota // the level in the planes is at least c
	below               // it is below c
	set                 // the flag's plane
	unset
	within // the region is one of the program's
)

// step is one condition on the planes.
type step struct {
	kind  kind
	plane uint8 // the lowest that is read
	bits  uint8 // how many are read
	c     uint8 // what they are compared with, without the zeros at its end
	pass  float32
}

// maxRegions is how many regions are worth asking the planes for.
const maxRegions = 8

// program is a query's conditions on the planes, the one that fewest slots pass first. What passes all of them may
// match; what does not cannot.
type program struct {
	steps   []step
	regions []uint8 // of the one step that is within
}

func (p *program) add(s step) { p.steps = append(p.steps, s) }

// sort puts the step that fewest slots pass first.
func (p *program) sort() {
	slices.SortFunc(p.steps, func(a, b step) int {
		return cmp.Or(cmp.Compare(a.pass, b.pass), cmp.Compare(a.plane, b.plane))
	})
}

// worthwhile drops the steps that nearly all slots pass, which are not worth their planes, and sorts the others.
func (p *program) worthwhile() {
	p.steps = slices.DeleteFunc(p.steps, func(s step) bool { return s.pass > 0.8 })
	p.sort()
}

// compile makes a query's program. Slots on sites with fewer live ones than siblings do not pass.
func (p *program) compile(q *Query, siblings int, c *census) {
	p.steps, p.regions = p.steps[:0], p.regions[:0]
	all := float32(max(c.live, 1))
	for f := range flagCount {
		pass := float32(c.flags[f]) / all
		switch bit := Flags(1) << f; {
		case q.With&bit != 0:
			p.add(step{kind: set, plane: uint8(flagRow + f), pass: pass})
		case q.Without&bit != 0:
			p.add(step{kind: unset, plane: uint8(flagRow + f), pass: 1 - pass})
		}
	}
	for _, b := range q.Bounds {
		p.atLeast(b.Attribute, b.Min, c)
		p.atMost(b.Attribute, b.Max, c)
	}
	if siblings > 1 {
		p.compare(atLeast, &scale{plane: siteRow, bits: siteBits}, uint32(siteLevel(uint32(siblings))), 0.2)
	}
	if n := q.Regions.Len(); n > 0 && n <= maxRegions {
		var pass float32
		for w, word := range q.Regions {
			for ; word != 0; word &= word - 1 {
				r := uint8(w<<6 + bits.TrailingZeros64(word))
				p.regions = append(p.regions, r)
				pass += float32(c.regions[r]) / all
			}
		}
		p.add(step{kind: within, plane: regionRow, pass: pass})
	}
	p.sort()
}

// atLeast adds the step that passes what may have a value or more, if there is anything that it would not pass.
func (p *program) atLeast(a Attribute, v uint32, c *census) {
	s := &scales[a]
	if l := s.level(v); l > 0 {
		p.compare(atLeast, s, l, c.above(a, l))
	}
}

// atMost is atLeast for a value or less.
func (p *program) atMost(a Attribute, v uint32, c *census) {
	s := &scales[a]
	if l := s.level(v) + 1; l < 1<<s.bits {
		p.compare(below, s, l, 1-c.above(a, l))
	}
}

// compare adds a comparison with a level that is not zero. Planes below its lowest one cannot change the outcome.
func (p *program) compare(k kind, s *scale, l uint32, pass float32) {
	zeros := bits.TrailingZeros32(l)
	p.add(step{
		kind: k, plane: s.plane + uint8(zeros), bits: s.bits - uint8(zeros), c: uint8(l >> zeros), pass: pass,
	})
}

// above returns about which share of the live slots has at least a level.
func (c *census) above(a Attribute, l uint32) float32 {
	var n int32
	for _, m := range c.levels[a][l>>histogramBy:] {
		n += m
	}
	return float32(n) / float32(max(c.live, 1))
}

func (l *wide) match(p *program, m mask) mask {
	for i := range p.steps {
		s := &p.steps[i]
		v := l.planes[s.plane]
		switch s.kind {
		case set:
			m[0], m[1], m[2], m[3] = m[0]&v[0], m[1]&v[1], m[2]&v[2], m[3]&v[3]
		case unset:
			m[0], m[1], m[2], m[3] = m[0]&^v[0], m[1]&^v[1], m[2]&^v[2], m[3]&^v[3]
		case within:
			m = l.within(p, m)
		case atLeast, below:
			// From the lowest plane up: a value's suffix is at least c's suffix if its bit is set and c's is not, or
			// not otherwise and the shorter suffix is. The first plane read is where c's lowest one is.
			a, b, c, d := v[0], v[1], v[2], v[3]
			planes := l.planes[s.plane+1 : s.plane+s.bits]
			for j := range planes {
				v := &planes[j]
				if s.c>>(j+1)&1 != 0 {
					a, b, c, d = a&v[0], b&v[1], c&v[2], d&v[3]
				} else {
					a, b, c, d = a|v[0], b|v[1], c|v[2], d|v[3]
				}
			}
			if s.kind == below {
				a, b, c, d = ^a, ^b, ^c, ^d
			}
			m[0], m[1], m[2], m[3] = m[0]&a, m[1]&b, m[2]&c, m[3]&d
		}
		if m[0]|m[1]|m[2]|m[3] == 0 {
			break
		}
	}
	return m
}

func (l *wide) within(p *program, m mask) (out mask) {
	for _, r := range p.regions {
		e := m
		for j := range regionBits {
			v := &l.planes[regionRow+j]
			flip := uint64(r>>j&1) - 1 // all ones where the region's bit is zero
			e[0], e[1], e[2], e[3] = e[0]&(v[0]^flip), e[1]&(v[1]^flip), e[2]&(v[2]^flip), e[3]&(v[3]^flip)
		}
		out[0], out[1], out[2], out[3] = out[0]|e[0], out[1]|e[1], out[2]|e[2], out[3]|e[3]
	}
	return out
}

// match leaves the region to who chose the ladder.
func (l *narrow) match(p *program, of mask) mask {
	m := of[0]
	for i := range p.steps {
		s := &p.steps[i]
		switch s.kind {
		case set:
			m &= l.planes[s.plane]
		case unset:
			m &^= l.planes[s.plane]
		case within:
		case atLeast, below:
			a := l.planes[s.plane]
			for j, v := range l.planes[s.plane+1 : s.plane+s.bits] {
				if s.c>>(j+1)&1 != 0 {
					a &= v
				} else {
					a |= v
				}
			}
			if s.kind == below {
				a = ^a
			}
			m &= a
		}
		if m == 0 {
			break
		}
	}
	return mask{m}
}
