package p2p_test

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/prometheus/client_golang/prometheus"

	"rialto/p2p"
	"rialto/p2p/identity"
	"rialto/p2p/p2ptest"
)

// stream opens a bare stream from a to b, past the checks of Request.
func stream(t *testing.T, a, b *p2p.Host) network.Stream {
	t.Helper()
	id, err := peer.Decode(string(b.ID()))
	if err != nil {
		t.Fatal(err)
	}
	ctx := network.WithNoDial(t.Context(), "test")
	s, err := a.Libp2p().NewStream(ctx, id, echo)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Reset() })
	return s
}

func wantRemoteError(t *testing.T, err error, part string) {
	t.Helper()
	re, ok := errors.AsType[*p2p.RemoteError](err)
	if !ok || !strings.Contains(re.Message, part) {
		t.Errorf("got %v, want a RemoteError with %q", err, part)
	}
}

func TestOversizeRequestIsRefused(t *testing.T) {
	for name, listen := range transports() {
		t.Run(name, func(t *testing.T) {
			server := p2ptest.New(t, p2p.Config{Listen: []string{listen}})
			client := p2ptest.New(t, p2p.Config{})
			p2ptest.Connect(t, client, server)
			called := false
			server.Handle(echo, 10, func(context.Context, identity.ID, []byte) ([]byte, error) {
				called = true
				return nil, nil
			})
			// 32 MiB are more than any window: the client can only learn of the refusal by reading meanwhile.
			for _, size := range []int{11, 32 << 20} {
				_, err := client.Request(t.Context(), server.ID(), echo, make([]byte, size))
				wantRemoteError(t, err, "at most 10")
			}
			if called {
				t.Error("the handler saw a request over its limit")
			}
		})
	}
}

func TestOversizeAnswerIsRefused(t *testing.T) {
	client, server := p2ptest.Pair(t)
	server.Handle(echo, 10, func(context.Context, identity.ID, []byte) ([]byte, error) {
		return make([]byte, p2p.MaxAnswer+1), nil
	})
	_, err := client.Request(t.Context(), server.ID(), echo, nil)
	wantRemoteError(t, err, "internal error")

	// A peer that does not hold itself to the limit.
	for name, answer := range map[string][]byte{
		"long answer":    append(binary.BigEndian.AppendUint32([]byte{0}, p2p.MaxAnswer+1), make([]byte, p2p.MaxAnswer+1)...),
		"long error":     append(binary.BigEndian.AppendUint32([]byte{1}, 1<<10+1), make([]byte, 1<<10+1)...),
		"unknown status": {2, 0, 0, 0, 0},
		"cut":            {0, 0, 0, 0, 9, 'x'},
		"nothing":        {},
	} {
		server.Libp2p().SetStreamHandler(echo, func(s network.Stream) {
			_, _ = s.Write(answer)
			_ = s.Close()
		})
		_, err := client.Request(t.Context(), server.ID(), echo, nil)
		if _, ok := errors.AsType[*p2p.RemoteError](err); err == nil || ok {
			t.Errorf("%s: got %v, want an error of our own", name, err)
		}
	}
}

func TestPanicIsContained(t *testing.T) {
	client, server := p2ptest.Pair(t)
	server.Handle(echo, 10, func(_ context.Context, _ identity.ID, request []byte) ([]byte, error) {
		if len(request) == 0 {
			panic("secret detail")
		}
		return request, nil
	})
	_, err := client.Request(t.Context(), server.ID(), echo, nil)
	wantRemoteError(t, err, "internal error")
	if strings.Contains(err.Error(), "secret") {
		t.Errorf("the panic's text went to the peer: %v", err)
	}
	if got, err := client.Request(t.Context(), server.ID(), echo, []byte("x")); err != nil || string(got) != "x" {
		t.Errorf("after the panic: %q, %v", got, err)
	}
}

