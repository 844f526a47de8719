// Package tunnel holds the words of a job's private network: keys, the address plan, and the
// [Device] that carries it. It is pure; subpackages touch the world.
//
// Every lease has one WireGuard tunnel with two ends. The provider's end is an interface inside
// the job's own network namespace; the customer's end is a userspace stack in the CLI. Addresses
// come from a /64 of unique local IPv6 space (RFC 4193) that is derived from the lease id, one
// /128 for each end, and each end accepts exactly the other's /128 (cryptokey routing drops every
// other source). Only the customer initiates: the provider's peer has no endpoint until the first
// handshake, because two simultaneous initiations discard each other.
package tunnel

import (
	"crypto/sha256"
	"net/netip"
	"time"
)

// MTU is the inner MTU of every tunnel in bytes: IPv6's minimum, which fits every underlay.
const MTU = 1280

// ConsolePort is the TCP port on the job's address where the agent serves logs, exec and
// forwarded connections. It is below 1024, so the workload cannot take it.
const ConsolePort = 1

// Keepalive is how often the customer's end sends when idle, to keep NAT mappings open.
const Keepalive = 25 * time.Second

// Plan is the address plan of one lease.
type Plan struct {
	Prefix   netip.Prefix // the lease's /64
	Job      netip.Addr   // the provider's end, where the workload lives
	Customer netip.Addr   // the customer's end
}

// NewPlan derives the plan of a lease: fd52:1a17::/32 (a fixed locally assigned ULA block, 'R' 'I')
// followed by 32 bits of SHA-256 of the lease id, then ::1 for the job and ::2 for the customer.
func NewPlan(lease string) Plan {
	sum := sha256.Sum256([]byte("rialto tunnel plan 1\x00" + lease))
	var a [16]byte
	copy(a[:], []byte{0xfd, 0x52, 0x1a, 0x17})
	copy(a[4:8], sum[:4])
	prefix := netip.PrefixFrom(netip.AddrFrom16(a), 64)
	a[15] = 1
	job := netip.AddrFrom16(a)
	a[15] = 2
	return Plan{Prefix: prefix, Job: job, Customer: netip.AddrFrom16(a)}
}

// Peer is the far end of a tunnel.
type Peer struct {
	PublicKey Key
	Endpoint  netip.AddrPort // zero: learnt from the first handshake
	Address   netip.Addr     // the only inner address accepted from and routed to this peer
	Keepalive time.Duration  // zero: none
}

// Config describes one end of a tunnel.
type Config struct {
	PrivateKey PrivateKey
	Address    netip.Addr // our inner address
	ListenPort uint16     // UDP port of the underlay; zero: the kernel picks one
	Peer       Peer
}

// Stats is what a device knows of its peer.
type Stats struct {
	LastHandshake time.Time // zero: never
	ReceivedBytes int64
	SentBytes     int64
	ListenPort    uint16
	Kernel        bool // the kernel's WireGuard, not wireguard-go
}

// Device is one end of a tunnel as an operating-system interface.
// Methods are safe for concurrent use; Close is idempotent and removes the interface.
type Device interface {
	Name() string
	Stats() (Stats, error)
	// Limit slows the tunnel down to so many bytes per second in each direction, as long as it is open; zero lifts the
	// limit. Handshakes and keepalives always pass.
	Limit(bytesPerSecond int64) error
	Close() error
}
