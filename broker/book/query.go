package book

import (
	"errors"
	"fmt"
	"math/bits"
	"slices"

	"rialto/pricing"
)

// Limits of a query. One beyond them is refused.
const (
	MaxK      = 1000 // offers that an answer may have
	MaxBounds = 64   // bounds, and models, and excluded hosts
	MaxGang   = 1024 // slots of one gang
)

// Limits of the work for an answer. It is partial when one is reached.
const (
	MaxLeaves  = 2000
	MaxRecords = 1 << 15
)

// Set is a set of small numbers, such as regions.
type Set [4]uint64

// SetOf returns the set of some numbers.
func SetOf(ns ...uint8) (s Set) {
	for _, n := range ns {
		s[n>>6] |= 1 << (n & 63)
	}
	return s
}

// Has reports whether n is in the set.
func (s *Set) Has(n uint8) bool { return s[n>>6]>>(n&63)&1 != 0 }

// Len returns how many numbers are in the set.
func (s *Set) Len() (n int) {
	for _, w := range s {
		n += bits.OnesCount64(w)
	}
	return n
}

// Bound says that an attribute is to be Min…Max, both included.
type Bound struct {
	Attribute Attribute
	Min, Max  uint32 // zero to [Unbounded] lets all pass
}

// Unbounded is the Max of a bound that has none.
const Unbounded = 1<<32 - 1

// Query says which offers are wanted. Zero fields other than K match everything.
type Query struct {
	Models   []uint16
	GPUs     Set // GPU counts
	Regions  Set
	With     Flags // all of these
	Without  Flags // none of these
	Bounds   []Bound
	MaxPrice pricing.Rate // nanodollars per GPU-hour
	NotHosts []uint32
	Job      *Job // rank by what it is expected to cost; nil: by price
	K        int  // 1…MaxK: how many offers are wanted
}

// ErrQuery says that a query is beyond the limits.
var ErrQuery = errors.New("query out of range")

func (q *Query) check() error {
	switch {
	case q.K < 1 || q.K > MaxK:
		return fmt.Errorf("%w: %d offers are wanted, not 1…%d", ErrQuery, q.K, MaxK)
	case q.MaxPrice < 0:
		return fmt.Errorf("%w: highest price %d is below zero", ErrQuery, q.MaxPrice)
	case len(q.Models) > MaxBounds || len(q.Bounds) > MaxBounds || len(q.NotHosts) > MaxBounds:
		return fmt.Errorf("%w: %d models, %d bounds, %d excluded hosts; at most %d each",
			ErrQuery, len(q.Models), len(q.Bounds), len(q.NotHosts), MaxBounds)
	}
	for _, b := range q.Bounds {
		if b.Attribute >= attributes {
			return fmt.Errorf("%w: there is no attribute %d", ErrQuery, b.Attribute)
		}
	}
	if q.Job != nil {
		return q.Job.check()
	}
	return nil
}

// Matches reports whether a record satisfies the query.
func (q *Query) Matches(r *Record) bool {
	if q.MaxPrice > 0 && r.Price > q.MaxPrice || r.Flags&q.With != q.With || r.Flags&q.Without != 0 ||
		q.Regions != (Set{}) && !q.Regions.Has(r.Region) {
		return false
	}
	for i := range q.Bounds {
		b := &q.Bounds[i]
		if v := r.Value(b.Attribute); v < b.Min || v > b.Max {
			return false
		}
	}
	return (len(q.NotHosts) == 0 || !slices.Contains(q.NotHosts, r.Host)) && q.inCell(r.Model, r.GPUs)
}

// inCell reports whether offers of a model and GPU count may match.
func (q *Query) inCell(model uint16, gpus uint8) bool {
	return (q.GPUs == (Set{}) || q.GPUs.Has(gpus)) && (len(q.Models) == 0 || slices.Contains(q.Models, model))
}
