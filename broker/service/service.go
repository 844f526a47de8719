// Package service runs a [broker.Market]: it owns the clock, the one goroutine that steps the market, and
// the talk with the agents.
//
// # Order of things
//
// Whatever happens (a call of the API, a message of an agent, the outcome of a send, a tick) becomes an
// event in one bounded queue. The writer takes as many as are there, steps the market for each, makes all
// that the steps want saved durable in one batch, and only then shows the new state to readers, answers
// callers and agents, and sends what is to be sent. So nothing is ever seen or said that a crash could
// take back.
//
// Sends to a provider about one lease happen in order, about different leases at once; each has a time
// limit and its outcome is an event again.
//
// A failed batch or a broken invariant of the market ends [Service.Run] with that error: the process must
// end and read its state again. Leases go on meanwhile, because the providers are the authority over them.
//
// # Images
//
// A [Builder] makes roots of images, for which the broker then vouches: those that customers ask for, and those of
// jobs whose spec names none. One is built at a time, each once; what came of it is durable.
//
// # Traces
//
// Providers tell which blocks of an image a run read first. Of each command of an image the last runs are remembered, one
// of each provider at most, and what they have in common goes with the hold of the next run. It is a hint: it costs time
// if it is wrong, and nothing else. See [Service.Traces].
//
// # Wrong blocks
//
// A provider that got bytes which do not hash to the block that it asked for says so. Its word counts if it names a lease
// of its own whose hold named the accused as a source: so the broker knows that it had reason to ask, and nobody can
// accuse without a job. Who is accused by two providers within six hours is not named as a source until fewer than two
// such accusations are left, nor does it count as a replica; it sells as before, and no money moves. One accuser
// is never enough, for it may be a rival, or the one whose memory is broken. See [Service.Accused].
//
// # Advice
//
// Offers are answered with what the broker knows of the roots that the provider holds: how many others hold
// them, whether one of these is in its region, and whether the provider is one of the two in its region that keep a root
// longest. It is the hosts' to use: they delete what they must.
//
// # Prices
//
// Settled leases are trades. Each minute the index of every cell is printed (see rialto/pricing), saved where it changed,
// and then shown; what was printed is never written again. Its trades are made from what the ledger keeps of each lease that
// is over ([broker.Ending]): again after a restart, and for a receipt of any time, and they must give what was printed.
//
// # What is over
//
// Market and readers have what is open in memory, and read what is over from the store when it is named or asked for (see
// [Archive]): a restart takes as long as it takes to read what is open. The market forgets what is over once that is durable.
package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"rialto/broker"
	"rialto/p2p"
	"rialto/p2p/identity"
	"rialto/pricing"
)

// Host is the broker's presence among its peers. Methods are safe for concurrent use.
type Host interface {
	// Handle answers requests of a protocol.
	Handle(protocol string, maxRequest int, fn p2p.Handler)
	// Request asks a connected peer.
	Request(ctx context.Context, to identity.ID, protocol string, request []byte) ([]byte, error)
	// OnDisconnect registers what to call, quickly, when the last connection to a peer has ended.
	OnDisconnect(fn func(identity.ID))
	// RemoteIP returns a connected peer's address.
	RemoteIP(id identity.ID) (netip.Addr, bool)
}

// Store makes the market's effects durable. See rialto/broker/ledger.
type Store interface {
	Archive
	// Campaign fences earlier writers.
	Campaign(ctx context.Context) (epoch uint64, err error)
	// Load returns what was saved of what is open.
	Load(ctx context.Context) (broker.State, error)
	// Save makes saves, posts, new notes and hints durable, all or none. After an error nothing may be assumed.
	Save(ctx context.Context, epoch uint64, id string, effects []broker.Effect, notes, hints map[string][]byte) error
	// Note returns a note, or broker.ErrNotFound.
	Note(ctx context.Context, key string) ([]byte, error)
	// Notes returns the notes whose key begins with prefix.
	Notes(ctx context.Context, prefix string) (map[string][]byte, error)
	// Hints returns the hints whose key begins with prefix: notes that a later one replaces, and an empty one removes.
	Hints(ctx context.Context, prefix string) (map[string][]byte, error)
	// Hint returns one; nothing if there is none.
	Hint(ctx context.Context, key string) ([]byte, error)
	// Room returns an error when no new work should be accepted.
	Room() error
}

// Config configures a Service. Key, Host and Store are required.
type Config struct {
	Key    identity.Key
	Host   Host
	Store  Store
	Market broker.MarketConfig // Self is set from Key
	// Source is the broker's own block exchange, given to providers of jobs with weights or a local image; nil: none.
	Source func() broker.BlockSource
	// Builder makes the roots that the broker vouches for; nil: it vouches for no others than it did before.
	Builder Builder
	// Grant is what a new account gets unless the admin says otherwise.
	Grant pricing.Money
	// Tick is how often time passes for the market; default 250 ms, far below every limit that it keeps.
	Tick time.Duration
	// SendTimeout bounds one request to a provider; default 15 s, less than the time for which a hold is kept.
	SendTimeout time.Duration
	// PrintEvery is how often prices are printed, in whole seconds; default 60 s.
	PrintEvery time.Duration
	Metrics    prometheus.Registerer // nil: none
	Logger     *slog.Logger          // nil: discard
}

