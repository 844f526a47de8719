package broker

import (
	"iter"
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
}

// State is what the effects of earlier steps saved.
type State struct {
	Accounts []Account
	Jobs     []Job
	Leases   []Lease
	// Transfers are all transfers, in order. Balances are recomputed from them and must agree.
	Transfers iter.Seq2[Transfer, error]
}

// Market joins customers and providers. It is a pure state machine, not safe for concurrent use.
type Market struct {
	cfg MarketConfig
}

// NewMarket returns an empty market.
func NewMarket(cfg MarketConfig) (*Market, error) { return &Market{cfg: cfg}, nil }

// Restore fills an empty market with saved state. The next Ticked sends again what was not answered.
func (m *Market) Restore(s State) error { return nil }

// Step applies an event. An error means that the event was refused: nothing changed and nothing is to be
// saved. An error that is a [*InvariantError] means that the market can no longer be trusted: crash.
func (m *Market) Step(now time.Time, ev Event) ([]Effect, error) { return nil, nil }

// Job returns a job.
func (m *Market) Job(id JobID) (Job, bool) { return Job{}, false }

// Jobs returns the jobs of an account, oldest first.
func (m *Market) Jobs(account AccountID) []Job { return nil }

// Lease returns a lease.
func (m *Market) Lease(id LeaseID) (Lease, bool) { return Lease{}, false }

// Account returns an account.
func (m *Market) Account(id AccountID) (Account, bool) { return Account{}, false }

// AccountOf returns the account that a key is bound to.
func (m *Market) AccountOf(key PeerID) (Account, bool) { return Account{}, false }

// Offers returns all live offers, ordered by provider and id. Free excludes GPUs under a lease here.
func (m *Market) Offers() []Offer { return nil }

// Books returns the balances of the world's and the broker's own book.
func (m *Market) Books() (world, fee pricing.Money) { return 0, 0 }

// Search explains which offers match a query, cheapest expected cost first.
func (m *Market) Search(q Query) (Search, error) { return Search{}, nil }

// Quote prices a job on the offer that it would get now. The error is a [*NoOfferError] if none matches.
func (m *Market) Quote(r QuoteRequest) (Quote, error) { return Quote{}, nil }
