package service

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"

	"rialto/broker"
	"rialto/p2p/identity"
)

// askHints is where asks are kept. What an owner asks at this broker alone outlives it.
const askHints = "ask/" // + provider → broker.OwnerAsk

// askBook knows what owners ask, and what their agents offered last.
type askBook struct {
	mu   sync.Mutex
	asks map[broker.PeerID]broker.OwnerAsk
	sets map[broker.PeerID]broker.OfferSet // as the agents of connected hosts sent them
}

func newAskBook() *askBook {
	return &askBook{asks: map[broker.PeerID]broker.OwnerAsk{}, sets: map[broker.PeerID]broker.OfferSet{}}
}

func (a *askBook) restore(hints map[string][]byte) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for key, value := range hints {
		var ask broker.OwnerAsk
		if err := json.Unmarshal(value, &ask); err != nil {
			return fmt.Errorf("hint %s: %w", key, err)
		}
		a.asks[broker.PeerID(strings.TrimPrefix(key, askHints))] = ask
	}
	return nil
}

// shown returns a provider's offers as the market shall see them.
func shown(k broker.OwnerAsk, set broker.OfferSet) broker.OfferSet {
	if k.Unlisted {
		set.Offers = nil
		return set
	}
	offers := make([]broker.Offer, len(set.Offers))
	for i, o := range set.Offers {
		offers[i] = k.On(o)
	}
	set.Offers = offers
	return set
}

// post takes an agent's offers.
func (b *batch) post(ctx context.Context, from broker.PeerID, set broker.OfferSet) error {
	book := b.s.asks
	book.mu.Lock()
	ask, kept := book.asks[from]
	old, ok := book.sets[from]
	book.mu.Unlock()
	if ok && old.Boot == set.Boot && set.Seq < old.Seq {
		return nil // overtaken, as the market has it
	}
	if kept {
		if err := set.Validate(from); err != nil {
			return fmt.Errorf("offers of %s: %w", from, err)
		}
	}
	if err := b.step(ctx, broker.OffersPosted{Provider: from, Set: shown(ask, set)}); err != nil {
		return err
	}
	book.mu.Lock()
	defer book.mu.Unlock()
	book.sets[from] = set
	return nil
}

// gone forgets what a host offered.
func (a *askBook) gone(provider broker.PeerID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.sets, provider)
}

// Host returns what the agent of a provider offered last, and what its owner asks here.
func (s *Service) Host(_ context.Context, provider broker.PeerID) (broker.OfferSet, broker.OwnerAsk, error) {
	if err := s.Ready(); err != nil {
		return broker.OfferSet{}, broker.OwnerAsk{}, err
	}
	s.asks.mu.Lock()
	defer s.asks.mu.Unlock()
	set, ok := s.asks.sets[provider]
	if !ok {
		return broker.OfferSet{}, broker.OwnerAsk{}, fmt.Errorf("provider %s: %w: it is not connected", provider, broker.ErrNotFound)
	}
	return set, s.asks.asks[provider], nil
}

// SetAsk changes what the owner of a provider asks. It takes effect at once for a host that is connected.
func (s *Service) SetAsk(ctx context.Context, provider broker.PeerID, ask broker.OwnerAsk) error {
	if err := ask.Validate(); err != nil {
		return err
	}
	value, err := json.Marshal(ask)
	if err != nil {
		return err
	}
	return s.do(ctx, len(value), func(ctx context.Context, b *batch) error {
		s.asks.mu.Lock()
		set, ok := s.asks.sets[provider]
		s.asks.mu.Unlock()
		if ok {
			if err := b.step(ctx, broker.OffersPosted{Provider: provider, Set: shown(ask, set)}); err != nil {
				return err
			}
		}
		b.hints[askHints+string(provider)] = value
		s.asks.mu.Lock()
		defer s.asks.mu.Unlock()
		s.asks.asks[provider] = ask
		return nil
	})
}

// OwnerToken makes a token for the owner of a provider: it speaks for the provider's own account.
func (s *Service) OwnerToken(ctx context.Context, provider broker.PeerID) (string, error) {
	if _, err := identity.ParseID(string(provider)); err != nil {
		return "", &broker.FieldError{Field: "provider", Problem: err.Error()}
	}
	token := "rialto_" + randomID()
	err := s.do(ctx, len(provider), func(_ context.Context, b *batch) error {
		b.notes[tokenNotes+hash(token)] = []byte(provider)
		return nil
	})
	return token, err
}
