package sandbox

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"rialto/provider"
)

// TestEscapes runs every attempt that the probe knows, as root of the container, in the workload and in a
// process that Exec adds.
func TestEscapes(t *testing.T) {
	needs(t)
	root := image(t)
	// A device node in the image: the host's own disk, which the host reads and the container may not.
	var st unix.Stat_t
	if err := unix.Stat("/", &st); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mknod(filepath.Join(root, "disknode"), unix.S_IFBLK|0o666, int(st.Dev)); err != nil {
		t.Fatal(err)
	}
	if f, err := os.Open(filepath.Join(root, "disknode")); err == nil {
		if n, _ := f.Read(make([]byte, 1)); n != 1 {
			t.Log("the host cannot read the node either: the attempt proves nothing here")
		}
		f.Close()
	}
	s := prepare(t, newRuntime(t), provider.Launch{})
	if err := s.Start(t.Context(), program(root, "hang")); err != nil {
		t.Fatal(err)
	}
	t.Run("exec", func(t *testing.T) {
		out, code := execute(t, s, provider.ExecRequest{Args: []string{"/probe", "attempts"}})
		if code != 0 {
			t.Errorf("code %d", code)
		}
		checkAttempts(t, out)
	})
	t.Run("workload", func(t *testing.T) {
		checkAttempts(t, run(t, provider.Launch{}, program(root, "attempts")).stdout)
	})
}

func checkAttempts(t *testing.T, out string) {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if len(lines) < 50 {
		t.Fatalf("only %d attempts were made:\n%s", len(lines), out)
	}
	for _, line := range lines {
		if strings.HasPrefix(line, "positive: ") != strings.HasSuffix(line, ": allowed") {
			t.Error(line)
		}
	}
}

// TestAttemptsOutside is the control: without a container the same program is allowed some of it.
func TestAttemptsOutside(t *testing.T) {
	needs(t)
	for _, call := range []struct {
		name string
		do   func() error
	}{
		{"userfaultfd", func() error { return syscallFD(unix.SYS_USERFAULTFD, 0) }},
		{"fanotify_init", func() error { return syscallFD(unix.SYS_FANOTIFY_INIT, 0) }},
		{"keyctl", func() error { _, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_SESSION_KEYRING, true); return err }},
		{"alg socket", func() error { return syscallFD(unix.SYS_SOCKET, unix.AF_ALG, unix.SOCK_SEQPACKET, 0) }},
		{"raw socket", func() error { return syscallFD(unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP) }},
	} {
		if err := call.do(); err != nil {
			t.Logf("%s is denied outside too, so its attempt proves nothing here: %v", call.name, err)
		}
	}
}

func syscallFD(n uintptr, args ...uintptr) error {
	a := append(args, 0, 0, 0)
	fd, _, e := unix.Syscall(n, a[0], a[1], a[2])
	if e != 0 {
		return e
	}
	return unix.Close(int(fd))
}

