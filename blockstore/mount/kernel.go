package mount

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"rialto/blockstore"
)

// mountFile mounts an EROFS image from a file, with its devices.
func mountFile(at, meta string, files []string) error {
	handles := make([]string, 0, len(files)+1)
	for _, path := range append([]string{meta}, files...) {
		// A parameter may have 255 bytes, and the mount must be of the very files that are named now.
		fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			return &fs.PathError{Op: "open", Path: path, Err: err}
		}
		defer unix.Close(fd) //nolint:errcheck // a path descriptor; as many as there are devices
		handles = append(handles, "/proc/self/fd/"+strconv.Itoa(fd))
	}
	source := meta // what df shows
	if len(source) > 255 {
		source = handles[0]
	}
	return mountErofs(at, source, handles[1:])
}

func mountErofs(at, source string, devices []string) error {
	fd, err := unix.Fsopen("erofs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("fsopen erofs", err)
	}
	defer unix.Close(fd) //nolint:errcheck // the mount is made or it is not
	err = unix.FsconfigSetString(fd, "source", source)
	for _, d := range devices {
		if err == nil {
			err = unix.FsconfigSetString(fd, "device", d)
		}
	}
	if err == nil {
		err = unix.FsconfigSetFlag(fd, "ro")
	}
	if err == nil {
		err = unix.FsconfigCreate(fd)
	}
	if err != nil {
		return fmt.Errorf("mount erofs: %w%s", err, complaints(fd))
	}
	mfd, err := unix.Fsmount(fd, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NODEV)
	if err != nil {
		return os.NewSyscallError("fsmount", err)
	}
	defer unix.Close(mfd) //nolint:errcheck // the mount stays where it was moved to
	if err := unix.MoveMount(mfd, "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return &fs.PathError{Op: "move_mount", Path: at, Err: err}
	}
	readAhead(at)
	return nil
}

// readAhead has the kernel read as much ahead as a leaf is long. Where it cannot be had, large files are read slower.
func readAhead(at string) {
	var st unix.Stat_t
	if unix.Stat(at, &st) == nil {
		path := fmt.Sprintf("/sys/class/bdi/%d:%d/read_ahead_kb", unix.Major(st.Dev), unix.Minor(st.Dev))
		_ = os.WriteFile(path, strconv.AppendInt(nil, blockstore.MaxBlock>>10, 10), 0)
	}
}

// complaints returns what the kernel says about a mount that failed.
func complaints(fd int) string {
	var all strings.Builder
	for buf := make([]byte, 1024); all.Len() < 4096; {
		n, err := unix.Read(fd, buf)
		if err != nil || n == 0 {
			break
		}
		all.WriteString("; " + strings.TrimSpace(string(buf[:n])))
	}
	return all.String()
}

// detach unmounts whatever is mounted at a path, at once if nobody uses it, else from sight. It does nothing if
// nothing is.
func detach(at string) error {
	for {
		err := unix.Unmount(at, unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EBUSY) {
			err = unix.Unmount(at, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		}
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			return nil // no mount point, or not any more
		}
		if err != nil {
			return &fs.PathError{Op: "unmount", Path: at, Err: err}
		}
	}
}

// mountPoints returns where something is mounted.
func mountPoints() (map[string]bool, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	points := make(map[string]bool)
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if fields := strings.Fields(lines.Text()); len(fields) > 4 {
			points[unescape(fields[4])] = true
		}
	}
	return points, lines.Err()
}

// unescape reads the octal escapes of mountinfo.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
