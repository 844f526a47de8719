package p2p

import (
	"context"
	"net"
	"sync"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/core/sec"
	"github.com/libp2p/go-libp2p/p2p/net/upgrader"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
)

const (
	tlsRecord = 16 << 10                // the most bytes that are encrypted at a time
	tlsBatch  = 64<<10 + 5*(5+16+1) + 8 // what yamux writes at once, in records
)

// secure is libp2p's TLS. What is written at once goes to the socket at once, too, and not a record at a time: a
// system call and a walk through the network's layers for 64 KiB instead of for 16.
type secure struct {
	*libp2ptls.Transport
	buffers sync.Pool
}

func newSecure(id protocol.ID, key crypto.PrivKey, muxers []upgrader.StreamMuxer) (*secure, error) {
	t, err := libp2ptls.New(id, key, muxers)
	if err != nil {
		return nil, err
	}
	s := &secure{Transport: t}
	s.buffers.New = func() any { return new(make([]byte, 0, tlsBatch)) }
	return s, nil
}

// SecureInbound implements sec.SecureTransport.
func (s *secure) SecureInbound(ctx context.Context, insecure net.Conn, p peer.ID) (sec.SecureConn, error) {
	out := &batched{Conn: insecure, buffers: &s.buffers}
	c, err := s.Transport.SecureInbound(ctx, out, p)
	if err != nil {
		return nil, err
	}
	return secureConn{c, out}, nil
}

// SecureOutbound implements sec.SecureTransport.
func (s *secure) SecureOutbound(ctx context.Context, insecure net.Conn, p peer.ID) (sec.SecureConn, error) {
	out := &batched{Conn: insecure, buffers: &s.buffers}
	c, err := s.Transport.SecureOutbound(ctx, out, p)
	if err != nil {
		return nil, err
	}
	return secureConn{c, out}, nil
}

// secureConn batches what is written at once.
type secureConn struct {
	sec.SecureConn
	out *batched
}

func (c secureConn) Write(p []byte) (int, error) {
	if len(p) <= tlsRecord {
		return c.SecureConn.Write(p)
	}
	c.out.begin()
	n, err := c.SecureConn.Write(p)
	if late := c.out.end(); err == nil {
		err = late
	}
	return n, err
}

// batched is a connection whose writes can be held back and sent together. All stay in order, whoever writes.
type batched struct {
	net.Conn
	buffers *sync.Pool

	mu   sync.Mutex // held while the connection is written to, which it orders
	held *[]byte    // nil: nothing is held back
}

func (c *batched) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held == nil {
		return c.Conn.Write(p)
	}
	*c.held = append(*c.held, p...)
	return len(p), nil
}

// begin holds writes back until end.
func (c *batched) begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held == nil {
		c.held = c.buffers.Get().(*[]byte) //nolint:forcetypeassert // the pool has nothing else
	}
}

// end sends what was held back.
func (c *batched) end() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held == nil {
		return nil
	}
	held := c.held
	c.held = nil
	var err error
	if len(*held) > 0 {
		_, err = c.Conn.Write(*held)
	}
	if *held = (*held)[:0]; cap(*held) == tlsBatch {
		c.buffers.Put(held)
	}
	return err
}
