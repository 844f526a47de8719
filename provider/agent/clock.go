package agent

import (
	"crypto/rand"
	"time"

	"rialto/provider"
)

// Clock is the host's clock that goes on while the host is suspended, unlike Go's. A lease's time does too: its
// broker may have given the job to another host meanwhile.
type Clock struct {
	Boot string               // names the host's present start
	Now  func() time.Duration // since that start
}

// ownClock returns a clock that starts now.
func ownClock() Clock {
	start := time.Now()
	return Clock{Boot: rand.Text(), Now: func() time.Duration { return time.Since(start) }}
}

// lookAgain bounds a sleep until a moment of the clock: timers stand still while the host is suspended.
const lookAgain = 5 * time.Second

// now returns the present moment as the authority takes it, counted from the host's start. It has nothing to
// do with the time of day.
func (c Clock) now() time.Time { return time.Unix(0, 0).UTC().Add(c.Now()) }

// instant returns a moment as the journal keeps it.
func (c Clock) instant(t time.Time) provider.Instant {
	return provider.Instant{Boot: c.Boot, Since: t.Sub(time.Unix(0, 0))}
}

// moment is the inverse of instant. All of an earlier start is over.
func (c Clock) moment(i provider.Instant) time.Time {
	if i.Boot != c.Boot {
		return time.Unix(0, 0).UTC()
	}
	return time.Unix(0, 0).UTC().Add(i.Since)
}
