// Package api is the broker over HTTP: the server, and the [Client] that the command line uses.
//
// Everything is JSON under /v1, described by the OpenAPI 3.1 document at /openapi.json. Amounts are integers whose
// field name carries the unit (_nanousd, _nanousd_per_hour, _ms, _mib). Requests are decoded strictly: an
// unknown field, a bad value or an unknown query parameter is refused with a problem (RFC 9457,
// application/problem+json) that names the field and the nearest valid one.
//
// # Queries
//
// GET /v1/offers takes q in the query language ([broker.ParseFilter]) beside the typed parameters, and sort, limit and
// cursor. Every answer says what was applied, what each predicate eliminated, and what would admit the nearest misses;
// its ETag names all but its time. POST /v1/offers:explain says what each predicate does alone. A query that makes no
// sense is a 400, as is, on every route, a parameter that is unknown, given twice or out of its range; 422 is for bodies.
//
// # Who may do what
//
// A caller shows "Authorization: Bearer TOKEN". Market, offers, quotes and prices need none. A customer sees its own
// account and jobs; another account's job does not exist for it. The admin's token opens accounts, adds
// to them what was paid, sees who is accused of what, makes tokens for owners of providers, and nothing else. Job specs are signed by the customer
// besides, so that a stolen token alone starts nothing; unless the account is custodial: then the broker holds the key and
// signs for whoever shows the token, which is what clients of other markets need (rialto/broker/vast).
//
// # Exactly once
//
// POST /v1/jobs needs an Idempotency-Key header. The same key with the same body returns the same job; with
// another body it is refused with 422. An answer 202 means that the job is durable. A deposit is made once per ref.
//
// # Firm quotes
//
// POST /v1/quotes says what a job would cost now, and holds nothing. POST /v1/quotes/firm takes a signed spec that says how
// long it is to be firm (1 to 60 s): a provider holds GPUs and signs its price, the customer's money is held, and nothing is
// started. POST /v1/quotes/{id}/accept makes it a job, which has the quote's id; accepting again returns the same job.
// DELETE /v1/quotes/{id} or time gives GPUs and money back. An account has at most eight open quotes.
//
// # Images
//
// The broker imports images, those that it is asked for by POST /v1/images and those of jobs, and vouches for their roots:
// that they are what the layers of the digest add up to. It keeps no layers. Its word counts for whoever trusts it
// with that: a customer signs the root in his spec, and only then do hosts take the image's files from it.
//
// GET /v1/images/{digest}/traces tells what runs read first of an image. Commands are named by their hash alone
// ([broker.CommandHash]), because they are other customers'.
//
// # Events
//
// GET /v1/jobs/{id}/events is a stream of server-sent events named "job", numbered by id from 1 without gaps. Last-Event-ID
// resumes after a number. The stream ends with an event named "end" once the job has ended.
//
// # Prices
//
// GET /v1/prices has the index of each cell, /v1/prices/{cell}/receipt all that it was computed from (see rialto/pricing).
// Answers carry as_of, seq and an ETag that changes with them. GET /v1/stream tells changes: events named "price", "depth",
// "trade" and "offer", numbered by id, of each cell and kind the newest and at most ten a second. Last-Event-ID resumes
// after a number with what is true now and has changed since. A reader that was too slow, or whose number is not known,
// gets an event named "reset" and then all that is true now: nothing is kept for it meanwhile.
package api

import (
	"context"
	"iter"

	"rialto/blockstore"
	"rialto/broker"
	"rialto/pricing"
)

// Market is the market that the server fronts. Methods are safe for concurrent use, return what is
// durable, and fail with the errors of package broker. A job of another account is [broker.ErrNotFound].
type Market interface {
	JobMarket
	QuoteMarket
	AccountMarket
	ImageMarket
	HostMarket
	PriceMarket
	// Ready returns nil once the market can be used.
	Ready() error
	// Search explains which offers match.
	Search(ctx context.Context, q broker.Query) (broker.Search, error)
	// Quote prices a job.
	Quote(ctx context.Context, r broker.QuoteRequest) (broker.Quote, error)
}

