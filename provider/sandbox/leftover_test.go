package sandbox

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rialto/broker"
	"rialto/provider"
	"rialto/provider/sandbox/internal/host"
)

// belongings lists what a runtime's sandboxes have on this host: processes, namespaces, cgroups, mounts, loop
// devices, files.
func belongings(tb testing.TB, r *Runtime) []string {
	tb.Helper()
	var all []string
	entries, err := os.ReadDir("/proc")
	if err != nil {
		tb.Fatal(err)
	}
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err != nil {
			continue
		}
		cmdline, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		cgroup, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cgroup"))
		if bytes.Contains(cmdline, []byte(r.cfg.StateDir)) && !bytes.Contains(cmdline, []byte(agentVerb)) ||
			bytes.Contains(cgroup, []byte(r.cgroup(""))) {
			all = append(all, "process "+string(bytes.ReplaceAll(cmdline, []byte{0}, []byte{' '})))
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		tb.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if at := strings.Fields(line)[4]; strings.HasPrefix(at, r.cfg.StateDir) { // others come and go beside us
			all = append(all, "mount "+at)
		}
	}
	loops, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		tb.Fatal(err)
	}
	for _, l := range loops {
		if b, err := os.ReadFile(l); err == nil && bytes.HasPrefix(b, []byte(r.cfg.StateDir)) {
			all = append(all, "loop device on "+strings.TrimSpace(string(b)))
		}
	}
	for _, pattern := range []string{
		"/sys/fs/cgroup/*/rialto-" + r.cfg.Tag, "/sys/fs/cgroup/rialto-" + r.cfg.Tag,
		"/sys/fs/cgroup/*/rialto-" + r.cfg.Tag + "/*", r.cfg.StateDir + "/*",
	} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			tb.Fatal(err)
		}
		for _, p := range paths {
			all = append(all, "file "+p)
		}
	}
	slices.Sort(all)
	return all
}

