package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"rialto/broker"
	"rialto/broker/wire"
	"rialto/p2p/identity"
)

// poisonReport takes what a provider says of a peer that sent it a wrong block.
func (s *Service) poisonReport(ctx context.Context, from identity.ID, request []byte) ([]byte, error) {
	report, signer, err := wire.OpenPoison(request)
	if err == nil {
		err = sameParty(signer, from)
	}
	if err == nil {
		err = s.open(ctx)
	}
	if err == nil {
		err = s.accuse(ctx, signer, report)
	}
	if err != nil {
		s.c.Logger.Warn("accusation refused", "provider", from, "accused", report.Accused, "err", err)
		return nil, err
	}
	return nil, nil
}

// accuse keeps an accusation, and has the market distrust the accused when it was one too many.
func (s *Service) accuse(ctx context.Context, from broker.PeerID, r broker.PoisonReport) error {
	if r.Accused == from {
		return &broker.FieldError{Field: "poison.accused", Problem: "its own signer"}
	}
	if err := s.c.Store.Room(); err != nil {
		return fmt.Errorf("no room for accusations: %w", broker.ErrUnavailable)
	}
	lease, err := s.proof(ctx, from, r)
	if err != nil {
		return err
	}
	const bytes = 1 << 10 // of the record
	return s.do(ctx, bytes, func(_ context.Context, b *batch) error {
		a := &accusation{Accused: r.Accused, Accusation: broker.Accusation{
			Accuser: from, Lease: r.Lease, Want: r.Want, Got: r.Got, Size: r.Size, At: b.now.Round(0).UTC(), Times: 1,
			Counts: lease != nil && (lease.Ended.IsZero() || b.now.Sub(lease.Ended) <= lateTrace),
		}}
		_, before := s.poisons.standing(r.Accused, b.now)
		slot, err := s.poisons.put(a)
		if err != nil || slot < 0 {
			return err
		}
		value, err := json.Marshal(s.poisons.at(slot))
		if err != nil {
			return err
		}
		b.hints[poisonKey(slot)] = value
		s.metrics.accusations.WithLabelValues(strconv.FormatBool(a.Counts)).Inc()
		s.c.Logger.Warn("provider says that a peer sent a wrong block", "provider", from, "accused", r.Accused, "lease", r.Lease,
			"want", r.Want, "got", r.Got, "counts", a.Counts)
		accusers, until := s.poisons.standing(r.Accused, b.now)
		if until.IsZero() || !until.After(before) {
			return nil
		}
		if before.IsZero() {
			s.c.Logger.Warn("peer is not named as a source of blocks for a while", "accused", r.Accused, "accusers", accusers, "until", until)
		}
		return b.step(ctx, broker.SourceDistrusted{Provider: r.Accused, Until: until})
	})
}

// proof returns the lease which shows that the broker told the accuser to ask the accused; nil if nothing does.
func (s *Service) proof(ctx context.Context, from broker.PeerID, r broker.PoisonReport) (*broker.Lease, error) {
	if r.Lease == "" {
		return nil, nil
	}
	l, _, err := s.hired(ctx, r.Lease)
	switch {
	case errors.Is(err, broker.ErrNotFound):
		return nil, nil
	case err != nil:
		return nil, err
	case l.Provider != from:
		return nil, fmt.Errorf("accusation over lease %s, which is not with %s: %w", l.ID, from, broker.ErrForbidden)
	case l.State == broker.LeaseHolding || l.Granted.IsZero():
		return nil, fmt.Errorf("accusation over lease %s: its grant has not arrived: %w", l.ID, broker.ErrUnavailable)
	case !s.named.has(l.ID, r.Accused):
		return nil, nil
	}
	return &l, nil
}

// distrust tells the market what the book said before a restart.
func (w *writer) distrust() error {
	now := w.clock.now()
	for _, p := range w.s.poisons.distrusted(now) {
		_, until := w.s.poisons.standing(p, now)
		if _, err := w.s.step(now, broker.SourceDistrusted{Provider: p, Until: until}); err != nil {
			return fmt.Errorf("distrust %s: %w", p, err)
		}
	}
	return nil
}

// Accused lists the peers that providers accuse, those that most accuse first.
func (s *Service) Accused(ctx context.Context) ([]broker.Accused, error) {
	now, err := ask(ctx, s, 0, func(_ context.Context, b *batch) (time.Time, error) { return b.now, nil })
	if err != nil {
		return nil, err
	}
	return s.poisons.list(now), nil
}

// maxNamed bounds the leases of which it is remembered whom their holds named: more than start within an hour.
const maxNamed = 16_384

// namedBook remembers which peers a lease's provider was told to ask. It forgets them at a restart. Methods are safe
// for concurrent use.
type namedBook struct {
	mu     sync.Mutex
	leases map[broker.LeaseID][]broker.PeerID
	order  []broker.LeaseID // the oldest first
}

func newNamedBook() *namedBook { return &namedBook{leases: map[broker.LeaseID][]broker.PeerID{}} }

func (n *namedBook) note(lease broker.LeaseID, sources []broker.BlockSource) {
	if len(sources) == 0 {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, known := n.leases[lease]; !known {
		n.order = append(n.order, lease)
	}
	for _, s := range sources { // a hold that is sent again may name others
		if !slices.Contains(n.leases[lease], s.Peer) {
			n.leases[lease] = append(n.leases[lease], s.Peer)
		}
	}
	if len(n.order) > maxNamed {
		delete(n.leases, n.order[0])
		n.order = n.order[1:]
	}
}

func (n *namedBook) has(lease broker.LeaseID, p broker.PeerID) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Contains(n.leases[lease], p)
}
