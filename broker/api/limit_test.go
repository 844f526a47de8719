package api

import (
	"context"
	"fmt"
	"iter"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"rialto/broker"
)

func TestLimiter(t *testing.T) {
	l := newLimiter(Rate{PerSecond: 10, Burst: 3}, 100)
	now := time.Unix(1000, 0)
	take := func(after time.Duration, key string, want time.Duration) {
		t.Helper()
		now = now.Add(after)
		if got := l.take(now, key); got != want {
			t.Errorf("%s at %v: wait %v, want %v", key, now.Sub(time.Unix(1000, 0)), got, want)
		}
	}
	for range 3 {
		take(0, "a", 0)
	}
	take(0, "a", 100*time.Millisecond)
	take(0, "b", 0) // others are not held up
	take(60*time.Millisecond, "a", 40*time.Millisecond)
	take(40*time.Millisecond, "a", 0) // what was refused was not counted
	take(0, "a", 100*time.Millisecond)
	for range 50 {
		take(100*time.Millisecond, "a", 0) // the steady rate
	}
	take(0, "a", 100*time.Millisecond)
	take(time.Hour, "a", 0) // a pause earns one burst, not more
	take(0, "a", 0)
	take(0, "a", 0)
	take(0, "a", 100*time.Millisecond)
}

// TestLimiterIsBounded asks under many keys: the table stays small, and the keys in use are not forgotten.
func TestLimiterIsBounded(t *testing.T) {
	const most = 64
	l := newLimiter(Rate{PerSecond: 1, Burst: 1}, most)
	now := time.Unix(1000, 0)
	if l.take(now, "busy") != 0 {
		t.Fatal("the first request was refused")
	}
	for i := range 100_000 {
		l.take(now, fmt.Sprint("key ", i))
		if i%(most/2) == 0 && l.take(now, "busy") == 0 {
			t.Fatalf("after %d other keys, a busy one starts afresh", i)
		}
		if len(l.keys) > most || l.order.Len() != len(l.keys) {
			t.Fatalf("%d keys in the table, %d in order, want at most %d", len(l.keys), l.order.Len(), most)
		}
	}
}

func TestAddressKey(t *testing.T) {
	for remote, want := range map[string]string{
		"192.0.2.1:50":              "192.0.2.1",
		"[::ffff:192.0.2.1]:50":     "192.0.2.1",
		"[2001:db8:1:2:3:4:5:6]:50": "2001:db8:1:2::/64",
		"[2001:db8:1:2::9]:50":      "2001:db8:1:2::/64",
		"[fe80::1%eth0]:50":         "fe80::/64",
		"somewhere":                 "",
		"127.0.0.1:50":              "free",
		"[::1]:50":                  "free",
		"[::ffff:127.0.0.1]:50":     "free",
	} {
		key, limited := addressKey(remote)
		if !limited {
			key = "free"
		}
		if key != want {
			t.Errorf("%s: got %q, want %q", remote, key, want)
		}
	}
}

// oneAccount is a market that knows one token.
type oneAccount struct{ Market }

func (oneAccount) Authenticate(token string) (broker.AccountID, error) {
	if token != "good" {
		return "", broker.ErrForbidden
	}
	return "a-1", nil
}

// TestTooManyRequests asks from one address, without a token, with a wrong and with the right one.
func TestTooManyRequests(t *testing.T) {
	s, err := New(Config{
		Market: oneAccount{}, Info: func() MarketInfo { return MarketInfo{} }, AdminToken: "admin",
		AccountRate: Rate{PerSecond: 1, Burst: 5}, AddressRate: Rate{PerSecond: 1, Burst: 3},
	})
	if err != nil {
		t.Fatal(err)
	}
	ask := func(remote, path, token string) *httptest.ResponseRecorder {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil)
		r.RemoteAddr = remote
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		return w
	}
	for i, c := range []struct {
		remote, path, token string
		want                int
	}{
		{"192.0.2.1:1", "/v1/market", "", 200},
		{"192.0.2.1:2", "/v1/account", "", 401},
		{"192.0.2.1:3", "/v1/account", "bad", 401},
		{"192.0.2.1:4", "/v1/account", "bad", 429},
		{"192.0.2.1:4", "/v1/account", "", 429},
		{"192.0.2.1:4", "/v1/market", "", 429},
		{"192.0.2.2:4", "/v1/market", "", 200},             // another address
		{"192.0.2.1:5", "/v1/admin/accounts", "good", 403}, // a token is counted, not its address
		{"192.0.2.1:5", "/v1/admin/accounts", "good", 403},
		{"192.0.2.2:5", "/v1/admin/accounts", "good", 403},
		{"192.0.2.3:5", "/v1/admin/accounts", "good", 403},
		{"192.0.2.4:5", "/v1/admin/accounts", "good", 403},
		{"192.0.2.5:5", "/v1/admin/accounts", "good", 429}, // whatever its address
		{"127.0.0.1:5", "/v1/admin/accounts", "good", 429},
		{"127.0.0.1:5", "/v1/market", "", 200},
		{"192.0.2.1:5", "/healthz", "", 200},
	} {
		w := ask(c.remote, c.path, c.token)
		if w.Code != c.want {
			t.Errorf("request %d: status %d, want %d: %s", i, w.Code, c.want, w.Body)
		}
		limited := w.Header().Get("Retry-After") == "1" && w.Header().Get("Content-Type") == "application/problem+json"
		if c.want == http.StatusTooManyRequests && !limited {
			t.Errorf("request %d: headers %v", i, w.Header())
		}
	}
	for range 100 {
		if w := ask("[::1]:9", "/v1/market", ""); w.Code != http.StatusOK {
			t.Fatalf("from the host itself: status %d", w.Code)
		}
	}
}

