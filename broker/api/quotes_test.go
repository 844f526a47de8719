package api_test

import (
	"errors"
	"net/http"
	"testing"

	"rialto/broker"
)

func TestFirmQuote(t *testing.T) {
	m := &market{}
	url := start(t, m, nil)
	c := client(t, url, ownerToken)
	q, err := c.FirmQuote(t.Context(), []byte("spec"), "once")
	if err != nil || q.ID != string(jobID) || q.State != "quoted" || q.Host != "alpha" || string(q.Answer) != "signed" {
		t.Fatalf("%+v: %v", q, err)
	}
	if q.FirmMS != 15_000 || q.ExpiresInMS <= 0 || q.ExpiresInMS > 15_000 || q.Expires == nil || q.Accepted != nil {
		t.Errorf("times of %+v", q)
	}
	j, err := c.AcceptQuote(t.Context(), jobID)
	if err != nil || j.ID != string(jobID) || j.State != "leased" {
		t.Errorf("%+v: %v", j, err)
	}
	if _, err := c.AcceptQuote(t.Context(), "j-late"); !errors.Is(err, broker.ErrJobTerminal) {
		t.Errorf("an expired quote: %v", err)
	}
	if q, err := c.DropQuote(t.Context(), jobID); err != nil || q.State != "cancelled" || q.ExpiresInMS != 0 {
		t.Errorf("%+v: %v", q, err)
	}
	if _, err := c.FirmQuoteOf(t.Context(), jobID); !errors.Is(err, broker.ErrNotFound) {
		t.Errorf("a job that is no quote: %v", err)
	}
	other := client(t, url, otherToken)
	if _, err := other.AcceptQuote(t.Context(), jobID); !errors.Is(err, broker.ErrNotFound) {
		t.Errorf("somebody else accepts: %v", err)
	}
	for _, x := range []struct {
		method, path, token, body string
		header                    []string
		want                      int
	}{
		{"POST", "/v1/quotes/firm", "", `{"spec":"c3BlYw=="}`, []string{"Idempotency-Key", "k"}, http.StatusUnauthorized},
		{"POST", "/v1/quotes/firm", ownerToken, `{"spec":"c3BlYw=="}`, nil, http.StatusUnprocessableEntity},
		{"POST", "/v1/quotes/firm", ownerToken, `{"spec":"c3BlYw==","firm_ms":1}`, []string{"Idempotency-Key", "k"}, http.StatusUnprocessableEntity},
		{"POST", "/v1/quotes/firm", ownerToken, `{"spec":"c3BlYw=="}`, []string{"Idempotency-Key", "poor"}, http.StatusPaymentRequired},
		{"POST", "/v1/quotes/firm", ownerToken, `{"spec":"c3BlYw=="}`, []string{"Idempotency-Key", "k"}, http.StatusCreated},
		{"POST", "/v1/quotes/j-1/accept", "", "", nil, http.StatusUnauthorized},
		{"POST", "/v1/quotes/j-1/accept", ownerToken, "", nil, http.StatusAccepted},
		{"DELETE", "/v1/quotes/j-1", "", "", nil, http.StatusUnauthorized},
	} {
		if got, _, body := ask(t, x.method, url+x.path, x.token, x.body, x.header...); got != x.want {
			t.Errorf("%s %s: %d, want %d: %v", x.method, x.path, got, x.want, body)
		}
	}
}
