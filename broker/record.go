package broker

import (
	"maps"
	"math"
	"time"
)

// Record is what the market saw of a provider: in leases that became ready and have ended, and in how it answered holds.
// It is recomputed from them after a restart.
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

// with adds a lease that has ended, and its job.
func (r Record) with(l *Lease, j *Job) Record {
	if l.Ready.IsZero() {
		return r
	}
	r.Seen += l.Billed
	if j.State == JobFailed && j.Lease == l.ID {
		r.Failures++
	}
	return r
}

func (m *Market) observe(l *Lease) {
	m.records[l.Provider] = m.records[l.Provider].with(l, m.jobs[l.Job])
	m.longest = max(m.longest, m.records[l.Provider].Seen)
	m.starts.learn(l, &m.jobs[l.Job].Spec)
}

func (m *Market) auditRecords() error {
	records, starts := map[PeerID]Record{}, newSeenStarts()
	for _, l := range m.leases {
		if l.State == LeaseEnded {
			records[l.Provider] = records[l.Provider].with(l, m.jobs[l.Job])
			starts.learn(l, &m.jobs[l.Job].Spec)
		}
	}
	if !maps.Equal(records, m.records) || !starts.equal(&m.starts) {
		return &InvariantError{Rule: "leases: what was seen of a provider does not follow from them"}
	}
	return nil
}
