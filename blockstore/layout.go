package blockstore

import (
	"cmp"
	"iter"
	"slices"
	"sort"
)

// Page is what data is aligned to on a virtual device: the block size of the file systems that are mounted.
const Page = 4096

// Slot is a run of data at a place of its own on a virtual device.
type Slot struct {
	Addr   int64 // a multiple of Page; what lies between a slot's end and the next slot is zero
	Block  int   // number in Tree.Blocks
	Offset int   // in the block
	Size   int
}

// Layout places a tree's data on a virtual device, which exists only as far as somebody reads it: each small file
// and each leaf of a large file at a multiple of Page, in the order of the tree's blocks. The leaves of a large
// file follow each other, so that the file is one run of addresses. Equal trees have equal layouts.
type Layout struct {
	Slots []Slot // by address
	Size  int64  // of the device, a multiple of Page
	first []int  // block -> its first slot; one more at the end
}

// Layout returns the placement of the tree's data.
func (t *Tree) Layout() *Layout {
	l := &Layout{Slots: make([]Slot, 0, len(t.Nodes)+len(t.Blocks))}
	for i := range t.Nodes {
		n := &t.Nodes[i]
		switch {
		case n.Size == 0:
		case n.Large():
			for k := range leaves(n.Size) {
				l.Slots = append(l.Slots, Slot{Block: n.Block + k, Size: t.Blocks[n.Block+k].Size})
			}
		default:
			l.Slots = append(l.Slots, Slot{Block: n.Block, Offset: n.Offset, Size: int(n.Size)})
		}
	}
	slices.SortFunc(l.Slots, compareSlots)
	l.Slots = slices.CompactFunc(l.Slots, func(a, b Slot) bool { return compareSlots(a, b) == 0 })
	l.first = make([]int, len(t.Blocks)+1)
	block := 0
	for i := range l.Slots {
		s := &l.Slots[i]
		s.Addr = l.Size
		l.Size += roundUp(int64(s.Size))
		for ; block <= s.Block; block++ {
			l.first[block] = i
		}
	}
	for ; block < len(l.first); block++ {
		l.first[block] = len(l.Slots)
	}
	return l
}

func compareSlots(a, b Slot) int {
	return cmp.Or(cmp.Compare(a.Block, b.Block), cmp.Compare(a.Offset, b.Offset), cmp.Compare(a.Size, b.Size))
}

func roundUp(n int64) int64 { return (n + Page - 1) &^ (Page - 1) }

// Block returns the slots of a block.
func (l *Layout) Block(i int) []Slot { return l.Slots[l.first[i]:l.first[i+1]] }

// File returns where a file that is not empty begins. The whole file lies there in one piece.
func (l *Layout) File(n *Node) int64 {
	slots := l.Block(n.Block)
	if n.Large() {
		return slots[0].Addr
	}
	want := Slot{Block: n.Block, Offset: n.Offset, Size: int(n.Size)}
	i, _ := slices.BinarySearchFunc(slots, want, compareSlots)
	return slots[i].Addr
}

// At yields the slots that the addresses from addr to addr+n touch, in order.
func (l *Layout) At(addr, n int64) iter.Seq[Slot] {
	return func(yield func(Slot) bool) {
		end := addr + n
		// The first slot that ends behind addr.
		i := sort.Search(len(l.Slots), func(i int) bool { return l.Slots[i].Addr+int64(l.Slots[i].Size) > addr })
		for ; i < len(l.Slots) && l.Slots[i].Addr < end; i++ {
			if !yield(l.Slots[i]) {
				return
			}
		}
	}
}
