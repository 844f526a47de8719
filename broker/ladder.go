package broker

import (
	"cmp"
	"slices"
)

// ladders are the index of a market that is given none: all offers, the cheapest first, and those of each model, in slices
// that are climbed until nothing dearer is wanted. They know prices and models and nothing else.
type ladders struct {
	all     []*Listed
	byModel map[string][]*Listed // by what its names have in common
}

var _ Index = (*ladders)(nil)

func newLadders() Index { return &ladders{byModel: map[string][]*Listed{}} }

// rung orders offers by rate; no two are equal.
func rung(a, b *Listed) int {
	return cmp.Or(cmp.Compare(a.Rate, b.Rate), compareOffers(a.Offer, b.Offer))
}

// Put implements [Index].
func (x *ladders) Put(l *Listed) {
	if l.Slot != 0 {
		return // it stands where it stood: what is free decides nothing
	}
	l.Slot = 1
	x.change(l, func(list []*Listed, i int) []*Listed { return slices.Insert(list, i, l) })
}

// Drop implements [Index].
func (x *ladders) Drop(l *Listed) {
	l.Slot = 0
	x.change(l, func(list []*Listed, i int) []*Listed { return slices.Delete(list, i, i+1) })
}

func (x *ladders) change(l *Listed, do func(list []*Listed, i int) []*Listed) {
	at := func(list []*Listed) []*Listed {
		i, _ := slices.BinarySearchFunc(list, l, rung)
		return do(list, i)
	}
	model := foldModel(l.Offer.GPUs[0].Model)
	x.all = at(x.all)
	if x.byModel[model] = at(x.byModel[model]); len(x.byModel[model]) == 0 {
		delete(x.byModel, model)
	}
}

// Walk implements [Index].
func (x *ladders) Walk(w *Want, g Goal) {
	climb := func(list []*Listed) {
		for _, l := range list {
			if !g.Wanted(l.Rate) {
				return
			}
			if l.Free >= w.Free {
				g.Visit(l)
			}
		}
	}
	if len(w.Models) == 0 {
		climb(x.all)
		return
	}
	seen := map[string]bool{}
	for _, name := range w.Models {
		if model := foldModel(name); !seen[model] {
			seen[model] = true
			climb(x.byModel[model])
		}
	}
}
