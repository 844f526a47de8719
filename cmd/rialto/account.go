package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"rialto/broker"
	"rialto/broker/api"
	"rialto/cmd/internal/cli"
	"rialto/pricing"
)

func (a *app) accountCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "account",
		Short:   "Show the account's money and key",
		Example: "  rialto account\n  rialto account login https://broker.example TOKEN",
		Args:    cli.Args(0, 0),
	}
	p := a.jsonFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		m, account, err := a.account(c.Context())
		if err != nil {
			return err
		}
		key, err := m.home.key()
		if err != nil {
			return err
		}
		return p.Print(account, func(w io.Writer) error { return writeAccount(w, m.url, account, string(key.ID())) })
	}
	login := &cobra.Command{
		Use:   "login URL TOKEN",
		Short: "Use an account on this machine",
		Long: "Use an account on this machine: makes the key that signs jobs, binds it to the account, and remembers\n" +
			"broker and token. A token of \"-\" is read from stdin, so that it stays out of the shell's history.",
		Example: "  rialto account login https://broker.example TOKEN\n  pass broker | rialto account login https://broker.example -",
		Args:    cli.Args(2, 2),
		RunE:    a.login,
	}
	c.AddCommand(login, a.limitCommand())
	return c
}

// account asks the broker for the account of this machine.
func (a *app) account(ctx context.Context) (*market, api.Account, error) {
	m, err := a.connect()
	if err != nil {
		return nil, api.Account{}, err
	}
	account, err := m.Account(ctx)
	return m, account, explain(err)
}

func (a *app) limitCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "limit",
		Short: "Bound what the account may spend",
		Long: "Bound what the account may spend. Money that is held for jobs counts as spent, so no job that was accepted is\n" +
			"ended because of a limit, and none is accepted that could break one. A day is one of UTC. Flags that are not given\n" +
			"leave their limit as it is; \"none\" lifts it.",
		Example: "  rialto account limit --job 5 --day 20\n  rialto account limit --day none",
		Args:    cli.Args(0, 0),
	}
	var job, day, total pricing.Money
	f := c.Flags()
	limit := func(to *pricing.Money, name, usage string) {
		f.Var(&value[pricing.Money]{to: to, parse: parseLimit, kind: "dollars"}, name, usage)
	}
	limit(&job, "job", "for one job")
	limit(&day, "day", "in a day")
	limit(&total, "total", "in all, with what was spent before")
	p := a.jsonFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		m, account, err := a.account(c.Context())
		if err != nil {
			return err
		}
		limits := api.Limits{}
		if account.Limits != nil {
			limits = *account.Limits
		}
		changed := false
		set := func(name string, to *int64, m pricing.Money) {
			if f.Changed(name) {
				*to, changed = int64(m), true
			}
		}
		set("job", &limits.JobNanoUSD, job)
		set("day", &limits.DayNanoUSD, day)
		set("total", &limits.TotalNanoUSD, total)
		if changed {
			if account, err = m.SetLimits(c.Context(), limits); err != nil {
				return explain(err)
			}
		}
		return p.Print(account, func(w io.Writer) error { return writeLimits(w, account.Limits) })
	}
	return c
}

// parseLimit reads an amount above zero, or none.
func parseLimit(s string) (pricing.Money, error) {
	if s == "none" {
		return 0, nil
	}
	m, err := pricing.ParseMoney(s)
	if err == nil && m <= 0 {
		err = fmt.Errorf("%q: want more than zero, or none", s)
	}
	return m, err
}

func writeLimits(w io.Writer, l *api.Limits) error {
	if l == nil {
		l = &api.Limits{}
	}
	for _, x := range []struct {
		name string
		most int64
	}{{"per job", l.JobNanoUSD}, {"per day", l.DayNanoUSD}, {"in all", l.TotalNanoUSD}} {
		text := "no limit"
		if x.most > 0 {
			text = pricing.Money(x.most).String()
		}
		if _, err := fmt.Fprintf(w, "%-9s  %s\n", x.name, text); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) login(c *cobra.Command, args []string) error {
	address, token := args[0], args[1]
	if token == "-" {
		text, err := io.ReadAll(io.LimitReader(a.stdin, 4096))
		if err != nil {
			return fmt.Errorf("read token: %w", err)
		}
		token = strings.TrimSpace(string(text))
	}
	client, err := api.NewClient(address, token, nil)
	if err != nil {
		return err
	}
	h, err := openHome(a.getenv)
	if err != nil {
		return err
	}
	key, err := h.key()
	if err != nil {
		return err
	}
	account, err := client.BindKey(c.Context(), broker.PeerID(key.ID()))
	switch {
	case errors.Is(err, broker.ErrForbidden), status(err) == http.StatusUnauthorized:
		return cli.Hint(err, "the operator of %s gives out tokens: rialto-broker account create NAME", address)
	case errors.Is(err, broker.ErrConflict) && isCustodial(c.Context(), client):
		return cli.Hint(err, "a custodial account is for clients that cannot sign, such as vastai; ask the operator for an ordinary one")
	case errors.Is(err, broker.ErrConflict):
		return cli.Hint(err, "an account speaks with one key: copy %s from the machine that logged in first", h.path("key"))
	case err != nil:
		return explain(err)
	}
	if err := h.save(config{Broker: address, Token: token}, "config.json"); err != nil {
		return err
	}
	if plaintext(address) {
		a.say("%s %s is not encrypted: whoever sees the network sees the token. Jobs need your key as well, and tunnels are encrypted.",
			cli.Paint(a.stderr, cli.Warn, "warning:"), address)
	}
	return writeAccount(a.stdout, address, account, string(key.ID()))
}

// isCustodial reports whether the broker says that it holds the account's key.
func isCustodial(ctx context.Context, client *api.Client) bool {
	account, err := client.Account(ctx)
	return err == nil && account.Custodial
}

func writeAccount(w io.Writer, address string, account api.Account, key string) error {
	fmt.Fprintf(w, "account    %s (%s)\n", cli.Clean(account.Name), account.ID)
	fmt.Fprintf(w, "broker     %s\n", address)
	switch {
	case account.Custodial:
		fmt.Fprintf(w, "key        %s, the broker's: it signs jobs for whoever shows the token, and can reach into them\n", account.Key)
	case account.Key == "":
		fmt.Fprintf(w, "key        %s, not bound yet: `rialto account login` binds it\n", key)
	case account.Key == key:
		fmt.Fprintf(w, "key        %s\n", key)
	default:
		fmt.Fprintf(w, "key        %s; this machine's is another, so it cannot sign jobs\n", account.Key)
	}
	amounts := cli.AlignPoints([]string{
		pricing.Money(account.AvailableNanoUSD).String(), pricing.Money(account.HeldNanoUSD).String(), pricing.Money(account.SpentNanoUSD).String(),
	})
	for i, name := range []string{"available", "held", "spent"} {
		if _, err := fmt.Fprintf(w, "%-9s  %s\n", name, strings.TrimRight(amounts[i], " ")); err != nil {
			return err
		}
	}
	if account.Limits != nil {
		return writeLimits(w, account.Limits)
	}
	return nil
}
