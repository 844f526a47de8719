package service_test

import (
	"context"
	"errors"
	"sync"
	"testing"

	"rialto/broker"
	"rialto/broker/service"
)

// slowStore stops at each save until it is let go, or fails.
type slowStore struct {
	service.Store
	mu    sync.Mutex
	armed bool
	saves chan chan error // each save sends where it waits for its fate
}

func (s *slowStore) arm(armed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.armed = armed
}

func (s *slowStore) Save(ctx context.Context, epoch uint64, id string, effects []broker.Effect, notes map[string][]byte) error {
	s.mu.Lock()
	armed := s.armed
	s.mu.Unlock()
	if armed {
		fate := make(chan error)
		s.saves <- fate
		if err := <-fate; err != nil {
			return err
		}
	}
	return s.Store.Save(ctx, epoch, id, effects, notes)
}

// TestAnswerOnlyWhenDurable holds a save back and looks at what is seen meanwhile.
func TestAnswerOnlyWhenDurable(t *testing.T) {
	s := &slowStore{Store: memory(), saves: make(chan chan error)}
	w := newWorld(t, s)
	newAgent(t, w).offer()
	s.arm(true)
	envelope := w.seal(w.spec())
	answered := make(chan error, 1)
	go func() {
		_, err := w.Submit(t.Context(), w.account, "k", envelope)
		answered <- err
	}()
	fate := next(t, "save", s.saves)
	select {
	case err := <-answered:
		t.Errorf("answered before the batch was durable: %v", err)
	default:
	}
	if jobs, err := w.Jobs(t.Context(), w.account); err != nil || len(jobs) != 0 {
		t.Errorf("%d jobs are seen before the batch is durable, %v", len(jobs), err)
	}
	s.arm(false)
	fate <- nil
	if err := next(t, "answer", answered); err != nil {
		t.Errorf("submit: %v", err)
	}
	if jobs, err := w.Jobs(t.Context(), w.account); err != nil || len(jobs) != 1 {
		t.Errorf("%d jobs after the answer, %v", len(jobs), err)
	}
}

// TestFailedSaveEndsTheMarket: crash-only.
func TestFailedSaveEndsTheMarket(t *testing.T) {
	s := &slowStore{Store: memory(), saves: make(chan chan error)}
	w := newWorld(t, s)
	newAgent(t, w).offer()
	s.arm(true)
	envelope := w.seal(w.spec())
	answered := make(chan error, 1)
	go func() {
		_, err := w.Submit(t.Context(), w.account, "k", envelope)
		answered <- err
	}()
	broken := errors.New("disk on fire")
	next(t, "save", s.saves) <- broken
	if err := next(t, "end", w.ended); !errors.Is(err, broken) {
		t.Errorf("run ended with %v, want the store's error", err)
	}
	w.ended <- nil
	if err := next(t, "answer", answered); !errors.Is(err, broker.ErrUnavailable) {
		t.Errorf("submit: %v, want an unknown outcome", err)
	}
	if err := w.Ready(); !errors.Is(err, broker.ErrUnavailable) {
		t.Errorf("ready: %v", err)
	}
}
