package book

import (
	"math/bits"
	"slices"

	"rialto/pricing"
)

// Hit is an offer that matches.
type Hit struct {
	Slot  Slot
	Price pricing.Rate // nanodollars per GPU-hour
	Cost  float64      // the job's, in nanodollars; without a job the price
}

// Result is the answer to a query.
type Result struct {
	Hits    []Hit // the cheapest, by cost and then by slot
	Leaves  int   // that were looked at
	Records int   // likewise
	Partial bool  // the budget was used before the answer was certain: hits match, and cheaper ones may be missing
}

// Search returns the q.K cheapest offers that match. It fails with [ErrQuery].
func (x *Index) Search(q *Query) (Result, error) {
	if err := q.check(); err != nil {
		return Result{}, err
	}
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.search(q), nil
}

func (x *Index) search(q *Query) Result {
	w := x.walker(q)
	defer x.walkers.Put(w)
	t := &top{walk: w, job: q.Job, k: q.K, hits: make([]Hit, 0, min(q.K, 32))}
	t.holders()
	w.start(0, rankCost)
	w.run(t)
	return Result{Hits: t.hits, Leaves: w.leaves, Records: w.records, Partial: w.partial}
}

// Reserve rents the cheapest offer that matches; q.K is not read. Not ok means that there is none, or none within the
// budget if the result is partial. It fails with [ErrQuery].
func (x *Index) Reserve(q *Query) (res Result, ok bool, err error) {
	one := *q
	one.K = 1
	if err := one.check(); err != nil {
		return Result{}, false, err
	}
	x.writing.Lock() // so the offer is still there when the search has found it, and other searches go on meanwhile
	defer x.writing.Unlock()
	if res, err = x.Search(&one); err != nil || len(res.Hits) == 0 {
		return res, false, err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	s := res.Hits[0].Slot
	x.leave(s, x.pages.record(s))
	return res, true, nil
}

// walker visits the leaves that a query needs in order of the least that their slots can cost.
type walker struct {
	x       *Index
	q       *Query
	program program
	cursors []cursor
	heap    []head
	limits  program // of the leaf that is looked at, from what the k-th best costs
	leaves  int
	skipped int // leaves that were not worth a look
	records int
	partial bool
	// Whoever walks knows when to stop: the budget does not count.
	exhaustive bool
	sink       uint64 // keeps reads ahead from being optimised away
}

// cursor is how far a ladder was walked.
type cursor struct {
	dir    []entry
	i      int
	narrow bool
	cell   *cell
	plan   plan
}

// head orders the cursors: by the least cost of what they have left, then by slot.
type head struct {
	bound float64
	slot  Slot
	at    uint32
}

func (a head) less(b head) bool { return a.bound < b.bound || a.bound == b.bound && a.slot < b.slot }

// goal is what a walk is for.
type goal interface {
	// beaten reports whether nothing that costs at least so much is wanted any more; at equal cost slots below s are
	// not left.
	beaten(bound float64, s Slot) bool
	// first returns what else a leaf's slots must pass to be wanted (nil: nothing), and whether one of them may be.
	first(c *cursor, e *entry) (p *program, maybe bool)
	// visit looks at slots of a leaf and reports whether the rest of the ladder is not wanted.
	visit(c *cursor, e *entry, m mask) bool
}

func (x *Index) walker(q *Query) *walker {
	w, _ := x.walkers.Get().(*walker)
	if w == nil {
		w = new(walker)
	}
	w.x, w.q = x, q
	w.cursors, w.heap = w.cursors[:0], w.heap[:0]
	w.leaves, w.skipped, w.records, w.partial, w.exhaustive = 0, 0, 0, false, false
	return w
}

// rank is by what a walk orders offers.
type rank uint8

const (
	rankCost  rank = iota // the job's cost, or the price
	rankTotal             // the price of all GPUs
)

// maxNarrow is how many ladders by region are walked rather than those of all regions.
const maxNarrow = 128

// skipsPerLeaf is how many leaves can be passed over in the time of a look at one.
const skipsPerLeaf = 8

// start finds the ladders to walk. Slots on sites with fewer live ones than siblings may be passed over.
func (w *walker) start(siblings int, by rank) {
	q, x := w.q, w.x
	if slices.ContainsFunc(q.Bounds, func(b Bound) bool { return b.Min > b.Max }) {
		return
	}
	w.program.compile(q, siblings, &x.census)
	if len(q.Models) == 0 {
		for m := range x.cells.models {
			w.model(uint16(m), by)
		}
	}
	for i, m := range q.Models {
		if int(m) < len(x.cells.models) && !slices.Contains(q.Models[:i], m) {
			w.model(m, by)
		}
	}
	if q.Regions != (Set{}) {
		w.regional()
	}
	for i := range w.cursors {
		w.heap = append(w.heap, head{at: uint32(i)})
		w.bound(&w.heap[i])
	}
	for i := len(w.heap)/2 - 1; i >= 0; i-- {
		w.sift(i)
	}
}

// model adds cursors for a model's cells.
func (w *walker) model(m uint16, by rank) {
	for _, c := range w.x.cells.models[m] {
		if len(c.all.dir) == 0 || w.q.GPUs != (Set{}) && !w.q.GPUs.Has(c.gpus) || !c.mayMatch(w.q.Bounds) {
			continue
		}
		cur := cursor{dir: c.all.dir, cell: c}
		switch {
		case by == rankTotal:
			cur.plan.slope = float64(c.gpus)
		case w.q.Job != nil:
			cur.plan = w.q.Job.plan(c.model, c.gpus)
			w.q.Job.bound(&cur.plan, c)
		default:
			cur.plan.slope = 1
		}
		w.cursors = append(w.cursors, cur)
	}
}

// mayMatch reports whether the cell's levels let anything through.
func (c *cell) mayMatch(bounds []Bound) bool {
	for i := range bounds {
		b := &bounds[i]
		s := &scales[b.Attribute]
		if s.level(b.Min) > uint32(c.highest[b.Attribute]) || s.level(b.Max) < uint32(c.lowest[b.Attribute]) {
			return false
		}
	}
	return true
}

// regional replaces the cursors of large cells by those of their ladders in the query's regions, unless these are many.
func (w *walker) regional() {
	large := 0
	for i := range w.cursors {
		if w.cursors[i].cell.regions != nil {
			large++
		}
	}
	if large == 0 || large*w.q.Regions.Len() > maxNarrow {
		return
	}
	n := len(w.cursors)
	for i := range n {
		c := w.cursors[i]
		if c.cell.regions == nil {
			w.cursors = append(w.cursors, c)
			continue
		}
		for j, word := range w.q.Regions {
			for ; word != 0; word &= word - 1 {
				if l := &c.cell.regions[j<<6+bits.TrailingZeros64(word)]; len(l.dir) > 0 {
					c.dir, c.narrow = l.dir, true
					w.cursors = append(w.cursors, c)
				}
			}
		}
	}
	w.cursors = slices.Delete(w.cursors, 0, n)
}

// bound sets a head to the least that its cursor has left.
func (w *walker) bound(h *head) {
	c := &w.cursors[h.at]
	e := &c.dir[c.i]
	h.bound, h.slot = float64(e.first.price)*c.plan.slope+c.plan.base, e.first.slot
	if w.q.Job != nil {
		h.slot = 0 // at equal bounds, costs order as they like
	}
}

// sift moves a head down to where it belongs.
func (w *walker) sift(i int) {
	h := w.heap[i]
	for {
		j := 2*i + 1
		if j >= len(w.heap) {
			break
		}
		if j+1 < len(w.heap) && w.heap[j+1].less(w.heap[j]) {
			j++
		}
		if !w.heap[j].less(h) {
			break
		}
		w.heap[i] = w.heap[j]
		i = j
	}
	w.heap[i] = h
}

// run walks until the goal is reached, nothing is left, or the budget is used.
func (w *walker) run(g goal) {
	limit := w.q.MaxPrice
	for len(w.heap) > 0 && !w.partial && !g.beaten(w.heap[0].bound, w.heap[0].slot) {
		h := &w.heap[0]
		c := &w.cursors[h.at]
		e := &c.dir[c.i]
		if limit > 0 && e.first.price > limit {
			w.pop()
			continue
		}
		if w.partial = !w.exhaustive && (w.leaves+w.skipped/skipsPerLeaf >= w.x.maxLeaves || w.records >= w.x.maxRecords); w.partial {
			return
		}
		c.i++
		if w.look(g, c, e) || c.i == len(c.dir) {
			w.pop()
			continue
		}
		w.bound(h)
		w.sift(0)
	}
}

// look visits a leaf's slots that pass and reports whether the rest of the ladder is not wanted.
func (w *walker) look(g goal, c *cursor, e *entry) bool {
	more, maybe := g.first(c, e)
	if !maybe {
		w.skipped++
		return false
	}
	w.leaves++
	m := low(int(e.n))
	if more != nil {
		m = w.match(c, e, more, m)
	}
	if m != (mask{}) {
		m = w.match(c, e, &w.program, m)
	}
	return m != (mask{}) && g.visit(c, e, m)
}

// match returns the slots of a leaf's mask that pass a program.
func (w *walker) match(c *cursor, e *entry, p *program, m mask) mask {
	if c.narrow {
		return w.x.narrow.at(e.leaf).match(p, m)
	}
	return w.x.wide.at(e.leaf).match(p, m)
}

// slots returns the slots of a leaf.
func (w *walker) slots(c *cursor, e *entry) []Slot {
	if c.narrow {
		return w.x.narrow.at(e.leaf).slots[:]
	}
	return w.x.wide.at(e.leaf).slots[:]
}

// pop drops the first cursor.
func (w *walker) pop() {
	n := len(w.heap) - 1
	w.heap[0] = w.heap[n]
	w.heap = w.heap[:n]
	if n > 0 {
		w.sift(0)
	}
}
