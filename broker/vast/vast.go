// Package vast speaks the wire format of Vast.ai's HTTP API, /api/v0 and /api/v1, so that its command line
// (vastai --url) and other clients of it rent on this market unmodified.
//
// It is a translation. Offers are the market's, searched with the market's query language; an instance is a job. What
// has no counterpart is refused by name, never dropped: an unknown key, a value of the wrong type, a filter on what nobody
// measures, a bid, a public port, ssh. What nobody knows about an offer is null.
//
// # Ids
//
// Vast's ids are integers. Ours are derived from the market's by SHA-256, so that they stay the same over restarts and
// nothing is stored: 48 bits of the hash name a host or an instance; an offer's id is 48 bits and, in the lowest five, the
// number of GPUs, because one of our offers can be rented in parts and is shown once for 1, 2, 4, 8, 16 and all of its
// GPUs. All are below 2^53. If two live offers ever had one id, renting it would be refused.
//
// # Custody
//
// A client of Vast has nothing but an API key, and this market's jobs are signed. So only custodial accounts can rent
// through this package: the broker holds their key, signs for them and is the customer's end of their tunnels, which it
// tells in the account and in each instance. Other accounts get 403 and the reason.
//
// # Instances
//
// An instance runs until it is stopped or destroyed, for [Config.Term] or as long as the account's money lasts, whichever
// ends first; end_date says when. There are no paused containers: stop ends the job, and start is refused. A stopped
// instance is listed until it is destroyed. What a client keeps with it (its label) is the job's tag.
//
// An instance of Vast's runtype ssh, which is its command line's default, gets no ssh server: it runs the onstart script
// and stays up, and its status_msg says so. Runtypes that are asked for by name (ssh_proxy, ssh_direc, jupyter_…) are
// refused, and so are ports.
//
// # Prices
//
// dph_base is the price of the GPUs and dph_total that of GPUs and disk: of the instance's or, in a search, of
// allocated_storage, which is 5 GB where a search does not say it, and which an offer must have. A GB of disk is 2^30 bytes, and
// storage_cost the price of one for a month of 720 hours. A GB of traffic is 10^9 bytes; up is what leaves the host, down what
// reaches it. inet_up_billed and inet_down_billed count all that was carried, in KiB as Vast does. An instance pays for at
// most [broker.UsualTraffic] of it each way; that is in its hold, and the answer to its creation says so.
//
// An owner may ask more here than his agent does, of each price; less is refused.
package vast

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net/http"
	"path"
	"strings"
	"time"

	"rialto/broker"
	"rialto/pricing"
)

// Market is the market that instances are rented on. Methods are safe for concurrent use and return what is durable. A job
// of another account is [broker.ErrNotFound].
type Market interface {
	// Authenticate returns the account of a token, or [broker.ErrForbidden].
	Authenticate(token string) (broker.AccountID, error)
	Account(ctx context.Context, id broker.AccountID) (broker.Account, error)
	Search(ctx context.Context, q broker.Query) (broker.Search, error)
	// Jobs returns the account's jobs that were accepted before one, newest first, and whether there are older ones.
	Jobs(ctx context.Context, account broker.AccountID, before broker.JobID, most int) (page []broker.Job, more bool, err error)
	Job(ctx context.Context, account broker.AccountID, id broker.JobID) (broker.Job, error)
	Lease(ctx context.Context, account broker.AccountID, id broker.JobID) (broker.Lease, error)
	Cancel(ctx context.Context, account broker.AccountID, id broker.JobID, reason string) (broker.Job, error)
	// Events yields the job's history after an event's number, and goes on until the job has ended.
	Events(ctx context.Context, account broker.AccountID, id broker.JobID, after uint64) iter.Seq2[broker.JobEvent, error]
	// Tag returns what the submitter of a job keeps with it, and SetTag replaces it.
	Tag(ctx context.Context, account broker.AccountID, id broker.JobID) ([]byte, error)
	SetTag(ctx context.Context, account broker.AccountID, id broker.JobID, tag []byte) error
	// Executed returns the leases that ran between two times, of all accounts.
	Executed(ctx context.Context, from, to time.Time) ([]broker.Ending, error)
}

