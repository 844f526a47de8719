package console_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"rialto/tunnel"
	"rialto/tunnel/console"
	"rialto/tunnel/tunneltest"
)

// The workload shares the namespace and can connect to the console; it must get nothing.
func TestOtherSourcesAreClosedUnread(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- console.Serve(ctx, ln, tunnel.NewPlan("x").Customer, newWorkload(), nil) }()
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n")
	if got, err := io.ReadAll(conn); len(got) != 0 {
		t.Errorf("got %q, %v; want nothing", got, err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestBadRequests(t *testing.T) {
	p, w := tunneltest.New(t), newWorkload()
	serve(t, p, w)
	w.exec = func(context.Context, console.Exec) (int, error) { t.Error("executed"); return 0, nil }
	w.key = func(string, console.Secret) error { t.Error("took a key"); return nil }
	w.dial = func(context.Context, uint16) (net.Conn, error) { t.Error("dialled"); return nil, os.ErrInvalid }
	post := func(path, body string) string {
		return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", path, len(body), body)
	}
	for _, tt := range []struct{ name, request, want string }{
		{"unknown path", "GET /v2/logs HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "404"},
		{"wrong method", post("/v1/logs", ""), "405"},
		{"long header", "GET /v1/status HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("y", 64<<10) + "\r\n\r\n", "431"},
		{"negative from", "GET /v1/logs?from=-1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", `from "-1"`},
		{"no port", post("/v1/dial", ""), `port ""`},
		{"port 0", post("/v1/dial?port=0", ""), `port "0"`},
		{"large port", post("/v1/dial?port=65536", ""), `port "65536"`},
		{"no json", post("/v1/exec", "sh"), "exec request"},
		{"unknown field", post("/v1/exec", `{"args":["sh"],"user":"root"}`), `unknown field "user"`},
		{"no args", post("/v1/exec", `{"args":[]}`), "no program"},
		{"two values", post("/v1/exec", `{"args":["sh"]}{}`), "more than one value"},
		{"NUL", post("/v1/exec", `{"args":["s\u0000h"]}`), "NUL"},
		{"bad env", post("/v1/exec", `{"args":["sh"],"env":["=x"]}`), `env "=x"`},
		{"relative workdir", post("/v1/exec", `{"args":["sh"],"workdir":"tmp"}`), "not absolute"},
		{"large body", post("/v1/exec", `{"args":["`+strings.Repeat("x", 300<<10)+`"]}`), "too large"},
		{"key of nothing", post("/v1/key", strings.Repeat("k", 32)), `root ""`},
		{"key of a long name", post("/v1/key?root="+strings.Repeat("r", 200), strings.Repeat("k", 32)), "not the name"},
		{"short key", post("/v1/key?root=r", strings.Repeat("k", 31)), "a key has 32 bytes"},
		{"long key", post("/v1/key?root=r", strings.Repeat("k", 33)), "a key has 32 bytes"},
		{"no upgrade", post("/v1/exec", `{"args":["sh"]}`), "426"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			conn, err := p.Customer.DialContext(t.Context(), "tcp", netip.AddrPortFrom(p.Plan.Job, tunnel.ConsolePort).String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			go func() { _, _ = io.WriteString(conn, tt.request) }()
			if got, _ := io.ReadAll(conn); !strings.Contains(string(got), tt.want) {
				t.Errorf("got %.300q, want %q in it", got, tt.want)
			}
		})
	}
}

// liar is a server that says one thing and then falls silent.
func liar(text string) func(context.Context, string, string) (net.Conn, error) {
	return func(context.Context, string, string) (net.Conn, error) {
		near, far := net.Pipe()
		go func() {
			go func() { _, _ = io.Copy(io.Discard, far) }()
			_, _ = io.WriteString(far, text)
		}()
		return near, nil
	}
}

func TestHostileServer(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"
	for _, tt := range []struct{ name, answer, want string }{
		{"endless header", "HTTP/1.1 200 OK\r\n" + strings.Repeat("A: b\r\n", 1<<14), "unexpected EOF"},
		{"unknown frame", ok + "\x09\x00\x00\x00\x00", "malformed frame: type 9"},
		{"huge frame", ok + "\x01\xff\xff\xff\xff", "malformed frame: type 1 of 4294967295 bytes"},
		{"client's frame", ok + "\x11\x00\x00\x00\x04\x00\x00\x00\x00", "malformed frame: type 17"},
		{"short exit", ok + "\x03\x00\x00\x00\x03\x00\x00\x00", "malformed frame"},
		{"error with escapes", "HTTP/1.1 503 No\r\nContent-Length: 5\r\n\r\n\x1b]0;x", "logs: ]0;x"},
		{"silence", ok + "\x05\x00\x00\x00\x00", "timeout"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := console.NewClient(liar(tt.answer), tunnel.NewPlan("x").Job)
				c.GiveUp = time.Nanosecond
				start := time.Now()
				_, _, err := c.Logs(t.Context(), true, func(byte, []byte) error { return nil })
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("got %v, want an error with %q", err, tt.want)
				}
				if took := time.Since(start); took > 20*time.Second {
					t.Errorf("took %v", took)
				}
			})
		})
	}
}
