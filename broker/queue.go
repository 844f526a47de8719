package broker

import (
	"cmp"
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
	if j.forming() && j.Member.Rank > 0 || !mapHas(t.queued, j.ID) {
		return false // it ends with the first of its gang
	}
	since := j.Log[len(j.Log)-1].Time // the line that says it waits
	if t.now.Sub(since) < t.cfg.QueueTimeout {
		return false
	}
	switch {
	case !j.Spec.standing():
		reason := fmt.Sprintf("no provider took it within %v", t.cfg.QueueTimeout)
		if n := len(j.Log); n > 1 { // the line before says what the last one said
			reason += ": " + j.Log[n-2].Text
		}
		t.finish(j, nil, JobFailed, reason)
	case !t.now.Before(j.Spec.GoodUntil):
		t.finish(j, nil, JobExpired, fmt.Sprintf("no offer at %v or less until %s", j.Spec.limit(), j.Spec.GoodUntil.Format(time.RFC3339)))
	default:
		return false
	}
	return true
}

// unqueue takes a job off the queue.
func (t *turn) unqueue(j *Job) {
	delete(t.queued, j.ID)
	delete(t.stale, j.ID)
}

// precedence is the order in which jobs that wait are served at a time: on-demand before interruptible, and of these a
// higher bid first; else of two, whose account spent less lately, and of one
// account's or of equals', who came first. See [Recent]. No two are equal.
func (m *Market) precedence(now time.Time) func(a, b *Job) int {
	recent := map[AccountID]pricing.Money{}
	spent := func(id AccountID) pricing.Money {
		r, ok := recent[id]
		if !ok {
			r = m.accounts[id].Recent.at(now)
			recent[id] = r
		}
		return r
	}
	return func(a, b *Job) int {
		return cmp.Or(compareBids(a, b), cmp.Compare(spent(a.Account), spent(b.Account)), a.Accepted.Compare(b.Accepted), cmp.Compare(a.ID, b.ID))
	}
}

// inLine lists the jobs that wait, the next one first.
func (t *turn) inLine() []*Job {
	line := make([]*Job, 0, len(t.queued))
	for id := range t.queued { // they are sorted below
		line = append(line, t.jobs[id])
	}
	slices.SortFunc(line, t.precedence(t.now))
	return t.heirsFirst(line)
}

// Ahead returns how many jobs that wait, and could take what a waiting job could, are served before it: of accounts that
// spent less lately, or of equals who came first. Zero for a job that does not wait.
func (m *Market) Ahead(id JobID) int {
	if _, waits := m.queued[id]; !waits {
		return 0
	}
	j, order := m.jobs[id], m.precedence(m.clock)
	n := 0
	for other := range m.queued { // they are only counted
		o := m.jobs[other]
		if o.forming() && o.Member.Rank > 0 {
			continue // served with the first of its gang
		}
		if o.Spec.rivals(&j.Spec) && order(o, j) < 0 {
			n++
		}
	}
	return n
}

// rivals reports whether two jobs may want the same GPUs, as far as model and place say.
func (s *JobSpec) rivals(o *JobSpec) bool {
	either := func(a, b, any string) bool { return a == b || a == any || b == any }
	return either(s.GPU.Model, o.GPU.Model, AnyModel) && either(s.Region, o.Region, "") && either(string(s.Provider), string(o.Provider), "")
}

// serveQueue looks for places for jobs that wait: for those that have to be looked at anew, and for those that an offer
// suits of which there is news. The others would find what they found before.
func (t *turn) serveQueue() {
	if len(t.stale) == 0 && (len(t.news) == 0 || len(t.queued) == 0) {
		t.backlog = false
		clear(t.news)
		return
	}
	fresh := t.fresh()
	t.backlog = false
	for _, j := range t.inLine() {
		if !mapHas(t.queued, j.ID) {
			continue // asked, or ended, with the rest of its gang
		}
		if _, stale := t.stale[j.ID]; !stale && !t.suits(j, fresh) {
			continue
		}
		if t.full() {
			t.stale[j.ID] = struct{}{}
			t.backlog = true
			continue
		}
		delete(t.stale, j.ID)
		t.place(j)
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

// suits reports whether one of the offers would serve a job now.
func (m *Market) suits(j *Job, offers []*Listed) bool {
	spec := &j.Spec
	var f *finder
	for _, l := range offers {
		if l.Free < spec.GPU.Count || spec.tooDear(l.Offer) { // most are told apart by this
			continue
		}
		if f == nil {
			q := spec.query()
			f = new(m.finder(&q, j.Tried, true))
		}
		if f.fits(l) {
			return true
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
	ids := sortedKeys(t.queued)
	at, _ := slices.BinarySearch(ids, t.checked+"\x00") // behind it
	for i := range min(some, len(ids)) {
		t.checked = ids[(at+i)%len(ids)]
		t.stale[t.checked] = struct{}{}
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
	if n := t.Ahead(j.ID); n > 0 {
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
	t.queued[j.ID] = struct{}{}
	t.stale[j.ID] = struct{}{}
}
