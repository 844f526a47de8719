package sim

import (
	"container/heap"
	"slices"
	"time"

	"rialto/pricing"
)

// customers is how many accounts submit jobs.
const customers = 40

// venue is where jobs find hosts. The engine calls it when something happens; it calls the engine back to ask hosts, to
// start and end what they run, and to say what became of jobs. None of its methods is called inside another.
type venue interface {
	post(h *host)       // what it sells has changed, or it is back
	gone(h *host)       // its connection has ended
	submit(j *job) bool // false: there is no such offer now
	answered(r *run, granted answer)
	report(r *run) // its phase has changed, or it is time to renew it
	tick()         // once in tickEvery
	check() error  // what has gone wrong
}

// engine is the world and its clock.
type engine struct {
	cfg   Config
	seed  uint64
	venue venue

	now    time.Duration
	queue  events
	events int

	fair   map[string][]float64
	images []float64
	hosts  []*host
	jobs   []*job
	open   int // jobs not over

	tally tally
}

func newEngine(cfg Config, seed uint64) *engine {
	e := &engine{cfg: cfg, seed: seed, fair: makeFair(seed, int(cfg.Span.Hours())+97), images: makeImages(seed)}
	e.hosts = makeHosts(seed, cfg.Hosts)
	e.jobs = makeJobs(e)
	e.open = len(e.jobs)
	return e
}

func (e *engine) after(d time.Duration, do func()) {
	e.events++
	heap.Push(&e.queue, event{e.now + d, e.events, do})
}

// fairOf is the fair price of a model in dollars per GPU-hour.
func (e *engine) fairOf(m *model, at time.Duration) float64 {
	path := e.fair[m.name]
	return path[min(int(at.Hours()), len(path)-1)]
}

// play lets time pass until the last job is over.
func (e *engine) play() error {
	for _, h := range e.hosts {
		// Hosts do not come at one moment, so that owners change their prices at different ones.
		e.after(time.Duration(h.whims.Float64()*float64(10*time.Second)), func() { e.up(h) })
		e.after(time.Duration(h.whims.Float64()*float64(repriceEvery)), func() { e.reprice(h) })
	}
	for _, j := range e.jobs {
		e.after(j.arrived, func() { e.submit(j) })
	}
	e.after(tickEvery, e.tick)
	for at := indexFrom; at <= e.cfg.Span; at += indexEvery {
		e.after(at, e.observe)
	}
	for len(e.queue) > 0 && e.open > 0 {
		ev := heap.Pop(&e.queue).(event)
		e.now = ev.at
		ev.do()
		if err := e.venue.check(); err != nil {
			return err
		}
	}
	return nil
}

func (e *engine) tick() {
	e.venue.tick()
	e.after(tickEvery, e.tick)
}

// repriceEvery is how often an owner looks at the market.
const repriceEvery = 6 * time.Hour

func (e *engine) reprice(h *host) {
	e.price(h)
	if h.online {
		e.venue.post(h)
	}
	e.after(repriceEvery, func() { e.reprice(h) })
}

func (e *engine) price(h *host) {
	factor := h.ask
	if h.raised {
		factor /= 0.6
	}
	h.rate = tick(factor * e.fairOf(h.model, e.now))
}

// up brings a host back with a new agent and says when it will fail.
func (e *engine) up(h *host) {
	h.online = true
	h.boot++
	e.price(h)
	e.venue.post(h)
	boot := h.boot
	e.after(hours(h.failures.ExpFloat64()/max(h.hazard, 1e-6)), func() {
		if h.boot == boot {
			e.down(h)
		}
	})
}

// down ends a host with all that it runs, without a word.
func (e *engine) down(h *host) {
	if !h.online {
		return
	}
	h.online = false
	h.boot++
	for _, r := range h.slots {
		if r != nil && r.phase < exited {
			e.end(r, vanished)
			e.tally.lost++
		}
	}
	e.venue.gone(h)
	e.after(downLeast+time.Duration(h.failures.ExpFloat64()*float64(downMean)), func() { e.up(h) })
}

// submit is a customer's wish, also the second time.
func (e *engine) submit(j *job) {
	if e.venue.submit(j) {
		j.tries++
		return
	}
	if e.now+askAgain > j.arrived+patience {
		e.close(j)
		return
	}
	e.after(askAgain, func() { e.submit(j) })
}

func (e *engine) close(j *job) {
	j.over = true
	e.open--
}

// free counts the GPUs that a host can grant.
func (h *host) free() int {
	n := 0
	for _, r := range h.slots {
		if r == nil {
			n++
		}
	}
	return n
}

// suits reports whether a host says that it can run a job.
func (j *job) suits(h *host) bool {
	return (j.model == nil || j.model == h.model) && h.model.memoryMiB >= j.memory && h.rate <= j.maxRate && len(h.slots) >= j.gpus &&
		!slices.Contains(j.bad, h)
}

