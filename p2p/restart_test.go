package p2p_test

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"

	"rialto/p2p"
	"rialto/p2p/identity"
	"rialto/p2p/p2ptest"
)

// A peer that crashed and is connected again answers at once, though its old connection has not been given up.
func TestRequestToAPeerThatCrashed(t *testing.T) {
	const keyOfVictim, peerOfVictim = "RIALTO_TEST_KEY", "RIALTO_TEST_PEER"
	serve := func(listen string, key identity.Key) *p2p.Host {
		h := p2ptest.New(t, p2p.Config{Key: key, Listen: []string{listen}})
		h.Handle(echo, 100, func(_ context.Context, _ identity.ID, request []byte) ([]byte, error) { return request, nil })
		return h
	}
	if path := os.Getenv(keyOfVictim); path != "" {
		key, err := identity.LoadOrCreate(path)
		if err != nil {
			t.Fatal(err)
		}
		h := serve("/ip4/127.0.0.1/udp/0/quic-v1", key)
		if _, err := h.Connect(t.Context(), os.Getenv(peerOfVictim)); err != nil {
			t.Fatal(err)
		}
		os.Stdout.WriteString(h.Addrs()[0] + "\n")
		<-t.Context().Done() // it is killed
	}
	a := p2ptest.New(t, p2p.Config{Listen: []string{"/ip4/127.0.0.1/udp/0/quic-v1"}})
	path := filepath.Join(t.TempDir(), "key")
	key, err := identity.LoadOrCreate(path)
	if err != nil {
		t.Fatal(err)
	}
	victim := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^"+t.Name()+"$")
	victim.Env = append(os.Environ(), keyOfVictim+"="+path, peerOfVictim+"="+a.Addrs()[0])
	out, err := victim.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	addr, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	ask := func() {
		t.Helper()
		if got, err := a.Request(t.Context(), key.ID(), echo, []byte("hello")); err != nil || string(got) != "hello" {
			t.Errorf("answer %q, %v", got, err)
		}
	}
	ask()
	id, err := peer.Decode(string(key.ID()))
	if err != nil {
		t.Fatal(err)
	}
	for range 8 { // libp2p takes the connection with the most streams
		s, err := a.Libp2p().NewStream(t.Context(), id, echo)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Reset()
	}
	if err := victim.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = victim.Wait() // killed
	listen, _, _ := strings.Cut(strings.TrimSpace(addr), "/p2p/")
	next := serve(listen, key)
	if _, err := next.Connect(t.Context(), a.Addrs()[0]); err != nil {
		t.Fatal(err)
	}
	ask()
}
