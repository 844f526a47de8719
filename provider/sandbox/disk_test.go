package sandbox

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"rialto/provider"
	"rialto/provider/sandbox/internal/host"
)

const mebibyte = 1 << 20

// TestDiskLimit has a workload that writes until it cannot: it has what it was given, less the file system's
// own need, gets back what it deletes, is told ENOSPC, and ends as it wants to. Its host loses no more.
func TestDiskLimit(t *testing.T) {
	const mib, own = 64, 8
	r := newRuntime(t)
	s := prepare(t, r, provider.Launch{DiskMiB: mib})
	if used := allocated(t, r.dir(s.(*box).launch.Lease)); used > mebibyte {
		t.Errorf("an unused disk of %d MiB takes %d bytes", mib, used)
	}
	lease := s.(*box).launch.Lease
	if left := r.DiskLeft(lease); left < mib-own || left > mib {
		t.Errorf("of an unused disk of %d MiB %d are left", mib, left)
	}
	if left, all := r.DiskLeft("l-other"), r.cfg.DiskMiB; left != all {
		t.Errorf("of a disk that is not there %d MiB are left, want all %d", left, all)
	}
	if err := s.Start(t.Context(), program(image(t), "fill", "/file")); err != nil {
		t.Fatal(err)
	}
	got := finish(t, s)
	var first, second int64
	if _, err := fmt.Sscanf(got.stdout, "%d bytes: true\n%d bytes: true\nwrite /file: no space left on device\n", &first, &second); err != nil {
		t.Fatalf("%v: %+v %q", err, got.exit, got.all)
	}
	for _, n := range []int64{first, second} {
		if n < (mib-own)*mebibyte || n > mib*mebibyte {
			t.Errorf("wrote %d bytes of %d", n, mib*mebibyte)
		}
	}
	if want := (provider.Exit{Code: int(syscall.ENOSPC)}); got.exit != want {
		t.Errorf("exit = %+v, want %+v", got.exit, want)
	}
	if left := r.DiskLeft(lease); left > own {
		t.Errorf("of a full disk %d MiB are left", left)
	}
	if used := allocated(t, r.dir(lease)); used > (mib+1)*mebibyte {
		t.Errorf("the host lost %d bytes", used)
	}
}

// TestDiskLimitSparesLogs fills the disk and then prints more than the disk holds.
func TestDiskLimitSparesLogs(t *testing.T) {
	r := newRuntime(t)
	s := prepare(t, r, provider.Launch{DiskMiB: host.MinDiskMiB})
	if err := s.Start(t.Context(), program(image(t), "fillspam", "/file", "20000")); err != nil {
		t.Fatal(err)
	}
	got := finish(t, s)
	if want := 20000*1024 + len("end of spam\n"); len(got.stdout) != want || got.exit.Code != 0 {
		t.Errorf("%d bytes of output, want %d; exit %+v\n%s", len(got.stdout), want, got.exit, got.stderr)
	}
}

// allocated returns the bytes of the disk that the files below dir take.
func allocated(t *testing.T, dir string) int64 {
	t.Helper()
	var sum int64
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		var st unix.Stat_t
		if err == nil {
			err = unix.Lstat(path, &st)
		}
		sum += st.Blocks * 512
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

func TestDiskSizes(t *testing.T) {
	r := newRuntime(t)
	before := belongings(t, r)
	for mib, want := range map[uint64]bool{0: true, 15: false, 16: true, 1 << 20: true, 1 << 24: false, 1 << 63: false} {
		s, err := r.Prepare(t.Context(), provider.Launch{Lease: leaseID(500), DiskMiB: mib})
		if want != (err == nil) {
			t.Errorf("%d MiB: %v", mib, err)
		}
		if err == nil {
			if err := s.Delete(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	checkClean(t, r, before)
	if _, err := New(Config{StateDir: t.TempDir(), RuncPath: "runc", Tag: "t", DiskMiB: 1}); err == nil {
		t.Error("a default of 1 MiB is taken")
	}
}

// TestDisksAtOnce has many ask for a free loop device at the same time.
func TestDisksAtOnce(t *testing.T) {
	r := newRuntime(t)
	before := belongings(t, r)
	var all sync.WaitGroup
	for n := range 16 {
		all.Go(func() {
			s, err := r.Prepare(t.Context(), provider.Launch{Lease: leaseID(600 + n), DiskMiB: 32})
			if err != nil {
				t.Error(err)
				return
			}
			if err := s.Delete(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	checkClean(t, r, before)
}

func TestUnlimitedDisk(t *testing.T) {
	r, err := New(Config{StateDir: t.TempDir(), RuncPath: needs(t), Tag: tag(), UnlimitedDisk: true, Mke2fsPath: "/nowhere"})
	if err != nil {
		t.Fatal(err)
	}
	before := belongings(t, r)
	s := prepare(t, r, provider.Launch{DiskMiB: 16})
	for _, b := range belongings(t, r) {
		if strings.HasPrefix(b, "loop device") {
			t.Error(b)
		}
	}
	if err := s.Start(t.Context(), program(image(t), "sequential", "/file", "20")); err != nil {
		t.Fatal(err)
	}
	if got := finish(t, s); got.exit.Code != 0 {
		t.Errorf("%+v %s", got.exit, got.all)
	}
	if err := s.Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
	checkClean(t, r, before)
}

// withoutLoops checks a host that has no loop devices, in a mount namespace that was made for it.
func withoutLoops(args []string) int {
	err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, "")
	if err == nil {
		err = unix.Mount("tmpfs", "/dev", "tmpfs", 0, "")
	}
	if err == nil {
		err = unix.Mknod("/dev/null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3)))
	}
	if err == nil {
		err = CheckDisk(context.Background(), args[0])
	}
	fmt.Print(err)
	return 0
}

func TestCheckDisk(t *testing.T) {
	needs(t)
	dir := t.TempDir()
	if err := CheckDisk(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe", noLoopsVerb, dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	if want := "limit the size of disks: loop device: open /dev/loop-control: no such file or directory"; err != nil || string(out) != want {
		t.Errorf("without loop devices: %q, %v", out, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 0 {
		t.Errorf("left %v, %v", entries, err)
	}
	if err := CheckDisk(t.Context(), filepath.Join(dir, "absent")); err == nil {
		t.Error("a directory that is not there is good")
	}
}

// TestNoMke2fs is a host that cannot make a disk: nothing is left of what it tried.
func TestNoMke2fs(t *testing.T) {
	for path, want := range map[string]string{"/nowhere/mke2fs": "limit the size of its disk: /nowhere/mke2fs: ", "/bin/false": "/bin/false: exit status 1"} {
		r, err := New(Config{StateDir: t.TempDir(), RuncPath: needs(t), Tag: tag(), Mke2fsPath: path})
		if err != nil {
			t.Fatal(err)
		}
		before := belongings(t, r)
		if _, err := r.Prepare(t.Context(), provider.Launch{Lease: leaseID(700)}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Prepare = %v", err)
		}
		checkClean(t, r, before)
	}
}
