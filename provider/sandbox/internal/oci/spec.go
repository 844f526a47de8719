// Package oci says what a container gets, as an OCI runtime spec.
//
// It gets: a writable overlay on its image; PID, mount, IPC, UTS and cgroup namespaces of its own and the
// network namespace of its lease; /proc, /sys read-only, a minimal /dev with the leased devices, /dev/shm
// of half its memory; the mounts of its program; its notices, read-only; generated /etc/hosts, hostname and resolv.conf; limits on
// memory, CPU and processes.
//
// It does not get: new privileges (set-user-id and file capabilities do nothing), capabilities beyond
// [Capabilities] (none unless it runs as root), system calls beyond those of [Seccomp], new namespaces, a
// name server, any network but loopback and its tunnel, the kernel's key rings, other processes, or the
// host's files. Its rlimits are never above the agent's. There is no user namespace: root inside is
// user 0 outside, held by the rest of this list. What it writes is limited by the file system that its
// overlay is on, which is not this package's.
package oci

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"rialto/provider"
)

const (
	defaultPath  = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	defaultPIDs  = 4096 // several thousand threads are common in training; a fork bomb has more
	cpuPeriod    = 100_000
	mebibyte     = 1 << 20
	shmWithout   = 1 << 30 // /dev/shm without a memory limit
	oomScore     = 500     // under pressure the host's own processes survive
	maxOpenFiles = 1 << 20
	usualFiles   = 1 << 16 // some programs walk over every possible descriptor
)

// Place is where the host keeps what belongs to the container.
type Place struct {
	RootFS     string // where its overlay is mounted when it starts
	Dir        string // holds what WriteFiles wrote
	Netns      string
	CgroupPath string
}

// Capabilities are those of a container's root: what package managers and servers need to install files
// for other users, to become them, to signal them and to listen on low ports.
func Capabilities() []string {
	return []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", // own and install any of its files
		"CAP_SETGID", "CAP_SETUID", // drop root, as nginx, apt and sshd do
		"CAP_KILL",             // signal the processes that did
		"CAP_NET_BIND_SERVICE", // listen below 1024
		"CAP_SYS_CHROOT",       // servers that lock themselves in a directory
	}
}

// Spec describes the container of program p in a sandbox made for l.
func Spec(l provider.Launch, p provider.Program, at Place) (*specs.Spec, error) {
	process, err := process(p)
	if err != nil {
		return nil, err
	}
	mounts, err := mounts(l, p, at)
	if err != nil {
		return nil, err
	}
	devices, rules, err := devices(p.Devices)
	if err != nil {
		return nil, err
	}
	return &specs.Spec{
		Version:  specs.Version,
		Process:  process,
		Root:     &specs.Root{Path: at.RootFS},
		Hostname: l.Hostname,
		Mounts:   mounts,
		Linux: &specs.Linux{
			CgroupsPath: at.CgroupPath,
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace},
				{Type: specs.MountNamespace},
				{Type: specs.IPCNamespace},
				{Type: specs.UTSNamespace},
				{Type: specs.CgroupNamespace},
				{Type: specs.NetworkNamespace, Path: at.Netns},
			},
			Devices:           devices,
			Resources:         resources(l, rules),
			Seccomp:           Seccomp(),
			RootfsPropagation: "private",
			MaskedPaths: []string{
				"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/key-users",
				"/proc/latency_stats", "/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
				"/proc/kallsyms", "/proc/modules", "/proc/config.gz", "/proc/kpagecount", "/proc/kpageflags",
				"/sys/devices/virtual/block", // names the files of other leases' disks
				"/sys/devices/virtual/powercap", "/sys/firmware", "/sys/kernel/debug", "/sys/kernel/tracing",
			},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}, nil
}

func process(p provider.Program) (*specs.Process, error) {
	if len(p.Args) == 0 || p.Args[0] == "" {
		return nil, errors.New("no command")
	}
	cwd := p.Workdir
	if cwd == "" {
		cwd = "/"
	}
	if !path.IsAbs(cwd) {
		return nil, fmt.Errorf("working directory %q is not absolute", cwd)
	}
	for _, s := range append(append([]string{cwd}, p.Args...), p.Env...) {
		if strings.ContainsRune(s, 0) {
			return nil, fmt.Errorf("%q holds a zero byte", s)
		}
	}
	user, err := LookupUser(p.RootFS, p.User)
	if err != nil {
		return nil, err
	}
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		return nil, os.NewSyscallError("getrlimit", err)
	}
	caps := &specs.LinuxCapabilities{}
	if user.UID == 0 {
		caps = &specs.LinuxCapabilities{Bounding: Capabilities(), Effective: Capabilities(), Permitted: Capabilities()}
	}
	return &specs.Process{
		User:            user,
		Args:            p.Args,
		Env:             Env(p.Env),
		Cwd:             path.Clean(cwd),
		Capabilities:    caps,
		NoNewPrivileges: true,
		OOMScoreAdj:     new(oomScore),
		Rlimits: []specs.POSIXRlimit{
			{Type: "RLIMIT_NOFILE", Hard: min(files.Max, maxOpenFiles), Soft: min(files.Max, usualFiles)},
			{Type: "RLIMIT_CORE"}, // a core dump would hold the customer's secrets
		},
	}, nil
}

// Env returns env with a PATH.
func Env(env []string) []string {
	for _, e := range env {
		if strings.HasPrefix(e, "PATH=") {
			return env
		}
	}
	return append([]string{defaultPath}, env...)
}

