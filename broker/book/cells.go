package book

import (
	"cmp"
	"slices"
)

// cell is all that is on offer of one model and GPU count.
type cell struct {
	model   uint16
	gpus    uint8
	all     ladder
	regions [256]*ladder
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

func (c *cell) region(r uint8) *ladder {
	if c.regions[r] == nil {
		c.regions[r] = new(ladder)
	}
	return c.regions[r]
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
	sites   [siteLevels]int32
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
