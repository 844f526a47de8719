package api

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/prometheus/client_golang/prometheus"

	"rialto/broker"
)

// accountKey is where a request's context keeps the account that its token belongs to.
type accountKey struct{}

// caller returns the account that asks. Only handlers behind tokenOnly may call it.
func caller(ctx context.Context) broker.AccountID {
	id, _ := ctx.Value(accountKey{}).(broker.AccountID)
	return id
}

// tokenOnly and adminOnly are the security of an operation.
func tokenOnly() []map[string][]string { return []map[string][]string{{"token": {}}} }

func adminOnly() []map[string][]string { return []map[string][]string{{"admin": {}}} }

// authenticate lets a request through to its operation if it shows the right kind of token.
func (s *Server) authenticate(ctx huma.Context, next func(huma.Context)) {
	op := ctx.Operation()
	if len(op.Security) == 0 {
		if s.admitAddress(ctx) {
			next(ctx)
		}
		return
	}
	_, adminWanted := op.Security[0]["admin"]
	token, ok := strings.CutPrefix(ctx.Header("Authorization"), "Bearer ")
	if !ok || token == "" {
		if !s.admitAddress(ctx) {
			return
		}
		ctx.SetHeader("WWW-Authenticate", `Bearer realm="rialto"`)
		s.refuse(ctx, problem(http.StatusUnauthorized, "rialto:no-token", "this needs a token: Authorization: Bearer TOKEN"))
		return
	}
	admin := s.isAdmin(token)
	switch {
	case adminWanted && admin:
		next(ctx)
		return
	case admin:
		s.refuse(ctx, problem(http.StatusForbidden, "rialto:forbidden", "the admin's token has no account: it only opens accounts"))
		return
	}
	account, err := s.c.Market.Authenticate(token)
	switch {
	case errors.Is(err, broker.ErrForbidden):
		if !s.admitAddress(ctx) {
			return
		}
		ctx.SetHeader("WWW-Authenticate", `Bearer realm="rialto", error="invalid_token"`)
		s.refuse(ctx, problem(http.StatusUnauthorized, "rialto:bad-token", "this broker does not know the token"))
	case err != nil:
		s.refuse(ctx, problemOf(err))
	case !s.admitAccount(ctx, account):
	case adminWanted:
		s.refuse(ctx, problem(http.StatusForbidden, "rialto:forbidden", "only the admin may do this"))
	default:
		next(huma.WithValue(ctx, accountKey{}, account))
	}
}

func (s *Server) isAdmin(token string) bool {
	got, want := sha256.Sum256([]byte(token)), sha256.Sum256([]byte(s.c.AdminToken))
	return s.c.AdminToken != "" && subtle.ConstantTimeCompare(got[:], want[:]) == 1
}

func (s *Server) refuse(ctx huma.Context, p *Problem) {
	ctx.SetHeader("Content-Type", p.ContentType(""))
	ctx.SetStatus(p.Status)
	if err := s.api.Marshal(ctx.BodyWriter(), "application/json", p); err != nil {
		s.c.Logger.Debug("caller is gone", "err", err)
	}
}

// metrics counts and times requests.
type metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	limited  *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rialto_api_requests_total", Help: "Requests by operation and status.",
		}, []string{"operation", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "rialto_api_request_seconds", Help: "Time to answer; event streams last as long as they are read.",
			Buckets: prometheus.ExponentialBuckets(1e-4, 4, 10),
		}, []string{"operation"}),
		limited: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rialto_api_limited_requests_total", Help: "Requests refused because their account or address asked too often.",
		}, []string{"by"}),
	}
	reg.MustRegister(m.requests, m.seconds, m.limited)
	return m
}

func (m *metrics) middleware(ctx huma.Context, next func(huma.Context)) {
	begun := time.Now()
	next(ctx)
	op := ctx.Operation().OperationID
	m.requests.WithLabelValues(op, strconv.Itoa(ctx.Status())).Inc()
	m.seconds.WithLabelValues(op).Observe(time.Since(begun).Seconds())
}