// Hosts is what owners can do with their hosts. Methods are safe for concurrent use.
type Hosts interface {
	// Host returns what the agent of a provider offers and what its owner asks; [broker.ErrNotFound] if it is not connected.
	Host(ctx context.Context, provider broker.PeerID) (broker.OfferSet, broker.OwnerAsk, error)
	SetAsk(ctx context.Context, provider broker.PeerID, ask broker.OwnerAsk) error
}

// Custodian does for a custodial account what a customer does himself: signs jobs and reaches into them. Methods are safe
// for concurrent use.
type Custodian interface {
	// Start resolves the order's image, signs its spec and submits it. The error is for the customer to read.
	Start(ctx context.Context, o Order) (broker.Job, error)
	// Bid has an interruptible job bid something else for each GPU.
	Bid(ctx context.Context, j broker.Job, bid pricing.Rate) (broker.Job, error)
	// Logs gives what the job's container printed to sink, and returns sink's error.
	Logs(ctx context.Context, account broker.AccountID, id broker.JobID, sink func(p []byte) error) error
	// Exec runs another process in the job, gives what it prints to sink and returns its exit code.
	Exec(ctx context.Context, account broker.AccountID, id broker.JobID, args []string, sink func(p []byte) error) (int, error)
}

// Order is an instance to start.
type Order struct {
	Account broker.AccountID
	Spec    broker.JobSpec // without what the custodian adds: digest, root, keys, time and nonce
	// Append puts the command behind the image's own entrypoint instead of replacing it.
	Append bool
	Tag    []byte // to be kept with the job
}

// Config configures a Server. Market, Custodian and Hosts are required.
type Config struct {
	Market    Market
	Custodian Custodian
	Hosts     Hosts
	// Admit counts a request of an account or, if it has none, of an address, and returns how long the caller should
	// wait; nil: all are admitted.
	Admit func(account broker.AccountID, remote string) time.Duration
	// Term is how long an instance may run; default 24 h, whose price is held from the account's money; at most 30 days.
	Term   time.Duration
	Logger *slog.Logger // nil: discard
}

const maxTerm = 30 * 24 * time.Hour

