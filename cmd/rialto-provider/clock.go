package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"rialto/provider/agent"
)

// hostClock returns the host's clock that goes on in suspension.
func hostClock() (agent.Clock, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return agent.Clock{}, fmt.Errorf("name of the host's start: %w", err)
	}
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return agent.Clock{}, os.NewSyscallError("clock_gettime", err)
	}
	return agent.Clock{Boot: strings.TrimSpace(string(id)), Now: func() time.Duration {
		var ts unix.Timespec
		_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) // fails only for a clock that does not exist
		return time.Duration(ts.Nano())
	}}, nil
}
