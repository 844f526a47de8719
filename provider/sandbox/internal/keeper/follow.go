package keeper

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"rialto/provider"
)

// Logs feeds sink with the output of the workload in dir, from the beginning. With follow it goes on until
// the supervisor is gone, woken by the kernel for each write.
func Logs(ctx context.Context, dir string, follow bool, sink provider.LogSink) error {
	r := &logReader{dir: filepath.Join(dir, LogDir)}
	defer r.close()
	if !follow {
		return r.drain(sink)
	}
	changes, err := watch(r.dir)
	if err != nil {
		return err
	}
	defer changes.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { wake(changes) })()
	ended := make(chan error, 1)
	go func() { // ends with the supervisor or with ctx
		_, err := Call(ctx, dir, Request{Op: OpWait})
		ended <- err
		wake(changes)
	}()
	var events [4096]byte
	for last := false; ; {
		if err := r.drain(sink); err != nil || last {
			return err
		}
		if _, err := changes.Read(events[:]); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("watch %s: %w", r.dir, err)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		select {
		case err := <-ended:
			if err != nil && !errors.Is(err, ErrGone) {
				return err
			}
			last = true // all was written before this was known
		default:
		}
	}
}

// wake ends the present and every later Read of f.
func wake(f *os.File) {
	// An error means that f was closed, and then nobody reads it.
	_ = f.SetReadDeadline(time.Unix(1, 0))
}

// watch returns a file that becomes readable when something in dir was written.
func watch(dir string) (*os.File, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("inotify: %w", err)
	}
	f := os.NewFile(uintptr(fd), "inotify")
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_MODIFY|unix.IN_CREATE); err != nil {
		f.Close()
		return nil, fmt.Errorf("inotify watch %s: %w", dir, err)
	}
	return f, nil
}
