package lab

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// turnFile is locked by the process whose labs the machine has. Two at a time would find each other's namespaces and
// processes left over.
const turnFile = "/run/rialto-lab.lock"

// takeTurn waits until no other process has labs on this machine. The turn lasts as long as the process, because what it
// left is looked for when its labs are closed.
//
//nolint:gochecknoglobals // the machine is one, and so is its lock
var takeTurn = sync.OnceValues(func() (*os.File, error) {
	f, err := os.OpenFile(turnFile, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lab: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		fmt.Fprintln(os.Stderr, "waiting for another lab on this machine to end: `make dev`, `make demo`, or tests of the whole system")
		for err = unix.EINTR; errors.Is(err, unix.EINTR); {
			err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("lab: %w", errors.Join(err, f.Close()))
	}
	return f, nil // closed, it would be unlocked
})
