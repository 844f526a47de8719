//go:build unix

package main

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
)

// customer is a person with an account at a world's broker.
type customer struct {
	env   []string
	image string
}

func (w *world) customer(tb testing.TB) customer {
	tb.Helper()
	c := customer{
		// A person's terminal, also where the tests run in CI: that variable turns colours off.
		env: append(os.Environ(), "RIALTO_HOME="+filepath.Join(tb.TempDir(), "home"),
			"CI=", "NO_COLOR=", "CLICOLOR=", "TERM=xterm-256color"),
		image: pushImage(tb),
	}
	if out, err := c.rialto(tb, "account", "login", w.api.URL, w.token).CombinedOutput(); err != nil {
		tb.Fatalf("log in: %v\n%s", err, out)
	}
	return c
}

// rialto prepares a run of the command in a process of its own.
func (c customer) rialto(tb testing.TB, args ...string) *exec.Cmd {
	tb.Helper()
	cmd := exec.CommandContext(tb.Context(), "rialto", args...)
	cmd.Env = c.env
	return cmd
}

// onTerminal starts the command on a terminal of 120 columns; out gets all that the terminal gets, and wait
// waits for the end and returns the exit code.
func (c customer) onTerminal(tb testing.TB, out io.Writer, args ...string) (screen *os.File, wait func() int) {
	tb.Helper()
	cmd := c.rialto(tb, args...)
	f, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 24, Cols: 120})
	if err != nil {
		tb.Skipf("no terminal here: %v", err)
	}
	done := make(chan struct{})
	go func() { // ends with the command
		defer close(done)
		_, _ = io.Copy(out, f) // reading a terminal whose last user has gone is an error
	}()
	return f, func() int {
		<-done
		_ = cmd.Wait() // its exit code says it
		f.Close()
		return cmd.ProcessState.ExitCode()
	}
}

// TestTerminal shows a moving line while the image comes, and leaves the terminal to the container then.
func TestTerminal(t *testing.T) {
	w := newWorld(t)
	w.images.arrive = make(chan struct{})
	w.addAgent(t, "alpha", "RTX 4090:2", "0.40/h")
	w.offered(t, 1)
	c := w.customer(t)
	var got output
	moving := got.want("50 MiB / 212 MiB from peers")
	_, wait := c.onTerminal(t, &got, "run", c.image, "--", "echo", "hello from the container")
	<-moving
	close(w.images.arrive)
	wait()
	if !strings.Contains(got.String(), "hello from the container\r\n") {
		t.Errorf("output is missing or has something behind it: %q", got.String())
	}
	if !strings.Contains(got.String(), "rialto: job j-") {
		t.Errorf("the job's name is missing: %q", got.String())
	}
	t.Logf("%q", got.String())
}

func TestColours(t *testing.T) {
	w := newWorld(t)
	w.addAgent(t, "alpha", "RTX 4090:2", "0.40/h")
	w.offered(t, 1)
	c := w.customer(t)
	var got output
	_, wait := c.onTerminal(t, &got, "offers")
	wait()
	if !strings.Contains(got.String(), "\x1b[33mSIMULATED") {
		t.Errorf("no colour for a simulated GPU: %q", got.String())
	}
	c.env = append(c.env, "NO_COLOR=1")
	var bare output
	_, wait = c.onTerminal(t, &bare, "offers")
	wait()
	if strings.Contains(bare.String(), "\x1b[3") {
		t.Errorf("colours in spite of NO_COLOR: %q", bare.String())
	}
}

// TestShell talks to a shell in a container: what is typed arrives, the window's size is the container's and
// follows it, Ctrl-C is the process's and not ours, Ctrl-D ends it, and its exit code is ours.
func TestShell(t *testing.T) {
	w := newWorld(t)
	w.addAgent(t, "alpha", "RTX 4090:1", "0.40/h")
	w.offered(t, 1)
	c := w.customer(t)
	if out, err := c.rialto(t, "run", "-d", c.image, "--", "sleep", "600").CombinedOutput(); err != nil {
		t.Fatalf("run: %v\n%s", err, out)
	}
	var got output
	first, second, caught := got.want("24 120\r\n"), got.want("resized\r\n"), got.want("caught\r\n")
	screen, wait := c.onTerminal(t, &got, "exec", "-it", "--last", "--", "sh", "-c",
		`stty size; until [ "$(stty size)" = "40 100" ]; do sleep 0.01; done
		trap 'echo caught' INT; echo resized; until cat; do :; done; exit 5`)
	ended := make(chan int, 1)
	go func() { ended <- wait() }() // ends with the command
	await := func(came <-chan struct{}) {
		select {
		case <-came:
		case code := <-ended:
			t.Fatalf("it ended with %d: %q", code, got.String())
		case <-time.After(30 * time.Second): // only a broken one runs into the limit
			t.Fatalf("it says nothing more: %q", got.String())
		}
	}
	await(first)
	if err := pty.Setsize(screen, &pty.Winsize{Rows: 40, Cols: 100}); err != nil {
		t.Fatal(err)
	}
	typed := func(s string) {
		if _, err := io.WriteString(screen, s); err != nil {
			t.Error(err)
		}
	}
	await(second)
	// A shell that is just starting its next process may let that one miss the signal, so it is sent until it works.
	again := time.NewTicker(200 * time.Millisecond)
	defer again.Stop()
	for sent := 0; sent < 100; sent++ {
		typed("\x03")
		select {
		case <-caught:
			sent = 100
		case <-again.C:
		}
	}
	await(caught)
	typed("\x04")
	if code := <-ended; code != 5 {
		t.Errorf("exit code: got %d, want 5\n%q", code, got.String())
	}
}

// output collects what a process prints, and tells when a text has come.
type output struct {
	mu    sync.Mutex
	text  bytes.Buffer
	wants map[string]chan struct{}
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text.Write(p)
	for text, came := range o.wants {
		if strings.Contains(o.text.String(), text) {
			close(came)
			delete(o.wants, text)
		}
	}
	return len(p), nil
}

func (o *output) want(text string) <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	came := make(chan struct{})
	if o.wants == nil {
		o.wants = map[string]chan struct{}{}
	}
	o.wants[text] = came
	return came
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// TestSecondInterrupt leaves at once, although the broker does not answer.
func TestSecondInterrupt(t *testing.T) {
	w := newWorld(t)
	w.addAgent(t, "alpha", "RTX 4090:1", "0.40/h")
	w.offered(t, 1)
	c := w.customer(t)
	cmd := c.rialto(t, "run", c.image, "--", "sh", "-c", "echo begun; exec sleep 600")
	var out output
	cmd.Stdout, cmd.Stderr = &out, &out
	begun, cancelling := out.want("begun"), out.want("Ctrl-C again leaves at once")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	<-begun
	w.setAway(true)
	interrupt := func() {
		if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
			t.Error(err)
		}
	}
	interrupt()
	<-cancelling
	interrupt()
	_ = cmd.Wait() // its exit code says it
	if code := cmd.ProcessState.ExitCode(); code != 130 {
		t.Errorf("exit code: got %d, want 130", code)
	}
	if !strings.Contains(out.String(), "makes sure") {
		t.Errorf("it does not say how to stop the job: %s", out.String())
	}
}
