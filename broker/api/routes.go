package api

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"rialto/broker"
	"rialto/broker/wire"
	"rialto/pricing"
)

// maxSmallBody bounds every request but specs and blocks.
const maxSmallBody = 64 << 10

type (
	answer[T any] struct{ Body T }
	accepted      struct {
		Location string `header:"Location"`
		Body     Job
	}
	built struct {
		Status   int
		Location string `header:"Location"`
		Body     Image
	}
	jobInput struct {
		ID string `path:"id" maxLength:"64" doc:"job id"`
	}
)

func (s *Server) routeMarket() {
	huma.Register(s.api, huma.Operation{
		OperationID: "market", Method: http.MethodGet, Path: "/v1/market", Summary: "Whom one deals with",
	}, func(context.Context, *struct{}) (*answer[MarketInfo], error) {
		return &answer[MarketInfo]{s.c.Info()}, nil
	})
	huma.Register(s.api, huma.Operation{
		OperationID: "quote", Method: http.MethodPost, Path: "/v1/quotes", Summary: "What a job would cost now",
		MaxBodyBytes: maxSmallBody,
	}, func(ctx context.Context, in *struct{ Body QuoteRequest }) (*answer[Quote], error) {
		query, err := in.Body.toBroker()
		if err != nil {
			return nil, s.failQuery(ctx, err)
		}
		q, err := s.c.Market.Quote(ctx, broker.QuoteRequest{
			Query: query, MaxCost: pricing.Money(in.Body.MaxCostNanoUSD),
			Duration: time.Duration(in.Body.DurationMS) * time.Millisecond,
		})
		if err != nil {
			return nil, s.fail(ctx, err)
		}
		var board *broker.PriceBoard
		if query.Bid > 0 {
			board, _ = s.c.Market.Prices(ctx) // a broker that has just begun knows none yet
		}
		survival, fill := outlookOf(board, &q.Best.Offer, query.Bid)
		return &answer[Quote]{Quote{
			Survival1h: survival, Fill10m: fill,

			Best: offerOf(q.Best), RateNanoUSDPerHour: int64(q.Best.Rate), CostNanoUSD: int64(q.Cost),
			HoldNanoUSD: int64(q.Hold), Search: offersOf(q.Search),
		}}, nil
	})
}

