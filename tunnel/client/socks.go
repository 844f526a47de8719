package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"rialto/tunnel/internal/splice"
)

// Bytes of SOCKS version 5 (RFC 1928). Of its commands only CONNECT is served, and only without a password: the
// listener is on the customer's own loopback.
const (
	socksVersion    = 5
	socksNoPassword = 0
	socksNoMethod   = 0xff
	socksConnect    = 1
	socksIPv4       = 1
	socksName       = 3
	socksIPv6       = 4

	socksOK             = 0
	socksUnreachable    = 4
	socksNoCommand      = 7
	socksNoAddressType  = 8
	socksPatience       = 10 * time.Second
	errSocksCommand     = socksError(socksNoCommand)
	errSocksAddressType = socksError(socksNoAddressType)
)

// socksError is a refusal with the reply code that says it.
type socksError byte

func (e socksError) Error() string { return fmt.Sprintf("socks: refused with reply %d", byte(e)) }

// SOCKS5 serves the protocol on ln until ctx ends; dial decides where a host and port lead. Host is a name or an
// IP address as the application gave it.
func SOCKS5(ctx context.Context, ln net.Listener, dial func(ctx context.Context, host string, port uint16) (net.Conn, error)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	return serve(ctx, ln, func(c net.Conn) {
		defer context.AfterFunc(ctx, func() { c.Close() })()
		if c.SetDeadline(time.Now().Add(socksPatience)) != nil {
			return
		}
		host, port, err := socksRequest(c)
		if err != nil {
			if code, ok := errors.AsType[socksError](err); ok {
				_ = socksReply(c, byte(code))
			}
			return
		}
		far, err := dial(ctx, host, port)
		if err != nil {
			_ = socksReply(c, socksUnreachable)
			return
		}
		if socksReply(c, socksOK) != nil || c.SetDeadline(time.Time{}) != nil {
			far.Close()
			return
		}
		splice.Join(ctx, c, far)
	})
}

// socksRequest reads greeting and request, byte for byte, so that none of the application's own are taken.
func socksRequest(c io.ReadWriter) (host string, port uint16, err error) {
	var b [255]byte
	if _, err := io.ReadFull(c, b[:2]); err != nil {
		return "", 0, err
	}
	if b[0] != socksVersion {
		return "", 0, fmt.Errorf("socks: version %d", b[0])
	}
	methods := b[:b[1]]
	if _, err := io.ReadFull(c, methods); err != nil {
		return "", 0, err
	}
	choice := byte(socksNoMethod)
	for _, m := range methods {
		if m == socksNoPassword {
			choice = socksNoPassword
		}
	}
	if _, err := c.Write([]byte{socksVersion, choice}); err != nil {
		return "", 0, err
	}
	if choice == socksNoMethod {
		return "", 0, errors.New("socks: no method without a password")
	}
	if _, err := io.ReadFull(c, b[:4]); err != nil {
		return "", 0, err
	}
	if b[0] != socksVersion {
		return "", 0, fmt.Errorf("socks: version %d", b[0])
	}
	if b[1] != socksConnect {
		return "", 0, errSocksCommand
	}
	if host, err = socksHost(c, b[3]); err != nil {
		return "", 0, err
	}
	if _, err := io.ReadFull(c, b[:2]); err != nil {
		return "", 0, err
	}
	return host, uint16(b[0])<<8 | uint16(b[1]), nil
}

func socksHost(r io.Reader, kind byte) (string, error) {
	var b [255]byte
	n := 0
	switch kind {
	case socksIPv4:
		n = 4
	case socksIPv6:
		n = 16
	case socksName:
		if _, err := io.ReadFull(r, b[:1]); err != nil {
			return "", err
		}
		n = int(b[0])
	}
	if n == 0 {
		return "", errSocksAddressType
	}
	if _, err := io.ReadFull(r, b[:n]); err != nil {
		return "", err
	}
	if kind == socksName {
		return string(b[:n]), nil
	}
	a, _ := netip.AddrFromSlice(b[:n])
	return a.String(), nil
}

// socksReply answers with no bound address: no client of CONNECT has a use for it.
func socksReply(w io.Writer, code byte) error {
	_, err := w.Write([]byte{socksVersion, code, 0, socksIPv4, 0, 0, 0, 0, 0, 0})
	return err
}
