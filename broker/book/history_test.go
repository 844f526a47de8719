package book

import (
	"math/bits"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"rialto/pricing"
)

// history drives an index and the naive one through the same changes and compares their answers.
type history struct {
	*rapid.T
	rng   *rand.Rand
	x     *Index
	n     naive
	now   int64
	slots []Slot // all that ever were, also the gone ones

	models, regions int
	budget          bool // answers may be partial
}

// few returns a number that is often small and sometimes at the end of its range, so that many are equal.
func few(r *rand.Rand, most uint32) uint32 {
	switch r.IntN(8) {
	case 0:
		return most
	case 1:
		return 0
	case 2:
		return r.Uint32N(most) + 1
	default:
		return uint32(uint64(r.Uint32N(8)+8) << r.IntN(bits.Len32(most)) >> 4 & uint64(most))
	}
}

func (h *history) record() Record {
	r := h.rng
	price := pricing.Rate(r.IntN(5)) * 100_000_000
	if r.IntN(2) == 0 {
		price = pricing.Rate(400_000_000 + r.IntN(40)) // equal as float32
	}
	if r.IntN(20) == 0 {
		price = MaxPrice - pricing.Rate(r.IntN(2))
	}
	return Record{
		Price: price, Site: r.Uint32N(8), Host: r.Uint32N(20),
		VRAM: few(r, 1<<32-1), RAM: few(r, 1<<32-1), Disk: few(r, 1<<32-1), Unreliability: few(r, 1_000_000),
		Model: uint16(r.IntN(h.models)), Flags: Flags(r.Uint32() | r.Uint32() | r.Uint32()), Region: uint8(r.IntN(h.regions)), GPUs: uint8(1 << r.IntN(2)),
		Capability: uint8(few(r, 255)), CUDA: uint8(few(r, 255)),
		Cores: uint16(few(r, 1<<16-1)), DiskBandwidth: uint16(few(r, 1<<16-1)), Down: uint16(few(r, 1<<16-1)),
		Up: uint16(few(r, 1<<16-1)), PCIe: uint16(few(r, 1<<16-1)), Ports: uint16(few(r, 1<<16-1)),
		Hours: uint16(few(r, 1<<16-1)), Score: uint16(few(r, 1<<16-1)), Hazard: uint16(few(r, 1<<16-1)),
		StoragePrice: uint16(few(r, 1<<16-1)), DownPrice: uint16(few(r, 1<<16-1)), UpPrice: uint16(few(r, 1<<16-1)),
	}
}

// query makes one about a known offer, so that it often matches.
func (h *history) query() *Query {
	r := h.rng
	q := &Query{K: 1 + r.IntN(30)}
	about := h.record()
	if _, o := h.any(); o != nil {
		about = o.Record
	}
	if r.IntN(2) == 0 {
		q.Models = []uint16{about.Model, uint16(r.IntN(5)), about.Model}[:1+r.IntN(3)]
	}
	if r.IntN(2) == 0 {
		q.GPUs = SetOf(about.GPUs)
	}
	if r.IntN(2) == 0 {
		q.Regions = SetOf(about.Region, uint8(r.IntN(256)))
		for range r.IntN(6) {
			q.Regions[0] |= 1 << r.IntN(h.regions)
		}
	}
	if r.IntN(8) == 0 {
		q.Regions = Set{1<<63 - 2, 1, 2, 1 << 63}
	}
	q.With = about.Flags & Flags(r.Uint32()&r.Uint32()&r.Uint32())
	q.Without = ^about.Flags & Flags(r.Uint32()&r.Uint32())
	for range r.IntN(4) {
		b := Bound{Attribute: Attribute(r.IntN(int(attributes))), Max: Unbounded}
		v := about.Value(b.Attribute)
		switch r.IntN(4) {
		case 0:
			b.Min = v
		case 1:
			b.Max = v
		case 2:
			b.Min, b.Max = v, v
		case 3:
			b.Min = v + 1
		}
		q.Bounds = append(q.Bounds, b)
	}
	if r.IntN(3) == 0 {
		q.MaxPrice = about.Price
	}
	if r.IntN(4) == 0 {
		q.NotHosts = []uint32{r.Uint32N(20), r.Uint32N(20)}
	}
	return q
}

