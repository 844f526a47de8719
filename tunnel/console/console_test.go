package console_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"rialto/tunnel"
	"rialto/tunnel/console"
	"rialto/tunnel/tunneltest"
)

func TestMain(m *testing.M) {
	// After a refusal net/http waits half a second before it closes the connection.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}

// workload is a Backend whose output and end the test decides.
type workload struct {
	mu     sync.Mutex
	output []piece
	more   chan struct{} // closed and replaced when output grows or the workload ends
	ended  bool
	exit   console.Exit

	exec func(ctx context.Context, e console.Exec) (int, error)
	dial func(ctx context.Context, port uint16) (net.Conn, error)
	key  func(root string, key console.Secret) error
}

type piece struct {
	stream byte
	text   string
}

var _ console.Backend = (*workload)(nil)

func newWorkload() *workload { return &workload{more: make(chan struct{})} }

func (w *workload) change(fn func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	fn()
	close(w.more)
	w.more = make(chan struct{})
}

func (w *workload) print(stream byte, text string) {
	w.change(func() { w.output = append(w.output, piece{stream, text}) })
}

func (w *workload) end(e console.Exit) { w.change(func() { w.ended, w.exit = true, e }) }

func (w *workload) Status(context.Context) (console.Status, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return console.Status{Started: true, Ended: w.ended, Code: w.exit.Code, Reason: w.exit.Reason}, nil
}

func (w *workload) Logs(ctx context.Context, follow bool, sink console.Sink) error {
	for i := 0; ; {
		w.mu.Lock()
		todo, ended, more := w.output[i:], w.ended, w.more
		w.mu.Unlock()
		for _, p := range todo {
			if err := sink(p.stream, []byte(p.text)); err != nil {
				return err
			}
		}
		i += len(todo)
		if len(todo) == 0 && (ended || !follow) {
			return nil
		}
		if len(todo) == 0 {
			select {
			case <-more:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
}

func (w *workload) Wait(ctx context.Context) (console.Exit, error) {
	for {
		w.mu.Lock()
		ended, exit, more := w.ended, w.exit, w.more
		w.mu.Unlock()
		if ended {
			return exit, nil
		}
		select {
		case <-more:
		case <-ctx.Done():
			return console.Exit{}, ctx.Err()
		}
	}
}

func (w *workload) Exec(ctx context.Context, e console.Exec) (int, error) { return w.exec(ctx, e) }

func (w *workload) Dial(ctx context.Context, port uint16) (net.Conn, error) { return w.dial(ctx, port) }

func (w *workload) Key(_ context.Context, root string, key console.Secret) error {
	return w.key(root, key)
}

// serve runs a console on the job's end of p until the test ends or stop is called.
func serve(t *testing.T, p *tunneltest.Pair, w *workload) (stop func()) {
	t.Helper()
	return serveOn(t, p, w, tunnel.ConsolePort)
}

func serveOn(t *testing.T, p *tunneltest.Pair, w *workload, port uint16) (stop func()) {
	t.Helper()
	ln, err := p.Job.Listen(netip.AddrPortFrom(p.Plan.Job, port))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- console.Serve(ctx, ln, p.Plan.Customer, w, nil) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func newClient(p *tunneltest.Pair) *console.Client {
	return console.NewClient(p.Customer.DialContext, p.Plan.Job)
}

// transcript collects output as "1:text 2:text".
type transcript struct{ strings.Builder }

func (tr *transcript) sink(stream byte, p []byte) error {
	fmt.Fprintf(tr, "%d:%s ", stream, p)
	return nil
}

func TestLogsFollow(t *testing.T) {
	p, w := tunneltest.New(t), newWorkload()
	serve(t, p, w)
	w.print(console.Stdout, "one")
	w.print(console.Stderr, "two")
	var tr transcript
	exit, ended, err := newClient(p).Logs(t.Context(), true, func(stream byte, b []byte) error {
		if string(b) == "two" { // what comes while we follow
			w.print(console.Stdout, "three")
			w.end(console.Exit{Code: 137, Reason: "deadline"})
		}
		return tr.sink(stream, b)
	})
	if err != nil || !ended || exit != 137 {
		t.Errorf("got exit %d, ended %t, %v; want 137", exit, ended, err)
	}
	if got, want := tr.String(), "1:one 2:two 1:three "; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestLogsSoFar(t *testing.T) {
	p, w := tunneltest.New(t), newWorkload()
	serve(t, p, w)
	c := newClient(p)
	w.print(console.Stdout, "one")
	var tr transcript
	if exit, ended, err := c.Logs(t.Context(), false, tr.sink); err != nil || ended || exit != 0 {
		t.Errorf("running: got exit %d, ended %t, %v", exit, ended, err)
	}
	w.end(console.Exit{Code: -1})
	if exit, ended, err := c.Logs(t.Context(), false, tr.sink); err != nil || !ended || exit != -1 {
		t.Errorf("ended: got exit %d, ended %t, %v", exit, ended, err)
	}
	if got := tr.String(); got != "1:one 1:one " {
		t.Errorf("got %q", got)
	}
	if s, err := c.Status(t.Context()); err != nil || s != (console.Status{Started: true, Ended: true, Code: -1}) {
		t.Errorf("status %+v, %v", s, err)
	}
}

// cutConn breaks after it has read some bytes.
type cutConn struct {
	net.Conn
	left int
}

func (c *cutConn) Read(p []byte) (int, error) {
	if c.left <= 0 {
		c.Close()
		return 0, errors.New("cut")
	}
	n, err := c.Conn.Read(p[:min(len(p), c.left)])
	c.left -= n
	return n, err
}

// However the connection breaks, and although the agent restarts, every byte comes once and in order.
func TestLogsResume(t *testing.T) {
	p, w := tunneltest.New(t), newWorkload()
	stop := serve(t, p, w)
	r := rand.New(rand.NewPCG(1, 2))
	var want [3]strings.Builder
	for i := range 300 {
		size := 1 + r.IntN(3000)
		if i%50 == 0 {
			size = 2*console.MaxPayload + r.IntN(console.MaxPayload) // several frames: a cut falls within a piece
		}
		stream, text := byte(1+r.IntN(2)), strings.Repeat(string(rune('a'+i%26)), size)
		want[stream].WriteString(text)
		w.print(stream, text)
	}
	cuts, port := 0, uint16(tunnel.ConsolePort)
	c := console.NewClient(func(ctx context.Context, network, _ string) (net.Conn, error) {
		conn, err := p.Customer.DialContext(ctx, network, netip.AddrPortFrom(p.Plan.Job, port).String())
		if err != nil || cuts > 30 {
			return conn, err
		}
		cuts++
		return &cutConn{conn, r.IntN(100_000)}, nil
	}, p.Plan.Job)
	retries, restarted := 0, false
	c.Retrying = func(error) { retries++ }
	var got [3]bytes.Buffer
	exit, ended, err := c.Logs(t.Context(), true, func(stream byte, b []byte) error {
		got[stream].Write(b)
		if !restarted && got[1].Len()+got[2].Len() > 200_000 {
			restarted = true
			stop()
			port++ // the stack keeps the old one for a while
			serveOn(t, p, w, port)
		}
		if got[1].Len()+got[2].Len() == want[1].Len()+want[2].Len() {
			w.end(console.Exit{Code: 3})
		}
		return nil
	})
	if err != nil || !ended || exit != 3 {
		t.Fatalf("got exit %d, ended %t, %v", exit, ended, err)
	}
	if retries < 10 || !restarted {
		t.Errorf("%d retries, restarted %t: the test cut nothing", retries, restarted)
	}
	for s := 1; s <= 2; s++ {
		if got[s].String() != want[s].String() {
			t.Errorf("stream %d: %d bytes, want %d; lost, doubled or mixed", s, got[s].Len(), want[s].Len())
		}
	}
}

func TestLogsReturnsTheSinksError(t *testing.T) {
	p, w := tunneltest.New(t), newWorkload()
	serve(t, p, w)
	w.print(console.Stdout, "one")
	full := errors.New("disk full")
	if _, _, err := newClient(p).Logs(t.Context(), true, func(byte, []byte) error { return full }); !errors.Is(err, full) || err.Error() != full.Error() {
		t.Errorf("got %v, want %v itself", err, full)
	}
}

func TestLogsEndsWithContext(t *testing.T) {
	p, w := tunneltest.New(t), newWorkload()
	serve(t, p, w)
	w.print(console.Stdout, "one")
	ctx, cancel := context.WithCancel(t.Context())
	_, ended, err := newClient(p).Logs(ctx, true, func(byte, []byte) error { cancel(); return nil })
	if !errors.Is(err, context.Canceled) || ended {
		t.Errorf("got %t, %v", ended, err)
	}
}

func TestExec(t *testing.T) {
	p, w := tunneltest.New(t), newWorkload()
	serve(t, p, w)
	var got console.Exec
	sized := make(chan console.Size, 1)
	w.exec = func(_ context.Context, e console.Exec) (int, error) {
		got = e
		fmt.Fprint(e.Stderr, "err")
		if _, err := io.Copy(e.Stdout, e.Stdin); err != nil {
			return 0, err
		}
		sized <- <-e.Resize
		return 7, nil
	}
	resize := make(chan console.Size, 1)
	resize <- console.Size{Rows: 30, Cols: 90}
	input := strings.Repeat("x", 3*console.MaxPayload+1)
	var out, errs strings.Builder
	code, err := newClient(p).Exec(t.Context(), console.Exec{
		Args: []string{"cat", "-"}, Env: []string{"A=b"}, Workdir: "/tmp", TTY: true, Size: console.Size{Rows: 24, Cols: 80},
		Stdin: strings.NewReader(input), Stdout: &out, Stderr: &errs, Resize: resize,
	})
	if err != nil || code != 7 {
		t.Errorf("got %d, %v; want 7", code, err)
	}
	if out.String() != input || errs.String() != "err" {
		t.Errorf("stdout %d bytes, stderr %q; want %d and err", out.Len(), errs.String(), len(input))
	}
	if s := <-sized; s != (console.Size{Rows: 30, Cols: 90}) {
		t.Errorf("resized to %v", s)
	}
	if fmt.Sprintf("%v %v %v %v %v", got.Args, got.Env, got.Workdir, got.TTY, got.Size) != "[cat -] [A=b] /tmp true {24 80}" {
		t.Errorf("backend got %+v", got)
	}
}

func TestExecFails(t *testing.T) {
	p, w := tunneltest.New(t), newWorkload()
	serve(t, p, w)
	w.exec = func(context.Context, console.Exec) (int, error) {
		return 0, errors.New("no such file: \x1b[2Jnope")
	}
	_, err := newClient(p).Exec(t.Context(), console.Exec{Args: []string{"nope"}})
	remote, ok := errors.AsType[*console.RemoteError](err)
	if !ok || remote.Error() != "exec: no such file:  [2Jnope" {
		t.Errorf("got %v; want the backend's words, safe for a terminal", err)
	}
}

// A customer who goes away ends the process.
func TestExecEndsWithClient(t *testing.T) {
	p, w := tunneltest.New(t), newWorkload()
	serve(t, p, w)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	w.exec = func(ctx context.Context, _ console.Exec) (int, error) {
		cancel()
		<-ctx.Done()
		ended <- ctx.Err()
		return 0, ctx.Err()
	}
	if _, err := newClient(p).Exec(ctx, console.Exec{Args: []string{"sleep"}}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if err := <-ended; err == nil {
		t.Error("the process goes on")
	}
}

func TestDial(t *testing.T) {
	p, w := tunneltest.New(t), newWorkload()
	serve(t, p, w)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		question, _ := io.ReadAll(c) // answers only after the end of the question
		_, _ = io.WriteString(c, "you said "+string(question))
	}()
	w.dial = func(ctx context.Context, port uint16) (net.Conn, error) {
		if port != 8080 {
			return nil, errors.New("connection refused")
		}
		var d net.Dialer
		return d.DialContext(ctx, "tcp", ln.Addr().String())
	}
	conn, err := newClient(p).Dial(t.Context(), 8080)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "hello"); err != nil {
		t.Fatal(err)
	}
	if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(conn); err != nil || string(got) != "you said hello" {
		t.Errorf("got %q, %v", got, err)
	}
	_, err = newClient(p).Dial(t.Context(), 1234)
	if remote, ok := errors.AsType[*console.RemoteError](err); !ok || remote.Code != 502 || remote.Message != "connection refused" {
		t.Errorf("got %v", err)
	}
}

func TestKey(t *testing.T) {
	p, w := tunneltest.New(t), newWorkload()
	serve(t, p, w)
	want := console.Secret{1, 2, 31: 3}
	w.key = func(root string, key console.Secret) error {
		if root != "bafk/&?" || key != want {
			return console.ErrNotPrivate
		}
		return nil
	}
	if err := newClient(p).Key(t.Context(), "bafk/&?", want); err != nil {
		t.Error(err)
	}
	err := newClient(p).Key(t.Context(), "another", want)
	if remote, ok := errors.AsType[*console.RemoteError](err); !ok || remote.Code != 404 || remote.Message != console.ErrNotPrivate.Error() {
		t.Errorf("another root: got %v", err)
	}
	for _, text := range []string{fmt.Sprintf("%v %+v %#v %x %s %d", want, want, want, want, want, want), slog.AnyValue(want).Resolve().String()} {
		if strings.ContainsAny(text, "0123456789") || !strings.Contains(text, "redacted") {
			t.Errorf("a secret prints as %s", text)
		}
	}
}
