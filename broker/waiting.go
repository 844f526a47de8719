package broker

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"time"

	"rialto/pricing"
)

// queue is the jobs that wait. A step looks at few of them: it finds those that an offer may serve, those that passed over
// a provider and those whose time is over without looking at the others.
type queue struct {
	jobs  map[JobID]*waiting
	byID  []*waiting
	byEnd []*waiting                    // the first that may give up first; none that a gang's first looks out for
	bids  map[bidKey][]*waiting         // likewise; the highest limit first
	tried map[PeerID]map[JobID]*waiting // by whom they pass over
}

// waiting is a job that waits, and what does not change while it does.
type waiting struct {
	*Job
	account *Account
	query   Query
	asked   []Predicate // of an offer
	want    Want        // what follows from that, and is soon told
	fickle  bool        // an offer may come to suit it because GPUs of it are taken
	end     time.Time   // it does not give up before
}

// bidKey says which offers a job may take.
type bidKey struct {
	model string // folded; empty: any
	spot  bool   // it is interruptible, and its bid is the limit
}

func newQueue() queue {
	return queue{jobs: map[JobID]*waiting{}, bids: map[bidKey][]*waiting{}, tried: map[PeerID]map[JobID]*waiting{}}
}

func (q *queue) has(id JobID) bool { return mapHas(q.jobs, id) }

func byJobID(a, b *waiting) int { return cmp.Compare(a.ID, b.ID) }

func byEnd(a, b *waiting) int { return cmp.Or(a.end.Compare(b.end), byJobID(a, b)) }

func byLimit(a, b *waiting) int { return cmp.Or(cmp.Compare(b.limit(), a.limit()), byJobID(a, b)) }

// limit is the most that the job pays.
func (w *waiting) limit() pricing.Rate { return cmp.Or(w.Spec.Bid, w.want.MaxRate, math.MaxInt64) }

func insert(list []*waiting, w *waiting, order func(a, b *waiting) int) []*waiting {
	i, _ := slices.BinarySearchFunc(list, w, order)
	return slices.Insert(list, i, w)
}

func remove(list []*waiting, w *waiting, order func(a, b *waiting) int) []*waiting {
	i, _ := slices.BinarySearchFunc(list, w, order)
	return slices.Delete(list, i, i+1)
}

// enqueue puts a job into the queue, to be looked at in this step.
func (m *Market) enqueue(j *Job) {
	m.stale[j.ID] = struct{}{}
	if m.queue.has(j.ID) {
		return
	}
	w := &waiting{Job: j, account: m.accounts[j.Account], query: j.Spec.query(), end: m.cfg.givesUp(j)}
	w.asked = w.query.predicates()
	w.want = wantOf(&w.query, w.asked, true)
	w.fickle = slices.ContainsFunc(w.asked, func(p Predicate) bool {
		return p.field.id == fieldFree || p.field.id == fieldRentable || p.field.id == fieldRented
	})
	q := &m.queue
	q.jobs[j.ID] = w
	q.byID = insert(q.byID, w, byJobID)
	for _, p := range j.Tried {
		if q.tried[p] == nil {
			q.tried[p] = map[JobID]*waiting{}
		}
		q.tried[p][j.ID] = w
	}
	if j.led() {
		return
	}
	q.byEnd = insert(q.byEnd, w, byEnd)
	for _, key := range w.keys() {
		q.bids[key] = insert(q.bids[key], w, byLimit)
	}
}

// remove takes a job off the queue.
func (q *queue) remove(id JobID) {
	w := q.jobs[id]
	if w == nil {
		return
	}
	delete(q.jobs, id)
	q.byID = remove(q.byID, w, byJobID)
	for _, p := range w.Tried {
		q.forgive(p, id)
	}
	if w.led() {
		return
	}
	q.byEnd = remove(q.byEnd, w, byEnd)
	for _, key := range w.keys() {
		if q.bids[key] = remove(q.bids[key], w, byLimit); len(q.bids[key]) == 0 {
			delete(q.bids, key)
		}
	}
}

// forgive forgets that a job passed over a provider.
func (q *queue) forgive(p PeerID, id JobID) {
	if delete(q.tried[p], id); len(q.tried[p]) == 0 {
		delete(q.tried, p)
	}
}

// keys are those that bids has the job under.
func (w *waiting) keys() []bidKey {
	spot := w.Spec.Bid > 0
	if len(w.want.Models) == 0 {
		return []bidKey{{"", spot}}
	}
	var keys []bidKey
	for _, m := range w.want.Models {
		if key := (bidKey{foldModel(m), spot}); !slices.Contains(keys, key) {
			keys = append(keys, key)
		}
	}
	return keys
}

// led reports whether a gang's first member looks for places for this one.
func (j *Job) led() bool { return j.forming() && j.Member.Rank > 0 }

// givesUp is when a job that waits gives up if nothing is written into its log until then.
func (c MarketConfig) givesUp(j *Job) time.Time {
	since := j.Accepted
	if n := len(j.Log); n > 0 {
		since = j.Log[n-1].Time // the line that says it waits
	}
	if end := since.Add(c.QueueTimeout); end.After(j.Spec.GoodUntil) {
		return end
	}
	return j.Spec.GoodUntil
}

