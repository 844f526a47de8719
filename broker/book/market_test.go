package book_test

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"rialto/broker/book"
	"rialto/broker/book/booktest"
)

// A market of 100,000 offers answers as a scan does, with no more work than it took when the limits here were set: mean
// leaves and records for a query, which do not depend on the machine.
func TestWork(t *testing.T) {
	m := booktest.NewMarket(1)
	records := m.Offers(100_000)
	x := book.New()
	slots := make([]book.Slot, len(records))
	for i := range records {
		var err error
		if slots[i], err = x.Insert(&records[i], time.Unix(1<<32, 0)); err != nil {
			t.Fatal(err)
		}
	}
	const asked, compared = 300, 12
	for _, c := range []struct {
		class           booktest.Class
		ranked          bool
		leaves, records float64
		p99             int // of the leaves
	}{
		{booktest.Typical, false, 4, 25, 18},
		{booktest.Heavy, false, 10, 13, 65},
		{booktest.AnyModel, false, 11, 43, 43},
		{booktest.ThreeModels, false, 5, 29, 25},
		{booktest.NoMatchOne, false, 75, 0, 75},
		{booktest.NoMatchAny, false, 690, 0, 690},
		{booktest.Typical, true, 10, 270, 100},
		{booktest.AnyModel, true, 42, 370, 180},
	} {
		r := rand.New(rand.NewPCG(2, uint64(c.class)))
		var leaves, looked float64
		var each []int
		for i := range asked {
			q := m.Query(r, c.class)
			if c.ranked {
				q.Job = m.Job(r, slots)
			}
			res, err := x.Search(q)
			if err != nil || res.Partial {
				t.Fatalf("%v: %+v, %v", c.class, res, err)
			}
			leaves += float64(res.Leaves) / asked
			each = append(each, res.Leaves)
			looked += float64(res.Records) / asked
			if i < compared {
				if want := scan(q, slots, records); !slices.Equal(res.Hits, want) {
					t.Errorf("%v, ranked %v: got %v, want %v", c.class, c.ranked, res.Hits, want)
				}
			}
		}
		slices.Sort(each)
		p99 := each[asked*99/100]
		t.Logf("%v, ranked %v: %.1f leaves (p99 %d), %.1f records", c.class, c.ranked, leaves, p99, looked)
		if leaves > c.leaves || looked > c.records || p99 > c.p99 {
			t.Errorf("%v, ranked %v: got %.1f leaves (p99 %d) and %.1f records, want at most %.0f (%d) and %.0f",
				c.class, c.ranked, leaves, p99, looked, c.leaves, c.p99, c.records)
		}
	}
}

func scan(q *book.Query, slots []book.Slot, records []book.Record) (hits []book.Hit) {
	for i := range records {
		if r := &records[i]; q.Matches(r) {
			h := book.Hit{Slot: slots[i], Price: r.Price, Cost: float64(r.Price)}
			if q.Job != nil {
				h.Cost = q.Job.Cost(slots[i], r)
			}
			hits = append(hits, h)
		}
	}
	slices.SortFunc(hits, func(a, b book.Hit) int {
		return cmp.Or(cmp.Compare(a.Cost, b.Cost), cmp.Compare(a.Slot, b.Slot))
	})
	return hits[:min(len(hits), q.K)]
}
