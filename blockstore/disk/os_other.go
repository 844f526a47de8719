//go:build !linux

package disk

import (
	"os"
)

type osFile struct{ *os.File }

func openFile(name string, flag int) (file, error) {
	f, err := os.OpenFile(name, flag, 0o600)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

func (f osFile) writev(parts [][]byte, off int64) error {
	for _, p := range parts {
		if _, err := f.WriteAt(p, off); err != nil {
			return err
		}
		off += int64(len(p))
	}
	return nil
}

func (f osFile) datasync() error { return f.Sync() }

func (f osFile) allocate(int64, int64) error { return nil }

// punch leaves the space to the pack's removal.
func (f osFile) punch(int64, int64) error { return nil }

func (f osFile) data(off int64) (int64, error) { return off, nil }

func (f osFile) allocated() (int64, error) { return 0, nil }

func freeSpace(string) (free int64, known bool, err error) { return 0, false, nil }

// acquire relies on the index's own lock.
func acquire(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
}
