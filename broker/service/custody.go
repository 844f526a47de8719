package service

import (
	"bytes"
	"context"
	"fmt"

	"rialto/broker"
	"rialto/p2p/identity"
	"rialto/pricing"
)

// A custodial account is one of a customer who has no key of his own, because his client knows nothing but a token. The
// broker signs his jobs, with a key that it derives from its own and the account's id, so that nothing more has to be
// kept or backed up. Whoever has the broker's key, or the account's token, can therefore run jobs on the account's money
// and reach into them: an ordinary account needs no such trust.

const (
	// MaxTag is the most bytes that are kept with a job for whoever submitted it.
	MaxTag = 4 << 10

	tagHints = "tag/" // + job → what its submitter keeps with it
)

// OpenCustodial is [Service.OpenAccount] for an account whose key the broker holds.
func (s *Service) OpenCustodial(ctx context.Context, name string, deposit *pricing.Money) (broker.Account, string, error) {
	return s.openAccount(ctx, name, deposit, true)
}

// Custody returns the key of a custodial account; [broker.ErrForbidden] of one that is not.
func (s *Service) Custody(ctx context.Context, id broker.AccountID) (identity.Key, error) {
	a, err := s.Account(ctx, id)
	if err != nil {
		return identity.Key{}, err
	}
	if !a.Custodial {
		return identity.Key{}, fmt.Errorf("account %q signs its jobs itself, the broker has no key to do it: %w", id, broker.ErrForbidden)
	}
	key, err := s.custodialKey(id)
	if err == nil && broker.PeerID(key.ID()) != a.Key {
		err = fmt.Errorf("account %q: its key is not derived from this broker's: %w", id, broker.ErrForbidden)
	}
	return key, err
}

func (s *Service) custodialKey(id broker.AccountID) (identity.Key, error) {
	return s.c.Key.Derive("rialto custodial account 1\x00" + string(id))
}

// Tag returns what the submitter of one of the account's jobs keeps with it; nil if that is nothing. The market gives it
// no meaning.
func (s *Service) Tag(ctx context.Context, account broker.AccountID, id broker.JobID) ([]byte, error) {
	if err := s.Ready(); err != nil {
		return nil, err
	}
	if _, err := s.job(ctx, account, id); err != nil {
		return nil, err
	}
	return s.c.Store.Hint(ctx, tagHints+string(id))
}

// SetTag keeps something else with one of the account's jobs, at most [MaxTag] bytes.
func (s *Service) SetTag(ctx context.Context, account broker.AccountID, id broker.JobID, tag []byte) error {
	if len(tag) == 0 || len(tag) > MaxTag {
		return &broker.FieldError{Field: "tag", Problem: fmt.Sprintf("%d bytes: want 1 to %d", len(tag), MaxTag)}
	}
	if _, err := s.Job(ctx, account, id); err != nil {
		return err
	}
	tag = bytes.Clone(tag)
	return s.do(ctx, len(tag), func(_ context.Context, b *batch) error {
		b.hints[tagHints+string(id)] = tag
		return nil
	})
}