func TestSeesOnlyItself(t *testing.T) {
	needs(t)
	root := image(t)
	t.Run("processes", func(t *testing.T) {
		for line := range strings.Lines(run(t, provider.Launch{}, program(root, "ls", "/proc")).stdout) {
			if pid, err := strconv.Atoi(strings.TrimSpace(line)); err == nil && pid != 1 {
				t.Errorf("sees process %d", pid)
			}
		}
	})
	t.Run("descriptors", func(t *testing.T) {
		for line := range strings.Lines(run(t, provider.Launch{}, program(root, "fds")).stdout) {
			fd, to, _ := strings.Cut(strings.TrimSpace(line), " ")
			n, err := strconv.Atoi(fd)
			if err != nil {
				t.Fatal(err)
			}
			// Above them are the probe's own: its poller, the directory that it reads, and its CPU limit, which Go reads.
			if n > 2 && strings.HasPrefix(to, "/") && to != "/proc/1/fd" && !strings.HasPrefix(to, "/sys/fs/cgroup/") {
				t.Errorf("descriptor %d is open on %s", n, to)
			}
		}
	})
	t.Run("devices", func(t *testing.T) {
		got := slices.DeleteFunc(strings.Fields(run(t, provider.Launch{}, program(root, "ls", "/dev")).stdout),
			func(name string) bool { return name == "core" }) // a link to /proc/kcore, where the kernel has that
		want := "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero"
		if strings.Join(got, " ") != want {
			t.Errorf("/dev holds %v", got)
		}
	})
	t.Run("other disks", func(t *testing.T) {
		prepare(t, newRuntime(t), provider.Launch{}) // has a loop device, whose file is named after a lease
		if got := run(t, provider.Launch{}, program(root, "ls", "/sys/devices/virtual/block")); got.all != "" {
			t.Errorf("sees %q", got.all)
		}
	})
	t.Run("workdir through a descriptor", func(t *testing.T) { // CVE-2024-21626
		for fd := 3; fd < 10; fd++ {
			p := program(root, "ls", "../../../../../..")
			p.Workdir = "/proc/self/fd/" + strconv.Itoa(fd)
			s := prepare(t, newRuntime(t), provider.Launch{})
			if err := s.Start(t.Context(), p); err != nil {
				continue
			}
			if got := finish(t, s); strings.Contains(got.stdout, "lost+found\n") || strings.Contains(got.stdout, "home\n") {
				t.Errorf("descriptor %d leads to the host: %s", fd, got.all)
			}
		}
	})
}

func TestWritesStayInTheOverlay(t *testing.T) {
	needs(t)
	root := image(t)
	if got := run(t, provider.Launch{}, program(root, "write", "/etc/passwd", "changed")); got.exit.Code != 0 {
		t.Fatalf("%+v %s", got.exit, got.all)
	}
	b, err := os.ReadFile(filepath.Join(root, "etc/passwd"))
	if err != nil || strings.Contains(string(b), "changed") {
		t.Errorf("image's passwd is %q, %v", b, err)
	}
}

// TestHostileImage has symbolic links where the runtime puts things.
func TestHostileImage(t *testing.T) {
	needs(t)
	outside := t.TempDir()
	for _, tc := range []struct{ name, link, to string }{
		{"dev", "dev", outside},
		{"etc", "etc", outside},
		{"proc", "proc", outside},
		{"hosts", "etc/hosts", filepath.Join(outside, "hosts")},
		{"mount target", "models", outside},
		{"passwd", "etc/passwd", "/../../../../../../../../../../etc/shadow"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			root := image(t)
			link := filepath.Join(root, tc.link)
			if err := os.RemoveAll(link); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(tc.to, link); err != nil {
				t.Fatal(err)
			}
			weights := t.TempDir()
			if err := os.WriteFile(filepath.Join(weights, "w"), []byte("weights"), 0o644); err != nil {
				t.Fatal(err)
			}
			p := program(root, "read", "/models/w")
			p.Mounts = []provider.Mount{{Source: weights, Target: "/models", ReadOnly: true}}
			s := prepare(t, newRuntime(t), provider.Launch{})
			if err := s.Start(t.Context(), p); err != nil {
				t.Log("refused:", err) // as good as harmless
			} else if got := finish(t, s); got.stdout != "weights" && tc.name != "mount target" {
				t.Errorf("got %q", got.all)
			}
			if entries, err := os.ReadDir(outside); err != nil || len(entries) != 0 {
				t.Errorf("host directory holds %v, %v", entries, err)
			}
		})
	}
}

func TestMounts(t *testing.T) {
	needs(t)
	root, weights := image(t), t.TempDir()
	if err := os.WriteFile(filepath.Join(weights, "w"), []byte("weights"), 0o644); err != nil {
		t.Fatal(err)
	}
	p := program(root, "write", "/models/w", "spoiled")
	p.Mounts = []provider.Mount{{Source: weights, Target: "/models", ReadOnly: true}}
	if got := run(t, provider.Launch{}, p); got.exit.Code == 0 {
		t.Error("wrote to a read-only mount")
	}
	p.Args = []string{"/probe", "read", "/models/w"}
	if got := run(t, provider.Launch{}, p); got.stdout != "weights" {
		t.Errorf("got %q", got.all)
	}
}