func (s *Server) routeAccounts() {
	huma.Register(s.api, huma.Operation{
		OperationID: "account", Method: http.MethodGet, Path: "/v1/account", Summary: "The token's account", Security: tokenOnly(),
	}, func(ctx context.Context, _ *struct{}) (*answer[Account], error) {
		a, err := s.c.Market.Account(ctx, caller(ctx))
		if err != nil {
			return nil, s.fail(ctx, err)
		}
		return &answer[Account]{accountOf(a)}, nil
	})
	huma.Register(s.api, huma.Operation{
		OperationID: "bind-key", Method: http.MethodPut, Path: "/v1/account/key",
		Summary: "Bind the key that may sign jobs, once", Security: tokenOnly(), MaxBodyBytes: maxSmallBody,
	}, func(ctx context.Context, in *struct{ Body BindKeyRequest }) (*answer[Account], error) {
		a, err := s.c.Market.BindKey(ctx, caller(ctx), broker.PeerID(in.Body.Key))
		if err != nil {
			return nil, s.fail(ctx, err)
		}
		return &answer[Account]{accountOf(a)}, nil
	})
	huma.Register(s.api, huma.Operation{
		OperationID: "set-limits", Method: http.MethodPut, Path: "/v1/account/limits",
		Summary: "Bound what the account may spend from now on", Security: tokenOnly(), MaxBodyBytes: maxSmallBody,
	}, func(ctx context.Context, in *struct{ Body Limits }) (*answer[Account], error) {
		a, err := s.c.Market.SetLimits(ctx, caller(ctx), broker.Limits{
			Job: pricing.Money(in.Body.JobNanoUSD), Day: pricing.Money(in.Body.DayNanoUSD), Total: pricing.Money(in.Body.TotalNanoUSD),
		})
		if err != nil {
			return nil, s.fail(ctx, err)
		}
		return &answer[Account]{accountOf(a)}, nil
	})
	huma.Register(s.api, huma.Operation{
		OperationID: "open-account", Method: http.MethodPost, Path: "/v1/admin/accounts", DefaultStatus: http.StatusCreated,
		Summary: "Open an account and show its token", Security: adminOnly(), MaxBodyBytes: maxSmallBody,
	}, func(ctx context.Context, in *struct{ Body OpenAccountRequest }) (*answer[OpenedAccount], error) {
		var deposit *pricing.Money
		if d := in.Body.DepositNanoUSD; d != nil {
			deposit = new(pricing.Money(*d))
		}
		open := s.c.Market.OpenAccount
		if in.Body.Custodial {
			open = s.c.Market.OpenCustodial
		}
		a, token, err := open(ctx, in.Body.Name, deposit)
		if err != nil {
			return nil, s.fail(ctx, err)
		}
		return &answer[OpenedAccount]{OpenedAccount{Account: accountOf(a), Token: token}}, nil
	})
	huma.Register(s.api, huma.Operation{
		OperationID: "deposit", Method: http.MethodPost, Path: "/v1/admin/accounts/{id}/deposits",
		Summary: "Add money to an account, once per ref", Security: adminOnly(), MaxBodyBytes: maxSmallBody,
	}, func(ctx context.Context, in *struct {
		ID   string `path:"id" maxLength:"128" doc:"of the account"`
		Body DepositRequest
	},
	) (*answer[Account], error) {
		a, err := s.c.Market.Deposit(ctx, broker.AccountID(in.ID), pricing.Money(in.Body.AmountNanoUSD), in.Body.Ref)
		if err != nil {
			return nil, s.fail(ctx, err)
		}
		return &answer[Account]{accountOf(a)}, nil
	})
	huma.Register(s.api, huma.Operation{
		OperationID: "owner-token", Method: http.MethodPost, Path: "/v1/admin/providers/{id}/tokens", DefaultStatus: http.StatusCreated,
		Summary: "Make a token for the owner of a provider and show it", Security: adminOnly(),
	}, func(ctx context.Context, in *struct {
		ID string `path:"id" maxLength:"128" doc:"peer id of the provider"`
	},
	) (*answer[OwnerToken], error) {
		token, err := s.c.Market.OwnerToken(ctx, broker.PeerID(in.ID))
		if err != nil {
			return nil, s.fail(ctx, err)
		}
		return &answer[OwnerToken]{OwnerToken{Provider: in.ID, Token: token}}, nil
	})
	huma.Register(s.api, huma.Operation{
		OperationID: "accounts", Method: http.MethodGet, Path: "/v1/admin/accounts", Summary: "All accounts", Security: adminOnly(),
	}, func(ctx context.Context, _ *struct{}) (*answer[Accounts], error) {
		list, err := s.c.Market.Accounts(ctx)
		if err != nil {
			return nil, s.fail(ctx, err)
		}
		out := Accounts{Accounts: []Account{}}
		for _, a := range list {
			out.Accounts = append(out.Accounts, accountOf(a))
		}
		return &answer[Accounts]{out}, nil
	})
}

