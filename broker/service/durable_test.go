package service_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"rialto/broker"
	"rialto/broker/ledger"
	"rialto/broker/service"
	"rialto/broker/wire"
	"rialto/p2p/identity"
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

func (s *slowStore) Save(ctx context.Context, epoch uint64, id string, effects []broker.Effect, notes, hints map[string][]byte) error {
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
	return s.Store.Save(ctx, epoch, id, effects, notes, hints)
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
	if jobs, _, err := w.Jobs(t.Context(), w.account, "", 100); err != nil || len(jobs) != 0 {
		t.Errorf("%d jobs are seen before the batch is durable, %v", len(jobs), err)
	}
	s.arm(false)
	fate <- nil
	if err := next(t, "answer", answered); err != nil {
		t.Errorf("submit: %v", err)
	}
	if jobs, _, err := w.Jobs(t.Context(), w.account, "", 100); err != nil || len(jobs) != 1 {
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

// wrongStore says, when it is let go, that balances are not what transfers add up to.
type wrongStore struct {
	service.Store
	counted chan struct{}
}

func (s wrongStore) Recount(ctx context.Context, _ broker.State) error {
	select {
	case <-s.counted:
		return ledger.ErrCorrupt
	case <-ctx.Done():
		return ctx.Err()
	}
}

// TestWrongBalancesEndTheMarket: they are counted beside the market, which goes on until it is known.
func TestWrongBalancesEndTheMarket(t *testing.T) {
	s := wrongStore{memory(), make(chan struct{})}
	w := newWorld(t, s)
	newAgent(t, w).offer()
	w.submit("while they are counted")
	close(s.counted)
	if err := next(t, "end", w.ended); !errors.Is(err, ledger.ErrCorrupt) {
		t.Errorf("run ended with %v, want what the recount said", err)
	}
	w.ended <- nil
	if err := w.Ready(); !errors.Is(err, broker.ErrUnavailable) {
		t.Errorf("ready: %v", err)
	}
}

// fullStore has no room for new work.
type fullStore struct{ service.Store }

func (fullStore) Room() error { return ledger.ErrNoSpace }

// TestFullDiskRefusesNewJobs while the rest of the market goes on.
func TestFullDiskRefusesNewJobs(t *testing.T) {
	w := newWorld(t, fullStore{memory()})
	newAgent(t, w).offer()
	if _, err := w.Submit(t.Context(), w.account, "k", w.seal(w.spec())); !errors.Is(err, broker.ErrUnavailable) {
		t.Errorf("submit on a full disk: %v, want ErrUnavailable", err)
	}
	if jobs, _, err := w.Jobs(t.Context(), w.account, "", 100); err != nil || len(jobs) != 0 {
		t.Errorf("%d jobs, %v; want none", len(jobs), err)
	}
}

// TestCallersWhoLeave give up while their submissions wait for the writer. What the writer then does must
// not touch what the callers have got; the race detector watches.
func TestCallersWhoLeave(t *testing.T) {
	s := &slowStore{Store: memory(), saves: make(chan chan error)}
	w := newWorld(t, s)
	newAgent(t, w).offer()
	s.arm(true)
	first, second := w.seal(w.spec()), w.seal(w.spec())
	var callers sync.WaitGroup
	call := func(ctx context.Context, key string, spec []byte) {
		if j, err := w.Submit(ctx, w.account, key, spec); err != nil && !errors.Is(err, context.Canceled) || err == nil && j.ID == "" {
			t.Errorf("submit: got job %q, %v", j.ID, err)
		}
		q := broker.Query{GPU: broker.GPURequest{Model: "any", Count: 1}}
		if found, err := w.Search(ctx, q); err != nil && (found.Offers != 0 || !errors.Is(err, context.Canceled)) {
			t.Errorf("search: got %+v, %v", found, err)
		}
	}
	callers.Go(func() { call(t.Context(), "first", first) })
	fate := next(t, "save", s.saves)
	ctx, cancel := context.WithCancel(t.Context())
	for range 50 {
		callers.Go(func() { call(ctx, "second", second) })
	}
	s.arm(false)
	go cancel()
	fate <- nil
	callers.Wait()
	job := w.submit("third") // all before it has been done by now
	if jobs, _, err := w.Jobs(t.Context(), w.account, "", 100); err != nil || len(jobs) > 3 || jobs[0].ID != job.ID {
		t.Errorf("%d jobs, %v: a key made more than one job", len(jobs), err)
	}
}

// TestHungAgentDelaysNobody lets one provider take a hold and never answer, while another serves a job.
func TestHungAgentDelaysNobody(t *testing.T) {
	w := newWorld(t, memory())
	hung, good := newAgent(t, w), newAgent(t, w)
	stuck, released := make(chan struct{}), make(chan struct{})
	hung.host.Handle(wire.ProtocolHold, wire.MaxHold, func(context.Context, identity.ID, []byte) ([]byte, error) {
		close(stuck)
		<-released
		return nil, errors.New("too late")
	})
	defer close(released)
	hung.offer()
	good.offer()
	for _, a := range []*agent{hung, good} {
		spec := w.spec()
		spec.Provider = a.id()
		j, err := w.Submit(t.Context(), w.account, string(a.id()), w.seal(spec))
		if err != nil {
			t.Fatal(err)
		}
		if a == hung {
			next(t, "hold at the hung agent", stuck)
			continue
		}
		w.until(j.ID, broker.JobLeased)
	}
}

// fillingUp has room until it is full.
type fillingUp struct {
	service.Store
	full atomic.Bool
}

func (s *fillingUp) Room() error {
	if s.full.Load() {
		return ledger.ErrNoSpace
	}
	return nil
}