func (c Config) withDefaults() (Config, error) {
	if c.Market == nil || c.Custodian == nil || c.Hosts == nil {
		return c, errors.New("vast: market, custodian and hosts are required")
	}
	if c.Admit == nil {
		c.Admit = func(broker.AccountID, string) time.Duration { return 0 }
	}
	if c.Term == 0 {
		c.Term = 24 * time.Hour
	}
	if c.Term < time.Minute || c.Term > maxTerm {
		return c, fmt.Errorf("vast: term %v: want 1m to %v", c.Term, maxTerm)
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, nil
}

// Server answers Vast's calls below /api/. It starts nothing.
type Server struct {
	c       Config
	mux     *http.ServeMux
	results *results
	paths   []string

	reaching reaching
}

var _ http.Handler = (*Server)(nil)

// New returns a server.
func New(c Config) (*Server, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Server{c: c, mux: http.NewServeMux(), results: newResults(), reaching: reaching{of: map[broker.AccountID]int{}}}
	s.route("POST /v0/bundles", anybody, s.search)
	s.route("PUT /v0/search/asks", anybody, s.search)
	s.route("PUT /v0/asks/{id}", tenant, s.create)
	s.route("POST /v0/asks/bulk", tenant, s.createMany)
	s.route("PUT /v0/launch_instance", tenant, s.launch)
	s.route("GET /v0/instances", tenant, s.list)
	s.route("GET /v1/instances", tenant, s.page)
	s.route("GET /v0/instances/filters", tenant, s.filterValues)
	s.route("GET /v0/instances/{id}", tenant, s.show)
	s.route("PUT /v0/instances", tenant, s.changeMany)
	s.route("PUT /v0/instances/{id}", tenant, s.change)
	s.route("PUT /v0/instances/bid_price/{id}", tenant, s.bid)
	s.route("DELETE /v0/instances", tenant, s.destroyMany)
	s.route("DELETE /v0/instances/{id}", tenant, s.destroy)
	s.route("PUT /v0/instances/request_logs/{id}", tenant, s.logs)
	s.route("PUT /v0/instances/command/{id}", tenant, s.command)
	s.route("GET /v0/results/{token}", anybody, s.result)
	s.route("GET /v0/users/current", holder, s.user)
	s.route("GET /v0/metrics/gpu/current", anybody, s.metricsNow)
	s.route("GET /v0/metrics/gpu/history", anybody, s.metricsThen)
	s.route("GET /v0/metrics/gpu/locations", anybody, s.metricsWhere)
	s.route("GET /v0/machines", owner, s.machines)
	s.route("GET /v0/machines/{id}", owner, s.machine)
	s.route("PUT /v0/machines/create_asks", owner, s.listMachine)
	s.route("DELETE /v0/machines/{id}/asks", owner, s.unlistMachine)
	for pattern, why := range absent() {
		s.route(pattern, anybody, func(*call) (any, error) {
			return nil, &refusal{Status: http.StatusNotImplemented, Code: "not_supported", Msg: why}
		})
	}
	return s, nil
}

// absent are calls of Vast's that make no sense on this market, and why.
func absent() map[string]string {
	return map[string]string{
		"PUT /v0/instances/prepay/{id}":          "there are no reserved instances on this market",
		"PUT /v0/instances/reboot/{id}":          "there are no paused containers on this market: destroy the instance and create another",
		"PUT /v0/instances/recycle/{id}":         "there are no paused containers on this market: destroy the instance and create another",
		"PUT /v0/instances/update_template/{id}": "an instance is a signed job and cannot be changed: destroy it and create another",
		"POST /v0/instances/take_snapshot/{id}":  "this market takes no snapshots",
		"PUT /v0/machines/{id}/minbid":           "the least bid is the agent's own: start it with rialto-provider run --min-bid",
		"PUT /v0/machines/create_bids":           "there are no default jobs on this market",
		"PUT /v0/machines/{id}/dnotify":          "there are no maintenance windows on this market: drain the host with rialto-provider drain",
		"PUT /v0/machines/defrag_offers":         "offers of this market can be rented in parts, so that there is nothing to defragment",
		"POST /v0/volumes/search":                "there are no volumes on this market; weights are added with rialto weights",
		"POST /v0/network_volumes/search":        "there are no volumes on this market; weights are added with rialto weights",
		"GET /v0/template":                       "there are no templates on this market",
		"POST /v0/endptjobs":                     "there is no serverless on this market",
		"POST /v0/autojobs":                      "there is no serverless on this market",
	}
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	inner := r.Clone(r.Context())
	inner.URL.Path, inner.URL.RawPath = path.Clean("/"+strings.TrimPrefix(r.URL.Path, "/api")), ""
	if _, pattern := s.mux.Handler(inner); pattern == "" {
		s.refuse(w, s.unrouted(inner))
		return
	}
	s.mux.ServeHTTP(w, inner)
}

// unrouted says what is wrong with a path that nothing answers.
func (s *Server) unrouted(r *http.Request) *refusal {
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete} {
		other := &http.Request{Method: method, URL: r.URL, Host: r.Host}
		if _, pattern := s.mux.Handler(other); pattern != "" {
			return &refusal{Status: http.StatusMethodNotAllowed, Code: "invalid_method", Msg: fmt.Sprintf("/api%s is called with %s", r.URL.Path, method)}
		}
	}
	return &refusal{
		Status: http.StatusNotFound, Code: "no_such_call", Msg: fmt.Sprintf("this market does not answer /api%.100s", r.URL.Path),
		Nearest: broker.Nearest(r.URL.Path, s.paths),
	}
}