func (c Config) withDefaults() (Config, error) {
	if c.Key.IsZero() || c.Host == nil || c.Store == nil {
		return c, errors.New("broker service: key, host and store are required")
	}
	if c.Grant < 0 {
		return c, fmt.Errorf("broker service: grant %v is negative", c.Grant)
	}
	c.Market.Self = broker.PeerID(c.Key.ID())
	if c.Tick == 0 {
		c.Tick = 250 * time.Millisecond
	}
	if c.SendTimeout == 0 {
		c.SendTimeout = 15 * time.Second
	}
	if c.PrintEvery == 0 {
		c.PrintEvery = time.Minute
	}
	if c.PrintEvery < time.Second || c.PrintEvery%time.Second != 0 {
		return c, fmt.Errorf("broker service: prints every %v: want whole seconds", c.PrintEvery)
	}
	if c.Metrics == nil {
		c.Metrics = prometheus.NewRegistry()
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, nil
}

// Service is a running market. Its exported methods are safe for concurrent use; those that need the
// market fail with [broker.ErrUnavailable] until [Service.Run] has restored it and after it has ended.
type Service struct {
	c       Config
	market  *broker.Market // changed by the writer alone while Run runs, with stepping held; others read it with read
	view    *view
	metrics *metrics
	queue   chan *op
	sends   *outbox
	gone    *goneSet
	builds  *builds
	traces  *traceBook
	poisons *poisonBook
	named   *namedBook
	holders *holders
	prices  *prices
	asks    *askBook
	opened  chan struct{} // closed when the market is restored
	stopped chan struct{} // closed when Run returns
	started atomic.Bool
	sending sync.WaitGroup // and the builds and prices

	stepping sync.RWMutex // searches read the market beside the writer, which waits for them before it changes something
}

// step steps the market.
func (s *Service) step(now time.Time, ev broker.Event) ([]broker.Effect, error) {
	s.stepping.Lock()
	defer s.stepping.Unlock()
	return s.market.Step(now, ev)
}

// read asks the market something that changes nothing. The answer is of what was stepped, whether it is saved yet or not.
func read[T any](s *Service, question func(*broker.Market) (T, error)) (T, error) {
	if err := s.Ready(); err != nil {
		return *new(T), err
	}
	s.stepping.RLock()
	defer s.stepping.RUnlock()
	return question(s.market)
}

// New returns a service that does nothing yet.
func New(c Config) (*Service, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	m, err := broker.NewMarket(c.Market)
	if err != nil {
		return nil, err
	}
	v := newView()
	s := &Service{
		c: c, market: m, view: v, metrics: newMetrics(c.Metrics, v),
		queue: make(chan *op, queueLength), sends: newOutbox(), gone: newGoneSet(), traces: newTraceBook(),
		poisons: new(poisonBook), named: newNamedBook(), holders: newHolders(), asks: newAskBook(),
		opened: make(chan struct{}), stopped: make(chan struct{}),
	}
	s.builds = newBuilds(s)
	s.prices = newPrices(s)
	return s, nil
}

// Run restores the market and runs it until ctx ends (nil) or something fails that only a restart can mend.
// It runs once.
func (s *Service) Run(ctx context.Context) error {
	if s.started.Swap(true) {
		return errors.New("broker service: was run already")
	}
	defer close(s.stopped)
	s.serveAgents()
	state, epoch, err := s.restore(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("restore the market: %w", err)
	}
	sendCtx, cancel := context.WithCancel(ctx)
	defer s.sending.Wait()
	defer cancel()
	close(s.opened)
	wrong := make(chan error, 1)
	s.sending.Go(func() {
		if err := s.recount(sendCtx, state); err != nil && sendCtx.Err() == nil {
			wrong <- err
			cancel()
		}
	})
	if s.c.Builder != nil {
		s.sending.Go(func() { s.builds.run(sendCtx) })
	}
	s.sending.Go(func() { s.prices.run(sendCtx) })
	s.c.Logger.Info("market is open", "broker", s.c.Key.ID(), "epoch", epoch)
	w := &writer{s: s, epoch: epoch, clock: newClock(s.market.Clock())}
	err = w.run(sendCtx, sendCtx)
	select {
	case err = <-wrong: // whatever else failed, it built on that
	default:
	}
	if err != nil {
		s.c.Logger.Error("market stopped", "err", err)
		return err
	}
	return nil
}

// Ready returns nil while the market can be used.
func (s *Service) Ready() error {
	select {
	case <-s.stopped:
		return fmt.Errorf("the market has closed: %w", broker.ErrUnavailable)
	default:
	}
	select {
	case <-s.opened:
		return nil
	default:
		return fmt.Errorf("the market is not open yet: %w", broker.ErrUnavailable)
	}
}

// open waits until the market can be used: an agent may be quicker than a restart.
func (s *Service) open(ctx context.Context) error {
	select {
	case <-s.opened:
		return nil
	case <-s.stopped:
		return s.Ready()
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *Service) restore(ctx context.Context) (state broker.State, epoch uint64, err error) {
	if epoch, err = s.c.Store.Campaign(ctx); err != nil {
		return state, 0, err
	}
	if state, err = s.c.Store.Load(ctx); err != nil {
		return state, 0, err
	}
	tokens, err := s.c.Store.Notes(ctx, tokenNotes)
	if err != nil {
		return state, 0, err
	}
	traces, err := s.c.Store.Hints(ctx, traceHints)
	if err != nil {
		return state, 0, err
	}
	poisons, err := s.c.Store.Hints(ctx, poisonHints)
	if err != nil {
		return state, 0, err
	}
	asks, err := s.c.Store.Hints(ctx, askHints)
	if err != nil {
		return state, 0, err
	}
	if err := s.asks.restore(asks); err != nil {
		return state, 0, err
	}
	if err := s.market.Restore(state); err != nil {
		return state, 0, err
	}
	s.view.restore(state, tokens)
	s.traces.restore(traces)
	s.poisons.restore(poisons)
	s.c.Logger.Info("state restored", "accounts", len(state.Accounts), "open_jobs", len(state.Jobs), "leases", len(state.Leases))
	return state, epoch, nil
}
