package book

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"rialto/pricing"
)

// One writer swaps the prices of two offers in a batch while others search, reserve, explain and expire: each search
// sees one of the two cheap, never both or none.
func TestConcurrent(t *testing.T) {
	x := New()
	x.splitCell = 50
	r := rand.New(rand.NewPCG(1, 2))
	later := time.Unix(1<<31, 0)
	insert := func(o Record) Slot {
		s, err := x.Insert(&o, later)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	var slots []Slot
	for range 600 {
		slots = append(slots, insert(Record{Price: 100 + pricing.Rate(r.IntN(50)), Model: 1, GPUs: 1, Region: uint8(r.IntN(3)), Site: r.Uint32N(9)}))
	}
	pair := [2]Slot{insert(Record{Price: 1, Model: 1, GPUs: 1, Site: 3}), insert(Record{Price: 2, Model: 1, GPUs: 1, Site: 3})}
	var done atomic.Bool
	var wg sync.WaitGroup
	loop := func(f func(r *rand.Rand) error) {
		seed := r.Uint64()
		wg.Go(func() { // ends when done is set
			r := rand.New(rand.NewPCG(seed, 0))
			for !done.Load() {
				if err := f(r); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	var searches atomic.Int64
	loop(func(*rand.Rand) error {
		res, err := x.Search(&Query{Models: []uint16{1}, MaxPrice: 1, K: 5})
		if len(res.Hits) != 1 {
			t.Errorf("%d offers are cheap, want 1", len(res.Hits))
		}
		searches.Add(1)
		return err
	})
	loop(func(*rand.Rand) error {
		g, err := x.Gang(2, &Query{Models: []uint16{1}, MaxPrice: 2})
		if g.Total != 3 {
			t.Errorf("the pair costs %d, want 3", g.Total)
		}
		return err
	})
	loop(func(r *rand.Rand) error {
		res, ok, err := x.Reserve(&Query{Regions: SetOf(1, 2), Job: &Job{Work: 3600, Out: 1e9}})
		if ok {
			err = x.Release(res.Hits[0].Slot)
		}
		if e := x.Touch(slots[r.IntN(len(slots))], later); e != nil {
			return e
		}
		return err
	})
	loop(func(*rand.Rand) error {
		if gone := x.Expire(time.Unix(1<<30, 0)); len(gone) > 0 {
			t.Errorf("%d offers are gone", len(gone))
		}
		e, err := x.Explain(&Query{}, 3)
		if e.Offers != len(slots)+2 {
			t.Errorf("%d offers, want %d", e.Offers, len(slots)+2)
		}
		return err
	})
	for i := 0; i < 2000 || searches.Load() < 500; i++ {
		x.Apply([]Change{
			{Op: OpReprice, Slot: pair[i&1], Record: Record{Price: 2}},
			{Op: OpReprice, Slot: pair[i&1^1], Record: Record{Price: 1}},
			{Op: OpReprice, Slot: slots[r.IntN(len(slots))], Record: Record{Price: 100 + pricing.Rate(r.IntN(50))}},
		})
		if t.Failed() {
			break
		}
	}
	done.Store(true)
	wg.Wait()
	checkInvariants(t, x)
}
