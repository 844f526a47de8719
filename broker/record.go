package broker

import (
	"math"
	"time"
)

// Record is what the market saw of a provider: in leases that became ready and have ended, and in how it answered holds.
// What it follows from is saved as it changes, see [Derived].
type Record struct {
	Seen     time.Duration // corroborated time of the leases, each counted
	Failures int           // of them, those that the host lost: it fell silent, or broke its sandbox
	Asked    int           // holds that count for the fill rate, see [Record.FillRate]
	Honoured int           // of them, those that it granted and did not take back
}

// Prior of the hazard: a host that nobody knows is taken for one that fails once in 200 hours.
const (
	priorFailures = 1
	priorHours    = 200
)

// Hazard is the rate of failures that is expected, per hour: the mean of a Gamma posterior,
// (1 + failures) / (200 h + hours seen).
func (r Record) Hazard() float64 {
	return (priorFailures + float64(r.Failures)) / (priorHours + r.Seen.Hours())
}

// Reliability is the chance that an hour passes without failure, exp(-hazard · 1 h), in millionths.
func (r Record) Reliability() int64 { return int64(math.Round(1e6 * math.Exp(-r.Hazard()))) }

// RecordOf returns what the market saw of a provider.
func (m *Market) RecordOf(p PeerID) Record {
	r := m.records[p]
	r.Asked, r.Honoured = m.filled(p)
	return r
}

// with adds a lease that was ready and has ended, and its job.
func (r Record) with(l *Lease, j *Job) Record {
	r.Seen += l.Billed
	if j.State == JobFailed && j.Lease == l.ID {
		r.Failures++
	}
	return r
}

func (t *turn) observe(l *Lease) {
	if l.Ready.IsZero() {
		return
	}
	j := t.jobs[l.Job]
	t.records[l.Provider] = t.records[l.Provider].with(l, j)
	t.longest = max(t.longest, t.records[l.Provider].Seen)
	if t.ran.add(l.Provider) {
		t.size += derivedSize
	}
	for _, key := range t.starts.learn(l, &j.Spec) {
		if t.started.add(key) {
			t.size += derivedSize
		}
	}
}
