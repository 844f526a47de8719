package api

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"rialto/broker"
	"rialto/broker/wire"
)

// QuoteMarket is the part of the market that deals with firm quotes. Each is a job that waits for its customer.
type QuoteMarket interface {
	// FirmQuote accepts a signed spec that asks for a firm quote, once per idempotency key, and waits a while for it.
	FirmQuote(ctx context.Context, account broker.AccountID, key string, envelope []byte) (broker.Job, error)
	// AcceptQuote makes its job go on. Accepting again changes nothing.
	AcceptQuote(ctx context.Context, account broker.AccountID, id broker.JobID) (broker.Job, error)
	// DropQuote ends a quote that was not accepted.
	DropQuote(ctx context.Context, account broker.AccountID, id broker.JobID) (broker.Job, error)
}

// FirmQuote is a provider's promise, and the id of the job that it becomes when it is accepted.
type FirmQuote struct {
	ID                      string     `json:"id" doc:"also the job's"`
	State                   string     `json:"state" enum:"queued,holding,quoted,leased,ready,running,done,failed,expired,cancelled,preempted" doc:"quoted: it can be accepted; later states are the job's"`
	Host                    string     `json:"host,omitempty"`
	Provider                string     `json:"provider,omitempty"`
	Model                   string     `json:"model,omitempty"`
	GPUs                    []GPULease `json:"gpus"`
	Simulated               bool       `json:"simulated"`
	RateNanoUSDPerHour      int64      `json:"rate_nanousd_per_hour" doc:"per GPU; it holds for the whole job"`
	TotalRateNanoUSDPerHour int64      `json:"total_rate_nanousd_per_hour" doc:"all GPUs of the job"`
	Tariff                             // of the host; it holds for the whole job, too
	DiskMiB                 uint64     `json:"disk_mib" doc:"that the job may write"`
	TrafficBytes            int64      `json:"traffic_bytes" doc:"that the customer pays for at most, each way"`
	CostNanoUSD             int64      `json:"cost_nanousd" doc:"for the whole duration, with disk and all the traffic, at most"`
	HeldNanoUSD             int64      `json:"held_nanousd" doc:"kept aside; all of it comes back unless the quote is accepted"`
	ReservedMS              int64      `json:"reserved_ms,omitempty" doc:"the rate is a reserved one: who accepts commits to this term from ready on, and what of it is not used is billed"`
	FirmMS                  int64      `json:"firm_ms" doc:"how long the quote waits, from when it was made"`
	MaxDurationMS           int64      `json:"max_duration_ms"`
	Expires                 *time.Time `json:"expires,omitempty" doc:"by the broker's clock; missing: not made yet"`
	ExpiresInMS             int64      `json:"expires_in_ms" doc:"from this answer; zero: it cannot be accepted any more, or not yet"`
	Accepted                *time.Time `json:"accepted,omitempty"`
	Answer                  []byte     `json:"answer,omitempty" doc:"the provider's signed answer with GPUs, price and duration, base64: verify it"`
	Error                   string     `json:"error,omitempty" doc:"why there is no quote, or none any more"`
}

// FirmQuoteRequest carries a signed job spec whose firm_ns says how long the customer wants to think.
type FirmQuoteRequest struct {
	Spec []byte `json:"spec" minLength:"4" maxLength:"1398104" doc:"envelope of the job spec, base64"`
}

func (s *Server) routeQuotes() {
	type quoted struct {
		Location string `header:"Location"`
		Body     FirmQuote
	}
	huma.Register(s.api, huma.Operation{
		OperationID: "firm-quote", Method: http.MethodPost, Path: "/v1/quotes/firm", DefaultStatus: http.StatusCreated,
		Summary:  "Ask a provider to hold GPUs at a price until the customer accepts; nothing is charged before",
		Security: tokenOnly(), MaxBodyBytes: wire.MaxJobSpec*4/3 + 4096,
	}, func(ctx context.Context, in *struct {
		Key  string `header:"Idempotency-Key" required:"true" minLength:"1" maxLength:"256" doc:"makes the quote happen once"`
		Body FirmQuoteRequest
	},
	) (*quoted, error) {
		j, err := s.c.Market.FirmQuote(ctx, caller(ctx), in.Key, in.Body.Spec)
		if err != nil {
			return nil, s.fail(ctx, err)
		}
		return &quoted{Location: "/v1/quotes/" + string(j.ID), Body: s.firmQuote(ctx, j)}, nil
	})
	huma.Register(s.api, huma.Operation{
		OperationID: "firm-quote-state", Method: http.MethodGet, Path: "/v1/quotes/{id}", Summary: "One firm quote", Security: tokenOnly(),
	}, func(ctx context.Context, in *jobInput) (*answer[FirmQuote], error) {
		j, err := s.c.Market.Job(ctx, caller(ctx), broker.JobID(in.ID))
		if err == nil && j.Spec.Firm == 0 {
			err = fmt.Errorf("quote %q: %w", in.ID, broker.ErrNotFound)
		}
		if err != nil {
			return nil, s.fail(ctx, err)
		}
		return &answer[FirmQuote]{s.firmQuote(ctx, j)}, nil
	})
	huma.Register(s.api, huma.Operation{
		OperationID: "accept-quote", Method: http.MethodPost, Path: "/v1/quotes/{id}/accept", DefaultStatus: http.StatusAccepted,
		Summary: "Accept a firm quote: its job goes on; accepting again returns the same job", Security: tokenOnly(),
	}, func(ctx context.Context, in *struct {
		ID  string `path:"id" maxLength:"64" doc:"quote id"`
		Key string `header:"Idempotency-Key" maxLength:"256" doc:"may be given; the id alone makes it happen once"`
	},
	) (*accepted, error) {
		j, err := s.c.Market.AcceptQuote(ctx, caller(ctx), broker.JobID(in.ID))
		if err != nil {
			return nil, s.fail(ctx, err)
		}
		return &accepted{Location: "/v1/jobs/" + string(j.ID), Body: s.job(ctx, j)}, nil
	})
	huma.Register(s.api, huma.Operation{
		OperationID: "drop-quote", Method: http.MethodDelete, Path: "/v1/quotes/{id}", DefaultStatus: http.StatusAccepted,
		Summary: "Give a firm quote back", Security: tokenOnly(),
	}, func(ctx context.Context, in *jobInput) (*answer[FirmQuote], error) {
		j, err := s.c.Market.DropQuote(ctx, caller(ctx), broker.JobID(in.ID))
		if err != nil {
			return nil, s.fail(ctx, err)
		}
		return &answer[FirmQuote]{s.firmQuote(ctx, j)}, nil
	})
}