// TestAdmit limits what a handler beside the API answers, by the same counts.
func TestAdmit(t *testing.T) {
	s, err := New(Config{
		Market: oneAccount{}, Info: func() MarketInfo { return MarketInfo{} },
		AccountRate: Rate{PerSecond: 1, Burst: 2}, AddressRate: Rate{PerSecond: 1, Burst: 1},
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Handle("/beside/", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.Admit(broker.AccountID(r.Header.Get("Account")), r.RemoteAddr) > 0 {
			w.WriteHeader(http.StatusTooManyRequests)
		}
	}))
	for i, c := range []struct {
		account, remote string
		want            int
	}{
		{"a-1", "192.0.2.1:1", 200},
		{"a-1", "192.0.2.2:1", 200},
		{"a-1", "192.0.2.3:1", 429},
		{"a-2", "192.0.2.1:1", 200},
		{"", "192.0.2.1:1", 200},
		{"", "192.0.2.1:2", 429},
		{"", "127.0.0.1:2", 200},
		{"", "127.0.0.1:2", 200},
	} {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPut, "/beside/x", nil)
		r.RemoteAddr = c.remote
		r.Header.Set("Account", c.account)
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		if w.Code != c.want {
			t.Errorf("request %d: status %d, want %d", i, w.Code, c.want)
		}
	}
}

// TestClientWaitsOnce asks a broker that is busy: what may be repeated is, once.
func TestClientWaitsOnce(t *testing.T) {
	for name, c := range map[string]struct {
		refusals   int
		retryAfter string
		call       func(*Client) error
		asked      int
		fails      bool
	}{
		"a read":               {1, "0", func(c *Client) error { _, err := c.Job(t.Context(), "j"); return err }, 2, false},
		"a read, twice busy":   {2, "0", func(c *Client) error { _, err := c.Job(t.Context(), "j"); return err }, 2, true},
		"a submission":         {1, "0", func(c *Client) error { _, err := c.Submit(t.Context(), []byte("s"), "key"); return err }, 2, false},
		"an account":           {1, "0", func(c *Client) error { _, err := c.OpenAccount(t.Context(), "n", nil); return err }, 1, true},
		"too long to wait":     {1, "3600", func(c *Client) error { _, err := c.Job(t.Context(), "j"); return err }, 1, true},
		"nobody says how long": {1, "", func(c *Client) error { _, err := c.Job(t.Context(), "j"); return err }, 1, true},
		"not a number":         {1, "soon", func(c *Client) error { _, err := c.Job(t.Context(), "j"); return err }, 1, true},
	} {
		t.Run(name, func(t *testing.T) {
			asked := 0
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				if asked++; asked <= c.refusals {
					w.Header().Set("Retry-After", c.retryAfter)
					w.WriteHeader(http.StatusTooManyRequests)
					return
				}
				_, _ = w.Write([]byte("{}"))
			}))
			defer srv.Close()
			client, err := NewClient(srv.URL, "", nil)
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			if err := c.call(client); (err != nil) != c.fails || asked != c.asked {
				t.Errorf("asked %d times, %v", asked, err)
			}
		})
	}
}

// oneJob is a market with a job that has ended.
type oneJob struct{ oneAccount }

func (oneJob) Job(context.Context, broker.AccountID, broker.JobID) (broker.Job, error) {
	return broker.Job{}, nil
}

func (oneJob) Events(context.Context, broker.AccountID, broker.JobID, uint64) iter.Seq2[broker.JobEvent, error] {
	return func(func(broker.JobEvent, error) bool) {}
}

// TestStreamsAreBounded opens streams one after the other, and one beside another.
func TestStreamsAreBounded(t *testing.T) {
	s, err := New(Config{Market: oneJob{}, Info: func() MarketInfo { return MarketInfo{} }})
	if err != nil {
		t.Fatal(err)
	}
	s.streams = newQuota(1)
	ask := func() int {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/v1/jobs/j-1/events", nil)
		r.Header.Set("Authorization", "Bearer good")
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		return w.Code
	}
	for range 3 {
		if got := ask(); got != http.StatusOK {
			t.Fatalf("streams one after the other: status %d", got)
		}
	}
	s.streams.take("a-1", 1) // another is open
	if got := ask(); got != http.StatusTooManyRequests {
		t.Errorf("one stream too many: status %d", got)
	}
}
