package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"rialto/broker"
	"rialto/provider"
)

// See leftover_test.go and disk_test.go.
const (
	agentVerb   = "sandbox-test-agent"
	noLoopsVerb = "sandbox-test-no-loops"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case SupervisorVerb:
			os.Exit(SupervisorMain(os.Args[2:]))
		case agentVerb:
			os.Exit(testAgent(os.Args[2:]))
		case noLoopsVerb:
			os.Exit(withoutLoops(os.Args[2:]))
		}
	}
	code := m.Run()
	if dir := probeDir.path; dir != "" {
		os.RemoveAll(dir)
	}
	os.Exit(code)
}

// probeDir holds the program of the containers, built once.
var probeDir struct {
	once sync.Once
	path string
	err  error
}

func buildProbe() {
	if probeDir.path, probeDir.err = os.MkdirTemp("", "rialto-probe"); probeDir.err != nil {
		return
	}
	cmd := exec.Command("go", "build", "-o", filepath.Join(probeDir.path, "probe"), "./testdata/probe")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		probeDir.err = fmt.Errorf("build probe: %w\n%s", err, out)
	}
}

// image returns a root file system that holds the probe and a few accounts.
func image(tb testing.TB) string {
	tb.Helper()
	probeDir.once.Do(buildProbe)
	if probeDir.err != nil {
		tb.Fatal(probeDir.err)
	}
	root := filepath.Join(tb.TempDir(), "image")
	for _, d := range []string{"etc", "bin", "tmp"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			tb.Fatal(err)
		}
	}
	if err := os.Link(filepath.Join(probeDir.path, "probe"), filepath.Join(root, "probe")); err != nil {
		tb.Fatal(err)
	}
	for name, content := range map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1001:Ann:/home/ann:/bin/sh\n",
		"etc/group":  "root:x:0:\nann:x:1001:\nvideo:x:44:ann,bob\n",
		"bin/broken": "not a program",
	} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(content), 0o755); err != nil {
			tb.Fatal(err)
		}
	}
	return root
}

func needs(tb testing.TB) (runc string) {
	tb.Helper()
	if os.Getuid() != 0 {
		tb.Skip("needs root")
	}
	runc, err := filepath.Abs("../../bin/runc")
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := os.Stat(runc); err != nil {
		tb.Skip("needs bin/runc: make bin/runc")
	}
	return runc
}

func newRuntime(tb testing.TB) *Runtime {
	tb.Helper()
	r, err := New(Config{StateDir: filepath.Join(tb.TempDir(), "state"), RuncPath: needs(tb), Tag: tag()})
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

// tag keeps test runs apart that share a machine.
func tag() string { return fmt.Sprintf("t%d", os.Getpid()) }

func leaseID(n int) broker.LeaseID { return broker.LeaseID(fmt.Sprintf("l-%026d", n)) }

var (
	leaseMu   sync.Mutex
	leaseNext int
)

func prepare(tb testing.TB, r *Runtime, l provider.Launch) provider.Sandbox {
	tb.Helper()
	if l.Lease == "" {
		leaseMu.Lock()
		leaseNext++
		l.Lease = leaseID(leaseNext)
		leaseMu.Unlock()
	}
	s, err := r.Prepare(tb.Context(), l)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.Delete(context.Background()); err != nil {
			tb.Error(err)
		}
	})
	return s
}

func program(root string, args ...string) provider.Program {
	return provider.Program{RootFS: root, Args: append([]string{"/probe"}, args...), Deadline: time.Minute}
}

// result is what a workload printed and how it ended.
type result struct {
	stdout, stderr, all string
	exit                provider.Exit
}

