package blockstore

import (
	"bytes"
	"cmp"
	"slices"
	"time"
)

// Root is a manifest's root with what decides whether its blocks stay.
type Root struct {
	CID          CID
	Bytes        int64 // that go when it goes: of blocks that no other root needs, as the store counts them
	LastUsed     time.Time
	Pinned       bool // leased, mounted, or kept by the owner's word
	LastInRegion bool // no other host nearby has it
	Replicas     int  // hosts elsewhere that have it
	Keeper       bool // this host is one of those that keep it longest; see Keeper
}

// Watermarks say when roots must go. They count the bytes that the store owns, never how full the file
// system is: what others write there is no reason to throw blocks away.
type Watermarks struct {
	Quota int64   // bytes; zero: nothing ever goes
	High  float64 // part of the quota above which roots go; zero: 0.9, so that a put rarely has to wait for room
	Low   float64 // part of the quota at which it is enough; zero: 0.8, so that this happens rarely
	// Needed says that something which is wanted now has no place. Then the last one in a region may go, too, after all
	// others: to keep what nobody asked for is no reason to refuse what somebody did.
	Needed bool
}

// Evict returns the roots to drop, in order, now that the store owns used bytes. There are none up to
// High; above it they suffice to come down to Low, or they are all that may go; none is superfluous.
// Pinned roots stay, and so does the last one in a region unless the room is needed.
//
// Those that this host is a keeper of go after the others. Among equals the first to go is the one whose bytes do the
// least good: longest unused, largest, easiest to fetch again (age × bytes × hosts, the inverse of what
// GreedyDual-Size-Frequency keeps).
func (w Watermarks) Evict(now time.Time, used int64, roots []Root) []CID {
	high, low := w.bytes()
	if w.Quota <= 0 || used <= high {
		return nil
	}
	victims := make([]Root, 0, len(roots))
	for _, r := range roots {
		if !r.Pinned && (w.Needed || !r.LastInRegion) && r.Bytes > 0 {
			victims = append(victims, r)
		}
	}
	slices.SortFunc(victims, func(a, b Root) int {
		return cmp.Or(cmp.Compare(a.rank(), b.rank()), cmp.Compare(b.burden(now), a.burden(now)), bytes.Compare(a.CID[:], b.CID[:]))
	})
	need := used - low
	for i, r := range victims {
		need -= r.Bytes
		if need <= 0 {
			victims = victims[:i+1]
			break
		}
	}
	// A large one late in the order can make small ones before it superfluous: the most useful stay.
	for i, r := range slices.Backward(victims) {
		if need+r.Bytes <= 0 {
			need += r.Bytes
			victims = slices.Delete(victims, i, i+1)
		}
	}
	cids := make([]CID, len(victims))
	for i, r := range victims {
		cids[i] = r.CID
	}
	return cids
}

func (w Watermarks) bytes() (high, low int64) {
	h, l := cmp.Or(w.High, 0.9), cmp.Or(w.Low, 0.8)
	return int64(float64(w.Quota) * h), int64(float64(w.Quota) * min(l, h))
}

// rank is how late a root goes, whatever its burden.
func (r Root) rank() int {
	switch {
	case r.LastInRegion:
		return 2
	case r.Keeper:
		return 1
	default:
		return 0
	}
}

// burden is how much a root is in the way. A root of the future is as young as can be.
func (r Root) burden(now time.Time) float64 {
	age := max(now.Sub(r.LastUsed).Seconds(), 0) + 1
	return age * float64(r.Bytes) * float64(max(r.Replicas, 0)+1)
}
