package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"rialto/broker"
	"rialto/broker/api"
	"rialto/cmd/internal/cli"
	"rialto/cmd/internal/tenant"
)

// defaultBroker is where a broker on this machine listens.
const defaultBroker = "http://127.0.0.1:7070"

// app is one run of the command.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	getenv         func(string) string

	brokerFlag string
	stranger   bool // nothing here says which broker to ask
}

// say prints a line of talk.
func (a *app) say(format string, args ...any) { fmt.Fprintf(a.stderr, format+"\n", args...) }

// jsonFlag adds --json to a command and returns the printer that obeys it.
func (a *app) jsonFlag(c *cobra.Command) *cli.Printer {
	p := &cli.Printer{Out: a.stdout}
	c.Flags().BoolVar(&p.JSON, "json", false, "print JSON for programs")
	return p
}

// market is a broker and what this machine knows to speak to it.
type market struct {
	*api.Client
	home  home
	url   string
	known bool // we have a token for it
}

// connect finds the broker and the token. It sends nothing yet.
func (a *app) connect() (*market, error) {
	h, err := openHome(a.getenv)
	if err != nil {
		return nil, err
	}
	c, err := h.config()
	if err != nil {
		return nil, err
	}
	a.stranger = firstOf(a.brokerFlag, a.getenv("RIALTO_BROKER"), c.Broker) == ""
	address := firstOf(a.brokerFlag, a.getenv("RIALTO_BROKER"), c.Broker, defaultBroker)
	token := a.getenv("RIALTO_TOKEN")
	if token == "" && (address == c.Broker || c.Broker == "") {
		token = c.Token // a token is shown only to the broker that it is for
	}
	client, err := api.NewClient(address, token, nil)
	if err != nil {
		return nil, err
	}
	return &market{Client: client, home: h, url: address, known: token != ""}, nil
}

// firstOf returns the first value that is not zero.
func firstOf[T comparable](values ...T) T {
	var zero T
	for _, v := range values {
		if v != zero {
			return v
		}
	}
	return zero
}

// explain adds to an error of the market what to do next.
func explain(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, broker.ErrNoOffer):
		if p, ok := errors.AsType[*api.Problem](err); ok && p.Search != nil && len(p.Search.Nearest) > 0 {
			n := p.Search.Nearest[0]
			return cli.Hint(err, "with %s there is %s on %s at %s; `rialto offers` shows what there is; `rialto run --wait` waits for a matching offer",
				admission(n), cli.Clean(n.Offer.Model), tenant.HostName(n.Offer.Host, n.Offer.Provider), hourly(n.Offer))
		}
		return cli.Hint(err, "`rialto offers` shows what there is; `rialto run --wait` waits for a matching offer")
	case errors.Is(err, broker.ErrNoFunds):
		return cli.Hint(err, "lower --max-cost or --for; `rialto account` shows the balance")
	case errors.Is(err, broker.ErrLimit):
		return cli.Hint(err, "lower --max-cost, --max-price or --for, or raise the limit with `rialto account limit`; `rialto account` shows it")
	case errors.Is(err, broker.ErrForbidden), status(err) == http.StatusUnauthorized:
		return cli.Hint(err, "`rialto account login URL TOKEN` uses an account's token and binds this machine's key to it")
	}
	return err
}

// unreachable adds to the error of a broker that does not answer what that means.
func (a *app) unreachable(err error) error {
	if _, ok := errors.AsType[*api.UnreachableError](err); !ok {
		return err
	}
	if a.stranger {
		return cli.Hint(fmt.Errorf("no broker is known on this machine, and none listens at %s", defaultBroker), welcome)
	}
	return cli.Hint(err, "jobs that run keep running; --broker, $RIALTO_BROKER or `rialto account login` name another broker")
}

// brief leaves out of the error of a broker that was there a moment ago what only a newcomer needs.
func brief(err error) error {
	if gone, ok := errors.AsType[*api.UnreachableError](err); ok {
		return fmt.Errorf("the broker at %s cannot be reached: %w", gone.URL, gone.Err)
	}
	return err
}

// welcome is how one begins.
const welcome = "`rialto account login URL TOKEN` is the first step; URL and TOKEN come from a broker's operator"

// transient reports whether sending the same again may help.
func transient(err error) bool {
	if _, ok := errors.AsType[*api.UnreachableError](err); ok {
		return true
	}
	return status(err) >= http.StatusInternalServerError || status(err) == http.StatusTooManyRequests
}

// status is the HTTP status of a broker's refusal; zero: it is none.
func status(err error) int {
	if p, ok := errors.AsType[*api.Problem](err); ok {
		return p.Status
	}
	return 0
}

// backoff waits longer each time: 100 ms, 200 ms, … 3 s. It returns false when ctx ended.
func backoff(ctx context.Context, attempt int) bool {
	const first, most = 100 * time.Millisecond, 3 * time.Second
	t := time.NewTimer(min(first<<min(attempt, 10), most))
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// plaintext reports whether a token would cross a network in the clear.
func plaintext(address string) bool {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "http" {
		return false
	}
	if ip, err := netip.ParseAddr(u.Hostname()); err == nil {
		return !ip.IsLoopback()
	}
	return u.Hostname() != "localhost"
}
