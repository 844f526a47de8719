package provider

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"rialto/broker"
	"rialto/pricing"
	"rialto/tunnel"
)

// State is where a workload stands in the life that the agent gives it. It only moves forward.
type State uint8

// States of a workload. The meter runs in StateRunning only.
const (
	StateHeld      State = iota + 1 // GPUs granted and preparation under way, not confirmed yet
	StateConfirmed                  // leased; starts as soon as it is prepared
	StateRunning                    // ready: the process runs and its time is metered
	StateEnded                      // GPUs are free; log, console and tunnel linger, the last report may be unacknowledged
	StateGone                       // nothing of it is left on the host
)

func stateNames() [StateGone + 1]string {
	return [...]string{
		StateHeld: "held", StateConfirmed: "confirmed", StateRunning: "running", StateEnded: "ended", StateGone: "gone",
	}
}

// Valid reports whether s is a state.
func (s State) Valid() bool { return s >= StateHeld && s <= StateGone }

// Holding reports whether a workload in s has GPUs.
func (s State) Holding() bool { return s >= StateHeld && s <= StateRunning }

// CanBecome reports whether a workload may go from s to next. Every state may end, and an ended
// workload can only go.
func (s State) CanBecome(next State) bool {
	return s.Valid() && next.Valid() && next > s && (next >= StateEnded || next == s+1)
}

// String returns the state's word.
func (s State) String() string {
	if names := stateNames(); s.Valid() {
		return names[s]
	}
	return fmt.Sprintf("State(%d)", uint8(s))
}

// MarshalText implements encoding.TextMarshaler.
func (s State) MarshalText() ([]byte, error) {
	if !s.Valid() {
		return nil, fmt.Errorf("workload state %d: %w", uint8(s), broker.ErrInvalid)
	}
	return []byte(s.String()), nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *State) UnmarshalText(text []byte) error {
	names := stateNames()
	i := slices.Index(names[:], string(text))
	if i <= 0 {
		return fmt.Errorf("workload state %q: not known", text)
	}
	*s = State(i)
	return nil
}

// Instant is a moment on the clock that starts with a host and goes on while the host is suspended. Leases
// lapse by it: a change of the wall clock moves none of them, and no time is longer ago than a restart.
type Instant struct {
	Boot  string        `json:"boot"`     // names the start of the host
	Since time.Duration `json:"since_ns"` // from that start
}

// ErrTooLarge reports a record that a journal cannot hold. Nothing of it was stored.
var ErrTooLarge = errors.New("record too large")

// Record is what the agent must remember of a lease to adopt its workload after a restart, or to
// remove every trace of it. It is made durable before the effects that it describes.
type Record struct {
	Lease       broker.LeaseID
	Job         broker.JobID
	Broker      broker.PeerID
	State       State
	GPUs        []broker.GPULease
	Simulated   bool
	Spec        []byte // envelope signed by the customer
	Bid         []byte // envelope of the bid that he changed it by; empty: he has not
	Sources     []broker.BlockSource
	TunnelKey   tunnel.PrivateKey
	TunnelPort  uint16        // UDP port of the tunnel; zero: not opened yet
	Answer      []byte        // signed answer to the hold; empty: not answered yet
	Deadline    Instant       // of the hold or lease
	TTL         time.Duration // of the lease, as last renewed
	MaxDuration time.Duration // zero until confirmed
	Rate        pricing.Rate  // per GPU-hour, of the hold
	Tariff      broker.Tariff // of the hold
	Report      broker.Report // the last report made
	Acked       uint64        // sequence of the last report that the broker acknowledged
	Counted     bool          // whether it takes reports of traffic
	Linger      time.Time     // when an ended workload is removed
	Rank        int           // of the job among the nodes of its spec
}

// Reported reports whether the broker has acknowledged the workload's end.
func (r *Record) Reported() bool {
	return r.Report.Phase >= broker.PhaseExited && r.Acked >= r.Report.Seq
}

// Journal is the agent's durable memory. Methods are safe for concurrent use. After an error from Save
// other than ErrTooLarge the agent stops: what reached the disk is unknown until the journal is opened again.
type Journal interface {
	// Epochs returns the highest epoch of every GPU that was ever held here.
	Epochs(ctx context.Context) (map[string]uint64, error)
	// Records returns the records that are not gone, in order of their lease ids.
	Records(ctx context.Context) ([]Record, error)
	// Save stores a record and raises the epochs of its GPUs, in one batch that is durable on return.
	Save(ctx context.Context, r Record) error
}
