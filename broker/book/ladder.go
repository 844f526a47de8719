package book

import (
	"math"
	"slices"
	"sort"

	"rialto/pricing"
)

// entry is a leaf in a ladder's directory.
type entry struct {
	first key
	leaf  uint32
	n     uint16 // slots that the leaf holds, at least one
	zone  zone
}

// zone is the best of some attributes in a leaf, or of more: what a job costs there at least follows from it.
type zone struct {
	down, disk, score uint8 // highest levels
	downPrice, fetch  uint8 // lowest levels
}

// ladder is the slots of one kind in order of (price, slot). Its leaves are in a tree that many ladders share.
type ladder struct {
	dir []entry
}

// tree holds leaves of one kind and knows how to work on ladders of them.
type tree[T any, L leaf[T]] struct {
	chunks []*[chunk]T
	free   []uint32
	pages  *pages
}

const chunk = 32 // leaves

// code returns the first of a leaf's orders: it never falls when the price grows.
func code(p pricing.Rate) uint32 { return math.Float32bits(float32(p)) }

func (t *tree[T, L]) at(i uint32) *T { return &t.chunks[i/chunk][i%chunk] }

func (t *tree[T, L]) alloc() uint32 {
	if len(t.free) == 0 {
		first := uint32(len(t.chunks)) * chunk
		t.chunks = append(t.chunks, new([chunk]T))
		for i := range uint32(chunk) {
			t.free = append(t.free, first+chunk-1-i)
		}
	}
	i := t.free[len(t.free)-1]
	t.free = t.free[:len(t.free)-1]
	return i
}

// release takes back a leaf whose planes are zero.
func (t *tree[T, L]) release(i uint32) { t.free = append(t.free, i) }

// find returns the last entry whose first key is at most k, or the first entry.
func (l *ladder) find(k key) int {
	i := sort.Search(len(l.dir), func(i int) bool { return k.less(l.dir[i].first) })
	return max(i-1, 0)
}

// seek returns where in a leaf of n slots a key is or belongs.
func (t *tree[T, L]) seek(lf *T, n int, k key) int {
	slots, codes := L(lf).arrays()
	c := code(k.price)
	lo, hi := 0, n
	for lo < hi {
		m := int(uint(lo+hi) >> 1)
		before := codes[m] < c
		if codes[m] == c {
			before = key{t.pages.record(slots[m]).Price, slots[m]}.less(k)
		}
		if before {
			lo = m + 1
		} else {
			hi = m
		}
	}
	return lo
}

// insert puts a slot, whose record has price k.price already, into a ladder.
func (t *tree[T, L]) insert(l *ladder, k key, r row) {
	if len(l.dir) == 0 {
		l.dir = append(l.dir, entry{first: k, leaf: t.alloc()})
	}
	i := l.find(k)
	e := &l.dir[i]
	slots, codes := L(t.at(e.leaf)).arrays()
	if int(e.n) == len(slots) {
		t.split(l, i)
		e = &l.dir[l.find(k)]
		slots, codes = L(t.at(e.leaf)).arrays()
	}
	lf, n := t.at(e.leaf), int(e.n)
	pos := t.seek(lf, n, k)
	copy(slots[pos+1:n+1], slots[pos:n])
	copy(codes[pos+1:n+1], codes[pos:n])
	slots[pos], codes[pos] = k.slot, code(k.price)
	L(lf).insert(pos, r)
	e.n++
	if pos == 0 {
		e.first = k
	}
	e.zone = L(lf).zone(int(e.n))
}

// split moves the upper half of a full leaf into a new one.
func (t *tree[T, L]) split(l *ladder, i int) {
	e := &l.dir[i]
	other := t.alloc()
	from, to := t.at(e.leaf), t.at(other)
	slots, codes := L(from).arrays()
	slots2, codes2 := L(to).arrays()
	half, n := int(e.n)/2, int(e.n)
	L(from).cut(half, to)
	copy(slots2, slots[half:n])
	copy(codes2, codes[half:n])
	e.n, e.zone = uint16(half), L(from).zone(half)
	first := slots2[0]
	l.dir = slices.Insert(l.dir, i+1, entry{
		first: key{t.pages.record(first).Price, first}, leaf: other, n: uint16(n - half), zone: L(to).zone(n - half),
	})
}

// locate returns a slot's entry and its place in the leaf. The slot must be in the ladder.
func (t *tree[T, L]) locate(l *ladder, k key) (i, pos int) {
	i = l.find(k)
	lf, n := t.at(l.dir[i].leaf), int(l.dir[i].n)
	pos = t.seek(lf, n, k)
	if slots, _ := L(lf).arrays(); pos == n || slots[pos] != k.slot {
		panic("book: a slot is not in its ladder")
	}
	return i, pos
}

// remove takes a slot, whose record still has price k.price, out of a ladder.
func (t *tree[T, L]) remove(l *ladder, k key) {
	i, pos := t.locate(l, k)
	e := &l.dir[i]
	lf, n := t.at(e.leaf), int(e.n)
	slots, codes := L(lf).arrays()
	L(lf).remove(pos)
	copy(slots[pos:n-1], slots[pos+1:n])
	copy(codes[pos:n-1], codes[pos+1:n])
	e.n--
	switch {
	case e.n == 0:
		t.release(e.leaf)
		l.dir = slices.Delete(l.dir, i, i+1)
		if len(l.dir) == 0 {
			l.dir = nil
		}
		return
	case pos == 0:
		e.first = key{t.pages.record(slots[0]).Price, slots[0]}
	}
	e.zone = L(lf).zone(int(e.n))
	if int(e.n) < len(slots)/4 {
		t.merge(l, i)
	}
}

// merge joins a leaf with a neighbour when both together leave a quarter of a leaf free.
func (t *tree[T, L]) merge(l *ladder, i int) {
	for _, j := range [2]int{i - 1, i} { // entries j and j+1
		if j < 0 || j+1 >= len(l.dir) {
			continue
		}
		a, b := &l.dir[j], &l.dir[j+1]
		to, from := t.at(a.leaf), t.at(b.leaf)
		slots, codes := L(to).arrays()
		if int(a.n+b.n) > len(slots)*3/4 {
			continue
		}
		slots2, codes2 := L(from).arrays()
		L(to).join(int(a.n), from)
		copy(slots[a.n:], slots2[:b.n])
		copy(codes[a.n:], codes2[:b.n])
		a.n += b.n
		a.zone = L(to).zone(int(a.n))
		var zero T
		*from = zero
		t.release(b.leaf)
		l.dir = slices.Delete(l.dir, j+1, j+2)
		return
	}
}

// drop empties a ladder.
func (t *tree[T, L]) drop(l *ladder) {
	for _, e := range l.dir {
		var zero T
		*t.at(e.leaf) = zero
		t.release(e.leaf)
	}
	l.dir = nil
}

// flip changes the bits of a slot that is in the ladder.
func (t *tree[T, L]) flip(l *ladder, k key, diff row) {
	i, pos := t.locate(l, k)
	e := &l.dir[i]
	lf := t.at(e.leaf)
	L(lf).flip(pos, diff)
	e.zone = L(lf).zone(int(e.n))
}
