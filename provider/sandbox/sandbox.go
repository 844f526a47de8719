// Package sandbox runs leased workloads in containers of their own, made by runc. It implements
// [provider.Runtime].
//
// A sandbox is one lease's directory, network namespace, cgroup and supervisor. Each is named after the lease
// and the agent's state directory or tag, so two agents on one host never meet, and a lease's things can be
// found and removed without any record of them:
//
//	STATEDIR/LEASE/              directory: spec, control socket, overlay, log, exit record
//	STATEDIR/LEASE/disk.img      sparse file: the file system of what the workload writes
//	STATEDIR/LEASE/netns         network namespace, mounted: loopback, then the tunnel
//	/rialto-TAG/LEASE            cgroup, in every controller
//	EXE sandbox-supervisor DIR   supervisor, see package keeper
//
// The supervisor is the first process of a PID namespace that holds the container's: whatever ends it, also
// kill -9, the kernel ends the container and everything that ran in it. Mounts exist only in its mount
// namespace and in the container's, so they end with it too; in the host's is only the network namespace.
//
// What a workload writes to its root file system is limited in size, so that it cannot fill its host's disk: the
// upper layer of its overlay is an ext4 of that size in a sparse file, on a loop device. Inside, a full disk is
// ENOSPC. The supervisor holds the mount from Prepare on, first in no namespace and then in its own, and the
// device frees itself with its last user: no crash leaves a mount or a device, and only the file is there to
// remove. Logs, the spec and the exit record are outside and have limits of their own. The file takes from the
// host's disk what is in it, so the sum of the limits may be more than the disk; when the host's disk is full,
// workloads lose what they write without an error, so hosts should not lend more than they have. A project
// quota would do without file and device, but most hosts' file systems are not mounted with one.
//
// What a container gets and does not get is package oci's.
package sandbox

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"rialto/broker"
	"rialto/provider"
	"rialto/provider/sandbox/internal/host"
	"rialto/provider/sandbox/internal/keeper"
)

// SupervisorVerb is the first argument of the process that SupervisorMain serves.
const SupervisorVerb = "sandbox-supervisor"

// SupervisorMain is the life of a supervisor. The main function of every program that uses a Runtime calls
// it before anything else when its first argument is SupervisorVerb, with the arguments after that, and
// exits with what it returns.
func SupervisorMain(args []string) int { return keeper.Main(args) }

// Config says where sandboxes live.
type Config struct {
	StateDir string       // made if missing; readable by root only
	RuncPath string       // a runc that CheckRunc accepts
	Tag      string       // tells this agent's things from another's on the same host: 1 to 16 of a-z and 0-9
	LogLimit int64        // bytes of output kept per sandbox, newest first; default 64 MiB
	Logger   *slog.Logger // nil: discard

	DiskMiB       uint64 // of a Launch that names none; default 10 GiB
	Mke2fsPath    string // default: mke2fs of PATH or of the usual directories
	UnlimitedDisk bool   // workloads may fill the disk: for a host without loop devices, see CheckDisk
}

