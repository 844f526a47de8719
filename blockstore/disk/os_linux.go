package disk

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

type osFile struct{ *os.File }

func openFile(name string, flag int) (file, error) {
	f, err := os.OpenFile(name, flag, 0o600)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

const (
	maxVector = 1024    // IOV_MAX
	piece     = 1 << 20 // one write: larger ones cost the kernel twice the time (measured: 2.1 and 1.0 s/GB)
	ahead     = 8 << 20 // enough for the disk to be busy with, and a fraction of a batch
)

// writev writes in pieces, and lets the disk begin with what is there while the rest is copied: the
// sync that follows then waits for little. Beginning is an advice, it may fail.
func (f osFile) writev(parts [][]byte, off int64) error {
	begun := off
	rest := append([][]byte(nil), parts...)
	for len(rest) > 0 {
		vector, size := 0, 0
		for vector < min(len(rest), maxVector) && size < piece {
			size += len(rest[vector])
			vector++
		}
		n, err := unix.Pwritev(int(f.Fd()), rest[:vector], off) //nolint:gosec // a descriptor fits an int
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err == nil && n == 0 {
			err = io.ErrShortWrite
		}
		if err != nil {
			return &os.PathError{Op: "write", Path: f.Name(), Err: err}
		}
		if off += int64(n); off-begun >= ahead {
			_ = unix.SyncFileRange(int(f.Fd()), begun, off-begun, unix.SYNC_FILE_RANGE_WRITE) //nolint:gosec // as above
			begun = off
		}
		for n > 0 {
			if n < len(rest[0]) {
				rest[0] = rest[0][n:]
				break
			}
			n -= len(rest[0])
			rest = rest[1:]
		}
	}
	return nil
}

func (f osFile) datasync() error {
	return f.control("fdatasync", unix.Fdatasync)
}

func (f osFile) allocate(off, n int64) error {
	return f.control("fallocate", func(fd int) error {
		return supported(unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE, off, n))
	})
}

func (f osFile) punch(off, n int64) error {
	return f.control("punch", func(fd int) error {
		return supported(unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE|unix.FALLOC_FL_PUNCH_HOLE, off, n))
	})
}

func (f osFile) data(off int64) (at int64, err error) {
	err = f.control("seek", func(fd int) error {
		at, err = unix.Seek(fd, off, unix.SEEK_DATA)
		return err
	})
	switch {
	case errors.Is(err, unix.ENXIO):
		return 0, io.EOF
	case errors.Is(err, unix.EINVAL): // a file system without holes
		return off, nil
	}
	return at, err
}

func (f osFile) allocated() (int64, error) {
	var st unix.Stat_t
	err := f.control("stat", func(fd int) error { return unix.Fstat(fd, &st) })
	return st.Blocks * 512, err
}

// control runs a system call on the file, again if a signal interrupts it.
func (f osFile) control(op string, call func(fd int) error) error {
	for {
		err := call(int(f.Fd())) //nolint:gosec // a descriptor fits an int
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return &os.PathError{Op: op, Path: f.Name(), Err: err}
		}
		return nil
	}
}

// supported forgives a file system that cannot: space then comes late, or goes late.
func supported(err error) error {
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return nil
	}
	return err
}

// freeSpace returns the bytes that may still be written below dir.
func freeSpace(dir string) (free int64, known bool, err error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, false, err
	}
	return int64(s.Bavail) * s.Bsize, true, nil //nolint:gosec // below 8 EiB
}

func acquire(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil { //nolint:gosec // a descriptor fits an int
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errors.New("another process has it open")
		}
		return nil, err
	}
	return f, nil
}
