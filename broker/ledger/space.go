package ledger

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// How a disk fills up, with the least free space in parts of Config.MinFree:
//
//	1     all is well; the ballast is made if it fits above this
//	1/2   Room refuses new work, Apply lets work under way end
//	1/16  Apply refuses. A store opened here gave up its ballast and takes nothing until it is opened with
//	      more room: it can be read, audited and copied
//	0     Open refuses, because replaying the log could hit the end of the disk

// Room implements Store.
func (s *Badger) Room() error {
	if err := s.checkFree(s.c.MinFree); err != nil {
		return fail("room", s.c.Dir, err)
	}
	return nil
}

func (s *Badger) checkFree(floor uint64) error {
	free, err := s.c.Free(s.c.Dir)
	if err != nil {
		return fmt.Errorf("free space: %w", err)
	}
	if free < floor {
		return fmt.Errorf("%d MiB free, need %d MiB: %w", free>>20, floor>>20, ErrNoSpace)
	}
	return nil
}

// makeRoom prepares for opening: it gives up the ballast if it must, decides whether the store may be
// written, and fails if it cannot even be opened.
func (s *Badger) makeRoom() error {
	s.dropBallast()
	if err := s.checkFree(s.c.MinFree / 16); err != nil {
		return err
	}
	err := s.checkFree(s.c.MinFree / 2)
	if errors.Is(err, ErrNoSpace) {
		s.poisoned = fail("write", s.c.Dir, fmt.Errorf("opened for reading only: %w", err))
		return nil
	}
	return err
}

func (s *Badger) ballast() string { return filepath.Join(s.c.Dir, "BALLAST") }

// dropBallast gives the ballast up if the disk is too full to write.
func (s *Badger) dropBallast() {
	err := s.checkFree(s.c.MinFree / 2)
	if !errors.Is(err, ErrNoSpace) {
		return
	}
	switch removed := os.Remove(s.ballast()); {
	case removed == nil:
		s.c.Logger.Warn("gave up the ballast: the disk is nearly full", "dir", s.c.Dir, "err", err)
	case !errors.Is(removed, fs.ErrNotExist):
		s.c.Logger.Error("cannot give up the ballast", "dir", s.c.Dir, "err", removed)
	}
}

// keepBallast makes the ballast anew if it is not there in full and the disk has room for it. The store
// works without, so that it only warns where it cannot.
func (s *Badger) keepBallast() {
	info, err := os.Lstat(s.ballast())
	if s.c.Ballast == 0 || err == nil && uint64(info.Size()) == s.c.Ballast || s.checkFree(s.c.MinFree+s.c.Ballast) != nil {
		return
	}
	if err := allocate(s.ballast(), int64(s.c.Ballast)); err != nil {
		s.c.Logger.Warn("no ballast", "dir", s.c.Dir, "err", err)
	}
}

// allocate makes a file of a size whose blocks are its own: a hole would give nothing back.
func allocate(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(fill(f, size), f.Close()); err != nil {
		return errors.Join(fmt.Errorf("allocate %d bytes: %w", size, err), os.Remove(path))
	}
	return nil
}

func freeSpace(dir string) (uint64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, err
	}
	return uint64(st.Bavail) * uint64(st.Bsize), nil //nolint:unconvert // signed on some systems
}
