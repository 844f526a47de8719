package host

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/cgroups"
	v1 "github.com/opencontainers/cgroups/fs"
	v2 "github.com/opencontainers/cgroups/fs2"
	"golang.org/x/sys/unix"
)

// cgroupPatience is how long the kernel may take to let go of a cgroup whose processes were all killed.
const cgroupPatience = 5 * time.Second

// cgroupManager hides whether the host has cgroup v1, v2 or both. path is absolute from each root.
func cgroupManager(path string) (cgroups.Manager, error) {
	c := &cgroups.Cgroup{Path: path, Resources: &cgroups.Resources{SkipDevices: true}}
	if cgroups.IsCgroup2UnifiedMode() {
		return v2.NewManager(c, filepath.Join(v2.UnifiedMountpoint, path))
	}
	return v1.NewManager(c, nil)
}

// MakeCgroup makes the cgroup at path in every controller, empty and without limits.
func MakeCgroup(path string) error {
	m, err := cgroupManager(path)
	if err != nil {
		return err
	}
	return m.Apply(-1)
}

// OOMKills returns how many processes of the cgroup at path the kernel killed for lack of memory.
func OOMKills(path string) (uint64, error) {
	m, err := cgroupManager(path)
	if err != nil {
		return 0, err
	}
	return m.OOMKillCount()
}

// RemoveCgroup kills what is left in the cgroup at path and removes it and its then empty parent.
func RemoveCgroup(path string) error {
	m, err := cgroupManager(path)
	if err != nil {
		return err
	}
	deadline := time.Now().Add(cgroupPatience)
	for _, dir := range m.GetPaths() {
		if err := removeTree(dir, deadline); err != nil {
			return err
		}
		parent := filepath.Dir(dir)
		err := unix.Rmdir(parent)
		if err != nil && !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.ENOENT) {
			return &fs.PathError{Op: "rmdir", Path: parent, Err: err}
		}
	}
	return nil
}

// removeTree removes a cgroup directory and those below it, killing their processes until it can.
func removeTree(dir string, deadline time.Time) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(filepath.Join(dir, e.Name()), deadline); err != nil {
				return err
			}
		}
	}
	for wait := time.Millisecond; ; wait *= 2 {
		err := unix.Rmdir(dir)
		if err == nil || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			return &fs.PathError{Op: "rmdir", Path: dir, Err: err}
		}
		if err := killAll(dir); err != nil {
			return err
		}
		time.Sleep(wait) // the kernel offers no event for "now removable" on cgroup v1
	}
}

func killAll(dir string) error {
	pids, err := cgroups.GetPids(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, pid := range pids {
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
	}
	return nil
}

// ListCgroups returns the names of the cgroups directly below parent in any controller.
func ListCgroups(parent string) ([]string, error) {
	m, err := cgroupManager(parent)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, dir := range m.GetPaths() {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, e := range entries {
			if e.IsDir() {
				names = append(names, e.Name())
			}
		}
	}
	return names, nil
}
