package book

// wide is a leaf of up to 256 slots.
type wide struct {
	slots  [256]Slot
	codes  [256]uint32
	planes [wideRows][4]uint64
}

// narrow is a leaf of up to 64 slots, all of one region.
type narrow struct {
	slots  [64]Slot
	codes  [64]uint32
	planes [narrowRows]uint64
}

// leaf is what a ladder asks of its leaves. A leaf does not know how many slots it holds: its directory's entry does.
type leaf[T any] interface {
	*T
	arrays() (slots []Slot, codes []uint32)
	insert(pos int, r row)         // makes room in the planes at pos and puts the row there
	remove(pos int)                // closes the planes over pos
	flip(pos int, diff row)        // changes the bits of one slot
	cut(from int, to *T)           // moves the planes' bits from there on to the start of an empty leaf
	join(n int, from *T)           // puts another's bits behind the first n
	zone(n int) zone               // of the first n slots
	match(p *program, m mask) mask // which slots of m pass
}

// mask has a bit for each slot of a leaf.
type mask [4]uint64

// low returns the mask of the first n slots.
func low(n int) (m mask) {
	for i := range m {
		m[i] = 1<<min(max(n-64*i, 0), 64) - 1
	}
	return m
}

func (l *wide) arrays() ([]Slot, []uint32)   { return l.slots[:], l.codes[:] }
func (l *narrow) arrays() ([]Slot, []uint32) { return l.slots[:], l.codes[:] }

func (l *wide) insert(pos int, r row) {
	k := low(pos)
	var at mask
	at[pos>>6] = 1 << (pos & 63)
	for i := range l.planes {
		p := &l.planes[i]
		bit := -r.bit(i)
		a, b, c, d := p[0], p[1], p[2], p[3]
		p[0] = a&k[0] | a&^k[0]<<1 | at[0]&bit
		p[1] = b&k[1] | (b&^k[1]<<1 | a&^k[0]>>63) | at[1]&bit
		p[2] = c&k[2] | (c&^k[2]<<1 | b&^k[1]>>63) | at[2]&bit
		p[3] = d&k[3] | (d&^k[3]<<1 | c&^k[2]>>63) | at[3]&bit
	}
}

func (l *wide) remove(pos int) {
	k, m := low(pos), low(pos+1)
	for i := range l.planes {
		p := &l.planes[i]
		a, b, c, d := p[0], p[1], p[2], p[3]
		p[0] = a&k[0] | a&^m[0]>>1 | b&^m[1]<<63
		p[1] = b&k[1] | b&^m[1]>>1 | c&^m[2]<<63
		p[2] = c&k[2] | c&^m[2]>>1 | d&^m[3]<<63
		p[3] = d&k[3] | d&^m[3]>>1
	}
}

func (l *wide) flip(pos int, diff row) {
	for i := range l.planes {
		l.planes[i][pos>>6] ^= diff.bit(i) << (pos & 63)
	}
}

func (l *wide) cut(from int, to *wide) {
	k := low(from)
	for i := range l.planes {
		p := &l.planes[i]
		high := mask{p[0] &^ k[0], p[1] &^ k[1], p[2] &^ k[2], p[3] &^ k[3]}
		to.planes[i] = high.down(from)
		*p = [4]uint64{p[0] & k[0], p[1] & k[1], p[2] & k[2], p[3] & k[3]}
	}
}

func (l *wide) join(n int, from *wide) {
	for i := range l.planes {
		p, up := &l.planes[i], mask(from.planes[i]).up(n)
		*p = [4]uint64{p[0] | up[0], p[1] | up[1], p[2] | up[2], p[3] | up[3]}
	}
}

func (l *wide) zone(n int) zone {
	all := low(n)
	return zone{
		down: l.extreme(Down, all, 0), disk: l.extreme(DiskBandwidth, all, 0), score: l.extreme(Score, all, 0),
		downPrice: ^l.extreme(DownPrice, all, ^uint64(0)) & (1<<scales[DownPrice].bits - 1),
		fetch:     ^l.extreme(Fetch, all, ^uint64(0)) & (1<<scales[Fetch].bits - 1),
	}
}

// extreme returns the highest level of some slots, of the inverted planes when flip is all ones.
func (l *wide) extreme(a Attribute, m mask, flip uint64) (level uint8) {
	s := &scales[a]
	for i := int(s.bits) - 1; i >= 0; i-- {
		p := &l.planes[int(s.plane)+i]
		x := mask{m[0] & (p[0] ^ flip), m[1] & (p[1] ^ flip), m[2] & (p[2] ^ flip), m[3] & (p[3] ^ flip)}
		if x[0]|x[1]|x[2]|x[3] != 0 {
			m = x
			level |= 1 << i
		}
	}
	return level
}

func (l *narrow) zone(n int) zone {
	all := low(n)[0]
	return zone{
		down: l.extreme(Down, all, 0), disk: l.extreme(DiskBandwidth, all, 0), score: l.extreme(Score, all, 0),
		downPrice: ^l.extreme(DownPrice, all, ^uint64(0)) & (1<<scales[DownPrice].bits - 1),
		fetch:     ^l.extreme(Fetch, all, ^uint64(0)) & (1<<scales[Fetch].bits - 1),
	}
}

func (l *narrow) extreme(a Attribute, m, flip uint64) (level uint8) {
	s := &scales[a]
	for i := int(s.bits) - 1; i >= 0; i-- {
		if x := m & (l.planes[int(s.plane)+i] ^ flip); x != 0 {
			m = x
			level |= 1 << i
		}
	}
	return level
}

// down moves bit n to bit 0.
func (m mask) down(n int) (out mask) {
	words, b := n>>6, n&63
	for i := words; i < 4; i++ {
		out[i-words] = m[i] >> b
		if i+1 < 4 {
			out[i-words] |= m[i+1] << (64 - b)
		}
	}
	return out
}

// up moves bit 0 to bit n.
func (m mask) up(n int) (out mask) {
	words, b := n>>6, n&63
	for i := words; i < 4; i++ {
		out[i] = m[i-words] << b
		if i > words {
			out[i] |= m[i-words-1] >> (64 - b)
		}
	}
	return out
}

func (l *narrow) insert(pos int, r row) {
	k := uint64(1)<<pos - 1
	for i := range l.planes {
		p := l.planes[i]
		l.planes[i] = p&k | p&^k<<1 | r.bit(i)<<pos
	}
}

func (l *narrow) remove(pos int) {
	k := uint64(1)<<pos - 1
	for i := range l.planes {
		p := l.planes[i]
		l.planes[i] = p&k | p>>1&^k
	}
}

func (l *narrow) flip(pos int, diff row) {
	for i := range l.planes {
		l.planes[i] ^= diff.bit(i) << pos
	}
}

func (l *narrow) cut(from int, to *narrow) {
	k := uint64(1)<<from - 1
	for i := range l.planes {
		to.planes[i] = l.planes[i] >> from
		l.planes[i] &= k
	}
}

func (l *narrow) join(n int, from *narrow) {
	for i := range l.planes {
		l.planes[i] |= from.planes[i] << n
	}
}