func (s *Server) routeJobs() {
	huma.Register(s.api, huma.Operation{
		OperationID: "submit", Method: http.MethodPost, Path: "/v1/jobs", DefaultStatus: http.StatusAccepted,
		Summary: "Submit a signed job spec; 202 means durable", Security: tokenOnly(),
		MaxBodyBytes: wire.MaxJobSpec*4/3 + 4096,
	}, func(ctx context.Context, in *struct {
		Key  string `header:"Idempotency-Key" required:"true" minLength:"1" maxLength:"256" doc:"makes the job happen once"`
		Body SubmitRequest
	},
	) (*accepted, error) {
		j, err := s.c.Market.Submit(ctx, caller(ctx), in.Key, in.Body.Spec)
		if err != nil {
			return nil, s.fail(ctx, err)
		}
		return &accepted{Location: "/v1/jobs/" + string(j.ID), Body: s.job(ctx, j)}, nil
	})
	huma.Register(s.api, huma.Operation{
		OperationID: "jobs", Method: http.MethodGet, Path: "/v1/jobs", Summary: "The account's jobs, newest first", Security: tokenOnly(),
	}, func(ctx context.Context, in *struct {
		Limit  int    `query:"limit" minimum:"1" maximum:"500" default:"100" doc:"jobs of one answer"`
		Cursor string `query:"cursor" maxLength:"64" doc:"next of the answer before; empty: from the newest"`
	},
	) (*answer[Jobs], error) {
		page, more, err := s.c.Market.Jobs(ctx, caller(ctx), broker.JobID(in.Cursor), in.Limit)
		if err != nil {
			return nil, s.fail(ctx, err)
		}
		out := Jobs{Jobs: s.jobs(ctx, page)}
		if more {
			out.Next = string(page[len(page)-1].ID)
		}
		return &answer[Jobs]{out}, nil
	})
	huma.Register(s.api, huma.Operation{
		OperationID: "job", Method: http.MethodGet, Path: "/v1/jobs/{id}", Summary: "One job", Security: tokenOnly(),
	}, func(ctx context.Context, in *jobInput) (*answer[Job], error) {
		j, err := s.c.Market.Job(ctx, caller(ctx), broker.JobID(in.ID))
		if err != nil {
			return nil, s.fail(ctx, err)
		}
		return &answer[Job]{s.job(ctx, j)}, nil
	})
	huma.Register(s.api, huma.Operation{
		OperationID: "cancel", Method: http.MethodDelete, Path: "/v1/jobs/{id}", DefaultStatus: http.StatusAccepted,
		Summary: "Ask for a job to end", Security: tokenOnly(),
	}, func(ctx context.Context, in *jobInput) (*answer[Job], error) {
		j, err := s.c.Market.Cancel(ctx, caller(ctx), broker.JobID(in.ID), "cancelled by the customer")
		if err != nil {
			return nil, s.fail(ctx, err)
		}
		return &answer[Job]{s.job(ctx, j)}, nil
	})
	huma.Register(s.api, huma.Operation{
		OperationID: "change-bid", Method: http.MethodPut, Path: "/v1/jobs/{id}/bid",
		Summary:  "Have an interruptible job bid something else, as its customer signed; the same again changes nothing",
		Security: tokenOnly(), MaxBodyBytes: maxSmallBody,
	}, func(ctx context.Context, in *struct {
		ID   string `path:"id" maxLength:"64" doc:"job id"`
		Body ChangeBidRequest
	},
	) (*answer[Job], error) {
		j, err := s.c.Market.ChangeBid(ctx, caller(ctx), broker.JobID(in.ID), in.Body.Change)
		if err != nil {
			return nil, s.fail(ctx, err)
		}
		return &answer[Job]{s.job(ctx, j)}, nil
	})
	s.routeGangs()
	huma.Register(s.api, huma.Operation{
		OperationID: "lease", Method: http.MethodGet, Path: "/v1/jobs/{id}/lease",
		Summary: "The job's current or last lease, with the provider's signed answer", Security: tokenOnly(),
	}, func(ctx context.Context, in *jobInput) (*answer[Lease], error) {
		l, err := s.c.Market.Lease(ctx, caller(ctx), broker.JobID(in.ID))
		if err != nil {
			return nil, s.fail(ctx, err)
		}
		return &answer[Lease]{leaseOf(l)}, nil
	})
	huma.Register(s.api, huma.Operation{
		OperationID: "receipt", Method: http.MethodGet, Path: "/v1/jobs/{id}/receipt",
		Summary: "The signed bill of the job's last lease", Security: tokenOnly(),
	}, func(ctx context.Context, in *jobInput) (*answer[Receipt], error) {
		envelope, err := s.c.Market.Receipt(ctx, caller(ctx), broker.JobID(in.ID))
		if err != nil {
			return nil, s.fail(ctx, err)
		}
		r, _, err := wire.OpenReceipt(envelope)
		if err != nil {
			return nil, s.fail(ctx, err)
		}
		return &answer[Receipt]{receiptOf(r, envelope)}, nil
	})
}

// job is jobs of one.
func (s *Server) job(ctx context.Context, j broker.Job) Job { return s.jobs(ctx, []broker.Job{j})[0] }

// jobs joins jobs with their leases, if they have one, and those that wait with how many are served before them.
func (s *Server) jobs(ctx context.Context, all []broker.Job) []Job {
	out := make([]Job, len(all))
	var waiting []broker.JobID
	for i, j := range all {
		var l broker.Lease
		if j.Lease != "" {
			var err error
			if l, err = s.c.Market.Lease(ctx, j.Account, j.ID); err != nil {
				s.c.Logger.Warn("job without its lease", "job", j.ID, "lease", j.Lease, "err", err)
			}
		}
		out[i] = jobOf(j, l)
		if j.State == broker.JobQueued {
			waiting = append(waiting, j.ID)
		}
	}
	if len(waiting) == 0 {
		return out
	}
	ahead := s.c.Market.Ahead(waiting...)
	for i, j := range all {
		if j.State == broker.JobQueued {
			out[i].Ahead, ahead = ahead[0], ahead[1:]
		}
	}
	return out
}