func (c Config) withDefaults() (Config, error) {
	if c.StateDir == "" || c.RuncPath == "" {
		return c, errors.New("sandbox: state directory and runc path are needed")
	}
	if !word(c.Tag, 16) {
		return c, fmt.Errorf("sandbox: tag %q: want 1 to 16 of a-z and 0-9", c.Tag)
	}
	var err error
	if c.StateDir, err = filepath.Abs(c.StateDir); err != nil {
		return c, err
	}
	if strings.ContainsAny(c.StateDir, `:,\`) {
		return c, fmt.Errorf("sandbox: state directory %q: the characters ':', ',' and '\\' cannot be mounted", c.StateDir)
	}
	if c.RuncPath, err = filepath.Abs(c.RuncPath); err != nil {
		return c, err
	}
	// Days of a chatty trainer, and small beside any image.
	c.LogLimit = cmp.Or(c.LogLimit, 64<<20)
	// Room for the packages and checkpoints of most jobs, and little of a GPU host's disk.
	c.DiskMiB = cmp.Or(c.DiskMiB, 10<<10)
	if c.DiskMiB < host.MinDiskMiB || c.DiskMiB > host.MaxDiskMiB {
		return c, fmt.Errorf("sandbox: disk of %d MiB: want %d to %d", c.DiskMiB, host.MinDiskMiB, host.MaxDiskMiB)
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, nil
}

// Error is what went wrong with a lease's sandbox.
type Error struct {
	Op    string
	Lease broker.LeaseID
	Err   error
}

func (e *Error) Error() string { return e.Op + " sandbox " + string(e.Lease) + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Runtime makes sandboxes on runc.
type Runtime struct {
	cfg Config

	mu      sync.Mutex
	checked bool // runc's version was found good
	// cgroups is held while a cgroup is made or removed, because its parent goes with the last child.
	cgroups sync.Mutex
}

var _ provider.Runtime = (*Runtime)(nil)

// New returns a runtime. It starts nothing.
func New(cfg Config) (*Runtime, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	return &Runtime{cfg: cfg}, nil
}

// Prepare implements [provider.Runtime].
func (r *Runtime) Prepare(ctx context.Context, l provider.Launch) (provider.Sandbox, error) {
	if !leaseName(l.Lease) {
		return nil, &Error{"prepare", l.Lease, errors.New("not a lease id")}
	}
	// Without a name of its own a container would show the host's.
	l.Hostname = cmp.Or(l.Hostname, "sandbox")
	if !hostname(l.Hostname) {
		return nil, &Error{"prepare", l.Lease, fmt.Errorf("hostname %q is not valid", l.Hostname)}
	}
	if err := r.check(ctx); err != nil {
		return nil, &Error{"prepare", l.Lease, err}
	}
	if err := os.MkdirAll(r.cfg.StateDir, 0o700); err != nil {
		return nil, &Error{"prepare", l.Lease, err}
	}
	// The directory is made first and alone decides who owns the lease's names.
	if err := os.Mkdir(r.dir(l.Lease), 0o700); err != nil {
		return nil, &Error{"prepare", l.Lease, err}
	}
	if err := r.prepare(ctx, l); err != nil {
		return nil, &Error{"prepare", l.Lease, errors.Join(err, r.remove(l.Lease))}
	}
	return r.box(l), nil
}

func (r *Runtime) prepare(ctx context.Context, l provider.Launch) error {
	dir := r.dir(l.Lease)
	if err := makeDirs(dir, map[string]uint32{keeper.RootFSDir: 0o755, keeper.DiskDir: 0o755, keeper.LogDir: 0o700}); err != nil {
		return err
	}
	disk, err := r.makeDisk(ctx, l)
	if err != nil {
		return err
	}
	if disk != nil {
		defer disk.Close() // the supervisor has it then
	}
	if err := host.MakeNetns(r.netns(l.Lease)); err != nil {
		return err
	}
	r.cgroups.Lock()
	err = host.MakeCgroup(r.cgroup(l.Lease))
	r.cgroups.Unlock()
	if err != nil {
		return err
	}
	if err := r.supervise(l.Lease, disk); err != nil {
		return fmt.Errorf("start supervisor: %w", err)
	}
	b, err := json.Marshal(l)
	if err != nil {
		return err
	}
	// Last, and in one step: a directory with it is a whole sandbox.
	if err := os.WriteFile(filepath.Join(dir, launchFile+".new"), b, 0o600); err != nil {
		return err
	}
	return os.Rename(filepath.Join(dir, launchFile+".new"), filepath.Join(dir, launchFile))
}

// launchFile keeps what Prepare was told, for Start by a later agent process.
const launchFile = "launch.json"

// supervise starts the supervisor in a session and a PID namespace of its own, so that it outlives this
// process, and takes everything that it started with it when it ends. disk is its mount, if it has one.
func (r *Runtime) supervise(lease broker.LeaseID, disk *os.File) error {
	socket, err := keeper.Listen(r.dir(lease))
	if err != nil {
		return err
	}
	defer socket.Close()
	errs, err := keeper.OpenErrors(r.dir(lease))
	if err != nil {
		return err
	}
	defer errs.Close()
	cmd := &exec.Cmd{
		Path:        "/proc/self/exe", // this very binary, also after an upgrade has replaced its file
		Args:        []string{"rialto-provider", SupervisorVerb, r.dir(lease)},
		Env:         keeper.Environment(),
		Dir:         "/",
		Stderr:      errs,
		ExtraFiles:  []*os.File{socket},
		SysProcAttr: &unix.SysProcAttr{Setsid: true, Cloneflags: unix.CLONE_NEWPID},
	}
	if disk != nil {
		cmd.Args, cmd.ExtraFiles = append(cmd.Args, keeper.DiskInherited), append(cmd.ExtraFiles, disk)
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() { // ends with the supervisor; only so that the kernel can forget it
		defer close(ended)
		if err := cmd.Wait(); err != nil {
			r.cfg.Logger.Debug("supervisor ended", "lease", lease, "err", err)
		}
	}()
	// From here on Remove finds it.
	if !host.AwaitShown(cmd.Process.Pid, SupervisorVerb, r.dir(lease), ended) {
		return errors.New("it ended at once")
	}
	return nil
}

// Adopt implements [provider.Runtime].
func (r *Runtime) Adopt(_ context.Context, lease broker.LeaseID) (provider.Sandbox, error) {
	if !leaseName(lease) {
		return nil, &Error{"adopt", lease, provider.ErrNoSandbox}
	}
	b, err := os.ReadFile(filepath.Join(r.dir(lease), launchFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &Error{"adopt", lease, provider.ErrNoSandbox}
	}
	if err != nil {
		return nil, &Error{"adopt", lease, err}
	}
	var l provider.Launch
	if err := json.Unmarshal(b, &l); err != nil {
		return nil, &Error{"adopt", lease, err}
	}
	return r.box(l), nil
}

// List implements [provider.Runtime].
func (r *Runtime) List(context.Context) ([]broker.LeaseID, error) {
	set := make(map[broker.LeaseID]struct{})
	add := func(names []string) {
		for _, n := range names {
			if id := broker.LeaseID(n); leaseName(id) {
				set[id] = struct{}{}
			}
		}
	}
	groups, err := host.ListCgroups(r.cgroup(""))
	if err != nil {
		return nil, err
	}
	add(groups)
	dirs, err := os.ReadDir(r.cfg.StateDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, d := range dirs {
		add([]string{d.Name()})
	}
	procs, err := host.Processes(SupervisorVerb, func(dir string) bool { return filepath.Dir(dir) == r.cfg.StateDir })
	if err != nil {
		return nil, err
	}
	for _, dir := range procs {
		add([]string{filepath.Base(dir)})
	}
	return slices.Sorted(maps.Keys(set)), nil
}

// Remove implements [provider.Runtime].
func (r *Runtime) Remove(_ context.Context, lease broker.LeaseID) error {
	if !leaseName(lease) {
		return &Error{"remove", lease, errors.New("not a lease id")}
	}
	if err := r.remove(lease); err != nil {
		return &Error{"remove", lease, err}
	}
	return nil
}

// remove goes on after an error, to leave as little as it can. The directory goes last: while anything is
// left of a lease, its names stay taken.
func (r *Runtime) remove(lease broker.LeaseID) error {
	errs := []error{host.KillProcesses(SupervisorVerb, r.dir(lease))}
	r.cgroups.Lock()
	errs = append(errs, host.RemoveCgroup(r.cgroup(lease)))
	r.cgroups.Unlock()
	errs = append(errs, host.RemoveNetns(r.netns(lease)), host.AwaitLoopFree(r.disk(lease)))
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return os.RemoveAll(r.dir(lease))
}

func (r *Runtime) dir(lease broker.LeaseID) string {
	return filepath.Join(r.cfg.StateDir, string(lease))
}

// disk is the file of what a lease's workload writes.
func (r *Runtime) disk(lease broker.LeaseID) string {
	return filepath.Join(r.dir(lease), keeper.DiskFile)
}

// netns is where a lease's network namespace is held.
func (r *Runtime) netns(lease broker.LeaseID) string { return filepath.Join(r.dir(lease), "netns") }

func (r *Runtime) cgroup(lease broker.LeaseID) string {
	return filepath.Join("/rialto-"+r.cfg.Tag, string(lease))
}

// leaseName reports whether a lease id can be part of a path.
func leaseName(id broker.LeaseID) bool {
	rest, ok := strings.CutPrefix(string(id), "l-")
	return ok && word(rest, 64)
}

// word reports whether s has 1 to most characters of a-z and 0-9.
func word(s string, most int) bool {
	return s != "" && len(s) <= most && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789") == ""
}

// hostname reports whether s is a label as RFC 1123 has it, in lower case.
func hostname(s string) bool {
	return len(s) <= 63 && word(strings.ReplaceAll(s, "-", ""), 63) && s[0] != '-' && s[len(s)-1] != '-'
}
