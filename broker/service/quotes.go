package service

import (
	"context"
	"fmt"
	"time"

	"rialto/broker"
	"rialto/broker/wire"
)

// quotePatience is how long a caller waits for a quote: as long as the market waits for one host to answer. Hosts answer
// in well under a second.
const quotePatience = 20 * time.Second

// FirmQuote is [Service.Submit] for a spec that asks for a firm quote. It returns once a provider has made the quote, or
// none does, or after 20 s: the job's state tells which.
func (s *Service) FirmQuote(ctx context.Context, account broker.AccountID, key string, envelope []byte) (broker.Job, error) {
	if len(envelope) <= MaxSpec { // Submit refuses longer ones
		spec, _, err := wire.OpenJobSpec(envelope)
		if err != nil {
			return broker.Job{}, err
		}
		if spec.Firm == 0 {
			return broker.Job{}, &broker.FieldError{Field: "spec.firm", Problem: "missing: the spec does not ask for a quote"}
		}
	}
	j, err := s.Submit(ctx, account, key, envelope)
	if err != nil {
		return broker.Job{}, err
	}
	limit := time.NewTimer(quotePatience)
	defer limit.Stop()
	for {
		j, changed, err := s.watch(ctx, account, j.ID)
		if err != nil || j.State != broker.JobQueued && j.State != broker.JobHolding {
			return j, err
		}
		select {
		case <-changed:
		case <-limit.C:
			return j, nil
		case <-ctx.Done():
			return broker.Job{}, ctx.Err()
		case <-s.stopped:
			return broker.Job{}, s.Ready()
		}
	}
}

// AcceptQuote takes a firm quote of the account: its job goes on. Accepting it again returns the same job.
func (s *Service) AcceptQuote(ctx context.Context, account broker.AccountID, id broker.JobID) (broker.Job, error) {
	if _, err := s.Job(ctx, account, id); err != nil {
		return broker.Job{}, err
	}
	if err := s.event(ctx, 0, broker.QuoteAccepted{Job: id}); err != nil {
		return broker.Job{}, err
	}
	return s.job(ctx, account, id)
}

// DropQuote gives a firm quote of the account back. One that was accepted is a job, which only [Service.Cancel] ends.
func (s *Service) DropQuote(ctx context.Context, account broker.AccountID, id broker.JobID) (broker.Job, error) {
	seen, err := s.Job(ctx, account, id)
	if err != nil {
		return broker.Job{}, err
	}
	err = s.do(ctx, 0, func(ctx context.Context, b *batch) error {
		j, open := s.market.Job(id)
		if !open {
			j = seen
		}
		switch {
		case j.Spec.Firm == 0:
			return fmt.Errorf("job %s: %w: it is not a quote", id, broker.ErrConflict)
		case !j.Quote.Taken.IsZero():
			return fmt.Errorf("quote %s: %w: it was accepted; cancel the job", id, broker.ErrConflict)
		}
		return b.step(ctx, broker.CancelRequested{Job: id, Reason: "the customer gave the quote back"})
	})
	if err != nil {
		return broker.Job{}, err
	}
	return s.job(ctx, account, id)
}
