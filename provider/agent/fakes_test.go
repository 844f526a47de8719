package agent

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"rialto/broker"
	"rialto/broker/wire"
	"rialto/p2p"
	"rialto/p2p/identity"
)

// fakeNet joins the agent under test to one broker in the same process.
type fakeNet struct {
	broker *fakeBroker

	mu       sync.Mutex
	handlers map[string]p2p.Handler
	gone     func(identity.ID)
	up       chan struct{} // each value is a reconnection
}

func (*fakeNet) Addrs() []string {
	return []string{"/ip4/127.0.0.1/tcp/7072/p2p/x", "/ip4/192.0.2.7/udp/7072/quic-v1/p2p/x", "/ip4/192.0.2.7/tcp/7072/p2p/x"}
}

func (n *fakeNet) Handle(protocol string, _ int, fn p2p.Handler) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.handlers[protocol] = fn
}

func (n *fakeNet) OnDisconnect(fn func(identity.ID)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.gone = fn
}

func (n *fakeNet) Keep(ctx context.Context, _ string, up func(context.Context, identity.ID)) error {
	for {
		up(ctx, n.broker.key.ID())
		select {
		case <-n.up:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (n *fakeNet) Request(_ context.Context, to identity.ID, protocol string, request []byte) ([]byte, error) {
	if to != n.broker.key.ID() {
		return nil, errors.New("not connected")
	}
	return n.broker.serve(protocol, request)
}

// call asks the agent as the peer from.
func (n *fakeNet) call(ctx context.Context, from identity.ID, protocol string, request []byte) ([]byte, error) {
	n.mu.Lock()
	fn := n.handlers[protocol]
	n.mu.Unlock()
	if fn == nil {
		return nil, errors.New("the agent does not listen")
	}
	return fn(ctx, from, request)
}

// fakeBroker remembers what it was told.
type fakeBroker struct {
	key identity.Key

	mu      sync.Mutex
	sets    []broker.OfferSet
	reports []broker.Report
	traces  []broker.TraceReport
	ttl     time.Duration // of renewals
	notice  time.Duration // of renewals
	down    bool          // takes no reports, no traces and no accusations
	poisons []broker.PoisonReport
	advice  *broker.Advice // answers offers; nil: nothing does
}

func (b *fakeBroker) serve(protocol string, request []byte) ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch protocol {
	case wire.ProtocolOffers:
		set, _, err := wire.OpenOfferSet(request)
		if err == nil {
			b.sets = append(b.sets, set)
		}
		if err != nil || b.advice == nil {
			return nil, err
		}
		advice := *b.advice
		if advice.Boot == "" {
			advice.Boot = set.Boot
		}
		advice.Seq += set.Seq
		return wire.SealAdvice(b.key, advice)
	case wire.ProtocolPoison:
		if b.down {
			return nil, errors.New("the broker is down")
		}
		p, _, err := wire.OpenPoison(request)
		if err == nil {
			b.poisons = append(b.poisons, p)
		}
		return nil, err
	case wire.ProtocolReport:
		if b.down {
			return nil, errors.New("the broker is down")
		}
		r, _, err := wire.OpenReport(request)
		if err != nil {
			return nil, err
		}
		for _, old := range b.reports {
			if old.Lease == r.Lease && (r.Traffic.Ingress < old.Traffic.Ingress || r.Traffic.Egress < old.Traffic.Egress) {
				return nil, errors.New("its traffic shrinks")
			}
		}
		b.reports = append(b.reports, r)
		return wire.SealRenewal(b.key, broker.Renewal{Lease: r.Lease, TTL: b.ttl, Seq: r.Seq, Preempt: b.notice})
	case wire.ProtocolTrace:
		if b.down {
			return nil, errors.New("the broker is down")
		}
		t, _, err := wire.OpenTrace(request)
		if err == nil {
			b.traces = append(b.traces, t)
		}
		return nil, err
	}
	return nil, fmt.Errorf("unexpected %s", protocol)
}

func (b *fakeBroker) set(change func(*fakeBroker)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change(b)
}

// taken returns how many reports the broker has taken.
func (b *fakeBroker) taken() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.reports)
}

// offered returns the offer sets that the broker has taken.
func (b *fakeBroker) offered() []broker.OfferSet {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.sets)
}

func (b *fakeBroker) last() broker.Report {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.reports) == 0 {
		return broker.Report{}
	}
	return b.reports[len(b.reports)-1]
}

// traced returns the traces that the broker has taken.
func (b *fakeBroker) traced() []broker.TraceReport {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.traces)
}

// accused returns the accusations that the broker has taken.
func (b *fakeBroker) accused() []broker.PoisonReport {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.poisons)
}

// history returns the reports that the broker has taken.
func (b *fakeBroker) history() []broker.Report {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.reports)
}

func (b *fakeBroker) phases() []broker.Phase {
	b.mu.Lock()
	defer b.mu.Unlock()
	var phases []broker.Phase
	for _, r := range b.reports {
		if len(phases) == 0 || phases[len(phases)-1] != r.Phase {
			phases = append(phases, r.Phase)
		}
	}
	return phases
}

// free returns the UUIDs of the last offers that can be leased.
func (b *fakeBroker) free() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var free []string
	if len(b.sets) > 0 {
		for _, o := range b.sets[len(b.sets)-1].Offers {
			free = append(free, o.Free...)
		}
	}
	return free
}

func newID(letter, seed string) string {
	sum := sha256.Sum256([]byte(seed))
	return letter + "-" + strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:])[:26])
}
