package disk

import (
	"errors"
	"os"
	"syscall"
)

// Of fallocate(2): keep the size, make a hole.
const (
	fallocKeepSize  = 0x1
	fallocPunchHole = 0x2
)

// punch gives the space of a range back; the range then reads as zeros.
func punch(f *os.File, off, n int64) error {
	err := syscall.Fallocate(int(f.Fd()), fallocKeepSize|fallocPunchHole, off, n) //nolint:gosec // a descriptor fits an int
	if errors.Is(err, syscall.EOPNOTSUPP) {
		return nil // the space comes back with the pack
	}
	return err
}

func freeSpace(dir string) (free int64, known bool, err error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return 0, false, err
	}
	return int64(s.Bavail) * s.Bsize, true, nil //nolint:gosec // below 8 EiB
}

func acquire(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil { //nolint:gosec // a descriptor fits an int
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, errors.New("another process has it open")
		}
		return nil, err
	}
	return f, nil
}
