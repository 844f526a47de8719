package sim

import (
	"time"

	"rialto/broker"
	"rialto/pricing"
)

type answer uint8

const (
	granted answer = iota + 1
	refused
	unreachable
)

type phase uint8

const (
	asked phase = iota
	held
	preparing
	running
	exited // by itself or released
	vanished
)

// run is an attempt of a host at a job.
type run struct {
	id       string // of its lease
	job      *job
	host     *host
	rate     pricing.Rate
	tariff   broker.Tariff
	asks     float64 // all-in, when it was asked
	cheapest float64 // likewise, of a host that would have granted it

	phase    phase
	slots    []int // GPUs
	granted  time.Duration
	ready    time.Duration // zero: never
	ended    time.Duration
	exitCode int
	released bool // by the venue, before it exited
	seq      uint64
	fetched  bool // the image was not there
	settled  bool
}

func (r *run) live() bool { return r.phase == preparing || r.phase == running }

// carried is the traffic so far, each way: it comes evenly. A liar counts all that may be paid for.
func (r *run) carried(now time.Duration) broker.Traffic {
	share := min(1, float64(r.used(now))/float64(r.job.work))
	if r.host.kind == liar && r.ready > 0 {
		share = 1
	}
	n := int64(share * float64(r.job.traffic))
	return broker.Traffic{Ingress: n, Egress: n}
}

// used is how long it has been ready.
func (r *run) used(now time.Duration) time.Duration {
	switch {
	case r.ready == 0:
		return 0
	case r.phase >= exited:
		return r.ended - r.ready
	}
	return now - r.ready
}

// event is something that will happen.
type event struct {
	at  time.Duration
	seq int
	do  func()
}

type events []event

func (q *events) Len() int { return len(*q) }
func (q *events) Less(i, j int) bool {
	a, b := &(*q)[i], &(*q)[j]
	return a.at < b.at || a.at == b.at && a.seq < b.seq
}
func (q *events) Swap(i, j int) { (*q)[i], (*q)[j] = (*q)[j], (*q)[i] }
func (q *events) Push(x any)    { *q = append(*q, x.(event)) }
func (q *events) Pop() any {
	old := *q
	last := old[len(old)-1]
	*q = old[:len(old)-1]
	return last
}