// JobMarket is the part of the market that deals with an account's jobs.
type JobMarket interface {
	// Submit accepts a signed spec once per idempotency key.
	Submit(ctx context.Context, account broker.AccountID, key string, envelope []byte) (broker.Job, error)
	// Jobs returns the account's newest jobs, or those accepted before a job, at most most, newest first, and
	// whether there are older ones.
	Jobs(ctx context.Context, account broker.AccountID, before broker.JobID, most int) (page []broker.Job, more bool, err error)
	Job(ctx context.Context, account broker.AccountID, id broker.JobID) (broker.Job, error)
	// Ahead returns, of each of some jobs, how many are served before it, if it waits.
	Ahead(ids ...broker.JobID) []int
	Cancel(ctx context.Context, account broker.AccountID, id broker.JobID, reason string) (broker.Job, error)
	// ChangeBid has an interruptible job bid what its customer signed.
	ChangeBid(ctx context.Context, account broker.AccountID, id broker.JobID, envelope []byte) (broker.Job, error)
	// Events yields the job's history after an event's number, and goes on until the job has ended.
	Events(ctx context.Context, account broker.AccountID, id broker.JobID, after uint64) iter.Seq2[broker.JobEvent, error]
	// Lease returns a job's current or last lease.
	Lease(ctx context.Context, account broker.AccountID, id broker.JobID) (broker.Lease, error)
	// Receipt returns the signed receipt of a job's last lease.
	Receipt(ctx context.Context, account broker.AccountID, id broker.JobID) ([]byte, error)
}

// AccountMarket is the part of the market that deals with accounts.
type AccountMarket interface {
	// Authenticate returns the account of a token, or [broker.ErrForbidden].
	Authenticate(token string) (broker.AccountID, error)
	Account(ctx context.Context, id broker.AccountID) (broker.Account, error)
	Accounts(ctx context.Context) ([]broker.Account, error)
	BindKey(ctx context.Context, id broker.AccountID, key broker.PeerID) (broker.Account, error)
	// OpenAccount makes an account and its token; a nil deposit means the market's grant.
	OpenAccount(ctx context.Context, name string, deposit *pricing.Money) (broker.Account, string, error)
	// OpenCustodial is OpenAccount for an account whose key the market holds.
	OpenCustodial(ctx context.Context, name string, deposit *pricing.Money) (broker.Account, string, error)
	// SetLimits replaces what an account may spend.
	SetLimits(ctx context.Context, id broker.AccountID, l broker.Limits) (broker.Account, error)
	// Deposit adds money from outside. The same deposit again, by its ref, changes nothing.
	Deposit(ctx context.Context, id broker.AccountID, amount pricing.Money, ref string) (broker.Account, error)
	// OwnerToken makes a token that speaks for a provider.
	OwnerToken(ctx context.Context, provider broker.PeerID) (string, error)
}

// ImageMarket is the part of the market that vouches for roots of images and remembers what runs of them read first.
type ImageMarket interface {
	// Image says what is known about the root of the image with a digest.
	Image(ctx context.Context, digest string) (broker.ImageBuild, error)
	// BuildImage asks for it, in the name of an account.
	BuildImage(ctx context.Context, account broker.AccountID, image, digest string) (broker.ImageBuild, error)
	// Traces lists the commands of the image with a digest of which runs are remembered.
	Traces(ctx context.Context, digest string) ([]broker.TracedCommand, error)
	// Trace returns what the runs of one of them read first, merged.
	Trace(ctx context.Context, digest, command string) (blockstore.Trace, error)
}

// HostMarket is the part of the market that knows of its providers what their operator wants to see.
type HostMarket interface {
	// Accused lists the peers that providers say sent them wrong blocks, those that most accuse first.
	Accused(ctx context.Context) ([]broker.Accused, error)
}

// Blocks keeps the blocks that customers upload.
type Blocks interface {
	Has(ctx context.Context, c blockstore.CID) (bool, error)
	Put(ctx context.Context, blocks ...blockstore.Block) error
}
