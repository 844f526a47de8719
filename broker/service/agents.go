package service

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"rialto/broker"
	"rialto/broker/wire"
	"rialto/p2p/identity"
)

// serveAgents answers what agents send.
func (s *Service) serveAgents() {
	s.c.Host.OnDisconnect(s.gone.add)
	s.c.Host.Handle(wire.ProtocolOffers, wire.MaxOfferSet, s.offers)
	s.c.Host.Handle(wire.ProtocolReport, wire.MaxReport, s.report)
	s.c.Host.Handle(wire.ProtocolTrace, wire.MaxTrace, s.traceReport)
	s.c.Host.Handle(wire.ProtocolPoison, wire.MaxPoison, s.poisonReport)
}

// offers answers with advice.
func (s *Service) offers(ctx context.Context, from identity.ID, request []byte) ([]byte, error) {
	set, signer, err := wire.OpenOfferSet(request)
	if err == nil {
		err = sameParty(signer, from)
	}
	if err == nil {
		err = s.open(ctx)
	}
	var now time.Time
	if err == nil {
		now, err = ask(ctx, s, len(request), func(ctx context.Context, b *batch) (time.Time, error) {
			err := b.post(ctx, signer, set)
			if err == nil {
				s.holders.set(signer, set)
			}
			return b.now, err
		})
	}
	if err != nil {
		s.c.Logger.Warn("offers refused", "provider", from, "err", err)
		return nil, err
	}
	return s.advice(signer, set, now)
}

// report answers with a renewal once the report is durable.
func (s *Service) report(ctx context.Context, from identity.ID, request []byte) ([]byte, error) {
	report, signer, err := wire.OpenReport(request)
	if err == nil {
		err = sameParty(signer, from)
	}
	if err == nil {
		err = s.open(ctx)
	}
	var renewal *broker.Renewal
	if err == nil {
		ev := broker.Reported{Provider: signer, Report: report, Envelope: request}
		err = s.do(ctx, 4*len(request), func(ctx context.Context, b *batch) error {
			err := b.step(ctx, ev)
			renewal = b.renewal
			return err
		})
	}
	if err == nil && renewal == nil {
		err = fmt.Errorf("report of lease %s got no answer: %w", report.Lease, broker.ErrUnavailable)
	}
	if err != nil {
		s.c.Logger.Warn("report refused", "provider", from, "lease", report.Lease, "err", err)
		return nil, err
	}
	return wire.SealRenewal(s.c.Key, *renewal)
}

// sameParty refuses a message that someone else than its signer delivers.
func sameParty(signer broker.PeerID, from identity.ID) error {
	if string(signer) != string(from) {
		return fmt.Errorf("signed by %s, sent by %s: %w", signer, from, broker.ErrForbidden)
	}
	return nil
}

// send performs an effect after all earlier ones about the same lease.
func (s *Service) send(ctx context.Context, e broker.Effect) {
	var lease broker.LeaseID
	switch e := e.(type) {
	case broker.SendHold:
		lease = e.Hold.Lease
	case broker.SendConfirm:
		lease = e.Confirm.Lease
	case broker.SendRelease:
		lease = e.Release.Lease
	case broker.SaveAccount, broker.SaveJob, broker.SaveLease, broker.Post, broker.SaveDerived, broker.SendRenewal, broker.SignReceipt:
		return
	}
	if !s.sends.push(lease, e) {
		return // its goroutine takes it
	}
	s.sending.Go(func() { // ends when the lease's outbox is empty; requests end with ctx
		for next, ok := s.sends.pop(lease); ok; next, ok = s.sends.pop(lease) {
			ev := s.perform(ctx, next)
			if ctx.Err() != nil {
				continue // closing: the restored market sends again what was not answered
			}
			if err := s.event(ctx, opBytes, ev); err != nil && ctx.Err() == nil {
				s.c.Logger.Warn("outcome refused", "lease", lease, "err", err)
			}
		}
	})
}

