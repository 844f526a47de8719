package api_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"rialto/broker/api"
)

func TestOpenAPI(t *testing.T) {
	url := start(t, &market{}, nil)
	status, _, doc := ask(t, "GET", url+"/openapi.json", "", "")
	if version, _ := doc["openapi"].(string); status != 200 || !strings.HasPrefix(version, "3.1") {
		t.Fatalf("status %d, version %v", status, doc["openapi"])
	}
	paths, _ := doc["paths"].(map[string]any)
	for _, path := range []string{
		"/v1/market", "/v1/offers", "/v1/offers:explain", "/v1/quotes", "/v1/quotes/firm", "/v1/quotes/{id}", "/v1/quotes/{id}/accept", "/v1/jobs", "/v1/jobs/{id}", "/v1/jobs/{id}/events", "/v1/jobs/{id}/lease",
		"/v1/jobs/{id}/receipt", "/v1/account", "/v1/account/key", "/v1/account/limits", "/v1/blocks/{cid}", "/v1/admin/accounts", "/v1/admin/accounts/{id}/deposits", "/v1/admin/accused", "/v1/admin/providers/{id}/tokens",
		"/v1/images", "/v1/images/{digest}", "/v1/images/{digest}/traces", "/v1/images/{digest}/traces/{command}",
		"/v1/models", "/v1/prices", "/v1/prices/history", "/v1/prices/forecast", "/v1/prices/{cell}/receipt", "/v1/prices/{cell}/hedonic", "/v1/prices/{cell}/wash", "/v1/book", "/v1/market/health", "/v1/stream",
	} {
		operations, _ := paths[path].(map[string]any)
		if len(operations) == 0 {
			t.Errorf("%s is not described", path)
		}
		for method, op := range operations {
			if summary, _ := op.(map[string]any)["summary"].(string); summary == "" {
				t.Errorf("%s %s has no summary", method, path)
			}
		}
	}
}

// TestStrangerIsNotABroker: an answer of something else is named as such, and a redirect takes no token along.
func TestStrangerIsNotABroker(t *testing.T) {
	var seen string
	target := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { seen = r.Header.Get("Authorization") }))
	defer target.Close()
	for _, status := range []int{http.StatusFound, http.StatusTeapot, http.StatusInternalServerError} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", target.URL)
			w.WriteHeader(status)
			fmt.Fprint(w, "<html>")
		}))
		_, err := client(t, srv.URL, ownerToken).Account(t.Context())
		srv.Close()
		p, ok := errors.AsType[*api.Problem](err)
		if !ok || p.Status != status || !strings.Contains(p.Detail, "is that a broker?") {
			t.Errorf("status %d: %v", status, err)
		}
	}
	if seen != "" {
		t.Errorf("a redirect took %q along", seen)
	}
	garbage := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "{") }))
	defer garbage.Close()
	if _, err := client(t, garbage.URL, "").Market(t.Context()); err == nil {
		t.Error("half an answer was taken")
	}
}

// TestStreamOutlivesTheServersLimits: the time that a server grants for a request must not end a stream.
func TestStreamOutlivesTheServersLimits(t *testing.T) {
	s, err := api.New(api.Config{
		Market: &market{pause: 300 * time.Millisecond}, Info: func() api.MarketInfo { return api.MarketInfo{} },
	})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(s)
	srv.Config.ReadTimeout, srv.Config.WriteTimeout = 100*time.Millisecond, 100*time.Millisecond
	srv.Start()
	defer srv.Close()
	n := 0
	for _, err := range client(t, srv.URL, ownerToken).Events(t.Context(), jobID, 0) {
		if err != nil {
			t.Fatalf("after %d events: %v", n, err)
		}
		n++
	}
	if n != 3 {
		t.Errorf("%d events, want 3", n)
	}
}