// baits reports whether a host means to refuse.
func (h *host) baits() bool { return h.kind == baiter && !h.raised }

// ask sends a hold to a host; the answer comes after a round trip, or never.
func (e *engine) ask(r *run) {
	e.tally.asked++
	r.asks = r.job.allIn(r.host)
	r.cheapest = r.asks
	for _, h := range e.hosts {
		if h.online && !h.baits() && h.free() >= r.job.gpus && r.job.suits(h) {
			r.cheapest = min(r.cheapest, r.job.allIn(h))
		}
	}
	e.after(r.host.rtt, func() { e.decide(r) })
}

func (e *engine) decide(r *run) {
	h := r.host
	if !h.online {
		e.venue.answered(r, unreachable)
		return
	}
	if h.baits() {
		switch pick(h.whims, 0.75, 0.15, 0.1) {
		case 0:
			e.venue.answered(r, refused)
			if h.whims.Float64() < 0.5 {
				e.raise(h)
			}
			return
		case 1:
			return // silent
		}
	}
	if h.free() < r.job.gpus || r.phase != asked {
		e.venue.answered(r, refused)
		return
	}
	for i, other := range h.slots {
		if other == nil && len(r.slots) < r.job.gpus {
			h.slots[i] = r
			h.epochs[i]++
			r.slots = append(r.slots, i)
		}
	}
	r.phase, r.granted = held, e.now
	e.tally.granted++
	e.tally.price(r)
	e.venue.answered(r, granted)
}

// raise is the second half of a bait: a price above the others', for half an hour.
func (e *engine) raise(h *host) {
	set := func(raised bool) {
		h.raised = raised
		e.price(h)
		if h.online {
			e.venue.post(h)
		}
	}
	set(true)
	e.after(30*time.Minute, func() { set(false) })
}

// overhead is what a start takes beside the image.
const overhead = 2 * time.Second

// start prepares what a host has granted, and runs it.
func (e *engine) start(r *run) {
	if r.phase != held {
		return
	}
	h := r.host
	r.phase = preparing
	takes := overhead
	if r.fetched = !h.images[r.job.image]; r.fetched {
		takes += time.Duration(e.images[r.job.image] / h.inbound * float64(time.Second))
	}
	e.after(takes, func() { e.begin(r) })
	e.after(renewEvery, func() { e.renew(r) })
	if h.kind == vanisher && h.whims.Float64() < 0.25 {
		boot := h.boot
		e.after(time.Duration(h.whims.Float64()*float64(takes+r.job.work)), func() {
			if h.boot == boot && r.live() {
				e.down(h)
			}
		})
	}
}

func (e *engine) begin(r *run) {
	if r.phase != preparing {
		return
	}
	h := r.host
	h.images[r.job.image] = true
	r.phase, r.ready = running, e.now
	r.job.ready = e.now
	takes := time.Duration(float64(r.job.work) / h.speed).Round(time.Millisecond)
	if h.memory < r.job.memory {
		r.exitCode = 1
		takes = min(takes, 20*time.Second) // until it has filled the memory
	}
	if takes < r.job.maxDuration() {
		e.after(takes, func() {
			if r.phase == running {
				e.end(r, exited)
				e.venue.report(r)
			}
		})
	}
	e.venue.report(r)
}

func (e *engine) renew(r *run) {
	if r.live() {
		e.venue.report(r)
		e.after(renewEvery, func() { e.renew(r) })
	}
}

// end frees the GPUs of a run, however it ends; its owner's time is spent.
func (e *engine) end(r *run, how phase) {
	if r.phase >= exited {
		return
	}
	for _, i := range r.slots {
		r.host.slots[i] = nil
	}
	if r.phase != asked {
		e.tally.cost += r.host.cost * e.fairOf(r.host.model, e.now) * float64(len(r.slots)) * (e.now - r.granted).Hours()
	}
	r.phase, r.ended = how, e.now
}

// release ends a run at the venue's wish. It reports whether the host heard it.
func (e *engine) release(r *run) bool {
	if r.phase < exited {
		r.released = true
		e.end(r, exited)
	}
	return r.host.online
}

// settle takes the bill of a run. It comes once.
func (e *engine) settle(r *run, billed time.Duration, cost pricing.Money) {
	if r.settled {
		return
	}
	r.settled = true
	r.job.paid += cost
	e.tally.paid += cost
	e.tally.trade(e, r, billed)
}

// finished says that a submission of a job has ended: done by a run, or failed by one, or never placed (nil). A customer
// whose job was failed tries again elsewhere.
func (e *engine) finished(j *job, r *run, done bool) {
	switch {
	case j.over:
	case done:
		j.won = r
		e.close(j)
	case r == nil:
		e.close(j)
	default:
		e.tally.failed++
		j.bad = append(j.bad, r.host)
		if j.tries >= maxTries || e.now+j.work > j.deadline() {
			e.close(j)
			return
		}
		e.after(time.Second, func() { e.submit(j) })
	}
}
