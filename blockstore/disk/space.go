package disk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"rialto/blockstore"
)

// Badger writes through mappings, so that a full disk does not give it an error but kills the process.
// Put leaves indexRoom free. When others take that too, the ballast, a file of allocated blocks, is
// given up: half of it for what Open and Delete write, who fail below openRoom, and the rest for Close.
const (
	indexRoom   = 32 << 20
	openRoom    = 16 << 20 // a memtable
	closeRoom   = 4 << 20  // nothing was written below openRoom, so that there is little in memory
	ballastHalf = 20 << 20 // openRoom and what the file system needs to know it by
)

// free returns how much may be written, or why nothing may. A file system that fell back to reading
// only tells nobody who does not try.
func (s *Store) free() (int64, error) {
	if _, err := s.lock.WriteAt([]byte{'\n'}, 0); err != nil && !errors.Is(err, syscall.ENOSPC) {
		return 0, err
	}
	free, known, err := freeSpace(s.cfg.Dir)
	if err == nil && !known {
		free = 1 << 62
	}
	return free, err
}

func (s *Store) ballast() string { return filepath.Join(s.cfg.Dir, "ballast") }

// giveWay makes sure that the index can be written, and gives up half of the ballast for that.
func (s *Store) giveWay() error {
	free, err := s.free()
	if err == nil && free < openRoom {
		s.shrinkBallast(ballastHalf)
		free, err = s.free()
	}
	if err == nil && free < openRoom {
		err = fmt.Errorf("%d bytes free on the disk, the index needs %d: %w", free, openRoom, blockstore.ErrNoSpace)
	}
	return err
}

// makeWay gives up what is left of the ballast if Close needs it, and says if that is not enough.
func (s *Store) makeWay() error {
	free, err := s.free()
	if err == nil && free < openRoom {
		s.shrinkBallast(0)
		free, err = s.free()
	}
	if err == nil && free < closeRoom {
		err = fmt.Errorf("%d bytes free on the disk: %w", free, blockstore.ErrNoSpace)
	}
	return err
}

func (s *Store) shrinkBallast(size int64) {
	info, err := os.Lstat(s.ballast())
	if err == nil && info.Size() > size {
		err = os.Truncate(s.ballast(), size)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		s.cfg.Logger.Warn("cannot give up the ballast", "err", err)
	}
}

// keepBallast makes the ballast anew where it is not whole and there is room. The store works without.
func (s *Store) keepBallast(ctx context.Context) {
	if info, err := os.Lstat(s.ballast()); err == nil && info.Size() == 2*ballastHalf {
		return
	}
	if free, err := s.free(); err != nil || free < indexRoom+2*ballastHalf {
		return
	}
	f, err := openFile(s.ballast(), os.O_RDWR|os.O_CREATE)
	if err == nil {
		err = f.allocate(0, 2*ballastHalf)
		if err == nil {
			err = f.Truncate(2 * ballastHalf)
		}
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		s.cfg.Logger.WarnContext(ctx, "no ballast for a full disk", "err", err)
	}
}
