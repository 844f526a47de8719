package broker

import (
	"time"

	"rialto/pricing"
)

// Query says which offers are wanted. Zero fields other than GPU match everything.
type Query struct {
	GPU       GPURequest
	MemoryMiB uint64       // host memory for the whole job
	CPUs      int          // for the whole job
	MaxRate   pricing.Rate // per GPU-hour
	Region    string
	Provider  PeerID
	Image     string   // digest of the image: hosts that hold it win ties
	Weights   []string // CIDs of weight roots: likewise
}

// Match is an offer that satisfies a query.
type Match struct {
	Offer    Offer
	Free     int          // GPUs that can be leased now
	HasImage bool         // the host holds every block of the image
	Rate     pricing.Rate // for all GPUs of the job, per hour
}

// Elimination says how many offers a predicate removed that all predicates before it had left.
type Elimination struct {
	Predicate string // such as "max rate $0.30/h"
	Count     int
	Nearest   string // the nearest miss, such as "$0.40/h on alpha"
}

// Search is an explained answer to a query.
type Search struct {
	Offers     int      // live offers before any predicate
	Applied    []string // predicates in order
	Eliminated []Elimination
	Matches    []Match // cheapest expected cost first
}

// QuoteRequest asks what a job would cost.
type QuoteRequest struct {
	Query
	MaxCost  pricing.Money // zero: rate × duration
	Duration time.Duration
}

// Quote is the price of a job on the best offer of the moment. It holds nothing.
type Quote struct {
	Best   Match
	Cost   pricing.Money // for the whole duration
	Hold   pricing.Money // what would be kept aside
	Search Search
}