func mounts(l provider.Launch, p provider.Program, at Place) ([]specs.Mount, error) {
	shm := uint64(shmWithout)
	if l.MemoryMiB > 0 {
		shm = l.MemoryMiB * mebibyte / 2
	}
	list := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "noexec", "strictatime", "mode=755", "size=64k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=" + strconv.FormatUint(shm, 10)}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", "ro"}},
	}
	for _, name := range etcFiles() {
		list = append(list, specs.Mount{
			Destination: path.Join("/etc", name), Type: "bind", Source: filepath.Join(at.Dir, name),
			Options: []string{"bind", "rprivate", "nosuid", "nodev", "noexec"},
		})
	}
	if p.Notices {
		list = append(list, specs.Mount{
			Destination: provider.NoticeDir, Type: "bind", Source: filepath.Join(at.Dir, NoticeDir),
			Options: []string{"bind", "rprivate", "ro", "nosuid", "nodev", "noexec"},
		})
	}
	for _, m := range p.Mounts {
		if err := checkTarget(m.Target); err != nil {
			return nil, err
		}
		if !filepath.IsAbs(m.Source) {
			return nil, fmt.Errorf("mount source %q is not absolute", m.Source)
		}
		// bind, not rbind: read-only would not reach what is mounted below.
		options := []string{"bind", "rprivate", "nosuid", "nodev"}
		if m.ReadOnly {
			options = append(options, "ro")
		}
		list = append(list, specs.Mount{Destination: path.Clean(m.Target), Type: "bind", Source: m.Source, Options: options})
	}
	return list, nil
}

// checkTarget refuses what would hide the kernel's own mounts. Symbolic links of the image are runc's: it
// resolves them inside the root file system.
func checkTarget(target string) error {
	clean := path.Clean(target)
	if !path.IsAbs(target) || clean == "/" || strings.ContainsRune(target, 0) {
		return fmt.Errorf("mount target %q: want an absolute path below /", target)
	}
	for _, taken := range []string{"/proc", "/sys", "/dev"} {
		if clean == taken || strings.HasPrefix(clean, taken+"/") {
			return fmt.Errorf("mount target %q: %s is the kernel's", target, taken)
		}
	}
	return nil
}

// devices describes the nodes at paths on the host: the same node for the container, and the rule that
// opens it. Everything that is not named stays closed, also to a node of the same number in the image.
func devices(paths []string) ([]specs.LinuxDevice, []specs.LinuxDeviceCgroup, error) {
	rules := []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}
	var list []specs.LinuxDevice
	for _, p := range paths {
		var st unix.Stat_t
		if err := unix.Stat(p, &st); err != nil {
			return nil, nil, &fs.PathError{Op: "stat", Path: p, Err: err}
		}
		kind := ""
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFCHR:
			kind = "c"
		case unix.S_IFBLK:
			kind = "b"
		default:
			return nil, nil, fmt.Errorf("%s is not a device", p)
		}
		major, minor := int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
		list = append(list, specs.LinuxDevice{
			Path: p, Type: kind, Major: major, Minor: minor,
			FileMode: new(fs.FileMode(0o666)), UID: new(uint32(0)), GID: new(uint32(0)),
		})
		rules = append(rules, specs.LinuxDeviceCgroup{Allow: true, Type: kind, Major: &major, Minor: &minor, Access: "rw"})
	}
	return list, rules, nil
}

func resources(l provider.Launch, rules []specs.LinuxDeviceCgroup) *specs.LinuxResources {
	r := &specs.LinuxResources{Devices: rules, Pids: &specs.LinuxPids{Limit: new(int64(defaultPIDs))}}
	if l.PIDs > 0 {
		r.Pids.Limit = new(l.PIDs)
	}
	if l.MemoryMiB > 0 {
		limit := int64(min(l.MemoryMiB, 1<<40) * mebibyte) //nolint:gosec // bounded
		// The same with swap: a workload that swaps slows the whole host.
		r.Memory = &specs.LinuxMemory{Limit: &limit, Swap: &limit}
	}
	if l.CPUs > 0 {
		r.CPU = &specs.LinuxCPU{Quota: new(int64(l.CPUs) * cpuPeriod), Period: new(uint64(cpuPeriod))}
	}
	return r
}

// ExecProcess describes another process for the container of config: with its program's user and rights,
// its environment under q's, and its working directory unless q names one.
func ExecProcess(config []byte, q provider.ExecRequest) ([]byte, error) {
	var spec specs.Spec
	if err := json.Unmarshal(config, &spec); err != nil {
		return nil, err
	}
	if spec.Process == nil {
		return nil, errors.New("no process to take after")
	}
	p := spec.Process
	p.Args, p.Terminal = q.Args, q.TTY
	p.Env = append(p.Env, q.Env...)
	if q.TTY && !slices.ContainsFunc(p.Env, func(e string) bool { return strings.HasPrefix(e, "TERM=") }) {
		p.Env = append(p.Env, "TERM=xterm")
	}
	if q.TTY && q.Rows > 0 && q.Cols > 0 {
		// runc passes the size on later too, but perhaps after the program has asked for it.
		p.ConsoleSize = &specs.Box{Height: uint(q.Rows), Width: uint(q.Cols)}
	}
	if q.Workdir != "" {
		if !path.IsAbs(q.Workdir) {
			return nil, fmt.Errorf("working directory %q is not absolute", q.Workdir)
		}
		p.Cwd = path.Clean(q.Workdir)
	}
	return json.Marshal(p)
}
