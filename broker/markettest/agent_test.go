package markettest_test

import (
	"slices"
	"time"

	"rialto/broker"
	"rialto/broker/markettest"
	"rialto/pricing"
)

// agent is a naive provider: it grants what is free, under epochs that grow, and its workloads are
// ready and exit when the test says so.
type agent struct {
	host   string
	rate   pricing.Rate
	tariff broker.Tariff
	uuids  []string
	epochs map[string]uint64
	work   map[broker.LeaseID]*workload
	ran    map[broker.LeaseID]time.Duration // of workloads that a crash ended: one of the same lease may come again
	set    uint64
	online bool
	liar   bool // its meter reports ten times what it saw
}

type workload struct {
	lease    broker.LeaseID
	gpus     []broker.GPULease
	granted  broker.HoldAnswered
	phase    broker.Phase
	seq      uint64
	ready    time.Time
	ended    time.Time
	deadline time.Time // the watchdog's: granted or renewed until
	acked    bool      // the final report is durable at the broker
	fault    bool      // it broke through its host's fault
	traffic  broker.Traffic
	why      string    // its host ended it; empty: it ended by itself
	ends     time.Time // of its notice, if it is displaced
}

func newAgent(host string, gpus int, rate pricing.Rate) *agent {
	a := &agent{host: host, rate: rate, epochs: map[string]uint64{}, work: map[broker.LeaseID]*workload{}, ran: map[broker.LeaseID]time.Duration{}}
	for _, g := range markettest.Offer(host, "RTX 4090", gpus, rate).GPUs {
		a.uuids = append(a.uuids, g.UUID)
	}
	return a
}

// free returns the GPUs of no running workload.
func (a *agent) free() []string {
	return slices.DeleteFunc(slices.Clone(a.uuids), func(uuid string) bool {
		for _, w := range a.work {
			if w.running() && slices.ContainsFunc(w.gpus, func(g broker.GPULease) bool { return g.UUID == uuid }) {
				return true
			}
		}
		return false
	})
}

func (w *workload) running() bool { return w.phase < broker.PhaseExited }

func (a *agent) offers() broker.OffersPosted {
	a.set++
	o := markettest.Offer(a.host, "RTX 4090", len(a.uuids), a.rate)
	o.ReservedRate, o.ReservedMin = a.rate/2, time.Minute
	if a.rate == 0 {
		o.ReservedMin = 0
	}
	o.Free, o.MinBid, o.Tariff = a.free(), a.rate/4, a.tariff
	return broker.OffersPosted{
		Provider: broker.PeerID(a.host),
		Set:      broker.OfferSet{Boot: "boot", Seq: a.set, Offers: []broker.Offer{o}},
	}
}

// hold answers a hold; a repeated one gets the same answer.
func (a *agent) hold(now time.Time, h broker.Hold, spec *broker.JobSpec) broker.HoldAnswered {
	if w := a.work[h.Lease]; w != nil {
		return w.granted
	}
	free, count := a.free(), spec.GPU.Count
	if len(free) < count {
		return broker.HoldAnswered{Lease: h.Lease, Answer: broker.Answer{Lease: h.Lease, Refusal: "no free GPU"}}
	}
	w := &workload{lease: h.Lease, phase: broker.PhasePreparing, deadline: now.Add(h.TTL)}
	for _, uuid := range free[:count] {
		a.epochs[uuid]++
		w.gpus = append(w.gpus, broker.GPULease{UUID: uuid, Epoch: a.epochs[uuid]})
	}
	w.granted = markettest.Grant(broker.Lease{ID: h.Lease, Job: h.Job}, w.gpus...)
	if spec.Firm > 0 {
		g := w.granted.Answer.Grant
		g.Rate, g.Tariff, g.Firm = h.Rate, h.Tariff, spec.Firm
	}
	a.work[h.Lease] = w
	return w.granted
}

func (a *agent) confirm(now time.Time, c broker.Confirm) broker.ConfirmAnswered {
	w := a.work[c.Lease]
	if w == nil || !w.running() {
		return broker.ConfirmAnswered{Lease: c.Lease, Error: "no such lease"}
	}
	w.deadline = now.Add(c.TTL)
	return broker.ConfirmAnswered{Lease: c.Lease}
}

func (a *agent) release(now time.Time, r broker.Release) broker.ReleaseAnswered {
	if w := a.work[r.Lease]; w != nil && w.running() {
		w.why = r.Reason
		w.end(now, broker.PhaseExited)
	}
	return broker.ReleaseAnswered{Lease: r.Lease}
}

func (w *workload) end(now time.Time, phase broker.Phase) {
	if w.running() {
		w.phase, w.ended = phase, now
	}
}

// watch ends what was not renewed in time.
func (a *agent) watch(now time.Time) {
	for _, w := range a.work {
		if w.running() && !now.Before(w.deadline) {
			w.why = "the lease lapsed"
			w.end(w.deadline, broker.PhaseExited)
		}
		if !w.ends.IsZero() && !now.Before(w.ends) {
			w.end(w.ends, broker.PhaseExited)
		}
	}
}

// used is the true ready time of a workload.
func (w *workload) used(now time.Time) time.Duration {
	if w.ready.IsZero() {
		return 0
	}
	if !w.ended.IsZero() {
		now = w.ended
	}
	return now.Sub(w.ready)
}

// report makes the next report of a workload.
func (a *agent) report(now time.Time, w *workload) broker.Reported {
	w.seq++
	r := broker.Report{Lease: w.lease, GPUs: w.gpus, Seq: w.seq, Phase: w.phase, Used: w.used(now), Message: w.why, Traffic: w.traffic}
	if a.liar {
		r.Used *= 10
	}
	if w.phase == broker.PhaseBroken {
		r.HostFault = w.fault && w.ready.IsZero()
		r.Message = "it broke"
	}
	if w.phase == broker.PhaseExited && !w.ends.IsZero() {
		r.Message = "another job displaced it"
	}
	return broker.Reported{Provider: broker.PeerID(a.host), Report: r, Envelope: []byte("report")}
}

// renewed takes the broker's answer to a report that was sent at a moment.
func (a *agent) renewed(sent time.Time, r broker.Renewal) {
	w := a.work[r.Lease]
	if w == nil {
		return
	}
	if r.TTL == 0 {
		w.end(sent, broker.PhaseExited)
	}
	if !w.running() && r.Seq == w.seq {
		w.acked = true
	}
	w.deadline = sent.Add(r.TTL)
	if r.Preempt > 0 && w.ends.IsZero() {
		w.ends = sent.Add(r.Preempt)
	}
}
