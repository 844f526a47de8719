package client

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"

	"rialto/tunnel/tunneltest"
)

// run serves on a loopback listener until the test ends.
func run(t *testing.T, serve func(ctx context.Context, ln net.Listener) error) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return ln.Addr().String()
}

func TestForward(t *testing.T) {
	p := tunneltest.New(t)
	ln, err := p.Job.Listen(netip.AddrPortFrom(p.Plan.Job, 80))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			question, _ := io.ReadAll(c) // the answer comes after the end of the question
			_, _ = io.WriteString(c, "answer to "+string(question))
			c.Close()
		}
	}()
	address := netip.AddrPortFrom(p.Plan.Job, 80).String()
	local := run(t, func(ctx context.Context, ln net.Listener) error {
		return Forward(ctx, ln, func(ctx context.Context) (net.Conn, error) {
			return p.Customer.DialContext(ctx, "tcp", address)
		}, func(err error) { t.Error(err) })
	})
	for range 3 {
		c, err := net.Dial("tcp", local)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(c, "question")
		_ = c.(*net.TCPConn).CloseWrite()
		if got, err := io.ReadAll(c); err != nil || string(got) != "answer to question" {
			t.Errorf("got %q, %v", got, err)
		}
		c.Close()
	}
}

// A dial that fails is told, and ends its own connection only.
func TestForwardDialFails(t *testing.T) {
	failed := make(chan error, 1)
	local := run(t, func(ctx context.Context, ln net.Listener) error {
		return Forward(ctx, ln, func(context.Context) (net.Conn, error) { return nil, errors.New("no such port") },
			func(err error) { failed <- err })
	})
	c, err := net.Dial("tcp", local)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got, _ := io.ReadAll(c); len(got) != 0 {
		t.Errorf("got %q", got)
	}
	if err := <-failed; err == nil || err.Error() != "no such port" {
		t.Errorf("told %v", err)
	}
}

func TestSOCKS5(t *testing.T) {
	local := run(t, func(ctx context.Context, ln net.Listener) error {
		return SOCKS5(ctx, ln, func(_ context.Context, host string, port uint16) (net.Conn, error) {
			if host == "nowhere" {
				return nil, errors.New("no such host")
			}
			near, far := net.Pipe()
			go func() {
				_, _ = io.WriteString(far, "hello from "+net.JoinHostPort(host, "x"))
				far.Close()
			}()
			return near, nil
		})
	})
	for _, tt := range []struct{ name, send, want string }{
		{"name", "\x05\x01\x00\x05\x01\x00\x03\x03job\x00\x50", "\x05\x00\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00hello from job:x"},
		{"ipv4", "\x05\x02\x02\x00\x05\x01\x00\x01\x01\x02\x03\x04\x00\x50", "\x05\x00\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00hello from 1.2.3.4:x"},
		{"ipv6", "\x05\x01\x00\x05\x01\x00\x04\xfd" + strings.Repeat("\x00", 14) + "\x01\x00\x50", "\x05\x00\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00hello from [fd00::1]:x"},
		{"unreachable", "\x05\x01\x00\x05\x01\x00\x03\x07nowhere\x00\x50", "\x05\x00\x05\x04\x00\x01\x00\x00\x00\x00\x00\x00"},
		{"bind", "\x05\x01\x00\x05\x02\x00\x03\x03job\x00\x50", "\x05\x00\x05\x07\x00\x01\x00\x00\x00\x00\x00\x00"},
		{"address type", "\x05\x01\x00\x05\x01\x00\x09\x03job\x00\x50", "\x05\x00\x05\x08\x00\x01\x00\x00\x00\x00\x00\x00"},
		{"password only", "\x05\x01\x02", "\x05\xff"},
		{"version 4", "\x04\x01", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := net.Dial("tcp", local)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_, _ = io.WriteString(c, tt.send)
			if got, _ := io.ReadAll(c); string(got) != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func FuzzSOCKSRequest(f *testing.F) {
	f.Add([]byte("\x05\x01\x00\x05\x01\x00\x03\x03job\x00\x50"))
	f.Add([]byte("\x05\x01\x00\x05\x01\x00\x01\x01\x02\x03\x04\x00\x50"))
	f.Add([]byte("\x05\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		rw := struct {
			io.Reader
			io.Writer
		}{bytes.NewReader(data), io.Discard}
		if host, _, err := socksRequest(rw); err == nil && (host == "" || len(host) > 255) {
			t.Errorf("host %q from %q", host, data)
		}
	})
}
