package broker

import (
	"time"

	"rialto/pricing"
)

// Wait is how long an interruptible job waited for its first host with one bid. A job whose bid changed has several.
type Wait struct {
	At     time.Time // when it was over; zero: it is not
	Job    JobID
	Change int // how often the bid had changed before
	Began  time.Time
	Served bool `json:",omitzero"` // it got GPUs; otherwise the job ended, or bids something else
	Bid    Bid
}

func (Wait) derived() {}

// waitsFor begins the wait of a new job, if it bids.
func (t *turn) waitsFor(j *Job) {
	if j.Spec.Bid > 0 {
		j.Bidding = t.now
	}
}

// waited ends a job's wait, if it has not had a host yet.
func (t *turn) waited(j *Job, served bool) {
	if j.Bidding.IsZero() {
		return
	}
	t.touchJob(j)
	w := j.wait()
	w.At, w.Served = t.now, served
	t.waits = append(t.waits, w)
	j.Bidding = time.Time{}
}

// wait is the wait that a job is in.
func (j *Job) wait() Wait {
	return Wait{Job: j.ID, Change: j.Rebid.Count, Began: j.Bidding, Bid: bidOf(&j.Spec, j.Spec.query().Where)}
}

// Waits returns the waits of interruptible jobs that are not over, by job.
func (m *Market) Waits() []Wait {
	var out []Wait
	for _, w := range m.queue.byID {
		if !w.Bidding.IsZero() {
			out = append(out, w.wait())
		}
	}
	return out
}

// Spot returns the wait as prices know it.
func (w Wait) Spot() pricing.SpotWait {
	s := pricing.SpotWait{Began: w.Began.Unix(), Bid: w.Bid.Rate, Served: w.Served}
	if !w.At.IsZero() {
		s.Ended = w.At.Unix()
	}
	return s
}
