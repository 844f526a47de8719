package book

import (
	"math/rand/v2"
	"testing"
	"time"

	"rialto/pricing"
)

// A market that empties joins its leaves, and the last offer leaves nothing behind.
func TestDrain(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	x := New()
	x.splitCell = 100
	var slots []Slot
	for range 3000 {
		s, err := x.Insert(&Record{
			Price: pricing.Rate(r.IntN(1e9)), GPUs: 1, Region: uint8(r.IntN(2)), Site: r.Uint32N(20), Down: uint16(r.IntN(5000)),
			Score: uint16(r.IntN(500)), DownPrice: uint16(r.IntN(1000)), DiskBandwidth: uint16(r.IntN(5000)),
		}, time.Unix(1<<31, 0))
		if err != nil {
			t.Fatal(err)
		}
		slots = append(slots, s)
	}
	most := len(x.cells.of(0, 1).all.dir)
	r.Shuffle(len(slots), func(i, j int) { slots[i], slots[j] = slots[j], slots[i] })
	for i, s := range slots {
		if err := x.Remove(s); err != nil {
			t.Fatal(err)
		}
		if i%50 == 0 {
			checkInvariants(t, x)
		}
		if left := len(slots) - i - 1; left == 300 && len(x.cells.of(0, 1).all.dir) > most/2 {
			t.Errorf("%d offers are left in %d of %d leaves", left, len(x.cells.of(0, 1).all.dir), most)
		}
	}
	checkInvariants(t, x)
	if c := x.cells.of(0, 1); len(c.all.dir) > 0 || len(x.wide.free) != len(x.wide.chunks)*chunk ||
		len(x.narrow.free) != len(x.narrow.chunks)*chunk {
		t.Errorf("an empty market has %d leaves, and %d and %d free ones", len(c.all.dir), len(x.wide.free), len(x.narrow.free))
	}
}

// Leaves of cheap offers and then leaves of dearer ones that are better in one attribute, by so little that a job costs
// barely less there: what limits the attribute may not lose them.
func TestLimits(t *testing.T) {
	day := &Job{Work: 86_400, Median: []float64{100}}
	fetch := &Job{Work: 600, Bytes: 2e10, Before: 1, BilledStart: 1}
	wait := &Job{Work: 600, Bytes: 2e10, Before: 1, BilledStart: 1, Waiting: 1e5}
	partly := &Job{Work: 600, Bytes: 2e10, Before: 0.5, BilledStart: 0.5, Waiting: 1e4}
	hardly := &Job{Work: 600, Bytes: 2e10, Before: 0.3, BilledStart: 0.3, Waiting: 1e3}
	load := &Job{Work: 600, Load: 2e11, Waiting: 1e5}
	for _, c := range []struct {
		name  string
		job   *Job
		worse uint16
		step  int // to a better value
		set   func(r *Record, v uint16)
	}{
		{"score", day, 60, 1, func(r *Record, v uint16) { r.Score = v }},
		{"down", fetch, 700, 1, func(r *Record, v uint16) { r.Down = v }},
		{"disk, to fetch", fetch, 90, 1, func(r *Record, v uint16) { r.DiskBandwidth = v }},
		{"price of traffic", fetch, 900, -1, func(r *Record, v uint16) { r.DownPrice = v }},
		{"down, when waiting is dear", wait, 700, 1, func(r *Record, v uint16) { r.Down = v }},
		{"price of traffic, when waiting is dear", wait, 900, -1, func(r *Record, v uint16) { r.DownPrice = v }},
		{"down, for a part", partly, 700, 1, func(r *Record, v uint16) { r.Down = v }},
		{"price of traffic, for a part", partly, 900, -1, func(r *Record, v uint16) { r.DownPrice = v }},
		{"down, for little", hardly, 700, 1, func(r *Record, v uint16) { r.Down = v }},
		{"disk, for little", hardly, 90, 1, func(r *Record, v uint16) { r.DiskBandwidth = v }},
		{"price of traffic, for little", hardly, 900, -1, func(r *Record, v uint16) { r.DownPrice = v }},
		{"disk, to load", load, 1000, 1, func(r *Record, v uint16) { r.DiskBandwidth = v }},
		{"PCIe", load, 1000, 1, func(r *Record, v uint16) { r.PCIe = v }},
	} {
		t.Run(c.name, func(t *testing.T) {
			cheap := Record{Price: 100_000_000, GPUs: 1, Score: 110, Down: 65535, DiskBandwidth: 65535, PCIe: 65535}
			c.set(&cheap, c.worse)
			dear := cheap
			dear.Price += 3_000_000
			for v := int(c.worse); c.job.Cost(0, &dear) >= c.job.Cost(0, &cheap); v += c.step {
				c.set(&dear, uint16(v))
			}
			// Most offers of the market are far worse, or a limit would be dropped as one that nearly all pass.
			others := Record{Model: 1, GPUs: 1, DownPrice: 65535}
			x := New()
			var want Slot
			for i := range 6000 {
				o := &others
				switch {
				case i < 600:
					o = &cheap
				case i < 1200:
					o = &dear
				}
				s, err := x.Insert(o, time.Unix(1<<31, 0))
				if err != nil {
					t.Fatal(err)
				}
				if i == 600 {
					want = s
				}
			}
			got, err := x.Search(&Query{Models: []uint16{0}, Job: c.job, K: 1})
			if err != nil || len(got.Hits) != 1 || got.Hits[0].Slot != want {
				t.Fatalf("got %v, %v, want slot %d: %+v", got.Hits, err, want, dear)
			}
		})
	}
}
