package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"rialto/provider"
)

func execute(tb testing.TB, s provider.Sandbox, q provider.ExecRequest) (string, int) {
	tb.Helper()
	var out bytes.Buffer
	q.Stdout = &out
	code, err := s.Exec(tb.Context(), q)
	if err != nil {
		tb.Fatal(err)
	}
	return out.String(), code
}

// running returns a sandbox whose workload waits.
func running(tb testing.TB, change func(*provider.Program)) provider.Sandbox {
	tb.Helper()
	needs(tb)
	s := prepare(tb, newRuntime(tb), provider.Launch{})
	p := program(image(tb), "hang")
	if change != nil {
		change(&p)
	}
	if err := s.Start(tb.Context(), p); err != nil {
		tb.Fatal(err)
	}
	return s
}

func TestExec(t *testing.T) {
	s := running(t, func(p *provider.Program) { p.User, p.Env = "ann", []string{"FOO=program"} })
	t.Run("streams", func(t *testing.T) {
		var out, errs bytes.Buffer
		code, err := s.Exec(t.Context(), provider.ExecRequest{
			Args: []string{"/probe", "print", "1", "out", "2", "err"}, Stdout: &out, Stderr: &errs,
		})
		if err != nil || code != 0 || out.String() != "out" || errs.String() != "err" {
			t.Errorf("%d %v %q %q", code, err, out.String(), errs.String())
		}
	})
	t.Run("stdin", func(t *testing.T) {
		text := strings.Repeat("0123456789abcdef", 1<<14)
		out, code := execute(t, s, provider.ExecRequest{Args: []string{"/probe", "cat"}, Stdin: strings.NewReader(text)})
		if code != 0 || out != text {
			t.Errorf("%d, %d bytes of %d", code, len(out), len(text))
		}
	})
	t.Run("code", func(t *testing.T) {
		if _, code := execute(t, s, provider.ExecRequest{Args: []string{"/probe", "exit", "9"}}); code != 9 {
			t.Errorf("code = %d", code)
		}
	})
	t.Run("inherits", func(t *testing.T) {
		out, _ := execute(t, s, provider.ExecRequest{Args: []string{"/probe", "about"}, Env: []string{"FOO=exec"}, Workdir: "/tmp"})
		if !strings.HasPrefix(out, "uid=1000 gid=1001 groups=[44] cwd=/tmp") || !strings.Contains(out, "FOO=exec ") {
			t.Errorf("got %q", out)
		}
	})
	t.Run("missing", func(t *testing.T) {
		_, err := s.Exec(t.Context(), provider.ExecRequest{Args: []string{"no-such-program"}})
		if err == nil || !strings.Contains(err.Error(), "executable file not found") {
			t.Errorf("err = %v", err)
		}
	})
	t.Run("cancel", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		out, in := io.Pipe()
		go func() {
			_, _ = out.Read(make([]byte, 1)) // it runs
			cancel()
			_, _ = io.Copy(io.Discard, out)
		}()
		_, err := s.Exec(ctx, provider.ExecRequest{Args: []string{"/probe", "hang", "deaf"}, Stdout: in})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("err = %v", err)
		}
		in.Close()
	})
}

