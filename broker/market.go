package broker

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"rialto/pricing"
)

// MarketConfig configures a [Market]. Only Self is required.
type MarketConfig struct {
	Self           PeerID        // this broker; jobs must be signed for it
	AllowSimulated bool          // admit offers of simulated GPUs
	HoldTTL        time.Duration // a hold that was not answered lapses; default 20 s
	LeaseTTL       time.Duration // a lease that was not renewed lapses; default 45 s
	QueueTimeout   time.Duration // a job that no provider took fails; default 5 min
	PrepareTimeout time.Duration // a lease that did not become ready fails its job; default 30 min
	FeePPM         int64         // the broker's part of a bill, in millionths; default 0
	MinRun         time.Duration // an interruptible job that is ready is not displaced before; default 10 min
	Notice         time.Duration // one that is displaced may still run for so long; default 60 s
	NewIndex       func() Index  // makes the index of the market's offers; default: all by price, see ladders
}

func (c MarketConfig) withDefaults() (MarketConfig, error) {
	// A host answers a hold in well under a second; 20 s leaves room for a lost connection to come back.
	c.HoldTTL = cmp.Or(c.HoldTTL, 20*time.Second)
	// Agents renew every third of it: two lost reports do not end a lease.
	c.LeaseTTL = cmp.Or(c.LeaseTTL, 45*time.Second)
	c.QueueTimeout = cmp.Or(c.QueueTimeout, 5*time.Minute)
	// A 100 GB image over 500 Mbit/s.
	c.PrepareTimeout = cmp.Or(c.PrepareTimeout, 30*time.Minute)
	c.MinRun = cmp.Or(c.MinRun, 10*time.Minute)
	// Enough to write a checkpoint of tens of gigabytes.
	c.Notice = cmp.Or(c.Notice, time.Minute)
	if c.NewIndex == nil {
		c.NewIndex = newLadders
	}
	var check checker
	check.name("self", string(c.Self), maxName)
	check.that(min(c.HoldTTL, c.LeaseTTL, c.QueueTimeout, c.PrepareTimeout, c.MinRun, c.Notice) > 0, "timeouts", "below zero")
	check.that(c.FeePPM >= 0 && c.FeePPM <= 1_000_000, "fee", "%d ppm: want 0 to 1000000", c.FeePPM)
	return c, check.err
}

// Limits of the market's own.
const (
	// resendAfter is how long an unanswered confirmation or release waits to be sent again.
	resendAfter = 5 * time.Second
	// maxAttempts ends a job that providers keep taking and losing.
	maxAttempts = 32
	// stepBytes is how much one step begins to save, roughly: a batch of the ledger is bounded, and the
	// step that ends all leases after an outage must fit. What is left over waits for the next ticks.
	stepBytes = 1 << 20
	// maxOpen is how many jobs of one account may be open: free offers hold no money that would limit them.
	maxOpen = 1000
)

// lapse is how long after the last renewal a lease is surely over at the provider: the provider counts
// its time from when it asked, the market from when it answered, and clocks drift by less than 2 %.
func (c MarketConfig) lapse() time.Duration { return c.LeaseTTL + c.LeaseTTL/50 + 2*time.Second }

