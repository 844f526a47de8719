package sandbox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"rialto/broker"
	"rialto/provider"
	"rialto/provider/sandbox/internal/host"
	"rialto/provider/sandbox/internal/keeper"
)

// CheckDisk reports why the writable layers of containers in dir, which exists, cannot be limited in size, or
// nil. It makes a small one to find out, and leaves nothing. What can be missing is mke2fs, loop devices (many
// containers have none) or a kernel since Linux 5.8.
func CheckDisk(ctx context.Context, dir string) error {
	dir, err := os.MkdirTemp(dir, "check-disk-")
	if err != nil {
		return err
	}
	path := filepath.Join(dir, keeper.DiskFile)
	disk, err := host.MakeDisk(ctx, "", path, host.MinDiskMiB)
	if err != nil {
		return errors.Join(fmt.Errorf("limit the size of disks: %w", err), os.RemoveAll(dir))
	}
	return errors.Join(host.MakeDirs(disk, layers()), disk.Close(), host.AwaitLoopFree(path), os.RemoveAll(dir))
}

// DiskLeft returns how many MiB a lease's workload may still write to its root file system: what its file has not got
// from the disk yet. It is all of the limit where there is no such file, and zero without a limit.
func (r *Runtime) DiskLeft(lease broker.LeaseID) uint64 {
	if r.cfg.UnlimitedDisk {
		return 0
	}
	var st unix.Stat_t
	if err := unix.Stat(r.disk(lease), &st); err != nil {
		return r.cfg.DiskMiB
	}
	written := st.Blocks * 512 // of a sparse file
	return uint64(max(st.Size-written, 0)) >> 20
}

// makeDisk makes the place of a launch's overlay. It returns the mount for it, or nil if that is no mount but
// a directory.
func (r *Runtime) makeDisk(ctx context.Context, l provider.Launch) (*os.File, error) {
	if r.cfg.UnlimitedDisk {
		return nil, makeDirs(filepath.Join(r.dir(l.Lease), keeper.DiskDir), layers())
	}
	disk, err := host.MakeDisk(ctx, r.cfg.Mke2fsPath, r.disk(l.Lease), cmp.Or(l.DiskMiB, r.cfg.DiskMiB))
	if err != nil {
		return nil, fmt.Errorf("limit the size of its disk: %w", err)
	}
	if err := host.MakeDirs(disk, layers()); err != nil {
		disk.Close()
		return nil, err
	}
	return disk, nil
}

// layers are the directories that an overlay writes to. The upper's mode is that of the container's root.
func layers() map[string]uint32 {
	return map[string]uint32{keeper.UpperDir: 0o755, keeper.WorkDir: 0o700}
}

// makeDirs makes directories in dir.
func makeDirs(dir string, modes map[string]uint32) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return host.MakeDirs(d, modes)
}