func TestExecTerminal(t *testing.T) {
	s := running(t, nil)
	resize := make(chan provider.Size, 1)
	out, in := io.Pipe()
	var all bytes.Buffer
	go func() {
		defer in.Close()
		_, err := s.Exec(t.Context(), provider.ExecRequest{
			Args: []string{"/probe", "tty"}, TTY: true, Rows: 24, Cols: 80, Stdout: in, Resize: resize,
			Stdin: blocked(t.Context().Done()),
		})
		if err != nil {
			t.Error(err)
		}
	}()
	buf := make([]byte, 1024)
	for {
		n, err := out.Read(buf)
		all.Write(buf[:n])
		if err != nil {
			break
		}
		if strings.Contains(all.String(), "cols=80\r\n") && len(resize) == 0 && !strings.Contains(all.String(), "rows=50") {
			select {
			case resize <- provider.Size{Rows: 50, Cols: 100}:
			default:
			}
		}
	}
	if got, want := all.String(), "rows=24 cols=80\r\nrows=50 cols=100\r\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// blocked is a standard input on which nobody types.
type blocked <-chan struct{}

func (b blocked) Read([]byte) (int, error) {
	<-b
	return 0, io.EOF
}

// TestStandardStreamsCanBeOpened does what nginx does for its log, as a user that is not root.
func TestStandardStreamsCanBeOpened(t *testing.T) {
	needs(t)
	p := program(image(t), "write", "/dev/stdout", "opened")
	p.User = "ann"
	if got := run(t, provider.Launch{}, p); got.stdout != "opened" {
		t.Errorf("got %q", got.all)
	}
}

func TestDialAndListen(t *testing.T) {
	for _, address := range []string{"127.0.0.1:8000", "[::1]:8000"} {
		t.Run(address, func(t *testing.T) {
			s := running(t, func(p *provider.Program) { p.Args = []string{"/probe", "serve", address} })
			awaitOutput(t, s, "serving")
			c, err := s.Dial(t.Context(), 8000)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			checkEcho(t, c)
		})
	}
	t.Run("low port without root", func(t *testing.T) {
		s := running(t, func(p *provider.Program) { p.Args, p.User = []string{"/probe", "serve", "127.0.0.1:80"}, "ann" })
		awaitOutput(t, s, "serving")
	})
	t.Run("listen", func(t *testing.T) {
		s := running(t, nil)
		l, err := s.Listen(t.Context(), "127.0.0.1:9000")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if out, code := execute(t, s, provider.ExecRequest{Args: []string{"/probe", "dial", "127.0.0.1:9000"}}); code != 0 {
			t.Errorf("the workload does not reach it: %s", out)
		}
		if c, err := net.Dial("tcp", "127.0.0.1:9000"); err == nil {
			c.Close()
			t.Error("the host reaches it")
		}
	})
	t.Run("nobody listens", func(t *testing.T) {
		s := running(t, nil)
		if c, err := s.Dial(t.Context(), 1); err == nil {
			c.Close()
			t.Error("dialled")
		}
	})
}

func checkEcho(t *testing.T, c net.Conn) {
	t.Helper()
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 5)
	if _, err := io.ReadFull(c, got); err != nil || string(got) != "hello" {
		t.Errorf("got %q, %v", got, err)
	}
}

// TestStartIsTriedAgain has a runc that fails as the real one does when the kernel is busy.
func TestStartIsTriedAgain(t *testing.T) {
	runc := needs(t)
	for name, tc := range map[string]struct {
		message string
		fails   int
		want    string
	}{
		"once":  {"could not seal fd: fcntl(F_ADD_SEALS): device or resource busy", 1, ""},
		"twice": {"could not seal fd: fcntl(F_ADD_SEALS): device or resource busy", 2, "could not seal fd"},
		"other": {"something else", 1, "something else"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			script := fmt.Sprintf(`#!/bin/sh
case "$*" in *" run "*)
	echo x >> %[1]s/runs
	if [ "$(wc -l < %[1]s/runs)" -le %[2]d ]; then
		echo '{"level":"error","msg":"runc run failed: %[3]s"}' > "$4"
		exit 1
	fi
esac
exec %[4]s "$@"
`, dir, tc.fails, tc.message, runc)
			path := filepath.Join(dir, "runc")
			if err := os.WriteFile(path, []byte(script), 0o700); err != nil {
				t.Fatal(err)
			}
			r, err := New(Config{StateDir: filepath.Join(dir, "state"), RuncPath: path, Tag: tag()})
			if err != nil {
				t.Fatal(err)
			}
			s := prepare(t, r, provider.Launch{})
			err = s.Start(t.Context(), program(image(t), "print", "1", "hello"))
			if tc.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				if got := finish(t, s); got.all != "hello" {
					t.Errorf("got %q", got.all)
				}
			} else if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("Start = %v, want %q in it", err, tc.want)
			}
		})
	}
}
