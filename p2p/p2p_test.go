package p2p_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"go.uber.org/goleak"

	"rialto/p2p"
	"rialto/p2p/identity"
	"rialto/p2p/p2ptest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const echo = "/rialto/test/echo"

func handleEcho(h *p2p.Host) {
	h.Handle(echo, 1<<20, func(_ context.Context, from identity.ID, request []byte) ([]byte, error) {
		if string(request) == "fail" {
			return nil, fmt.Errorf("no,\x1b[31m %s", from)
		}
		return request, nil
	})
}

func transports() map[string]string {
	return map[string]string{"quic": "/ip4/127.0.0.1/udp/0/quic-v1", "tcp": "/ip4/127.0.0.1/tcp/0"}
}

func TestRequest(t *testing.T) {
	for name, listen := range transports() {
		t.Run(name, func(t *testing.T) {
			server := p2ptest.New(t, p2p.Config{Listen: []string{listen}})
			client := p2ptest.New(t, p2p.Config{})
			handleEcho(server)
			if _, err := client.Request(t.Context(), server.ID(), echo, nil); !errors.Is(err, p2p.ErrNotConnected) {
				t.Errorf("before Connect: %v, want ErrNotConnected", err)
			}
			p2ptest.Connect(t, client, server)
			for _, size := range []int{0, 1, 300_000, 1 << 20} {
				want := bytes.Repeat([]byte{7}, size)
				got, err := client.Request(t.Context(), server.ID(), echo, want)
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("%d bytes: got %d bytes, %v", size, len(got), err)
				}
			}
			if ip, ok := server.RemoteIP(client.ID()); !ok || ip != netip.MustParseAddr("127.0.0.1") {
				t.Errorf("RemoteIP = %v, %t", ip, ok)
			}
		})
	}
}

func BenchmarkRequest(b *testing.B) {
	for name, listen := range transports() {
		b.Run(name, func(b *testing.B) {
			server := p2ptest.New(b, p2p.Config{Listen: []string{listen}})
			client := p2ptest.New(b, p2p.Config{})
			p2ptest.Connect(b, client, server)
			handleEcho(server)
			request := make([]byte, 320) // an offer
			b.ReportAllocs()
			for b.Loop() {
				if _, err := client.Request(b.Context(), server.ID(), echo, request); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func TestHandlerError(t *testing.T) {
	client, server := p2ptest.Pair(t)
	handleEcho(server)
	_, err := client.Request(t.Context(), server.ID(), echo, []byte("fail"))
	re, ok := errors.AsType[*p2p.RemoteError](err)
	want := fmt.Sprintf("no,?[31m %s", client.ID())
	if !ok || re.Message != want || re.Peer != server.ID() || re.Protocol != echo {
		t.Errorf("got %#v, want a RemoteError with %q", err, want)
	}
}
