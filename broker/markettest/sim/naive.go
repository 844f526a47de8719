package sim

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"rialto/pricing"
)

// naive is a venue as simple as can be, with the protocol of the real one. It knows of hosts what they say and how
// often they lost what they ran.
type naive struct {
	*engine
	order func(n *naive, j *job, fitting []*host) // best first

	online []bool
	busy   []int // GPUs asked for or leased, by host
	starts []int // by host
	losses []int // of these

	queue []*placing
	live  []*lease
}

// placing is a submission that waits for a host.
type placing struct {
	job   *job
	since time.Duration
	tried []*host
	asks  int
}

// lease is a run as the venue knows it.
type lease struct {
	*run
	from    *placing
	sent    time.Duration // of the hold
	renewed time.Duration // of the last report; zero: no answer yet
	begun   time.Duration // ready; zero: not yet
}

func openNaive(e *engine, order func(*naive, *job, []*host)) *naive {
	n := len(e.hosts)
	return &naive{engine: e, order: order, online: make([]bool, n), busy: make([]int, n), starts: make([]int, n), losses: make([]int, n)}
}

// byPrice puts the cheapest first.
func byPrice(_ *naive, _ *job, fitting []*host) {
	slices.SortStableFunc(fitting, func(a, b *host) int { return cmp.Compare(a.rate, b.rate) })
}

// byScore sorts as Vast's default does, as far as one can tell: by speed for the money, times reliability. A GPU's speed
// is what its model should have, for which its fair price stands; reliability is the share of starts that were not lost.
func byScore(n *naive, _ *job, fitting []*host) {
	score := func(h *host) float64 {
		reliable := float64(1+n.starts[h.id]-n.losses[h.id]) / float64(1+n.starts[h.id])
		return h.model.price / dollars(h.rate) * reliable
	}
	slices.SortStableFunc(fitting, func(a, b *host) int { return cmp.Compare(score(b), score(a)) })
}

// ofTwo puts the cheaper of two random ones first, as Nomad does with its nodes.
func ofTwo(n *naive, j *job, fitting []*host) {
	r := stream(n.seed, fmt.Sprintf("of two %d", j.tries), j.id*64+int(n.now/time.Second)%64)
	r.Shuffle(len(fitting), func(a, b int) { fitting[a], fitting[b] = fitting[b], fitting[a] })
	if len(fitting) > 1 && fitting[1].rate < fitting[0].rate {
		fitting[0], fitting[1] = fitting[1], fitting[0]
	}
}

func (n *naive) post(h *host) {
	n.online[h.id] = true
	for _, p := range n.queue {
		p.tried = slices.DeleteFunc(p.tried, func(x *host) bool { return x == h })
	}
	n.serve()
}

func (n *naive) gone(h *host) { n.online[h.id] = false }

func (n *naive) submit(j *job) bool {
	if !slices.ContainsFunc(n.hosts, func(h *host) bool { return n.online[h.id] && j.suits(h) }) {
		return false
	}
	n.queue = append(n.queue, &placing{job: j, since: n.now})
	n.serve()
	return true
}

// serve asks for all that waits, first come first served.
func (n *naive) serve() {
	n.queue = slices.DeleteFunc(n.queue, n.place)
}

// place asks the best host that was not tried yet.
func (n *naive) place(p *placing) bool {
	var fitting []*host
	for _, h := range n.hosts {
		if n.online[h.id] && p.job.suits(h) && len(h.slots)-n.busy[h.id] >= p.job.gpus && !slices.Contains(p.tried, h) {
			fitting = append(fitting, h)
		}
	}
	if len(fitting) == 0 {
		return false
	}
	n.order(n, p.job, fitting)
	h := fitting[0]
	n.busy[h.id] += p.job.gpus
	l := &lease{run: &run{job: p.job, host: h, rate: h.rate, tariff: h.tariff}, from: p, sent: n.now}
	l.id = fmt.Sprintf("%d.%d.%d", p.job.id, p.job.tries, p.asks)
	p.asks++
	n.live = append(n.live, l)
	n.ask(l.run)
	return true
}

// find returns the lease of a run; nil if it is over.
func (n *naive) find(r *run) *lease {
	for _, l := range n.live {
		if l.run == r {
			return l
		}
	}
	return nil
}

func (n *naive) answered(r *run, a answer) {
	l := n.find(r)
	switch {
	case l == nil:
		n.release(r)
	case a == granted:
		l.renewed = n.now
		n.starts[r.host.id]++
		n.start(r)
	default:
		n.next(l)
		n.serve()
	}
}

// next lets a placing go on to the next host.
func (n *naive) next(l *lease) {
	n.drop(l)
	l.from.tried = append(l.from.tried, l.host)
	l.from.since = n.now
	n.queue = append(n.queue, l.from)
	slices.SortStableFunc(n.queue, func(a, b *placing) int { return cmp.Compare(a.job.arrived, b.job.arrived) })
}

func (n *naive) drop(l *lease) {
	n.live = slices.DeleteFunc(n.live, func(x *lease) bool { return x == l })
	n.busy[l.host.id] -= l.job.gpus
}

// bill ends a lease for the time that was seen, and its submission.
func (n *naive) bill(l *lease, until time.Duration, done bool) {
	n.drop(l)
	billed := time.Duration(0)
	if l.begun > 0 {
		billed = min(until-l.begun, l.job.maxDuration())
	}
	if cost, err := l.cost(billed); err == nil {
		n.settle(l.run, billed, cost)
	}
	j := l.job
	n.after(0, func() { n.finished(j, l.run, done) })
}

// cost is what a run costs by the time that was seen, with its disk and what its host says that it carried.
func (l *lease) cost(billed time.Duration) (pricing.Money, error) {
	c, err := l.job.charge(l.rate, l.tariff)
	if err != nil {
		return 0, err
	}
	if billed > 0 {
		share := float64(l.carried(l.renewed).Egress) / float64(l.job.traffic)
		c.Traffic = pricing.Money(share * float64(c.Traffic))
	} else {
		c.Traffic = 0
	}
	return c.Cost(billed)
}

func (n *naive) report(r *run) {
	l := n.find(r)
	if l == nil {
		return
	}
	l.renewed = n.now
	if r.ready > 0 && l.begun == 0 {
		l.begun = n.now
	}
	if r.phase == exited {
		n.bill(l, n.now, r.exitCode == 0)
		n.serve()
	}
}

func (n *naive) tick() {
	changed := false
	for _, l := range slices.Clone(n.live) {
		switch silent := n.now - l.renewed; {
		case l.renewed == 0 && n.now-l.sent >= holdTTL:
			n.release(l.run)
			n.next(l)
		case l.renewed == 0:
			continue
		case silent >= lapse && l.begun > 0:
			n.losses[l.host.id]++
			n.bill(l, l.renewed, false)
		case silent >= lapse:
			n.losses[l.host.id]++
			n.next(l)
		case l.begun == 0 && n.now-l.granted >= prepareTTL:
			n.release(l.run)
			n.bill(l, n.now, false)
		case l.begun > 0 && n.now-l.begun >= l.job.maxDuration():
			n.release(l.run)
			n.bill(l, n.now, false)
		default:
			continue
		}
		changed = true
	}
	n.queue = slices.DeleteFunc(n.queue, func(p *placing) bool {
		late := n.now-p.since >= patience
		if late {
			j := p.job
			n.after(0, func() { n.finished(j, nil, false) })
		}
		return late
	})
	if changed {
		n.serve()
	}
}

func (n *naive) check() error { return nil }

var _ venue = (*naive)(nil)
