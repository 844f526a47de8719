package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const (
	maxAnswer   = 64 << 20 // most bytes of an answer that the client reads
	callTimeout = 60 * time.Second
	maxWait     = 10 * time.Second // the longest that a broker may ask to wait before a second try
)

// Client speaks to a broker on behalf of one account. Errors are a [*Problem] when the broker answered,
// and an [*UnreachableError] when it did not. Methods are safe for concurrent use.
type Client struct {
	base  *url.URL
	token string
	http  *http.Client
}

// NewClient returns a client of the broker at baseURL. The token may be empty for what needs none; a nil
// transport means one of its own.
func NewClient(baseURL, token string, transport http.RoundTripper) (*Client, error) {
	u, err := url.Parse(baseURL)
	if err != nil {
		return nil, fmt.Errorf("broker URL %q: %w", baseURL, errors.Unwrap(err))
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("broker URL %q: want http://HOST:PORT or https://HOST", baseURL)
	}
	if u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return nil, fmt.Errorf("broker URL %q: want neither user, query nor fragment", u.Redacted())
	}
	if transport == nil {
		transport = &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			DialContext:           (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
			TLSHandshakeTimeout:   10 * time.Second,
			ResponseHeaderTimeout: callTimeout,
			IdleConnTimeout:       90 * time.Second,
			MaxIdleConnsPerHost:   8,
			ForceAttemptHTTP2:     true,
		}
	}
	// The default of following redirects would carry the token along.
	return &Client{base: u, token: token, http: &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// URL returns the broker's address.
func (c *Client) URL() string { return c.base.String() }

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// UnreachableError reports that no broker answered at an address.
type UnreachableError struct {
	URL string
	Err error
}

func (e *UnreachableError) Error() string {
	return fmt.Sprintf("the broker at %s cannot be reached: %v (is rialto-broker running there, and is the address right?)", e.URL, e.Err)
}

// Unwrap returns the cause.
func (e *UnreachableError) Unwrap() error { return e.Err }

// do sends a request and returns an answer with a 2xx status; the caller closes its body. A request that may
// be repeated is sent once more if the broker says when.
func (c *Client) do(ctx context.Context, method, path string, header http.Header, body []byte) (*http.Response, error) {
	resp, err := c.send(ctx, method, path, header, body)
	if err != nil {
		return nil, err
	}
	repeatable := method != http.MethodPost || header.Get("Idempotency-Key") != ""
	if wait, ok := retryAfter(resp); ok && repeatable {
		_ = resp.Body.Close() // its text is not wanted
		again := time.NewTimer(wait)
		defer again.Stop()
		select {
		case <-again.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if resp, err = c.send(ctx, method, path, header, body); err != nil {
			return nil, err
		}
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, c.readProblem(resp)
}

// retryAfter returns how long the broker asks to wait.
func retryAfter(resp *http.Response) (time.Duration, bool) {
	if resp.StatusCode != http.StatusTooManyRequests && resp.StatusCode != http.StatusServiceUnavailable {
		return 0, false
	}
	seconds, err := strconv.ParseUint(resp.Header.Get("Retry-After"), 10, 16)
	wait := time.Duration(seconds) * time.Second //nolint:gosec // 16 bits
	return wait, err == nil && wait <= maxWait
}

// send sends a request and returns whatever the broker answers.
func (c *Client) send(ctx context.Context, method, path string, header http.Header, body []byte) (*http.Response, error) {
	u := *c.base
	path, u.RawQuery, _ = strings.Cut(path, "?")
	u.Path = strings.TrimSuffix(u.Path, "/") + path
	req, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	maps.Copy(req.Header, header)
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if ue, ok := errors.AsType[*url.Error](err); ok {
			err = ue.Err
		}
		return nil, &UnreachableError{URL: c.base.String(), Err: err}
	}
	return resp, nil
}

func (c *Client) readProblem(resp *http.Response) error {
	p := problem(resp.StatusCode, "", "")
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	isProblem := strings.HasPrefix(resp.Header.Get("Content-Type"), "application/problem+json")
	if err == nil && isProblem && json.Unmarshal(body, p) == nil && p.Detail != "" {
		p.Status = resp.StatusCode
		return p
	}
	if resp.Request.Method != http.MethodHead {
		p.Detail = fmt.Sprintf("%s answered %s; is that a broker?", c.base, resp.Status)
	}
	return p
}

// call sends in as JSON, if it is not nil, and decodes the answer into out.
func (c *Client) call(ctx context.Context, method, path string, header http.Header, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if header == nil {
		header = http.Header{}
	}
	header.Set("Accept", "application/json")
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return err
		}
		header.Set("Content-Type", "application/json")
	}
	resp, err := c.do(ctx, method, path, header, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(out); err != nil {
		return fmt.Errorf("answer of %s to %s: %w", c.base, path, err)
	}
	return nil
}
