package line_test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"rialto/p2p/p2ptest/line"
)

// TestLine sends bytes both ways and checks that they arrive, and not before their time.
func TestLine(t *testing.T) {
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
		io.Copy(c, c) // until the client closes its side
	}()
	const rtt = 20 * time.Millisecond
	l, err := line.New(t.Context(), ln.Addr().String(), rtt, 1e9)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", l.Port()))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	want := make([]byte, 3<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(want)
	begin := time.Now()
	go c.Write(want)
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("other bytes came back")
	}
	if took := time.Since(begin); took < rtt { // a lower bound holds on a busy machine, too
		t.Errorf("back after %v, want no less than %v", took, rtt)
	}
}
