package mount

import (
	"errors"
	"io/fs"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// mountLoop mounts an EROFS image from a file, with its devices, each behind a loop device. The kernel takes the loop
// devices away with the mount.
func mountLoop(at, meta string, files []string) error {
	var names []string
	for _, path := range append([]string{meta}, files...) {
		l, err := attachLoop(path)
		if err != nil {
			return err
		}
		// Until it is closed here, it stays; after that, as long as it is mounted. So a failure undoes itself.
		defer l.Close()
		names = append(names, l.Name())
	}
	return mountErofs(at, names[0], names[1:])
}

// attachLoop puts a loop device before a file. It goes when the last who has it open closes it.
func attachLoop(path string) (*os.File, error) {
	backing, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer backing.Close()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	for range 100 { // somebody else may take the free one
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, os.NewSyscallError("ioctl LOOP_CTL_GET_FREE", err)
		}
		l, err := os.OpenFile("/dev/loop"+strconv.Itoa(n), os.O_RDONLY, 0)
		if err != nil {
			return nil, err
		}
		err = unix.IoctlLoopConfigure(int(l.Fd()), &unix.LoopConfig{
			Fd: uint32(backing.Fd()), Size: 4096,
			Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_READ_ONLY | unix.LO_FLAGS_AUTOCLEAR},
		})
		if err == nil {
			return l, nil
		}
		l.Close()
		if !errors.Is(err, unix.EBUSY) {
			return nil, &fs.PathError{Op: "ioctl LOOP_CONFIGURE", Path: l.Name(), Err: err}
		}
	}
	return nil, errors.New("no free loop device")
}
