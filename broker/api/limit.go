package api

import (
	"container/list"
	"math"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"rialto/broker"
)

// Rate is how many requests are admitted.
type Rate struct {
	PerSecond int
	Burst     int // at once, after a pause
}

// limitKeys bounds the table of each limiter, to a few megabytes.
const limitKeys = 16 << 10

// admitAccount counts a request that its account's token has shown.
func (s *Server) admitAccount(ctx huma.Context, id broker.AccountID) bool {
	return s.admit(ctx, "account", s.accounts.take(time.Now(), string(id)))
}

// admitAddress counts a request of which nothing but its address is known. A loopback address is the host
// itself, or a proxy in front that everybody comes through.
func (s *Server) admitAddress(ctx huma.Context) bool {
	key, known := addressKey(ctx.RemoteAddr())
	return !known || s.admit(ctx, "address", s.addresses.take(time.Now(), key))
}

func (s *Server) admit(ctx huma.Context, by string, wait time.Duration) bool {
	if wait == 0 {
		return true
	}
	s.metrics.limited.WithLabelValues(by).Inc()
	ctx.SetHeader("Retry-After", strconv.Itoa(int(math.Ceil(wait.Seconds()))))
	s.refuse(ctx, problem(http.StatusTooManyRequests, "rialto:too-many-requests", "too many requests from this "+by+": slow down"))
	return false
}

// Admit counts a request that a handler of [Server.Handle] answers, by the account whose token it showed or, if that is
// empty, by the address that it came from. It returns zero, or how long the caller should wait.
func (s *Server) Admit(account broker.AccountID, remote string) time.Duration {
	by, of, key := "account", s.accounts, string(account)
	if account == "" {
		var known bool
		if key, known = addressKey(remote); !known {
			return 0
		}
		by, of = "address", s.addresses
	}
	wait := of.take(time.Now(), key)
	if wait > 0 {
		s.metrics.limited.WithLabelValues(by).Inc()
	}
	return wait
}

// addressKey is what a caller's address is counted under: a customer has a whole IPv6 /64 for itself.
func addressKey(remote string) (key string, limited bool) {
	ap, err := netip.ParseAddrPort(remote)
	if err != nil {
		return "", true
	}
	a := ap.Addr().Unmap().WithZone("")
	if a.IsLoopback() {
		return "", false
	}
	if a.Is6() {
		p, err := a.Prefix(64)
		return p.String(), err == nil
	}
	return a.String(), true
}

// limiter admits the requests of each key at a steady rate with bursts (the generic cell rate algorithm:
// per key, only the time at which all its requests so far would be due). Its table is bounded: the key
// heard of longest ago is forgotten first, and starts afresh when it returns.
type limiter struct {
	every time.Duration // between two requests
	ahead time.Duration // how far a burst may be ahead
	most  int

	mu    sync.Mutex
	keys  map[string]*list.Element // of *meterOf
	order *list.List               // heard of last in front
}

type meterOf struct {
	key string
	due time.Time
}

func newLimiter(r Rate, most int) *limiter {
	every := time.Second / time.Duration(r.PerSecond)
	return &limiter{
		every: every, ahead: every * time.Duration(r.Burst), most: most,
		keys: map[string]*list.Element{}, order: list.New(),
	}
}

// take counts a request and returns zero, or refuses it and returns when to come again.
func (l *limiter) take(now time.Time, key string) (wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e, ok := l.keys[key]
	if !ok {
		if len(l.keys) >= l.most {
			if old, ok := l.order.Remove(l.order.Back()).(*meterOf); ok {
				delete(l.keys, old.key)
			}
		}
		e = l.order.PushFront(&meterOf{key: key})
		l.keys[key] = e
	}
	l.order.MoveToFront(e)
	m, ok := e.Value.(*meterOf)
	if !ok {
		return 0
	}
	due := m.due
	if due.Before(now) {
		due = now
	}
	due = due.Add(l.every)
	if wait := due.Sub(now) - l.ahead; wait > 0 {
		return wait
	}
	m.due = due
	return 0
}

// quota counts what each account has in use, or uploaded.
type quota struct {
	limit int64
	mu    sync.Mutex
	used  map[broker.AccountID]int64
}

func newQuota(limit int64) *quota { return &quota{limit: limit, used: map[broker.AccountID]int64{}} }

func (q *quota) take(id broker.AccountID, n int64) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if n > q.limit-q.used[id] {
		return false
	}
	q.used[id] += n
	return true
}
