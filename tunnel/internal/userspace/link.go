package userspace

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"syscall"

	"golang.zx2c4.com/wireguard/tun"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"rialto/tunnel"
)

const (
	nicID = 1
	// queueLen is how many packets may wait for encryption; what does not fit is dropped, and TCP resends it.
	queueLen = 1024
	// batchLen is how many packets one Read takes, so that they are encrypted and sent together.
	batchLen = 64
	// windowMax bounds the memory of one TCP direction and allows 1 Gbit/s at 30 ms.
	windowMax = 4 << 20
)

// link is a TCP/IP stack seen by wireguard-go as a tun.Device. The module's own netstack device
// closes the channel that the stack's goroutines send on, which panics when a connection is busy at Close;
// here Close only cancels the readers.
type link struct {
	stack  *stack.Stack
	queue  *channel.Endpoint
	events chan tun.Event
	ctx    context.Context //nolint:containedctx // ends Read, whose signature is tun.Device's
	cancel context.CancelFunc
	once   sync.Once
}

var _ tun.Device = (*link)(nil)

// newLink makes a stack with one address and a route for everything through the tunnel.
func newLink(address netip.Addr) (*link, error) {
	l := &link{
		stack: stack.New(stack.Options{
			NetworkProtocols:   []stack.NetworkProtocolFactory{ipv6.NewProtocol},
			TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, icmp.NewProtocol6},
			HandleLocal:        true,
		}),
		queue:  channel.New(queueLen, tunnel.MTU, ""),
		events: make(chan tun.Event, 1),
	}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	if err := l.configure(address); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	l.events <- tun.EventUp
	return l, nil
}

func (l *link) configure(address netip.Addr) error {
	sack := tcpip.TCPSACKEnabled(true)
	if err := l.stack.SetTransportProtocolOption(tcp.ProtocolNumber, &sack); err != nil {
		return fmt.Errorf("netstack: selective acknowledgements: %v", err)
	}
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: tcp.DefaultReceiveBufferSize, Max: windowMax}
	if err := l.stack.SetTransportProtocolOption(tcp.ProtocolNumber, &receive); err != nil {
		return fmt.Errorf("netstack: receive buffer: %v", err)
	}
	send := tcpip.TCPSendBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: tcp.DefaultSendBufferSize, Max: windowMax}
	if err := l.stack.SetTransportProtocolOption(tcp.ProtocolNumber, &send); err != nil {
		return fmt.Errorf("netstack: send buffer: %v", err)
	}
	if err := l.stack.CreateNIC(nicID, l.queue); err != nil {
		return fmt.Errorf("netstack: interface: %v", err)
	}
	own := tcpip.ProtocolAddress{
		Protocol:          ipv6.ProtocolNumber,
		AddressWithPrefix: tcpip.AddrFromSlice(address.AsSlice()).WithPrefix(),
	}
	if err := l.stack.AddProtocolAddress(nicID, own, stack.AddressProperties{}); err != nil {
		return fmt.Errorf("netstack: address %v: %v", address, err)
	}
	l.stack.AddRoute(tcpip.Route{Destination: header.IPv6EmptySubnet, NIC: nicID})
	return nil
}

// Read waits for one packet and takes what else is ready.
func (l *link) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	pkt := l.queue.ReadContext(l.ctx)
	n := 0
	for pkt != nil {
		sizes[n] = flatten(bufs[n][offset:], pkt)
		pkt.DecRef()
		if n++; n == len(bufs) {
			break
		}
		pkt = l.queue.Read()
	}
	if n == 0 {
		return 0, os.ErrClosed
	}
	return n, nil
}

func flatten(dst []byte, pkt *stack.PacketBuffer) int {
	n := 0
	for _, part := range pkt.AsSlices() {
		n += copy(dst[n:], part)
	}
	return n
}

// Write hands decrypted packets to the stack.
func (l *link) Write(bufs [][]byte, offset int) (int, error) {
	for _, buf := range bufs {
		packet := buf[offset:]
		if len(packet) == 0 {
			continue
		}
		if packet[0]>>4 != 6 {
			return 0, syscall.EAFNOSUPPORT
		}
		pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(packet)})
		l.queue.InjectInbound(header.IPv6ProtocolNumber, pkt)
		pkt.DecRef()
	}
	return len(bufs), nil
}

// Close ends every connection of the stack and all of its goroutines.
func (l *link) Close() error {
	l.once.Do(func() {
		l.cancel()
		l.stack.Close()
		l.stack.Wait()
		l.queue.Close()
		close(l.events)
	})
	return nil
}

func (l *link) MTU() (int, error)        { return tunnel.MTU, nil }
func (l *link) Name() (string, error)    { return "netstack", nil }
func (l *link) File() *os.File           { return nil }
func (l *link) Events() <-chan tun.Event { return l.events }
func (l *link) BatchSize() int           { return batchLen }
