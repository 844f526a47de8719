package host

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Processes returns the ids of the processes whose second and third argument are verb and what match
// accepts, with that third argument. It is how supervisors are found: a process is then never lost
// between its birth and the moment when someone wrote its id down.
func Processes(verb string, match func(dir string) bool) (map[int]string, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	found := make(map[int]string)
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if dir, ok := supervised(pid, verb); ok && match(dir) {
			found[pid] = dir
		}
	}
	return found, nil
}

// AwaitShown returns when Processes finds the process pid, which has been started with verb and dir: the kernel
// reports a program as started shortly before it shows its arguments. It returns false if ended is closed first.
func AwaitShown(pid int, verb, dir string, ended <-chan struct{}) bool {
	for {
		if now, ok := supervised(pid, verb); ok && now == dir {
			return true
		}
		select {
		case <-ended:
			return false
		case <-time.After(100 * time.Microsecond): // the kernel offers no event for it
		}
	}
}

// KillProcesses kills the processes that Processes finds for dir and returns when they have ended.
func KillProcesses(verb, dir string) error {
	same := func(d string) bool { return d == dir }
	found, err := Processes(verb, same)
	if err != nil {
		return err
	}
	for pid := range found {
		if err := kill(pid, verb, dir); err != nil {
			return fmt.Errorf("kill process %d: %w", pid, err)
		}
	}
	return nil
}

// kill holds the process by a descriptor before it looks again at who it is, so that a process id that
// was given to another process meanwhile is harmless.
func kill(pid int, verb, dir string) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd) //nolint:errcheck // nothing was written
	if now, ok := supervised(pid, verb); !ok || now != dir {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	for {
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1) //nolint:gosec // a descriptor fits
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func supervised(pid int, verb string) (dir string, ok bool) {
	// A process that ended meanwhile reads as absent or empty: not one of ours any more.
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", false
	}
	args := bytes.Split(b, []byte{0})
	if len(args) < 3 || string(args[1]) != verb {
		return "", false
	}
	return string(args[2]), true
}
