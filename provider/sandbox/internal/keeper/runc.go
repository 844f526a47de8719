package keeper

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"rialto/provider"
)

// runLog is where runc says why a container did not start.
const runLog = "runc.log"

// space is a thread that stands in the sandbox's own mount namespace. What it starts is there too.
type space struct{ work chan func() }

func newSpace() *space {
	s := &space{work: make(chan func())}
	go func() { // ends with the process
		runtime.LockOSThread()
		for f := range s.work {
			f()
		}
	}()
	return s
}

func (s *space) do(f func() error) error {
	result := make(chan error, 1)
	s.work <- func() { result <- f() }
	return <-result
}

// enter makes the mount namespace: the host's mounts as they are now, /proc of our PID namespace, which is
// where runc looks its children up, the disk, and the workload's root file system.
func (s *supervisor) enter(lower string) error {
	if strings.ContainsAny(lower, `:,\`) {
		return fmt.Errorf("root file system %q: the characters ':', ',' and '\\' cannot be mounted", lower)
	}
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare mounts: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount proc: %w", err)
	}
	disk := filepath.Join(s.dir, DiskDir)
	if s.disk != nil {
		if err := unix.MoveMount(int(s.disk.Fd()), "", unix.AT_FDCWD, disk, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			return fmt.Errorf("mount disk: %w", err)
		}
	}
	// volatile: nobody needs this lease's files after a crash, so a sync of the workload need not wait for
	// the disk. nodev: a device node in an image is only a name.
	options := "lowerdir=" + lower + ",upperdir=" + filepath.Join(disk, UpperDir) + ",workdir=" + filepath.Join(disk, WorkDir)
	target := filepath.Join(s.dir, RootFSDir)
	err := unix.Mount("overlay", target, "overlay", unix.MS_NODEV|unix.MS_NOSUID, options+",volatile")
	if errors.Is(err, unix.EINVAL) { // before Linux 5.10
		err = unix.Mount("overlay", target, "overlay", unix.MS_NODEV|unix.MS_NOSUID, options)
	}
	if err != nil {
		return fmt.Errorf("mount overlay on %s: %w", lower, err)
	}
	return nil
}

// launch starts the container and returns its first process, which is then our child.
func (s *supervisor) launch(ctx context.Context, q Start) (*os.Process, *sync.WaitGroup, error) {
	if err := s.space.do(func() error { return s.enter(q.LowerDir) }); err != nil {
		return nil, nil, err
	}
	var output sync.WaitGroup
	pidFile := filepath.Join(s.dir, "pid")
	err := s.create(ctx, pidFile, &output)
	if err != nil && strings.Contains(err.Error(), sealFailed) && s.absent(pidFile) {
		err = s.create(ctx, pidFile, &output)
	}
	if err != nil {
		return nil, nil, err
	}
	pid, err := readPID(pidFile)
	if err != nil {
		return nil, nil, err
	}
	p, err := os.FindProcess(pid)
	return p, &output, err
}

// sealFailed is in runc's message when the kernel would not seal the copy that runc makes of itself before
// anything else. The kernel refuses while it still works on the pages just written, which under load happens.
const sealFailed = "could not seal fd"

// absent reports whether runc made nothing yet.
func (s *supervisor) absent(pidFile string) bool {
	for _, path := range []string{pidFile, filepath.Join(s.dir, runcDir, s.id())} {
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			return false
		}
	}
	return true
}

// create has runc make and start the container. Its process writes to our log.
func (s *supervisor) create(ctx context.Context, pidFile string, output *sync.WaitGroup) error {
	if err := os.Remove(filepath.Join(s.dir, runLog)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	stdout, err := s.collect(output, provider.Stdout)
	if err != nil {
		return err
	}
	defer stdout.Close()
	stderr, err := s.collect(output, provider.Stderr)
	if err != nil {
		return err
	}
	defer stderr.Close()
	cmd := s.runc(ctx, runLog, "run", "--detach", "--bundle", s.dir, "--pid-file", pidFile, s.id())
	cmd.Stdout, cmd.Stderr = stdout, stderr
	if err := s.space.do(cmd.Start); err != nil {
		return err
	}
	if err := cmd.Wait(); err != nil {
		return s.runcError(runLog, err)
	}
	return nil
}

// collect returns a pipe whose content goes to the log until its last writer is gone.
func (s *supervisor) collect(output *sync.WaitGroup, stream provider.Stream) (*os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	output.Go(func() {
		defer r.Close()
		if err := s.log.CopyFrom(stream, r); err != nil {
			fmt.Fprintln(os.Stderr, "output:", err)
		}
	})
	return w, nil
}

// exec runs another process in the container until it ends or ctx does.
func (s *supervisor) exec(ctx context.Context, q Exec, files []*os.File) (int, error) {
	if want := map[bool]int{true: 1, false: 3}[q.TTY]; len(files) != want {
		return 0, fmt.Errorf("exec with %d descriptors, want %d", len(files), want)
	}
	s.mu.Lock()
	if s.state != running || s.execs == maxExecs {
		defer s.mu.Unlock()
		if s.state == running {
			return 0, fmt.Errorf("%d other processes are attached already", s.execs)
		}
		return 0, errors.New("not running")
	}
	s.execs++
	s.serial++
	name := "exec" + strconv.Itoa(s.serial)
	s.mu.Unlock()
	path := func(ext string) string { return filepath.Join(s.dir, name+ext) }
	defer func() {
		s.mu.Lock()
		s.execs--
		s.mu.Unlock()
		for _, ext := range []string{".json", ".pid", ".log"} {
			_ = os.Remove(path(ext)) // goes with the directory at the latest
		}
	}()
	if err := os.WriteFile(path(".json"), q.Process, 0o600); err != nil {
		return 0, err
	}
	cmd := s.runc(ctx, name+".log", "exec", "--process", path(".json"), "--pid-file", path(".pid"), s.id())
	cmd.Cancel = func() error {
		if pid, err := readPID(path(".pid")); err == nil {
			_ = unix.Kill(pid, unix.SIGKILL) // our child's child, or ours if it is orphaned: never another's
		}
		return cmd.Process.Kill()
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: q.TTY}
	cmd.Stdin = files[0]
	cmd.Stdout, cmd.Stderr = files[len(files)/2], files[len(files)-1]
	if err := s.space.do(cmd.Start); err != nil {
		return 0, err
	}
	for _, f := range files {
		f.Close() // the client sees the end of output when the process closes it
	}
	err := cmd.Wait()
	if ctx.Err() != nil {
		if pid, err := readPID(path(".pid")); err == nil {
			_, _ = unix.Wait4(pid, nil, 0, nil) // killed above, and ours now that runc is gone
		}
		return 0, ctx.Err()
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return 0, err
	}
	if _, logged := lastError(filepath.Join(s.dir, name+".log")); logged && err != nil {
		return 0, s.runcError(name+".log", err)
	}
	return cmd.ProcessState.ExitCode(), nil
}

func (s *supervisor) id() string { return filepath.Base(s.dir) }

func (s *supervisor) runc(ctx context.Context, log string, args ...string) *exec.Cmd {
	global := []string{"--root", filepath.Join(s.dir, runcDir), "--log", filepath.Join(s.dir, log), "--log-format", "json"}
	return exec.CommandContext(ctx, s.start.RuncPath, append(global, args...)...)
}

// maxSaid bounds what is passed on of runc's words: the customer's command is in them, of up to 128 KiB.
const maxSaid = 4 << 10

// runcError says what runc said.
func (s *supervisor) runcError(log string, err error) error {
	if msg, ok := lastError(filepath.Join(s.dir, log)); ok {
		return errors.New(msg[:min(len(msg), maxSaid)])
	}
	return fmt.Errorf("runc: %w", err)
}

func lastError(log string) (msg string, ok bool) {
	b, err := os.ReadFile(log)
	if err != nil {
		return "", false
	}
	for line := range bytes.Lines(b) {
		var entry struct{ Level, Msg string }
		if json.Unmarshal(line, &entry) == nil && entry.Level == "error" {
			msg, ok = entry.Msg, true
		}
	}
	// The prefixes name runc's own stages, which mean nothing to a customer.
	for _, prefix := range []string{"runc run failed: ", "exec failed: ", "unable to start container process: ", "error during container init: "} {
		msg = strings.TrimPrefix(msg, prefix)
	}
	return msg, ok
}

func readPID(path string) (int, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(b)))
}
