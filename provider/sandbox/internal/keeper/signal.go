package keeper

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// reaction is what a signal does to the first process of a PID namespace. The kernel takes no default action
// on it: a signal that it did not ask for is lost.
type reaction int

const (
	heard   reaction = iota // a handler gets it, or who waits for it
	ignored                 // the process wants to survive it
	lost                    // the process asked for nothing: anywhere else it would end
)

// reaction returns what the first process of the container would do about a signal. A process that cannot be
// read any more counts as one that hears: it is ending.
func (s *supervisor) reaction(pid int, sig syscall.Signal) reaction {
	var status []byte
	err := s.space.do(func() (err error) { // where /proc is that of our PID namespace
		status, err = os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
		return err
	})
	if err != nil {
		return heard
	}
	r, err := parseReaction(status, sig)
	if err != nil {
		fmt.Fprintln(os.Stderr, "status of the workload:", err)
		return heard
	}
	return r
}

// parseReaction reads the masks of /proc/PID/status. A blocked signal is kept for who waits for it, as small
// init programs do, whatever its action.
func parseReaction(status []byte, sig syscall.Signal) (reaction, error) {
	masks := map[string]bool{"SigBlk": false, "SigIgn": false, "SigCgt": false}
	found := 0
	for line := range bytes.Lines(status) {
		name, value, _ := bytes.Cut(line, []byte(":"))
		if _, wanted := masks[string(name)]; !wanted {
			continue
		}
		mask, err := strconv.ParseUint(string(bytes.TrimSpace(value)), 16, 64)
		if err != nil {
			return heard, fmt.Errorf("%s: %w", name, err)
		}
		masks[string(name)] = mask>>(sig-1)&1 == 1
		found++
	}
	switch {
	case found != len(masks):
		return heard, fmt.Errorf("%d of %d signal masks", found, len(masks))
	case masks["SigBlk"], masks["SigCgt"]:
		return heard, nil
	case masks["SigIgn"]:
		return ignored, nil
	default:
		return lost, nil
	}
}