// TestNotices: what the host leaves in the folder of notices shows at once, and the workload cannot change it. It is gone with
// the sandbox, and one that gets none has no such folder.
func TestNotices(t *testing.T) {
	needs(t)
	r, root := newRuntime(t), image(t)
	s := prepare(t, r, provider.Launch{})
	p := program(root, "await", "/run/rialto/preempt")
	p.Notices, p.User = true, "1000:1000"
	if err := s.Start(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	awaitOutput(t, s, "waiting")
	if err := s.Notify(t.Context(), "../escaped", nil); err == nil {
		t.Error("it may have a name that leads out of the folder")
	}
	if err := s.Notify(t.Context(), "preempt", []byte("60 2026-11-26T19:30:00Z\n")); err != nil {
		t.Fatal(err)
	}
	if got := finish(t, s); got.exit.Code != 0 || !strings.Contains(got.stdout, "60 2026-11-26T19:30:00Z\n") {
		t.Errorf("it ended with %+v and printed %q", got.exit, got.all)
	}
	if err := s.Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Notify(t.Context(), "preempt", nil); err == nil {
		t.Error("a sandbox that is gone can be notified")
	}

	for what, c := range map[string]struct {
		notices bool
		args    []string
	}{
		"changed it":          {true, []string{"write", "/run/rialto/preempt", "spoiled"}},
		"has a folder anyway": {false, []string{"ls", "/run/rialto"}},
	} {
		p := program(root, c.args...)
		p.Notices = c.notices
		if got := run(t, provider.Launch{}, p); got.exit.Code == 0 {
			t.Errorf("%s: %q", what, got.all)
		}
	}
}

// TestNestedMounts mounts into a tree that other leases share.
func TestNestedMounts(t *testing.T) {
	needs(t)
	root, outer, inner := image(t), t.TempDir(), t.TempDir()
	s := prepare(t, newRuntime(t), provider.Launch{})
	p := program(root, "exit", "0")
	p.Mounts = []provider.Mount{{Source: outer, Target: "/models", ReadOnly: true}, {Source: inner, Target: "/models/sub", ReadOnly: true}}
	if err := s.Start(t.Context(), p); err == nil {
		t.Error("started")
	}
	if entries, err := os.ReadDir(outer); err != nil || len(entries) != 0 {
		t.Errorf("the shared tree holds %v, %v", entries, err)
	}
}

// TestHugeCommand has a name that runc repeats, escaped, in what it says.
func TestHugeCommand(t *testing.T) {
	needs(t)
	s := prepare(t, newRuntime(t), provider.Launch{})
	p := program(image(t))
	p.Args = []string{strings.Repeat("\x01", 4000)}
	err := s.Start(t.Context(), p)
	if err == nil || len(err.Error()) > 8<<10 || !strings.Contains(err.Error(), "exec") {
		t.Errorf("got %.300v", err)
	}
	if exit, err := s.Wait(t.Context()); err != nil || exit.Code != 127 {
		t.Errorf("Wait = %d, %v", exit.Code, err)
	}
}

func TestDevices(t *testing.T) {
	needs(t)
	p := program(image(t), "ls", "/dev/net")
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		t.Skip("needs /dev/net/tun as a device to give")
	}
	p.Devices = []string{"/dev/net/tun"}
	r := newRuntime(t)
	s := prepare(t, r, provider.Launch{})
	if err := s.Start(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if got := finish(t, s); got.stdout != "tun\n" {
		t.Errorf("got %q", got.all)
	}
	b, err := os.ReadFile("/sys/fs/cgroup/devices" + r.cgroup(s.(*box).launch.Lease) + "/devices.list")
	if err != nil {
		t.Skip("needs cgroup v1 to read the device rules:", err)
	}
	if list := string(b); !strings.Contains(list, "c 10:200 rw") || strings.Contains(list, "a *:*") || strings.Contains(list, "b 7:") {
		t.Errorf("device rules:\n%s", list)
	}
}

func TestLimits(t *testing.T) {
	needs(t)
	root := image(t)
	t.Run("memory", func(t *testing.T) {
		want := provider.Exit{Code: 137, Reason: "out of memory"}
		if got := run(t, provider.Launch{MemoryMiB: 64}, program(root, "eat", "200")); got.exit != want {
			t.Errorf("exit = %+v, want %+v", got.exit, want)
		}
		if got := run(t, provider.Launch{MemoryMiB: 512}, program(root, "eat", "200")); got.stdout != "ate 200\n" {
			t.Errorf("control: %+v %s", got.exit, got.all)
		}
	})
	t.Run("processes", func(t *testing.T) {
		if got := run(t, provider.Launch{PIDs: 64}, program(root, "fork", "80")); !strings.HasPrefix(got.stdout, "refused after") {
			t.Errorf("got %q", got.all)
		}
		if got := run(t, provider.Launch{PIDs: 2000}, program(root, "fork", "80")); got.stdout != "started 80\n" {
			t.Errorf("control: %q", got.all)
		}
	})
	t.Run("cpu", func(t *testing.T) {
		r := newRuntime(t)
		s := prepare(t, r, provider.Launch{CPUs: 1})
		if err := s.Start(t.Context(), program(root, "hang")); err != nil {
			t.Fatal(err)
		}
		group := r.cgroup(s.(*box).launch.Lease)
		b, err := os.ReadFile("/sys/fs/cgroup/cpu" + group + "/cpu.cfs_quota_us")
		if err != nil {
			b, err = os.ReadFile("/sys/fs/cgroup" + group + "/cpu.max")
		}
		if err != nil || !strings.HasPrefix(string(b), "100000") {
			t.Errorf("quota %q, %v", b, err)
		}
	})
}

// TestNetwork has a listener on the host's loopback and on another sandbox's: neither is in reach.
func TestNetwork(t *testing.T) {
	needs(t)
	root := image(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	r := newRuntime(t)
	other := prepare(t, r, provider.Launch{})
	if err := other.Start(t.Context(), program(root, "serve", "127.0.0.1:7000")); err != nil {
		t.Fatal(err)
	}
	awaitOutput(t, other, "serving")
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	for _, address := range []string{"127.0.0.1:" + port, "127.0.0.1:7000", "169.254.169.254:80", "8.8.8.8:53", "[fe80::1]:80"} {
		if got := run(t, provider.Launch{}, program(root, "dial", address)); got.exit.Code == 0 {
			t.Errorf("reached %s", address)
		}
	}
	if out, code := execute(t, other, provider.ExecRequest{Args: []string{"/probe", "dial", "127.0.0.1:7000"}}); code != 0 {
		t.Errorf("control: a process beside the server does not reach it: %d %s", code, out)
	}
}

// TestAccounts resolves the forms of a user that an image may name.
func TestAccounts(t *testing.T) {
	needs(t)
	root := image(t)
	for user, want := range map[string]string{
		"":          "uid=0 gid=0 groups=[]",
		"ann":       "uid=1000 gid=1001 groups=[44]",
		"1000":      "uid=1000 gid=1001 groups=[44]",
		"ann:video": "uid=1000 gid=44 groups=[]",
		"7:8":       "uid=7 gid=8 groups=[]",
	} {
		p := program(root, "about")
		p.User = user
		got := run(t, provider.Launch{}, p).stdout
		if !strings.HasPrefix(got, want) {
			t.Errorf("%s: got %q, want %q", fmt.Sprintf("user %q", user), got, want)
		}
	}
}