// firmQuote joins a quote with the lease that it is about.
func (s *Server) firmQuote(ctx context.Context, j broker.Job) FirmQuote {
	out := FirmQuote{
		ID: string(j.ID), State: j.State.String(), GPUs: []GPULease{}, HeldNanoUSD: int64(j.Hold), FirmMS: j.Spec.Firm.Milliseconds(),
		MaxDurationMS: j.Spec.MaxDuration.Milliseconds(), Expires: stamp(j.Quote.Until), Accepted: stamp(j.Quote.Taken), Error: j.Error,
		DiskMiB: j.Spec.Disk(), TrafficBytes: j.Spec.PaidTraffic(),
	}
	if j.State == broker.JobQuoted {
		out.ExpiresInMS = max(0, time.Until(j.Quote.Until).Milliseconds())
	}
	if j.Lease == "" {
		return out
	}
	l, err := s.c.Market.Lease(ctx, j.Account, j.ID)
	if err != nil {
		s.c.Logger.Warn("quote without its lease", "job", j.ID, "lease", j.Lease, "err", err)
		return out
	}
	out.Host, out.Provider, out.Model, out.Simulated, out.GPUs, out.Answer = l.Host, string(l.Provider), l.Model, l.Simulated, gpusOf(l.GPUs), l.Answer
	out.RateNanoUSDPerHour, out.ReservedMS, out.Tariff = int64(l.Rate), l.Term.Milliseconds(), TariffOf(l.Tariff)
	if charge, err := j.Spec.Charge(l.Rate, l.Tariff); err == nil {
		out.TotalRateNanoUSDPerHour = int64(charge.GPUs)
		if cost, err := charge.Cost(j.Spec.MaxDuration); err == nil {
			out.CostNanoUSD = int64(cost)
		}
	}
	if j.Spec.MaxCost > 0 {
		out.CostNanoUSD = min(out.CostNanoUSD, int64(j.Spec.MaxCost))
	}
	return out
}

// FirmQuote asks for a firm quote. The key makes it happen once, however often it is sent.
func (c *Client) FirmQuote(ctx context.Context, spec []byte, idempotencyKey string) (FirmQuote, error) {
	var q FirmQuote
	header := http.Header{"Idempotency-Key": {idempotencyKey}}
	err := c.call(ctx, http.MethodPost, "/v1/quotes/firm", header, FirmQuoteRequest{Spec: spec}, &q)
	return q, err
}

// FirmQuoteOf returns one firm quote.
func (c *Client) FirmQuoteOf(ctx context.Context, id broker.JobID) (FirmQuote, error) {
	return get[FirmQuote](ctx, c, quotePath(id))
}

// AcceptQuote accepts a firm quote. It may be sent as often as it takes.
func (c *Client) AcceptQuote(ctx context.Context, id broker.JobID) (Job, error) {
	var j Job
	header := http.Header{"Idempotency-Key": {string(id)}}
	err := c.call(ctx, http.MethodPost, quotePath(id)+"/accept", header, nil, &j)
	return j, err
}

// DropQuote gives a firm quote back.
func (c *Client) DropQuote(ctx context.Context, id broker.JobID) (FirmQuote, error) {
	var q FirmQuote
	err := c.call(ctx, http.MethodDelete, quotePath(id), nil, nil, &q)
	return q, err
}

func quotePath(id broker.JobID) string { return "/v1/quotes/" + url.PathEscape(string(id)) }