func (h *history) job() *Job {
	r := h.rng
	some := func(scale float64) float64 { return float64(r.IntN(3)) * scale * r.Float64() }
	by := func(n int, scale float64) (out []float64) {
		for range r.IntN(n + 1) {
			out = append(out, some(scale))
		}
		return out
	}
	j := &Job{
		Work: some(1e5), Speed: by(3, 2), Scaling: r.Float64(), Median: by(3, 500), Checkpoint: some(1e4), Restore: some(100),
		Setup: some(10), Reach: by(4, 1), Bytes: some(1e11), Before: r.Float64(), Supply: some(1e9), Load: some(1e10),
		BilledStart: r.Float64(), Storage: some(100), Out: some(1e10), Nearby: by(4, 1e8), Waiting: some(1e6),
		Lateness: some(1e6), Deadline: some(1e5), Held: make(map[Slot]uint16),
	}
	for range []int{0, 3, 30, 2 * MaxHeld}[r.IntN(4)] {
		s, _ := h.any() // also slots that are gone
		j.Held[s] = uint16(r.IntN(1 << 16))
	}
	return j
}

func (h *history) any() (Slot, *naiveOffer) {
	if len(h.slots) == 0 {
		return Slot(h.rng.Uint32()), nil
	}
	s := h.slots[h.rng.IntN(len(h.slots))]
	return s, h.n.offers[s]
}

func (h *history) insert(n int) {
	for range n {
		r := h.record()
		expires := h.now + int64(h.rng.IntN(100))
		s, err := h.x.Insert(&r, time.Unix(expires, 0))
		if err != nil {
			h.Fatal(err)
		}
		if _, taken := h.n.offers[s]; taken || s == 0 {
			h.Fatalf("slot %d is in use", s)
		}
		h.n.offers[s] = &naiveOffer{Record: r, expires: expires}
		h.slots = append(h.slots, s)
	}
}

// change makes one change on both and compares whether they accept it.
func (h *history) change() {
	s, o := h.any()
	var err error
	ok := o != nil
	switch h.rng.IntN(6) {
	case 0:
		err = h.x.Remove(s)
		delete(h.n.offers, s)
	case 1:
		ok = ok && !o.rented
		if err = h.x.Rent(s); ok {
			o.rented = true
		}
	case 2:
		ok = ok && o.rented
		if err = h.x.Release(s); ok {
			o.rented = false
		}
	case 3:
		p := h.record().Price
		if err = h.x.Reprice(s, p); ok {
			o.Price = p
		}
	case 4:
		r := h.record()
		if ok && h.rng.IntN(2) == 0 { // in place
			r.Price, r.Model, r.GPUs, r.Region, r.Site = o.Price, o.Model, o.GPUs, o.Region, o.Site
		}
		if err = h.x.Patch(s, &r); ok {
			o.Record = r
		}
	case 5:
		expires := h.now + int64(h.rng.IntN(100))
		if err = h.x.Touch(s, time.Unix(expires, 0)); ok {
			o.expires = expires
		}
	}
	if (err == nil) != ok {
		h.Fatalf("change of slot %d: got %v, want success: %v", s, err, ok)
	}
}

func (h *history) expire() {
	h.now += int64(h.rng.IntN(5))
	var want []Slot
	for s, o := range h.n.offers {
		if o.expires <= h.now {
			want = append(want, s)
			delete(h.n.offers, s)
		}
	}
	got := h.x.Expire(time.Unix(h.now, 999))
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		h.Fatalf("expired at %d: got %v, want %v", h.now, got, want)
	}
}

func (h *history) ask() {
	q := h.query()
	for _, job := range []*Job{nil, h.job()} {
		q.Job = job
		got, err := h.x.Search(q)
		if err != nil {
			h.Fatal(err)
		}
		if h.budget && got.Partial {
			h.checkPartial(q, &got)
			continue
		}
		if want := h.n.search(q); !slices.Equal(got.Hits, want) || got.Partial {
			h.Fatalf("search %+v (job %+v):\ngot  %v\nwant %v", q, job, got, want)
		}
	}
	n := 2 + h.rng.IntN(6)
	gang, err := h.x.Gang(n, q)
	if err != nil {
		h.Fatal(err)
	}
	if !gang.Partial || !h.budget {
		h.checkGang(n, q, &gang)
	}
	e, err := h.x.Explain(q, 5)
	if err != nil {
		h.Fatal(err)
	}
	want := h.n.explain(q, 5)
	if e.Offers != want.Offers || e.Matching != want.Matching || !slices.Equal(e.Steps, want.Steps) || !slices.Equal(e.Nearest, want.Nearest) {
		h.Fatalf("explain %+v:\ngot  %+v\nwant %+v", q, e, want)
	}
}