func finish(tb testing.TB, s provider.Sandbox) result {
	tb.Helper()
	exit, err := s.Wait(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	var out, errs, all bytes.Buffer
	err = s.Logs(tb.Context(), false, func(stream provider.Stream, p []byte) error {
		all.Write(p)
		if stream == provider.Stdout {
			out.Write(p)
		} else {
			errs.Write(p)
		}
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
	return result{out.String(), errs.String(), all.String(), exit}
}

func run(tb testing.TB, l provider.Launch, p provider.Program) result {
	tb.Helper()
	s := prepare(tb, newRuntime(tb), l)
	if err := s.Start(tb.Context(), p); err != nil {
		tb.Fatal(err)
	}
	return finish(tb, s)
}

// awaitOutput returns once the workload has printed text.
func awaitOutput(tb testing.TB, s provider.Sandbox, text string) {
	tb.Helper()
	found := errors.New("found")
	var all bytes.Buffer
	err := s.Logs(tb.Context(), true, func(_ provider.Stream, p []byte) error {
		all.Write(p)
		if strings.Contains(all.String(), text) {
			return found
		}
		return nil
	})
	if !errors.Is(err, found) {
		tb.Fatalf("the output ended without %q: %v\n%s", text, err, all.String())
	}
}

func TestExit(t *testing.T) {
	needs(t)
	root := image(t)
	for _, tc := range []struct {
		name string
		p    provider.Program
		want provider.Exit
	}{
		{"zero", program(root, "exit", "0"), provider.Exit{}},
		{"code", program(root, "exit", "42"), provider.Exit{Code: 42}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := run(t, provider.Launch{}, tc.p); got.exit != tc.want {
				t.Errorf("exit = %+v, want %+v\n%s", got.exit, tc.want, got.all)
			}
		})
	}
}

// TestBrokenProgram is one whose file is found but cannot be executed: it has a process, briefly.
func TestBrokenProgram(t *testing.T) {
	needs(t)
	p := program(image(t))
	p.Args = []string{"/bin/broken"}
	got := run(t, provider.Launch{}, p)
	if got.exit.Code == 0 || !strings.Contains(got.stderr, "exec /bin/broken: exec format error") {
		t.Errorf("exit = %+v, stderr %q", got.exit, got.stderr)
	}
}

func TestProgram(t *testing.T) {
	needs(t)
	root := image(t)
	p := program(root, "about")
	p.Env, p.Workdir, p.User = []string{"FOO=bar baz"}, "/not/there/yet", "ann"
	got := run(t, provider.Launch{Hostname: "box-1"}, p)
	want := "uid=1000 gid=1001 groups=[44] cwd=/not/there/yet host=box-1 FOO=bar baz " +
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/home/ann\n"
	if got.stdout != want {
		t.Errorf("got  %q\nwant %q\n%s", got.stdout, want, got.stderr)
	}
}

func TestStartErrors(t *testing.T) {
	needs(t)
	root := image(t)
	for _, tc := range []struct {
		name, want string
		change     func(*provider.Program)
	}{
		{"missing", "executable file not found", func(p *provider.Program) { p.Args = []string{"no-such-program"} }},
		{"absolute", "no such file", func(p *provider.Program) { p.Args = []string{"/no/such/program"} }},
		{"user", `user "zoe": not in the image's /etc/passwd`, func(p *provider.Program) { p.User = "zoe" }},
		{"image", "no such file", func(p *provider.Program) { p.RootFS = "/nowhere" }},
		{"no deadline", "no deadline", func(p *provider.Program) { p.Deadline = 0 }},
		{"target", "is the kernel's", func(p *provider.Program) { p.Mounts = []provider.Mount{{Source: root, Target: "/a/../proc/x"}} }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := prepare(t, newRuntime(t), provider.Launch{})
			p := program(root, "exit", "0")
			tc.change(&p)
			err := s.Start(t.Context(), p)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("Start = %v, want %q in it", err, tc.want)
			}
			if s.Started() {
				t.Error("Started is true")
			}
			t.Log(err)
		})
	}
}

func TestLogsKeepOrder(t *testing.T) {
	needs(t)
	var want strings.Builder
	args := []string{"print"}
	for i := range 200 {
		args = append(args, "1", fmt.Sprintf("line %d\n", i))
		fmt.Fprintf(&want, "line %d\n", i)
	}
	args = append(args, "2", "to stderr")
	got := run(t, provider.Launch{}, program(image(t), args...))
	if got.stdout != want.String() || got.stderr != "to stderr" {
		t.Errorf("stdout %q\nstderr %q", got.stdout, got.stderr)
	}
}

