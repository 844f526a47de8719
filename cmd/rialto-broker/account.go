package main

import (
	"crypto/rand"
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

func accountCommand(state *string) *cobra.Command {
	c := &cobra.Command{Use: "account", Short: "Open, fund and list accounts of the running broker"}
	c.AddCommand(accountCreateCommand(state), accountDepositCommand(state), accountListCommand(state), accountOwnerCommand(state))
	return c
}

// created is what `account create --json` prints.
type created struct {
	api.OpenedAccount
	URL   string `json:"url"`
	Login string `json:"login,omitempty"` // what the customer runs; empty: the account is custodial
}

func accountCreateCommand(state *string) *cobra.Command {
	var deposit string
	var asJSON, custodial bool
	c := &cobra.Command{
		Use:   "create NAME",
		Short: "Open an account and print how its owner logs in",
		Long: "Open an account and print how its owner logs in. Jobs are signed with a key that only the owner has.\n\n" +
			"With --custodial, this broker holds the key instead, and signs jobs for whoever shows the account's token. It is for\n" +
			"clients that cannot sign, such as `vastai --url`: they work unmodified, but their owner has to trust the broker with\n" +
			"what an ordinary account need not: it can start jobs on the account's money, and reach into them.",
		Example: "  rialto-broker account create ada --deposit 10.00\n  rialto-broker account create vera --custodial --deposit 10.00",
		Args:    cli.Args(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			var amount *pricing.Money
			if deposit != "" {
				m, err := pricing.ParseMoney(deposit)
				if err != nil {
					return fmt.Errorf("--deposit: %w", err)
				}
				amount = &m
			}
			client, err := dial(stateDir(*state))
			if err != nil {
				return err
			}
			defer client.Close()
			open := client.OpenAccount
			if custodial {
				open = client.OpenCustodialAccount
			}
			opened, err := open(c.Context(), args[0], amount)
			if err != nil {
				return err
			}
			out := created{OpenedAccount: opened, URL: client.URL()}
			if !custodial {
				out.Login = fmt.Sprintf("rialto account login %s %s", client.URL(), opened.Token)
			}
			return cli.Printer{Out: c.OutOrStdout(), JSON: asJSON}.Print(out, func(w io.Writer) error { return out.write(w) })
		},
	}
	c.Flags().BoolVar(&custodial, "custodial", false, "let this broker hold the account's key and sign its jobs, for clients that cannot")
	c.Flags().StringVar(&deposit, "deposit", "", "dollars to begin with (default: what the broker grants)")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func (c created) write(w io.Writer) error {
	a := c.Account
	fmt.Fprintf(w, "account  %s (%s)\nbalance  %s\n", a.ID, cli.Clean(a.Name), pricing.Money(a.AvailableNanoUSD))
	if !a.Custodial {
		_, err := fmt.Fprintf(w, "login    %s\n", c.Login)
		return err
	}
	_, err := fmt.Fprintf(w, "token    %s\nvastai   vastai --url %s --api-key %s search offers -n\n"+
		"custody  this broker holds the account's key and signs jobs for whoever shows the token\n", c.Token, c.URL, c.Token)
	return err
}

// deposited is what `account deposit --json` prints.
type deposited struct {
	Account api.Account `json:"account"`
	Ref     string      `json:"ref"`
}

func accountDepositCommand(state *string) *cobra.Command {
	var ref string
	var asJSON bool
	c := &cobra.Command{
		Use:   "deposit ACCOUNT DOLLARS",
		Short: "Add what a customer has paid to an account",
		Long: "Add what a customer has paid to an account. The ref names the payment: a deposit is made once per ref, so that after an\n" +
			"error the same command with the same --ref can be given again, whatever became of the first.",
		Example: "  rialto-broker account deposit a-… 25.00 --ref 'invoice 17'",
		Args:    cli.Args(2, 2),
		RunE: func(c *cobra.Command, args []string) error {
			amount, err := pricing.ParseMoney(args[1])
			if err != nil {
				return err
			}
			if ref == "" {
				ref = "deposit-" + strings.ToLower(rand.Text())
			}
			client, err := dial(stateDir(*state))
			if err != nil {
				return err
			}
			defer client.Close()
			a, err := client.Deposit(c.Context(), broker.AccountID(args[0]), amount, ref)
			switch p, answered := errors.AsType[*api.Problem](err); {
			case errors.Is(err, broker.ErrNotFound):
				return cli.Hint(err, "`rialto-broker account list` lists the accounts")
			case err != nil && (!answered || p.Status >= http.StatusInternalServerError):
				return cli.Hint(err, "whether it was made is not known: the same command with --ref %s makes sure, and not twice", ref)
			case err != nil:
				return err
			}
			return cli.Printer{Out: c.OutOrStdout(), JSON: asJSON}.Print(deposited{Account: a, Ref: ref}, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "account  %s (%s)\nbalance  %s\nref      %s\n", a.ID, cli.Clean(a.Name), pricing.Money(a.AvailableNanoUSD), cli.Clean(ref))
				return err
			})
		},
	}
	c.Flags().StringVar(&ref, "ref", "", "name of the payment (default: a new one, which is printed)")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func accountOwnerCommand(state *string) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "owner PROVIDER",
		Short: "Make a token for the owner of a provider",
		Long: "Make a token with which the owner of a provider takes it off this market, puts it back, or asks more for it than its\n" +
			"agent does: `vastai --url` list and unlist machine. Give it to nobody else.",
		Example: "  rialto-broker account owner 12D3KooW…",
		Args:    cli.Args(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			client, err := dial(stateDir(*state))
			if err != nil {
				return err
			}
			defer client.Close()
			t, err := client.OwnerToken(c.Context(), broker.PeerID(args[0]))
			if err != nil {
				return cli.Hint(err, "`rialto-provider id` prints a provider's peer id")
			}
			return cli.Printer{Out: c.OutOrStdout(), JSON: asJSON}.Print(t, func(w io.Writer) error {
				_, err := fmt.Fprintln(w, t.Token)
				return err
			})
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func accountListCommand(state *string) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:     "list",
		Short:   "List accounts and their money",
		Example: "  rialto-broker account list",
		Args:    cli.Args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := dial(stateDir(*state))
			if err != nil {
				return err
			}
			defer client.Close()
			accounts, err := client.Accounts(c.Context())
			if err != nil {
				return err
			}
			t := &cli.Table{Columns: []cli.Column{
				{Title: "ACCOUNT"},
				{Title: "NAME"},
				{Title: "AVAILABLE", Align: cli.Decimal},
				{Title: "HELD", Align: cli.Decimal},
				{Title: "SPENT", Align: cli.Decimal},
				{Title: "EARNED", Align: cli.Decimal},
				{Title: "KEY"},
			}}
			for _, a := range accounts {
				t.Add(a.ID, cli.Clean(a.Name), pricing.Money(a.AvailableNanoUSD).String(), pricing.Money(a.HeldNanoUSD).String(),
					pricing.Money(a.SpentNanoUSD).String(), pricing.Money(a.PayableNanoUSD).String(), custody(a))
			}
			return cli.Printer{Out: c.OutOrStdout(), JSON: asJSON}.Table(accounts, t)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// custody says who holds an account's key.
func custody(a api.Account) string {
	switch {
	case a.Custodial:
		return "broker's"
	case a.Key == "":
		return "-"
	}
	return "owner's"
}

// dial returns a client of the broker that runs in a state directory.
func dial(state stateDir) (*api.Client, error) {
	a, err := state.readAdmin()
	if err != nil {
		return nil, err
	}
	return api.NewClient(a.URL, a.Token, nil)
}
