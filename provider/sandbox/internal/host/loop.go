package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// loopAttempts bounds the races for a free device. Whoever loses one has lost it to a program that won it.
	loopAttempts = 100
	// loopPatience is how long the kernel may take to let go of a device whose users all ended: it writes what
	// is still in memory first.
	loopPatience = time.Minute
	loopBlock    = 4096 // bytes; direct I/O works in these on every disk
)

// attachLoop returns an open loop device on a file that is open for reading and writing. The kernel frees the
// device when nothing has it open or mounted any more, however that comes about.
func attachLoop(ctx context.Context, file *os.File) (*os.File, error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	for range loopAttempts {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("find a free loop device: %w", err)
		}
		device, err := configureLoop("/dev/loop"+strconv.Itoa(n), file)
		if err == nil {
			return device, nil
		}
		// Another program was faster, or is removing the device.
		if !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENXIO) {
			return nil, err
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("lost %d races for a loop device", loopAttempts)
}

func configureLoop(path string, file *os.File) (*os.File, error) {
	device, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	// Direct I/O, so that memory does not hold everything twice; the kernel goes without where the file cannot.
	config := unix.LoopConfig{Fd: uint32(file.Fd()), Size: loopBlock} //nolint:gosec // a descriptor fits
	config.Info.Flags = unix.LO_FLAGS_AUTOCLEAR | unix.LO_FLAGS_DIRECT_IO
	if err := unix.IoctlLoopConfigure(int(device.Fd()), &config); err != nil {
		device.Close()
		return nil, fmt.Errorf("configure %s: %w", path, err)
	}
	return device, nil
}

// AwaitLoopFree returns when no loop device is on the file at path. Nothing may use the device any more.
func AwaitLoopFree(path string) error {
	deadline := time.Now().Add(loopPatience)
	for wait := time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		device, err := FindLoop(path)
		if err != nil || device == "" {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s is still in use on %s", device, path)
		}
		time.Sleep(wait) // the kernel offers no event for it
	}
}

// FindLoop returns the name of the loop device on the file at path, or "".
func FindLoop(path string) (string, error) {
	// The kernel knows the file by a path without symbolic links.
	dir, err := filepath.EvalSymlinks(filepath.Dir(path))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	path = filepath.Join(dir, filepath.Base(path))
	files, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return "", err
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			continue // freed meanwhile
		}
		if strings.TrimSuffix(string(b), "\n") == path {
			return strings.Split(f, "/")[3], nil
		}
	}
	return "", nil
}