// Market joins customers and providers. It is a pure state machine, not safe for concurrent use.
// Values that it returns share memory with it and must not be changed.
//
// A job waits (queued) until an offer matches, then the provider is asked (holding). A grant makes it
// leased, or, of a firm quote, quoted until its customer accepts it; ready starts the meter; the first corroborated interval makes it running. A refusal, a host's own
// fault or a provider lost before ready leads to the next offer; a provider lost later fails the job, and
// so does what the job itself is to blame for. A job that is
// stopped after ready stays open until the provider's last report or its lease's lapse, so that a
// terminal state means settled: the bill charged, the rest of the hold returned, exactly once.
//
// Time must not jump: the caller adds monotonic time to the wall clock that it read at its start. Time
// that goes backwards stands still.
type Market struct {
	cfg   MarketConfig
	clock time.Time // of the last step
	fault *InvariantError

	accounts  map[AccountID]*Account
	keys      map[PeerID]AccountID        // bound keys
	deposits  map[string]Transfer         // by reference; see Archived
	committed map[AccountID]pricing.Money // sum of the holds of an account's jobs; equals Account.Held
	totals    Totals

	jobs    map[JobID]*Job  // open, or not archived yet
	slots   map[JobID]int   // of those that are open
	slotted int             // slots that were ever used
	vacant  []int           // of them, those that are free; the last is taken first
	nonces  map[nonce]JobID // a signed spec is accepted once
	queue   queue
	stale   map[JobID]struct{}    // of those that wait, those to look for a place for whatever changed
	news    map[offerKey]struct{} // offers that may serve who waits: they changed, or GPUs of them came free
	checked JobID                 // of those that wait, looked at last because time passed; not saved
	open    map[AccountID]int     // jobs that are not terminal
	quotes  map[AccountID]int     // of them, firm quotes that are not accepted

	leases map[LeaseID]*Lease    // of the jobs
	live   map[LeaseID]struct{}  // not ended, or its receipt not signed
	spots  map[LeaseID]bool      // not ended and interruptible: whether it may be displaced already
	sent   map[LeaseID]time.Time // when the message that the lease waits for was sent; not saved
	leased map[string]LeaseID    // by GPU UUID, until the lease has ended
	epochs map[gpuID]uint64      // highest granted
	asked  map[offerKey]int      // GPUs in holds without answer

	records map[PeerID]Record // what was seen of each provider
	starts  seenStarts
	sizes   map[string]int64      // bytes of images by digest and root, by the broker's own count; not saved
	fills   map[PeerID][]HoldFill // how each answered the last holds, oldest first
	failing map[PeerID]struct{}   // providers that failed one of these
	longest time.Duration         // that any provider was seen: none has a lower hazard than that allows

	backlog bool                // queued jobs that a full step left over
	pardons map[PeerID]struct{} // providers that a full step has not forgiven everywhere

	shops    map[PeerID]*shop
	sellers  map[string]PeerID   // of each offered GPU, by UUID
	offers   []*Offer            // of all shops, by provider and id
	models   map[string]int      // how many of them have it
	holders  map[string][]*Offer // of the root of an image or weights; likewise
	index    Index               // of offers at their rates on demand
	reserved Index               // of those that have one, at their reserved rates

	rests map[LeaseID]LeaseID // of reservations, and who uses it; empty: nobody
	kept  map[offerKey]int    // GPUs that nobody but their accounts gets

	distrusted map[PeerID]time.Time // not named as sources of blocks until then; not saved
}

type (
	nonce struct {
		customer PeerID
		nonce    string
	}
	gpuID struct {
		provider PeerID
		uuid     string
	}
	offerKey struct {
		provider PeerID
		offer    OfferID
	}
)

// NewMarket returns an empty market.
func NewMarket(cfg MarketConfig) (*Market, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	return &Market{
		cfg:       cfg,
		accounts:  map[AccountID]*Account{},
		keys:      map[PeerID]AccountID{},
		deposits:  map[string]Transfer{},
		committed: map[AccountID]pricing.Money{},
		jobs:      map[JobID]*Job{},
		slots:     map[JobID]int{},
		nonces:    map[nonce]JobID{},
		queue:     newQueue(),
		stale:     map[JobID]struct{}{},
		news:      map[offerKey]struct{}{},
		open:      map[AccountID]int{},
		quotes:    map[AccountID]int{},
		leases:    map[LeaseID]*Lease{},
		live:      map[LeaseID]struct{}{},
		spots:     map[LeaseID]bool{},
		sent:      map[LeaseID]time.Time{},
		leased:    map[string]LeaseID{},
		epochs:    map[gpuID]uint64{},
		asked:     map[offerKey]int{},
		records:   map[PeerID]Record{},
		starts:    newSeenStarts(),
		sizes:     map[string]int64{},
		fills:     map[PeerID][]HoldFill{},
		failing:   map[PeerID]struct{}{},
		pardons:   map[PeerID]struct{}{},
		shops:     map[PeerID]*shop{},
		sellers:   map[string]PeerID{},
		models:    map[string]int{},
		holders:   map[string][]*Offer{},
		index:     cfg.NewIndex(),
		reserved:  cfg.NewIndex(),

		rests: map[LeaseID]LeaseID{},
		kept:  map[offerKey]int{},

		distrusted: map[PeerID]time.Time{},
	}, nil
}

// Step applies an event. An error means that the event was refused: nothing changed and nothing is to be
// saved. An error that is a [*InvariantError] means that the market can no longer be trusted: crash.
func (m *Market) Step(now time.Time, ev Event) ([]Effect, error) {
	if m.fault != nil {
		return nil, m.fault
	}
	now = now.Round(0).UTC() // what is saved has no monotonic part: equal histories, equal values
	if now.Before(m.clock) {
		now = m.clock
	}
	t := &turn{Market: m, now: now}
	if err := t.apply(ev); err != nil {
		return nil, err
	}
	m.clock = now
	if t.changed {
		t.serveQueue()
	}
	t.audit()
	if m.fault != nil {
		return nil, m.fault
	}
	return t.effects(), nil
}

