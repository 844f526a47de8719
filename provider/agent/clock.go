package agent

import (
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"rialto/provider"
)

// Clock is the host's clock that goes on while the host is suspended, unlike Go's. A lease's time does too: its
// broker may have given the job to another host meanwhile.
type Clock struct {
	Boot string               // names the host's present start
	Now  func() time.Duration // since that start
}

// hostClock returns the clock of this host.
func hostClock() (Clock, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return Clock{}, fmt.Errorf("agent: name of the host's start: %w", err)
	}
	return Clock{Boot: strings.TrimSpace(string(id)), Now: func() time.Duration {
		var ts unix.Timespec
		// It fails only for a clock that does not exist, and this one is older than any kernel we run on.
		_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts)
		return time.Duration(ts.Nano())
	}}, nil
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
