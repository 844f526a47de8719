package book

import (
	"cmp"
	"slices"
)

// cell is all that is on offer of one model and GPU count.
type cell struct {
	model   uint16
	gpus    uint8
	live    int // slots
	all     ladder
	regions *[256]ladder // nil in a small cell, whose few leaves are read as fast
	// The levels of all that was ever in the cell are between these, so a cell whose GPUs are too small is passed over.
	lowest, highest [attributes]uint8
}

// cells is a table by model, each model's by GPU count.
type cells struct {
	models [][]*cell
}

func (cs *cells) of(model uint16, gpus uint8) *cell {
	for int(model) >= len(cs.models) {
		cs.models = append(cs.models, nil)
	}
	m := cs.models[model]
	i, found := slices.BinarySearchFunc(m, gpus, func(c *cell, n uint8) int { return cmp.Compare(c.gpus, n) })
	if found {
		return m[i]
	}
	c := &cell{model: model, gpus: gpus}
	for a := range attributes {
		c.lowest[a] = maxLevel
	}
	cs.models[model] = slices.Insert(m, i, c)
	return c
}

// A cell has ladders by region from splitCell slots on, until it has less than half of them.
const splitCell = 4096

// enterCell puts a live slot into the ladders of its cell.
func (x *Index) enterCell(c *cell, k key, region uint8, bits row) {
	x.wide.insert(&c.all, k, bits)
	c.live++
	switch {
	case c.regions != nil:
		x.narrow.insert(&c.regions[region], k, bits)
	case c.live >= x.splitCell:
		c.regions = new([256]ladder)
		for _, e := range c.all.dir {
			for _, s := range x.wide.at(e.leaf).slots[:e.n] {
				r := x.pages.record(s)
				x.narrow.insert(&c.regions[r.Region], key{r.Price, s}, encode(r, x.levelOf(r)))
			}
		}
	}
}

func (x *Index) leaveCell(c *cell, k key, region uint8) {
	x.wide.remove(&c.all, k)
	c.live--
	switch {
	case c.regions == nil:
	case c.live < x.splitCell/2:
		for i := range c.regions {
			x.narrow.drop(&c.regions[i])
		}
		c.regions = nil
	default:
		x.narrow.remove(&c.regions[region], k)
	}
}

// flip changes the row of a live slot.
func (x *Index) flip(s Slot, r *Record, diff row) {
	c := x.cells.of(r.Model, r.GPUs)
	k := key{r.Price, s}
	x.wide.flip(&c.all, k, diff)
	if c.regions != nil {
		x.narrow.flip(&c.regions[r.Region], k, diff)
	}
}

// widen makes sure that a record's levels are within the cell's.
func (c *cell) widen(r *Record) {
	for a := range attributes {
		l := uint8(scales[a].level(r.Value(a)))
		c.lowest[a], c.highest[a] = min(c.lowest[a], l), max(c.highest[a], l)
	}
}

// census counts the live slots by what their rows say, to ask the question first that fewest slots pass.
type census struct {
	live    int32
	flags   [flagCount]int32
	regions [256]int32
	levels  [attributes][maxLevel >> histogramBy]int32
}

// count adds n of a record.
func (c *census) count(r *Record, n int32) {
	c.live += n
	for f := range flagCount {
		c.flags[f] += n * int32(r.Flags>>f&1)
	}
	c.regions[r.Region] += n
	for a := range attributes {
		c.levels[a][scales[a].level(r.Value(a))>>histogramBy] += n
	}
}