func (t *turn) apply(ev Event) error {
	switch ev := ev.(type) {
	case OffersPosted:
		return t.post(ev)
	case ProviderGone:
		return t.gone(ev)
	case AccountOpened:
		return t.openAccount(ev)
	case KeyBound:
		return t.bind(ev)
	case LimitsSet:
		return t.setLimits(ev)
	case Deposited:
		return t.deposit(ev)
	case Submitted:
		return t.submit(ev)
	case QuoteAccepted:
		return t.accept(ev)
	case BidChanged:
		return t.rebid(ev)
	case CancelRequested:
		return t.cancel(ev)
	case HoldAnswered:
		return t.answered(ev)
	case ConfirmAnswered:
		return t.confirmed(ev)
	case ReleaseAnswered:
		return t.released(ev)
	case Reported:
		return t.report(ev)
	case ReceiptSigned:
		return t.receipted(ev)
	case SourceDistrusted:
		t.distrusted[ev.Provider] = ev.Until
		return nil
	case ContentSized:
		t.sized(ev)
		return nil
	case Ticked:
		t.tick()
		return nil
	case Archived:
		t.archive(ev)
		return nil
	case Recalled:
		return t.recall(ev)
	}
	return &FieldError{Field: "event", Problem: "missing"}
}

// turn is one step in the making. Its methods first check and then change: once something has changed,
// nothing is refused any more.
type turn struct {
	*Market
	now           time.Time
	dirtyAccounts touched[*Account]
	dirtyJobs     touched[*Job]
	dirtyLeases   touched[*Lease]
	before        pricing.Money // sum of the dirty accounts' balances before the step
	posts         []Effect
	sends         []Effect
	changed       bool    // offers or free GPUs: queued jobs may find a place
	accepted      []JobID // by this step
	heirs         []JobID // for whom the leases that ended in this step were displaced
	lent          *Lease  // the rest that the job which is being placed may use
	ending        JobID   // gang whose members are being stopped
	size          int     // of what is to be saved, roughly
	past          Recalled

	// What derived records follow from, see derive.
	counted bool // a job has ended
	moved   []Slot
	raised  []Epoch
	heard   touched[PeerID] // answers
	ran     touched[PeerID]
	started touched[string] // contents
	over    []*Lease
	waits   []Wait
}

// full reports whether what can wait has to wait for the next step.
func (t *turn) full() bool { return t.size >= stepBytes }

// touched lists what has to be saved, in the order of first touch.
type touched[T comparable] struct {
	list []T
	seen map[T]struct{}
}

func (s *touched[T]) add(v T) bool {
	if _, ok := s.seen[v]; ok {
		return false
	}
	if s.seen == nil {
		s.seen = map[T]struct{}{}
	}
	s.seen[v] = struct{}{}
	s.list = append(s.list, v)
	return true
}

func (t *turn) send(e Effect) { t.sends = append(t.sends, e) }

func (t *turn) broken(rule string) {
	if t.fault == nil {
		t.fault = &InvariantError{Rule: rule}
	}
}

func (t *turn) effects() []Effect {
	var out []Effect
	for _, a := range t.dirtyAccounts.list {
		out = append(out, SaveAccount{*a})
	}
	for _, j := range t.dirtyJobs.list {
		out = append(out, SaveJob{Job: *j, New: slices.Contains(t.accepted, j.ID)})
	}
	for _, l := range t.dirtyLeases.list {
		out = append(out, SaveLease{*l})
	}
	return slices.Concat(out, t.posts, t.derive(), t.sends)
}

// Clock returns the latest time that the market has seen, also before it was restored.
func (m *Market) Clock() time.Time { return m.clock }

// Job returns a job that is open, or was a moment ago.
func (m *Market) Job(id JobID) (Job, bool) { return deref(m.jobs[id]) }

// Lease returns a lease of such a job.
func (m *Market) Lease(id LeaseID) (Lease, bool) { return deref(m.leases[id]) }

// Account returns an account.
func (m *Market) Account(id AccountID) (Account, bool) { return deref(m.accounts[id]) }

// AccountOf returns the account that a key is bound to.
func (m *Market) AccountOf(key PeerID) (Account, bool) { return deref(m.accounts[m.keys[key]]) }

func deref[T any](p *T) (T, bool) {
	if p == nil {
		return *new(T), false
	}
	return *p, true
}

// Books returns the balances of the world's and the broker's own book.
func (m *Market) Books() (world, fee pricing.Money) { return m.totals.World, m.totals.Fee }

// sortedKeys makes ranging over a map the same every time.
func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
