package exchange

import (
	"slices"
	"time"
)

const (
	// startWindow is what the only peer is asked for at first. Of several, each is asked for one block at first,
	// so that a bad one is found out before it costs much.
	startWindow = 4 << 20
	// leastWindow keeps a near peer busy, whose bandwidth × round trip is less than a block.
	leastWindow = 4 << 20
	// leastTime bounds that for a slow one: what waits there longer is better asked for elsewhere.
	leastTime  = 250 * time.Millisecond
	mostWindow = windowBytes
	// headroom is how much more than bandwidth × round trip is asked for, so that the bandwidth can be found to
	// be more: it doubles with each round trip until it is found.
	headroom = 2
	// sampleTime is the shortest time over which a rate means something.
	sampleTime = 50 * time.Millisecond
)

// meter measures one peer.
type meter struct {
	window int64 // bytes that may be asked for
	fixed  bool  // whoever asks sets the window

	rtt    time.Duration // the least that was seen; 0: not known
	rate   float64       // bytes a second, lately; 0: not known
	rates  [8]float64    // the last samples
	taken  int
	since  time.Time // when the sample began; zero: nothing is asked for
	amount int64

	took ring // from question to answer
	rush ring // of those that were asked for ahead of others
}

// asked notes a question to a peer that had none.
func (m *meter) asked(now time.Time) { m.since, m.amount = now, 0 }

// idle notes that nothing is asked for any more.
func (m *meter) idle() { m.since = time.Time{} }

// trip notes a round trip.
func (m *meter) trip(d time.Duration) {
	d = max(d, 50*time.Microsecond)
	if m.rtt == 0 || d < m.rtt {
		m.rtt = d
	}
}

// got notes n bytes that came.
func (m *meter) got(now time.Time, n int64) {
	if m.since.IsZero() {
		return
	}
	m.amount += n
	d := now.Sub(m.since)
	if d < max(sampleTime, m.rtt) {
		return
	}
	m.rates[m.taken%len(m.rates)] = float64(m.amount) / d.Seconds()
	m.taken++
	known := m.rates[:min(m.taken, len(m.rates))]
	m.rate = 0
	for _, r := range known {
		m.rate += r / float64(len(known))
	}
	m.since, m.amount = now, 0
	if !m.fixed {
		best := slices.Max(known)
		least := min(leastWindow, int64(best*leastTime.Seconds()))
		m.window = min(max(int64(headroom*best*m.rtt.Seconds()), least), mostWindow)
	}
}

// ring keeps the last durations.
type ring struct {
	d [64]time.Duration
	n int
}

func (r *ring) add(d time.Duration) {
	r.d[r.n%len(r.d)] = d
	r.n++
}

// p90 returns what nine of ten are below; 0: not known.
func (r *ring) p90() time.Duration {
	known := slices.Clone(r.d[:min(r.n, len(r.d))])
	if len(known) == 0 {
		return 0
	}
	slices.Sort(known)
	return known[len(known)*9/10]
}

// patience returns after how long a bulk block is asked for elsewhere, too.
func (m *meter) patience() time.Duration {
	const unknown, least = 500 * time.Millisecond, 100 * time.Millisecond
	p90 := m.took.p90()
	if p90 == 0 {
		return max(unknown, 4*m.rtt)
	}
	return max(2*p90, 2*m.rtt, least)
}

// hurry returns after how long an urgent block is asked for elsewhere, too.
func (m *meter) hurry() time.Duration {
	const unknown, least = 100 * time.Millisecond, 20 * time.Millisecond
	p90 := m.rush.p90()
	switch {
	case p90 > 0:
		return max(p90+p90/2, m.rtt+m.rtt/2, least)
	case m.rtt > 0:
		return 2*m.rtt + least
	default:
		return unknown
	}
}

// wait returns how long n bytes more than those that are out would take.
func (m *meter) wait(out, n int64) time.Duration {
	const unknown = 10 << 20 // bytes a second: neither good nor bad
	rate := m.rate
	if rate == 0 {
		rate = unknown
	}
	return m.rtt + time.Duration(float64(out+n)/rate*float64(time.Second))
}
