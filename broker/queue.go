package broker

import (
	"cmp"
	"container/heap"
	"fmt"
	"slices"
	"time"

	"rialto/pricing"
)

// maxStanding is how far ahead an order may stand.
const maxStanding = 30 * 24 * time.Hour

// standing reports whether the job is a standing limit order. Such a job is accepted whether an offer fits or not. Its
// money is held for as long as it stands: at MaxRate for all its duration, unless MaxCost says less. It takes the best
// offer that fits as soon as there is one, and pays what that asks, never more than MaxRate. When its time is over, all is
// given back.
func (s *JobSpec) standing() bool { return !s.GoodUntil.IsZero() }

func (s *JobSpec) checkStanding(c *checker) {
	if !s.standing() {
		return
	}
	c.that(s.limit() > 0, "max_rate", "missing: a standing order needs a limit")
	c.that(s.Firm == 0, "firm", "a standing order is no quote")
	ahead := s.GoodUntil.Sub(s.Created)
	c.that(ahead > 0 && ahead <= maxStanding, "good_until", "%v after the order was made: want at most %v", ahead.Round(time.Second), maxStanding)
}

// expire ends a job that has waited for as long as it may.
func (t *turn) expire(j *Job) bool {
	if j.led() || !t.queue.has(j.ID) {
		return false // it ends with the first of its gang
	}
	since := j.Log[len(j.Log)-1].Time // the line that says it waits
	if t.now.Sub(since) < t.cfg.QueueTimeout {
		return false
	}
	switch {
	case !j.Spec.standing():
		reason := fmt.Sprintf("no provider took it within %v", t.cfg.QueueTimeout)
		if said := j.lastAnswer(); said != "" {
			reason += ": " + said
		}
		t.finish(j, nil, JobFailed, reason)
	case !t.now.Before(j.Spec.GoodUntil):
		t.finish(j, nil, JobExpired, fmt.Sprintf("no offer at %v or less until %s", j.Spec.limit(), j.Spec.GoodUntil.Format(time.RFC3339)))
	default:
		return false
	}
	return true
}

// lastAnswer is what came of the job's last try, before it waited; empty: there was none.
func (j *Job) lastAnswer() string {
	for _, e := range slices.Backward(j.Log) {
		if e.State != JobQueued {
			return e.Text
		}
	}
	return ""
}

// unqueue takes a job off the queue.
func (t *turn) unqueue(j *Job) {
	t.queue.remove(j.ID)
	delete(t.stale, j.ID)
}

// place is where a job that waits stands in the order of service: who displaced what ended in this step goes first, then
// on-demand before interruptible, and of these a higher bid; else of two, whose account spent less lately, and of one
// account's or of equals', who came first. See [Recent]. No two are equal.
type place struct {
	*waiting
	heir     bool
	bid      pricing.Rate // zero: on-demand
	spent    pricing.Money
	accepted time.Time
}

func (a *place) compare(b *place) int {
	switch {
	case a.heir != b.heir:
		return prefer(a.heir)
	case a.bid != b.bid && (a.bid == 0 || b.bid == 0):
		return cmp.Compare(a.bid, b.bid)
	case a.bid != b.bid:
		return cmp.Compare(b.bid, a.bid)
	case a.spent != b.spent:
		return cmp.Compare(a.spent, b.spent)
	}
	if c := a.accepted.Compare(b.accepted); c != 0 {
		return c
	}
	return cmp.Compare(a.ID, b.ID)
}

// placesAt returns how to find the places of jobs at a time.
func placesAt(now time.Time, heirs []JobID) func(*waiting) place {
	spent := map[*Account]pricing.Money{}
	return func(w *waiting) place {
		s, ok := spent[w.account]
		if !ok {
			s = w.account.Recent.at(now)
			spent[w.account] = s
		}
		return place{waiting: w, heir: slices.Contains(heirs, w.ID), bid: w.Spec.Bid, spent: s, accepted: w.Accepted}
	}
}

// line is jobs that wait, a heap: the first is served next.
type line []place

var _ heap.Interface = (*line)(nil)

func (l *line) Len() int           { return len(*l) }
func (l *line) Less(i, k int) bool { return (*l)[i].compare(&(*l)[k]) < 0 }
func (l *line) Swap(i, k int)      { (*l)[i], (*l)[k] = (*l)[k], (*l)[i] }
func (l *line) Push(x any)         { *l = append(*l, x.(place)) } //nolint:forcetypeassert // nobody pushes

// Pop takes the last of the slice: heap.Pop has put the first there.
func (l *line) Pop() any {
	last := len(*l) - 1
	p := (*l)[last]
	*l = (*l)[:last]
	return p
}

// mostMissed is how many jobs of those that an offer may suit turn out not to be suited, before all are asked.
const mostMissed = 64