func TestSlowRequestIsReset(t *testing.T) {
	server := p2ptest.New(t, p2p.Config{IOTimeout: 50 * time.Millisecond})
	client := p2ptest.New(t, p2p.Config{})
	p2ptest.Connect(t, client, server)
	handleEcho(server)
	s := stream(t, client, server)
	if _, err := s.Write([]byte{0, 0}); err != nil { // half a length, and then nothing
		t.Fatal(err)
	}
	if _, err := s.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("Read = %v, want a reset", err)
	}
}

func TestSilentPeerTimesOut(t *testing.T) {
	client, server := p2ptest.Pair(t)
	server.Handle(echo, 10, func(ctx context.Context, _ identity.ID, _ []byte) ([]byte, error) {
		<-ctx.Done() // ends when the server is closed
		return nil, ctx.Err()
	})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := client.Request(ctx, server.ID(), echo, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want DeadlineExceeded", err)
	}
}

func TestTooManyRequests(t *testing.T) {
	limits := p2p.BrokerLimits()
	limits.RequestsPerPeer = 2
	server := p2ptest.New(t, p2p.Config{Limits: limits})
	client, other := p2ptest.New(t, p2p.Config{}), p2ptest.New(t, p2p.Config{})
	p2ptest.Connect(t, client, server)
	p2ptest.Connect(t, other, server)
	entered, leave := make(chan struct{}, 8), make(chan struct{})
	server.Handle(echo, 10, func(context.Context, identity.ID, []byte) ([]byte, error) {
		entered <- struct{}{}
		<-leave
		return nil, nil
	})
	results := make(chan error, 4)
	request := func(h *p2p.Host) {
		_, err := h.Request(context.Background(), server.ID(), echo, nil)
		results <- err
	}
	go request(client)
	go request(client)
	<-entered
	<-entered
	_, err := client.Request(t.Context(), server.ID(), echo, nil)
	wantRemoteError(t, err, "busy")
	go request(other) // the limit is each peer's own
	<-entered
	close(leave)
	for range 3 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	if _, err := client.Request(t.Context(), server.ID(), echo, nil); err != nil {
		t.Errorf("after the others ended: %v", err)
	}
}

func TestCloseEndsHandlers(t *testing.T) {
	server, client := p2ptest.New(t, p2p.Config{}), p2ptest.New(t, p2p.Config{})
	p2ptest.Connect(t, client, server)
	entered, ended := make(chan struct{}), false
	server.Handle(echo, 10, func(ctx context.Context, _ identity.ID, _ []byte) ([]byte, error) {
		close(entered)
		<-ctx.Done()
		ended = true
		return nil, ctx.Err()
	})
	done := make(chan error)
	go func() {
		_, err := client.Request(context.Background(), server.ID(), echo, nil)
		done <- err
	}()
	<-entered
	if err := server.Close(); err != nil {
		t.Error(err)
	}
	if !ended { // a data race, too, unless Close waits for the handler
		t.Error("Close did not wait for the handler")
	}
	if err := <-done; err == nil {
		t.Error("the request succeeded")
	}
}

func TestHandleWantsPrefix(t *testing.T) {
	h := p2ptest.New(t, p2p.Config{})
	defer func() {
		if recover() == nil {
			t.Error("no panic for a protocol without our prefix")
		}
	}()
	h.Handle("/other/1", 1, nil)
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	server := p2ptest.New(t, p2p.Config{Metrics: reg})
	client := p2ptest.New(t, p2p.Config{})
	p2ptest.Connect(t, client, server)
	handleEcho(server)
	_, err := client.Request(t.Context(), server.ID(), echo, []byte("fail"))
	wantRemoteError(t, err, "no,")
	if err := server.Close(); err != nil { // which waits for the request to be counted
		t.Fatal(err)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]uint64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var name strings.Builder
			name.WriteString(f.GetName())
			for _, l := range m.GetLabel() {
				name.WriteString(" " + l.GetValue())
			}
			got[name.String()] = m.GetHistogram().GetSampleCount()
		}
	}
	if got["rialto_p2p_request_duration_seconds error "+echo+" server"] != 1 {
		t.Errorf("got %v", got)
	}
}