// checkPartial verifies that what was found in time matches, once each and in order.
func (h *history) checkPartial(q *Query, got *Result) {
	if got.Leaves > h.x.maxLeaves || len(got.Hits) > q.K {
		h.Fatalf("search %+v: got %+v with %d leaves to look at", q, got, h.x.maxLeaves)
	}
	all := *q
	all.K = len(h.n.offers) + 1
	want := h.n.search(&all)
	for _, hit := range got.Hits {
		i := slices.Index(want, hit)
		if i < 0 {
			h.Fatalf("search %+v: got %+v, of which %v does not belong there", q, got, hit)
		}
		want = want[i+1:]
	}
}

func (h *history) checkGang(n int, q *Query, got *Gang) {
	want := h.n.gang(n, q)
	if got.Total != want || want == 0 && len(got.Slots) > 0 && got.Total != 0 {
		h.Fatalf("gang of %d for %+v: got %+v, want a total of %d", n, q, got, want)
	}
	if len(got.Slots) == 0 {
		return
	}
	var sum pricing.Rate
	seen := make(map[Slot]bool)
	site := h.n.offers[got.Slots[0]].Site
	for _, s := range got.Slots {
		o := h.n.offers[s]
		if o == nil || o.rented || seen[s] || o.Site != site || len(misses(q, &o.Record)) > 0 {
			h.Fatalf("gang of %d for %+v: got %+v, in which slot %d does not belong", n, q, got, s)
		}
		seen[s] = true
		sum += o.Price * pricing.Rate(o.GPUs)
	}
	if len(got.Slots) != n || sum != got.Total {
		h.Fatalf("gang of %d: got %+v, whose prices add up to %d", n, got, sum)
	}
}

func (h *history) reserve() {
	q := h.query()
	if h.rng.IntN(2) == 0 {
		q.Job = h.job()
	}
	got, ok, err := h.x.Reserve(q)
	if err != nil {
		h.Fatal(err)
	}
	q.K = 1
	if want := h.n.search(q); !got.Partial && (ok != (len(want) > 0) || !slices.Equal(got.Hits, want)) || got.Partial && !h.budget {
		h.Fatalf("reserve %+v: got %v, %v, want %v", q, got, ok, want)
	}
	if ok {
		h.n.offers[got.Hits[0].Slot].rented = true
	}
}

func runHistory(t *rapid.T) {
	h := &history{T: t, x: New(), n: naive{make(map[Slot]*naiveOffer)}, now: 1000}
	h.rng = rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
	h.x.splitCell = rapid.SampledFrom([]int{1, 30, splitCell}).Draw(t, "split")
	if h.budget = rapid.Bool().Draw(t, "budget"); h.budget {
		h.x.maxLeaves, h.x.maxRecords = 1+h.rng.IntN(20), 1+h.rng.IntN(100)
	}
	// Many models with many regions are more ladders than a walk by region takes.
	h.models, h.regions = 3, 4
	if rapid.Bool().Draw(t, "many models") {
		h.models, h.regions = 40, 12
	}
	// A crowd in few cells splits and merges leaves; a small market is easier to read when it fails.
	h.insert(rapid.SampledFrom([]int{5, 100, 1500}).Draw(t, "offers"))
	steps := rapid.IntRange(1, 60).Draw(t, "steps")
	for range steps {
		switch h.rng.IntN(8) {
		case 0:
			h.insert(h.rng.IntN(20))
		case 1:
			h.expire()
		case 2:
			h.reserve()
		case 3:
			for range h.rng.IntN(50) {
				h.change()
			}
		case 4:
			h.change()
		default:
			h.ask()
		}
		checkInvariants(t, h.x)
	}
}

func TestHistory(t *testing.T) { rapid.Check(t, runHistory) }

func FuzzHistory(f *testing.F) { f.Fuzz(rapid.MakeFuzz(runHistory)) }
