package userspace

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"sync"

	"golang.zx2c4.com/wireguard/conn"
)

// initiation is the first word of WireGuard's handshake initiation (type 1, three zero bytes), and its length.
const (
	initiation    = 1
	initiationLen = 148
)

// raceBind sends every handshake initiation to all endpoints that the peer may have. The device takes the
// source of the first authentic answer as the peer's endpoint, so the quickest path wins in one round trip;
// copies that arrive by slower paths are replays, which the peer drops. It also keeps the last initiation, to
// send it again sooner than WireGuard's five seconds while the far end may not be listening yet.
type raceBind struct {
	conn.Bind
	endpoints []conn.Endpoint

	mu   sync.Mutex
	last []byte
}

func newRaceBind(inner conn.Bind, endpoints []netip.AddrPort) (*raceBind, error) {
	b := &raceBind{Bind: inner}
	for _, ap := range endpoints {
		e, err := inner.ParseEndpoint(ap.String())
		if err != nil {
			return nil, err
		}
		b.endpoints = append(b.endpoints, e)
	}
	return b, nil
}

// Send implements conn.Bind.
func (b *raceBind) Send(bufs [][]byte, ep conn.Endpoint) error {
	if len(bufs) != 1 || len(bufs[0]) != initiationLen || binary.LittleEndian.Uint32(bufs[0]) != initiation {
		return b.Bind.Send(bufs, ep)
	}
	b.mu.Lock()
	b.last = append(b.last[:0], bufs[0]...)
	b.mu.Unlock()
	err := b.Bind.Send(bufs, ep)
	for _, other := range b.endpoints {
		if other.DstToString() == ep.DstToString() {
			continue
		}
		if e := b.Bind.Send(bufs, other); e == nil {
			err = nil
		} else if err != nil {
			err = errors.Join(err, e)
		}
	}
	return err
}

// again sends the last initiation once more to every endpoint. Errors are left to the next real send.
func (b *raceBind) again() {
	b.mu.Lock()
	last := slices.Clone(b.last)
	b.mu.Unlock()
	if len(last) == 0 {
		return
	}
	for _, ep := range b.endpoints {
		_ = b.Bind.Send([][]byte{last}, ep)
	}
}
