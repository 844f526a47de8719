package vast

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"

	"rialto/broker"
)

// maxBody bounds a request: an onstart script of 64 KiB, escaped, and what goes with it.
const maxBody = 512 << 10

// caller is who may make a call.
type caller int

const (
	anybody caller = iota // a key is checked if there is one
	holder                // the holder of any account
	tenant                // a custodial account
	owner                 // the owner of a provider
)

// call is one request on its way.
type call struct {
	*http.Request
	account broker.Account // the zero Account: nobody's
	body    object
}

// plain is an answer that is not JSON.
type plain []byte

// route answers a pattern with what a function returns, as JSON.
func (s *Server) route(pattern string, who caller, answer func(*call) (any, error)) {
	_, path, _ := strings.Cut(pattern, " ")
	s.paths = append(s.paths, path)
	s.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		c, err := s.open(w, r, who)
		var out any
		if err == nil {
			out, err = answer(c)
		}
		if err != nil {
			s.fail(w, r, err)
			return
		}
		s.write(w, http.StatusOK, out)
	})
}

// open finds out who calls and reads the body.
func (s *Server) open(w http.ResponseWriter, r *http.Request, who caller) (*call, error) {
	c := &call{Request: r}
	token, given := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !given {
		token = r.URL.Query().Get("api_key") // as dstack sends it
	}
	var id broker.AccountID
	var err error
	if token != "" {
		id, err = s.c.Market.Authenticate(token)
	}
	if wait := s.c.Admit(id, r.RemoteAddr); wait > 0 {
		return nil, &refusal{
			Status: http.StatusTooManyRequests, Code: "too_many_requests", Msg: "too many requests: slow down", retry: int(math.Ceil(wait.Seconds())),
		}
	}
	switch {
	case errors.Is(err, broker.ErrForbidden):
		return nil, &refusal{Status: http.StatusUnauthorized, Code: "auth_error", Msg: "this broker does not know the API key"}
	case err != nil:
		return nil, err
	case id == "" && who != anybody:
		return nil, &refusal{Status: http.StatusUnauthorized, Code: "auth_error", Msg: "this needs an API key: vastai --api-key KEY, with KEY from the operator of this broker"}
	}
	if id != "" {
		if err := s.admit(r.Context(), c, id, who); err != nil {
			return nil, err
		}
	}
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if _, long := errors.AsType[*http.MaxBytesError](err); long {
		return nil, &refusal{Status: http.StatusRequestEntityTooLarge, Code: "invalid_args", Msg: fmt.Sprintf("the request is longer than %d bytes", maxBody)}
	}
	if err != nil {
		return nil, invalid("body", err.Error())
	}
	if len(strings.TrimSpace(string(raw))) > 0 {
		c.body, err = parseObject(raw, "body")
	}
	return c, err
}

// admit holds a known account to the kind of caller that is wanted.
func (s *Server) admit(ctx context.Context, c *call, id broker.AccountID, who caller) error {
	if isOwner(id) {
		c.account.ID = id // a provider's account exists once it has earned something
		if who == tenant {
			return &refusal{Status: http.StatusForbidden, Code: "not_custodial", Msg: "this key is a host owner's: it lists and unlists machines, and rents nothing"}
		}
		return nil
	}
	account, err := s.c.Market.Account(ctx, id)
	if err != nil {
		return err
	}
	c.account = account
	switch {
	case who == tenant && !account.Custodial:
		return &refusal{Status: http.StatusForbidden, Code: "not_custodial", Msg: fmt.Sprintf(
			"account %s signs its jobs itself, with a key that this broker does not have, so a client that only sends an API key can start nothing on it and reach nothing of it: "+
				"use rialto run, or ask the operator for a custodial account (rialto-broker account create NAME --custodial), whose key the broker holds", account.ID)}
	case who == owner:
		return &refusal{Status: http.StatusForbidden, Code: "not_an_owner", Msg: "this key is a customer's: ask the operator for the key of your host (rialto-broker account owner PROVIDER)"}
	}
	return nil
}

// refusal is an error as it crosses the wire. Vast's command line prints msg.
type refusal struct {
	Status  int    `json:"-"`
	Success bool   `json:"success"`
	Code    string `json:"error"`
	Msg     string `json:"msg"`
	Field   string `json:"field,omitempty"`   // the offending key
	Nearest string `json:"nearest,omitempty"` // the nearest valid one
	retry   int    // seconds
}

// Error implements error.
func (r *refusal) Error() string { return r.Msg }

// invalid refuses a key or its value.
func invalid(field, problem string) error {
	return &broker.FieldError{Field: field, Problem: problem}
}

// refusalOf turns an error into what crosses the wire. What has no kind is ours: its text stays in the log.
func refusalOf(err error) *refusal {
	if r, ok := errors.AsType[*refusal](err); ok {
		return r
	}
	r := &refusal{Status: http.StatusInternalServerError, Code: "internal", Msg: "the broker could not answer; its log says why"}
	for _, k := range []struct {
		err    error
		code   string
		status int
	}{
		{broker.ErrNoOffer, "no_such_ask", http.StatusConflict},
		{broker.ErrNoFunds, "insufficient_credit", http.StatusPaymentRequired},
		{broker.ErrConflict, "conflict", http.StatusConflict},
		{broker.ErrNotFound, "not_found", http.StatusNotFound},
		{broker.ErrForbidden, "forbidden", http.StatusForbidden},
		{broker.ErrUnavailable, "unavailable", http.StatusServiceUnavailable},
		{broker.ErrInvalid, "invalid_args", http.StatusBadRequest},
	} {
		if errors.Is(err, k.err) {
			r.Status, r.Code, r.Msg = k.status, k.code, err.Error()
			break
		}
	}
	if f, ok := errors.AsType[*broker.FieldError](err); ok {
		r.Field, r.Nearest = f.Field, f.Nearest
	}
	if r.Status == http.StatusServiceUnavailable {
		r.retry = 1
	}
	return r
}

func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	out := refusalOf(err)
	if out.Status == http.StatusInternalServerError && r.Context().Err() == nil {
		s.c.Logger.Error("request failed", "path", r.URL.Path, "err", err)
	}
	s.refuse(w, out)
}

func (s *Server) refuse(w http.ResponseWriter, r *refusal) {
	if r.retry > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(r.retry))
	}
	s.write(w, r.Status, r)
}

func (s *Server) write(w http.ResponseWriter, status int, out any) {
	body, text := out.(plain)
	kind := "text/plain; charset=utf-8"
	if !text {
		kind = "application/json" // and nothing behind it: Vast's command line compares it whole
		var err error
		if body, err = json.Marshal(out); err != nil {
			s.c.Logger.Error("answer not encoded", "err", err)
			status, body = http.StatusInternalServerError, []byte(`{"success":false,"error":"internal","msg":"the broker could not answer; its log says why"}`)
		}
	}
	w.Header().Set("Content-Type", kind)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	if _, err := w.Write(body); err != nil {
		s.c.Logger.Debug("caller is gone", "err", err)
	}
}