func TestLogsAreCapped(t *testing.T) {
	r, err := New(Config{StateDir: t.TempDir(), RuncPath: needs(t), Tag: tag(), LogLimit: 256 << 10})
	if err != nil {
		t.Fatal(err)
	}
	s := prepare(t, r, provider.Launch{})
	if err := s.Start(t.Context(), program(image(t), "spam", "2000")); err != nil {
		t.Fatal(err)
	}
	got := finish(t, s)
	if !strings.HasSuffix(got.stdout, "end of spam\n") {
		t.Errorf("the end of the output is missing: %q", got.stdout[max(0, len(got.stdout)-80):])
	}
	var missing int
	if _, err := fmt.Sscanf(got.stderr, "[rialto: %d bytes of output are missing here", &missing); err != nil {
		t.Fatalf("no note of what is missing: %q", got.stderr)
	}
	if whole := 2000*1024 + len("end of spam\n"); missing+len(got.stdout) != whole {
		t.Errorf("missing %d + kept %d != printed %d", missing, len(got.stdout), whole)
	}
	if len(got.stdout) > 300<<10 {
		t.Errorf("kept %d bytes", len(got.stdout))
	}
}

func TestFollowEndsWithTheWorkload(t *testing.T) {
	needs(t)
	s := prepare(t, newRuntime(t), provider.Launch{})
	var got bytes.Buffer
	done := make(chan error, 1)
	go func() {
		done <- s.Logs(t.Context(), true, func(_ provider.Stream, p []byte) error { got.Write(p); return nil })
	}()
	if err := s.Start(t.Context(), program(image(t), "print", "1", "a", "2", "b")); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if !slices.Contains([]string{"ab", "ba"}, got.String()) {
		t.Errorf("got %q", got.String())
	}
}

func TestDeadline(t *testing.T) {
	needs(t)
	p := program(image(t), "wait")
	p.Deadline = 200 * time.Millisecond
	want := provider.Exit{Code: 137, Reason: "deadline"}
	if got := run(t, provider.Launch{}, p); got.exit != want {
		t.Errorf("exit = %+v, want %+v", got.exit, want)
	}
}

func TestExtend(t *testing.T) {
	needs(t)
	s := prepare(t, newRuntime(t), provider.Launch{})
	p := program(image(t), "hang")
	p.Deadline = 24 * time.Hour
	if err := s.Start(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if err := s.Extend(t.Context(), time.Millisecond); err != nil {
		t.Fatal(err)
	}
	want := provider.Exit{Code: 137, Reason: "deadline"}
	if got := finish(t, s); got.exit != want {
		t.Errorf("exit = %+v, want %+v", got.exit, want)
	}
}

func TestStop(t *testing.T) {
	needs(t)
	root := image(t)
	for _, tc := range []struct {
		name  string
		args  []string
		grace time.Duration
		want  provider.Exit
	}{
		{"asked", []string{"hang"}, time.Minute, provider.Exit{Code: 143, Reason: "stopped"}},
		{"killed", []string{"hang", "deaf"}, time.Millisecond, provider.Exit{Code: 137, Reason: "stopped"}},
		// With an hour of grace these fail by the test's time limit if anyone waits in vain.
		{"not caught", []string{"stolid", "default"}, time.Hour, provider.Exit{Code: 143, Reason: "stopped"}},
		{"ignored", []string{"stolid", "ignore"}, time.Hour, provider.Exit{Code: 137, Reason: "stopped"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := prepare(t, newRuntime(t), provider.Launch{})
			if err := s.Start(t.Context(), program(root, tc.args...)); err != nil {
				t.Fatal(err)
			}
			awaitOutput(t, s, "waiting")
			if err := s.Stop(t.Context(), tc.grace, "stopped"); err != nil {
				t.Fatal(err)
			}
			if got := finish(t, s); got.exit != tc.want {
				t.Errorf("exit = %+v, want %+v", got.exit, tc.want)
			}
		})
	}
	t.Run("before start", func(t *testing.T) {
		s := prepare(t, newRuntime(t), provider.Launch{})
		if err := s.Stop(t.Context(), time.Minute, "stopped"); err != nil {
			t.Fatal(err)
		}
		if got := finish(t, s); got.exit.Reason != "stopped" {
			t.Errorf("exit = %+v", got.exit)
		}
	})
}
