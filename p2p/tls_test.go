package p2p

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/sec"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
)

// counted counts what is written to a connection.
type counted struct {
	net.Conn
	writes atomic.Int64
	fail   error
}

func (c *counted) Write(p []byte) (int, error) {
	c.writes.Add(1)
	if c.fail != nil {
		return 0, c.fail
	}
	return c.Conn.Write(p)
}

// securePair returns both ends of a secure connection, and what is written below the first.
func securePair(t *testing.T) (from, to sec.SecureConn, below *counted) {
	t.Helper()
	ends := make([]*secure, 2)
	ids := make([]peer.ID, 2)
	for i := range ends {
		key, _, err := crypto.GenerateEd25519Key(nil)
		if err != nil {
			t.Fatal(err)
		}
		if ends[i], err = newSecure(libp2ptls.ID, key, nil); err != nil {
			t.Fatal(err)
		}
		if ids[i], err = peer.IDFromPrivateKey(key); err != nil {
			t.Fatal(err)
		}
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	out, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { out.Close() })
	in, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close() })
	below = &counted{Conn: out}
	var wg sync.WaitGroup
	wg.Go(func() {
		if to, err = ends[1].SecureInbound(t.Context(), in, ids[0]); err != nil {
			t.Error(err)
		}
	})
	from, outErr := ends[0].SecureOutbound(t.Context(), below, ids[1])
	if wg.Wait(); outErr != nil || err != nil {
		t.Fatal(outErr, err)
	}
	return from, to, below
}

// TestSecureWritesAtOnce counts writes to the socket: one for what is written at once, however many records that takes.
func TestSecureWritesAtOnce(t *testing.T) {
	from, to, below := securePair(t)
	text := bytes.Repeat([]byte("0123456789abcdef"), 4<<10) // 64 KiB: at least four records
	const rounds = 20                                       // the first records are short
	before := below.writes.Load()
	go func() {
		for range rounds {
			if n, err := from.Write(text); n != len(text) || err != nil {
				t.Errorf("wrote %d bytes, %v", n, err)
			}
		}
	}()
	got := make([]byte, len(text))
	for range rounds {
		if _, err := io.ReadFull(to, got); err != nil || !bytes.Equal(got, text) {
			t.Fatalf("other bytes came: %v", err)
		}
	}
	if n := below.writes.Load() - before; n != rounds {
		t.Errorf("%d writes to the socket, want %d", n, rounds)
	}
}

// TestSecureWritesInOrder writes much and little from several goroutines: a record out of order would end the connection.
func TestSecureWritesInOrder(t *testing.T) {
	const writers, rounds, long, short = 4, 50, 40_000, 100
	from, to, _ := securePair(t)
	for i := range writers {
		go func() {
			for range rounds {
				from.Write(bytes.Repeat([]byte{byte(i)}, long))
				from.Write(bytes.Repeat([]byte{byte(i)}, short))
			}
		}()
	}
	counts := make(map[byte]int)
	p := make([]byte, 64<<10)
	for left := writers * rounds * (long + short); left > 0; {
		n, err := to.Read(p)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range p[:n] {
			counts[b]++
		}
		left -= n
	}
	for i := range writers {
		if got, want := counts[byte(i)], rounds*(long+short); got != want {
			t.Errorf("%d bytes of writer %d came, want %d", got, i, want)
		}
	}
}

// TestSecureWriteFails checks that an error of the socket is not lost because the write was held back.
func TestSecureWriteFails(t *testing.T) {
	from, _, below := securePair(t)
	below.fail = errors.New("cut")
	if _, err := from.Write(make([]byte, 64<<10)); !errors.Is(err, below.fail) {
		t.Errorf("error = %v, want %v", err, below.fail)
	}
}