// over lists those that may give up now, by id.
func (q *queue) over(now time.Time) []*waiting {
	n := 0
	for n < len(q.byEnd) && !q.byEnd[n].end.After(now) {
		n++
	}
	return slices.SortedFunc(slices.Values(q.byEnd[:n]), byJobID)
}

// postpone takes note that a job gives up later than it might have.
func (q *queue) postpone(w *waiting, end time.Time) {
	q.byEnd = remove(q.byEnd, w, byEnd)
	w.end = end
	q.byEnd = insert(q.byEnd, w, byEnd)
}

// after lists up to n of those that wait by id, from the first behind an id on and then from the start.
func (q *queue) after(id JobID, n int) []*waiting {
	at, found := slices.BinarySearchFunc(q.byID, id, func(w *waiting, id JobID) int { return cmp.Compare(w.ID, id) })
	if found {
		at++
	}
	var out []*waiting
	for i := range min(n, len(q.byID)) {
		out = append(out, q.byID[(at+i)%len(q.byID)])
	}
	return out
}

// served returns the jobs that one of the offers may serve now, in any order: all that one does, and some others.
func (q *queue) served(offers []*Listed) []*waiting {
	looking := map[bidKey][]*Listed{}
	least := map[bidKey]pricing.Rate{}
	look := func(model string, spot bool, asks pricing.Rate, l *Listed) {
		key := bidKey{model, spot}
		if at, ok := least[key]; !ok || asks < at {
			least[key] = asks
		}
		looking[key] = append(looking[key], l)
	}
	for _, l := range offers {
		if l.Free == 0 {
			continue
		}
		for _, model := range []string{"", foldModel(l.Offer.GPUs[0].Model)} {
			look(model, false, l.Offer.RateFor(MaxTerm), l)
			if l.Offer.MinBid > 0 {
				look(model, true, l.Offer.MinBid, l)
			}
		}
	}
	var out []*waiting
	several := map[JobID]struct{}{} // found, of those that take several models
	for key, at := range looking {
		for _, w := range q.bids[key] {
			if w.limit() < least[key] {
				break
			}
			if !slices.ContainsFunc(at, w.mayTake) || mapHas(several, w.ID) {
				continue
			}
			out = append(out, w)
			if len(w.want.Models) > 1 {
				several[w.ID] = struct{}{}
			}
		}
	}
	return out
}

// bidders returns the interruptible jobs whose bids are enough for an offer, the highest first. They may ask for more.
func (q *queue) bidders(o *Offer) []*waiting {
	var out []*waiting
	for _, model := range []string{"", foldModel(o.GPUs[0].Model)} {
		for _, w := range q.bids[bidKey{model, true}] {
			if w.Spec.tooDear(o) {
				break
			}
			out = append(out, w)
		}
	}
	slices.SortStableFunc(out, func(a, b *waiting) int { return cmp.Compare(b.Spec.Bid, a.Spec.Bid) })
	return out
}

// mayTake reports whether an offer has what is easily told of what the job needs, its model apart.
func (w *waiting) mayTake(l *Listed) bool {
	o, want := l.Offer, &w.want
	return l.Free >= want.Free && !w.Spec.tooDear(o) && (want.MaxRate == 0 || o.RateFor(w.Spec.Reserve) <= want.MaxRate) && len(o.GPUs) >= want.GPUs &&
		(w.Spec.Provider == "" || sameName(string(w.Spec.Provider), string(o.Provider))) &&
		(len(want.Regions) == 0 || slices.ContainsFunc(want.Regions, func(r string) bool { return sameName(r, o.Region) })) &&
		(want.MemoryMiB == 0 || o.SoldMemory() >= want.MemoryMiB)
}

// auditQueue asserts that the queue has the jobs that wait, all where they are looked for.
func (m *Market) auditQueue() error {
	again := Market{cfg: m.cfg, jobs: m.jobs, accounts: m.accounts, stale: map[JobID]struct{}{}, queue: newQueue()}
	for _, j := range m.jobs {
		if j.State == JobQueued {
			again.enqueue(j)
		}
	}
	same := func(a, b []*waiting) bool {
		return slices.EqualFunc(a, b, func(a, b *waiting) bool { return a.Job == b.Job })
	}
	got, want := &m.queue, &again.queue
	switch {
	case !same(got.byID, want.byID) || len(got.jobs) != len(want.jobs):
		return &InvariantError{Rule: "queue: it has not the jobs that wait"}
	case len(got.byEnd) != len(want.byEnd) || !slices.IsSortedFunc(got.byEnd, byEnd) ||
		slices.ContainsFunc(got.byEnd, func(w *waiting) bool { return w.end.After(m.cfg.givesUp(w.Job)) }):
		return &InvariantError{Rule: "queue: a job gives up later than it should"}
	case !maps.EqualFunc(got.bids, want.bids, same):
		return &InvariantError{Rule: "queue: not all jobs are found by what they may take"}
	case !maps.EqualFunc(got.tried, want.tried, func(a, b map[JobID]*waiting) bool {
		return maps.EqualFunc(a, b, func(a, b *waiting) bool { return a.Job == b.Job })
	}):
		return &InvariantError{Rule: "queue: who passed over a provider is not known"}
	}
	return nil
}