// serveQueue looks for places for jobs that wait: for those that have to be looked at anew, and for those that an offer
// suits of which there is news. The others would find what they found before. All come in the order of service, of which
// no more is sorted than is served.
func (t *turn) serveQueue() {
	if len(t.stale) == 0 && (len(t.news) == 0 || len(t.queue.jobs) == 0) {
		t.backlog = false
		clear(t.news)
		return
	}
	placeOf := placesAt(t.now, t.heirs)
	var again, suited line
	for id := range t.stale { // they are sorted
		again = append(again, placeOf(t.queue.jobs[id]))
	}
	fresh := t.fresh()
	least := maxJobGPUs // that one of them asks for
	for _, w := range t.queue.served(fresh) {
		if !mapHas(t.stale, w.ID) {
			suited = append(suited, placeOf(w))
			least = min(least, w.want.Free)
		}
	}
	heap.Init(&again)
	heap.Init(&suited)
	t.backlog = false
	missed := 0
	for len(again) > 0 || len(suited) > 0 {
		next := &suited
		switch {
		case len(suited) == 0 || len(again) > 0 && again[0].compare(&suited[0]) < 0:
			next = &again
		case !slices.ContainsFunc(fresh, func(l *Listed) bool { return l.Free >= least }):
			suited = nil // what there was is taken
			continue
		}
		w := heap.Pop(next).(place).waiting //nolint:forcetypeassert // that is what a line is of
		if !t.queue.has(w.ID) {
			continue // asked, or ended, with the rest of its gang
		}
		if next == &suited && !t.suits(w, fresh) {
			if missed++; missed == mostMissed { // likely most are like that: they need not be sorted
				suited = slices.DeleteFunc(suited, func(p place) bool { return !p.fickle && !t.suits(p.waiting, fresh) })
				heap.Init(&suited)
			}
			continue
		}
		if t.full() {
			t.stale[w.ID] = struct{}{}
			t.backlog = true
			continue
		}
		delete(t.stale, w.ID)
		t.place(w.Job)
	}
	clear(t.news)
}

// fresh returns the offers of which there is news and that are here still, in any order.
func (m *Market) fresh() []*Listed {
	var out []*Listed
	for k := range m.news {
		if s := m.shops[k.provider]; s != nil {
			if i := slices.IndexFunc(s.offers, func(o *Offer) bool { return o.ID == k.offer }); i >= 0 {
				out = append(out, s.listed[i])
			}
		}
	}
	return out
}

// asks is what a job that waits asks of an offer.
func (m *Market) asks(w *waiting) finder {
	return finder{m: m, q: &w.query, tried: w.Tried, free: true, wanted: m.honest(&w.query, w.asked)}
}

// suits reports whether one of the offers would serve a job now.
func (m *Market) suits(w *waiting, offers []*Listed) bool {
	for i, l := range offers {
		if w.mayTake(l) { // most are told apart by this
			f := m.asks(w)
			return slices.ContainsFunc(offers[i:], f.fits)
		}
	}
	return false
}

// hearOf notes the offers of a shop that were not there as they are now.
func (t *turn) hearOf(old, now *shop) {
	for _, o := range now.offers {
		if old == nil || !slices.Contains(old.offers, o) {
			t.news[keyOf(o)] = struct{}{}
		}
	}
}

// hearFrom notes all offers of a provider: GPUs of some came free, and what was seen of the host changed.
func (t *turn) hearFrom(p PeerID) {
	if s := t.shops[p]; s != nil {
		for _, o := range s.offers {
			t.news[keyOf(o)] = struct{}{}
		}
	}
}

// lookAgain has some of those that wait looked at anew: what they ask for may depend on time, as how long a host was seen
// does, of which there is no news. Each has its turn.
func (t *turn) lookAgain() {
	const some = 4
	for _, w := range t.queue.after(t.checked, some) {
		t.checked = w.ID
		t.stale[w.ID] = struct{}{}
		t.changed = true
	}
}

// saidWhy reports whether the job's log says why it waits.
func (j *Job) saidWhy() bool { return len(j.Log) > 0 && j.Log[len(j.Log)-1].State == JobQueued }

// waitFor says, once, why a job has no place yet.
func (t *turn) waitFor(j *Job, why string) {
	if j.saidWhy() {
		return
	}
	if n := t.Ahead(j.ID)[0]; n > 0 {
		bids := ""
		if j.Spec.Bid > 0 {
			bids = "bids more, "
		}
		why += fmt.Sprintf("; %d before it, of who %sspent less lately or came first", n, bids)
	}
	if j.Spec.standing() {
		t.log(j, "standing until %s for %v or less: %s", j.Spec.GoodUntil.Format(time.RFC3339), j.Spec.limit(), why)
		return
	}
	t.log(j, "waiting up to %v: %s", t.cfg.QueueTimeout, why)
}

// requeue has a job wait again, and be looked at in this step.
func (t *turn) requeue(j *Job) {
	t.touchJob(j)
	j.State = JobQueued
	t.enqueue(j)
}