func checkClean(t *testing.T, r *Runtime, before []string) {
	t.Helper()
	if after := belongings(t, r); !slices.Equal(before, after) {
		t.Errorf("before:\n%s\nafter:\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
	}
	if ids, err := r.List(t.Context()); err != nil || len(ids) != 0 {
		t.Errorf("List = %v, %v", ids, err)
	}
}

func TestNothingIsLeft(t *testing.T) {
	needs(t)
	root := image(t)
	for _, tc := range []struct {
		name string
		live func(*testing.T, *Runtime, provider.Sandbox)
	}{
		{"prepared only", func(*testing.T, *Runtime, provider.Sandbox) {}},
		{"failed start", func(t *testing.T, _ *Runtime, s provider.Sandbox) {
			t.Helper()
			p := program(root)
			p.Args = []string{"no-such-program"}
			if err := s.Start(t.Context(), p); err == nil {
				t.Error("started")
			}
		}},
		{"ended", func(t *testing.T, _ *Runtime, s provider.Sandbox) {
			t.Helper()
			if err := s.Start(t.Context(), program(root, "exit", "3")); err != nil {
				t.Fatal(err)
			}
			finish(t, s)
		}},
		{"running with children and a connection", func(t *testing.T, _ *Runtime, s provider.Sandbox) {
			t.Helper()
			if err := s.Start(t.Context(), program(root, "serve", "127.0.0.1:8000")); err != nil {
				t.Fatal(err)
			}
			awaitOutput(t, s, "serving")
			execute(t, s, provider.ExecRequest{Args: []string{"/probe", "fork", "5"}})
			c, err := s.Dial(t.Context(), 8000)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
		}},
		{"supervisor killed", func(t *testing.T, r *Runtime, s provider.Sandbox) {
			t.Helper()
			if err := s.Start(t.Context(), program(root, "hang")); err != nil {
				t.Fatal(err)
			}
			awaitOutput(t, s, "waiting")
			if err := host.KillProcesses(SupervisorVerb, r.dir(s.(*box).launch.Lease)); err != nil {
				t.Fatal(err)
			}
			// The kernel has ended the container with it: no process and no device is left even before Delete.
			for _, b := range belongings(t, r) {
				if strings.HasPrefix(b, "process ") || strings.HasPrefix(b, "loop device ") {
					t.Error(b)
				}
			}
			exit, err := s.Wait(t.Context())
			if want := (provider.Exit{Code: 137, Reason: "supervisor was killed"}); err != nil || exit != want {
				t.Errorf("Wait = %+v, %v", exit, err)
			}
			if err := s.Logs(t.Context(), true, func(provider.Stream, []byte) error { return nil }); err != nil {
				t.Error(err)
			}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRuntime(t)
			before := belongings(t, r)
			s := prepare(t, r, provider.Launch{MemoryMiB: 256})
			if disk := "loop device on " + r.disk(s.(*box).launch.Lease); !slices.Contains(belongings(t, r), disk) {
				t.Errorf("no %s: nothing is limited", disk)
			}
			tc.live(t, r, s)
			if ids, err := r.List(t.Context()); err != nil || !slices.Equal(ids, []broker.LeaseID{s.(*box).launch.Lease}) {
				t.Errorf("List = %v, %v", ids, err)
			}
			for range 2 { // idempotent
				if err := s.Delete(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			checkClean(t, r, before)
			if _, err := r.Adopt(t.Context(), s.(*box).launch.Lease); !errors.Is(err, provider.ErrNoSandbox) {
				t.Errorf("Adopt = %v", err)
			}
			if _, err := s.Wait(t.Context()); !errors.Is(err, provider.ErrNoSandbox) {
				t.Errorf("Wait = %v", err)
			}
		})
	}
}

// TestMountsDoNotReachTheHost has its files on a shared mount, as everything is under systemd.
func TestMountsDoNotReachTheHost(t *testing.T) {
	runc := needs(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	if err := unix.Mount("", dir, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	r, err := New(Config{StateDir: dir, RuncPath: runc, Tag: tag()})
	if err != nil {
		t.Fatal(err)
	}
	s := prepare(t, r, provider.Launch{})
	if err := s.Start(t.Context(), program(image(t), "hang")); err != nil {
		t.Fatal(err)
	}
	for _, b := range belongings(t, r) {
		if strings.HasPrefix(b, "mount "+dir+"/") && b != "mount "+s.Netns() {
			t.Error(b)
		}
	}
	if err := s.Delete(t.Context()); err != nil { // before the file system goes
		t.Fatal(err)
	}
}

// TestPartsAreFoundAndRemoved leaves one kind of thing at a time, as a crash in the middle of Prepare does.
func TestPartsAreFoundAndRemoved(t *testing.T) {
	needs(t)
	r := newRuntime(t)
	before := belongings(t, r)
	id := leaseID(99)
	for name, leave := range map[string]func() error{
		"netns":                func() error { return errors.Join(os.MkdirAll(r.dir(id), 0o700), host.MakeNetns(r.netns(id))) },
		"cgroup":               func() error { return host.MakeCgroup(r.cgroup(id)) },
		"cgroup and its child": func() error { return host.MakeCgroup(r.cgroup(id) + "/of-the-workload") },
		"directory":            func() error { return os.MkdirAll(r.dir(id), 0o700) },
		"disk": func() error { // as after a reboot
			return errors.Join(os.MkdirAll(r.dir(id), 0o700), os.WriteFile(r.disk(id), nil, 0o600), os.Truncate(r.disk(id), 1<<40))
		},
		"supervisor": func() error {
			return errors.Join(os.MkdirAll(r.dir(id), 0o700), r.supervise(id, nil), os.RemoveAll(r.dir(id)))
		},
	} {
		t.Run(name, func(t *testing.T) {
			if err := leave(); err != nil {
				t.Fatal(err)
			}
			if ids, err := r.List(t.Context()); err != nil || !slices.Equal(ids, []broker.LeaseID{id}) {
				t.Errorf("List = %v, %v", ids, err)
			}
			if _, err := r.Adopt(t.Context(), id); !errors.Is(err, provider.ErrNoSandbox) {
				t.Errorf("Adopt = %v", err)
			}
			if err := r.Remove(t.Context(), id); err != nil {
				t.Fatal(err)
			}
			checkClean(t, r, before)
		})
	}
}

func TestAgentsDoNotMeet(t *testing.T) {
	needs(t)
	a, b := newRuntime(t), newRuntime(t)
	b.cfg.Tag += "b"
	sa := prepare(t, a, provider.Launch{Lease: leaseID(1000)})
	sb := prepare(t, b, provider.Launch{Lease: leaseID(1000)})
	root := image(t)
	for _, s := range []provider.Sandbox{sa, sb} {
		if err := s.Start(t.Context(), program(root, "hang")); err != nil {
			t.Fatal(err)
		}
	}
	if err := sa.Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
	if out, code := execute(t, sb, provider.ExecRequest{Args: []string{"/probe", "print", "1", "alive"}}); out != "alive" || code != 0 {
		t.Errorf("the other agent's sandbox: %q %d", out, code)
	}
}

// testAgent is an agent process that the test kills: it starts a workload, says so, and waits.
func testAgent(args []string) int {
	r, err := New(Config{StateDir: args[0], RuncPath: args[1], Tag: args[2]})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	for n, start := range []bool{true, false} {
		s, err := r.Prepare(context.Background(), provider.Launch{Lease: leaseID(n + 1), MemoryMiB: 128})
		if err == nil && start {
			err = s.Start(context.Background(), provider.Program{
				RootFS: args[3], Args: []string{"/probe", "serve", "127.0.0.1:8000"}, Deadline: time.Hour,
			})
		}
		if err != nil {
			fmt.Println(err)
			return 1
		}
	}
	// One more is not ready: it has a disk that no supervisor holds yet.
	if err := os.Mkdir(r.dir(leaseID(3)), 0o700); err != nil {
		fmt.Println(err)
		return 1
	}
	disk, err := host.MakeDisk(context.Background(), "", r.disk(leaseID(3)), 64)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer disk.Close()
	fmt.Println("ready")
	time.Sleep(time.Hour)
	return 0
}

// TestAgentKilled ends an agent with kill -9 and goes on in another: the workload notices nothing.
func TestAgentKilled(t *testing.T) {
	r := newRuntime(t)
	before := belongings(t, r)
	root := image(t)
	agent := exec.Command("/proc/self/exe", agentVerb, r.cfg.StateDir, r.cfg.RuncPath, r.cfg.Tag, root)
	out, err := agent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for n := range 3 {
			if err := r.Remove(context.Background(), leaseID(n+1)); err != nil {
				t.Error(err)
			}
		}
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if line != "ready\n" {
		t.Fatalf("agent: %q, %v", line, err)
	}
	if device, err := host.FindLoop(r.disk(leaseID(3))); err != nil || device == "" {
		t.Errorf("disk of the third: %q, %v", device, err)
	}
	if err := agent.Process.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = agent.Wait() // it was killed

	ids, err := r.List(t.Context())
	if err != nil || len(ids) != 3 {
		t.Fatalf("List = %v, %v", ids, err)
	}
	if device, err := host.FindLoop(r.disk(ids[2])); err != nil || device != "" {
		t.Errorf("disk of the third, after the agent: %q, %v", device, err)
	}
	if _, err := r.Adopt(t.Context(), ids[2]); !errors.Is(err, provider.ErrNoSandbox) {
		t.Errorf("Adopt of the third: %v", err)
	}
	started, err := r.Adopt(t.Context(), ids[0])
	if err != nil {
		t.Fatal(err)
	}
	waiting, err := r.Adopt(t.Context(), ids[1])
	if err != nil {
		t.Fatal(err)
	}
	if !started.Started() || waiting.Started() {
		t.Errorf("Started = %v and %v", started.Started(), waiting.Started())
	}
	awaitOutput(t, started, "serving")
	c, err := started.Dial(t.Context(), 8000)
	if err != nil {
		t.Fatal(err)
	}
	checkEcho(t, c)
	c.Close()
	if err := waiting.Start(t.Context(), program(root, "print", "1", "late")); err != nil {
		t.Fatal(err)
	}
	if got := finish(t, waiting); got.stdout != "late" {
		t.Errorf("got %q", got.all)
	}
	if err := started.Stop(t.Context(), 0, "stopped"); err != nil {
		t.Fatal(err)
	}
	// Ended while adopted: a third agent still learns how.
	third, err := r.Adopt(t.Context(), ids[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := third.Extend(t.Context(), time.Minute); err != nil {
		t.Error(err)
	}
	if exit, err := third.Wait(t.Context()); err != nil || exit != (provider.Exit{Code: 137, Reason: "stopped"}) {
		t.Errorf("Wait = %+v, %v", exit, err)
	}
	for _, id := range ids {
		if err := r.Remove(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	checkClean(t, r, before)
}
