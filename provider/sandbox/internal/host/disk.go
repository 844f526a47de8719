package host

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

const (
	mebibyte = 1 << 20
	// MinDiskMiB leaves room beside what ext4 needs for itself.
	MinDiskMiB = 16
	// MaxDiskMiB is the longest file that ext4 holds, which most hosts have: 16 TiB, less a little.
	MaxDiskMiB = 16<<20 - 1
)

// features are those of the file system, all named so that no file of the host adds one. Its inode tables are
// not written before they are used, it keeps no copies of its superblock, and its journal is small.
//
// It has a journal although nobody wants the files after a crash: without one ext4 gives no inode out again
// within a minute of its last use, and looks through all of those for each new file. Creating 5,000 files after
// 5,000 were removed then takes 3 s in place of 0.1 s.
const features = "none,has_journal,ext_attr,dir_index,filetype,extent,64bit,flex_bg,sparse_super2,large_file,huge_file," +
	"dir_nlink,extra_isize,uninit_bg"

// MakeDisk makes an empty file system of mib MiB in a new sparse file at path and mounts it nowhere yet: the
// mount is what it returns, a directory descriptor for [unix.MoveMount] and calls like [unix.Mkdirat]. When the
// last copy of the descriptor is closed and the last namespace that it was moved to is gone, the kernel unmounts
// it and frees its loop device; only the file is left. It needs Linux 5.8. After an error there may be a file.
func MakeDisk(ctx context.Context, mke2fs, path string, mib uint64) (*os.File, error) {
	if mib < MinDiskMiB || mib > MaxDiskMiB {
		return nil, fmt.Errorf("%d MiB: want %d to %d", mib, MinDiskMiB, MaxDiskMiB)
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	defer file.Close()            // the device has it open
	size := int64(mib * mebibyte) //nolint:gosec // bounded
	if err := file.Truncate(size); err != nil {
		return nil, err
	}
	if err := format(ctx, mke2fs, path, mib); err != nil {
		return nil, err
	}
	device, err := attachLoop(ctx, file)
	if err != nil {
		return nil, fmt.Errorf("loop device: %w", err)
	}
	defer device.Close() // the mount has it open
	return mountDevice(device.Name())
}

func format(ctx context.Context, mke2fs, path string, mib uint64) error {
	if mke2fs == "" {
		mke2fs = findMke2fs()
	}
	cmd := exec.CommandContext(ctx, mke2fs, "-q", "-F", "-b", "4096", "-I", "256", "-i", "16384", "-m", "0", "-O", features,
		"-J", "size="+strconv.FormatUint(min(max(mib/256, 4), 64), 10),
		"-E", "num_backup_sb=0,lazy_itable_init=1,lazy_journal_init=1,nodiscard", path)
	cmd.Env = []string{"MKE2FS_CONFIG=/dev/null"}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", mke2fs, err, bytes.TrimSpace(out))
	}
	return nil
}

// findMke2fs looks where an unprivileged user's PATH does not, too.
func findMke2fs() string {
	for _, p := range []string{"mke2fs", "/usr/sbin/mke2fs", "/sbin/mke2fs"} {
		if found, err := exec.LookPath(p); err == nil {
			return found
		}
	}
	return "mke2fs" // whose absence then is the error
}

// mountDevice mounts a device in no namespace. Only the kernel ever wrote to it since it was made.
func mountDevice(device string) (*os.File, error) {
	fd, err := unix.Fsopen("ext4", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("open file system ext4: %w", err)
	}
	defer unix.Close(fd) //nolint:errcheck // nothing was written
	err = unix.FsconfigSetString(fd, "source", device)
	for _, o := range mountOptions() {
		if err != nil {
			break
		}
		if o.value == "" {
			err = unix.FsconfigSetFlag(fd, o.key)
		} else {
			err = unix.FsconfigSetString(fd, o.key, o.value)
		}
		if err != nil {
			err = fmt.Errorf("option %s: %w", o.key, err)
		}
	}
	if err == nil {
		err = unix.FsconfigCreate(fd)
	}
	if err != nil {
		return nil, fmt.Errorf("mount ext4 of %s: %w%s", device, err, said(fd))
	}
	mount, err := unix.Fsmount(fd, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOATIME)
	if err != nil {
		return nil, fmt.Errorf("mount ext4 of %s: %w", device, err)
	}
	return os.NewFile(uintptr(mount), filepath.Base(device)), nil
}

// said returns the kernel's words about a mount that failed.
func said(fd int) string {
	b := make([]byte, 512)
	n, err := unix.Read(fd, b)
	if err != nil { // it has none
		return ""
	}
	return ": " + string(bytes.TrimSpace(b[:n]))
}

type mountOption struct{ key, value string }

// mountOptions give up what would keep the files through a crash, since the lease ends with one.
func mountOptions() []mountOption {
	return []mountOption{
		{"data", "writeback"},
		{"nobarrier", ""},
		{"noauto_da_alloc", ""},
		{"noinit_itable", ""}, // the file stays sparse
		{"discard", ""},       // what the workload deletes is the host's again: no cost was measurable
	}
}

// MakeDirs makes directories below the one that is open as dir, with modes whatever the umask.
func MakeDirs(dir *os.File, modes map[string]uint32) error {
	for name, mode := range modes {
		err := unix.Mkdirat(int(dir.Fd()), name, mode)
		if err == nil {
			err = unix.Fchmodat(int(dir.Fd()), name, mode, 0)
		}
		if err != nil {
			return fmt.Errorf("make directory %s: %w", name, err)
		}
	}
	return nil
}