// perform sends one effect and returns its outcome.
func (s *Service) perform(ctx context.Context, e broker.Effect) broker.Event {
	ctx, cancel := context.WithTimeout(ctx, s.c.SendTimeout)
	defer cancel()
	switch e := e.(type) {
	case broker.SendHold:
		ev := broker.HoldAnswered{Lease: e.Hold.Lease}
		var err error
		if ev.Answer, ev.Envelope, err = s.hold(ctx, e); err != nil {
			ev = broker.HoldAnswered{Lease: e.Hold.Lease, Error: s.lost("hold", e.Provider, e.Hold.Lease, err)}
		}
		return ev
	case broker.SendConfirm:
		ev := broker.ConfirmAnswered{Lease: e.Confirm.Lease}
		envelope, err := wire.SealConfirm(s.c.Key, e.Confirm)
		if err == nil {
			_, err = s.c.Host.Request(ctx, identity.ID(e.Provider), wire.ProtocolConfirm, envelope)
		}
		if err != nil {
			ev.Error = s.lost("confirm", e.Provider, e.Confirm.Lease, err)
		}
		return ev
	case broker.SendRelease:
		ev := broker.ReleaseAnswered{Lease: e.Release.Lease}
		envelope, err := wire.SealRelease(s.c.Key, e.Release)
		if err == nil {
			_, err = s.c.Host.Request(ctx, identity.ID(e.Provider), wire.ProtocolRelease, envelope)
		}
		if err != nil {
			ev.Error = s.lost("release", e.Provider, e.Release.Lease, err)
		}
		return ev
	case broker.SaveAccount, broker.SaveJob, broker.SaveLease, broker.Post, broker.SaveDerived, broker.SendRenewal, broker.SignReceipt:
	}
	return broker.Ticked{}
}

// hold asks a provider for GPUs and verifies its answer.
func (s *Service) hold(ctx context.Context, e broker.SendHold) (broker.Answer, []byte, error) {
	spec := s.view.spec(e.Hold.Job)
	if s.c.Source != nil && uploads(spec) {
		e.Hold.Sources = append(slices.Clip(e.Hold.Sources), s.c.Source())
	}
	s.named.note(e.Hold.Lease, e.Hold.Sources)
	e.Hold.Trace = s.hint(ctx, spec)
	envelope, err := wire.SealHold(s.c.Key, e.Hold)
	if err != nil {
		return broker.Answer{}, nil, err
	}
	reply, err := s.c.Host.Request(ctx, identity.ID(e.Provider), wire.ProtocolHold, envelope)
	if err != nil {
		return broker.Answer{}, nil, err
	}
	answer, signer, err := wire.OpenAnswer(reply)
	switch {
	case err != nil:
		return broker.Answer{}, nil, err
	case signer != e.Provider:
		return broker.Answer{}, nil, fmt.Errorf("answer is signed by %s", signer)
	case answer.Lease != e.Hold.Lease:
		return broker.Answer{}, nil, fmt.Errorf("answer is about lease %s", answer.Lease)
	}
	return answer, reply, nil
}

// uploads reports whether a job needs blocks that its customer brought here.
func uploads(spec broker.JobSpec) bool {
	return len(spec.Weights) > 0 || broker.IsLocalImage(spec.Image)
}

// lost logs a send without an outcome and returns the text for the market.
func (s *Service) lost(what string, to broker.PeerID, lease broker.LeaseID, err error) string {
	if !errors.Is(err, context.Canceled) {
		s.c.Logger.Warn("no answer from provider", "request", what, "provider", to, "lease", lease, "err", err)
	}
	return err.Error()
}

// outbox keeps the sends of each lease in order. It is bounded: the market asks again for what a slow agent
// has not answered, and of each kind only the latest waits.
type outbox struct {
	mu     sync.Mutex
	queues map[broker.LeaseID][]broker.Effect // present while a goroutine serves the lease
}

func newOutbox() *outbox { return &outbox{queues: map[broker.LeaseID][]broker.Effect{}} }

// push reports whether the caller must start serving the lease.
func (o *outbox) push(id broker.LeaseID, e broker.Effect) (start bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	q, served := o.queues[id]
	q = slices.DeleteFunc(q, func(waits broker.Effect) bool {
		return both[broker.SendHold](waits, e) || both[broker.SendConfirm](waits, e) || both[broker.SendRelease](waits, e)
	})
	o.queues[id] = append(q, e)
	return !served
}

// both reports whether two effects are of one kind.
func both[T broker.Effect](a, b broker.Effect) bool {
	_, x := a.(T)
	_, y := b.(T)
	return x && y
}

func (o *outbox) pop(id broker.LeaseID) (broker.Effect, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	q := o.queues[id]
	if len(q) == 0 {
		delete(o.queues, id)
		return nil, false
	}
	o.queues[id] = q[1:]
	return q[0], true
}

// goneSet collects disconnected peers without ever blocking the host. It is bounded by the number of peers.
type goneSet struct {
	mu   sync.Mutex
	ids  []identity.ID
	seen map[identity.ID]bool
	wake chan struct{}
}

func newGoneSet() *goneSet {
	return &goneSet{seen: map[identity.ID]bool{}, wake: make(chan struct{}, 1)}
}

func (g *goneSet) add(id identity.ID) {
	g.mu.Lock()
	if !g.seen[id] {
		g.seen[id] = true
		g.ids = append(g.ids, id)
	}
	g.mu.Unlock()
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

func (g *goneSet) take() []identity.ID {
	g.mu.Lock()
	defer g.mu.Unlock()
	ids := g.ids
	g.ids = nil
	clear(g.seen)
	return ids
}
