package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"rialto/broker/api"
	"rialto/cmd/internal/cli"
	"rialto/pricing"
)

func accountCommand(state *string) *cobra.Command {
	c := &cobra.Command{Use: "account", Short: "Open and list accounts of the running broker"}
	c.AddCommand(accountCreateCommand(state), accountListCommand(state))
	return c
}

// created is what `account create --json` prints.
type created struct {
	api.OpenedAccount
	URL   string `json:"url"`
	Login string `json:"login"` // what the customer runs
}

func accountCreateCommand(state *string) *cobra.Command {
	var deposit string
	var asJSON bool
	c := &cobra.Command{
		Use:     "create NAME",
		Short:   "Open an account and print how its owner logs in",
		Example: "  rialto-broker account create ada --deposit 10.00",
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
			opened, err := client.OpenAccount(c.Context(), args[0], amount)
			if err != nil {
				return err
			}
			out := created{OpenedAccount: opened, URL: client.URL()}
			out.Login = fmt.Sprintf("rialto account login %s %s", client.URL(), opened.Token)
			return cli.Printer{Out: c.OutOrStdout(), JSON: asJSON}.Print(out, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "account  %s (%s)\nbalance  %s\nlogin    %s\n", opened.Account.ID,
					cli.Clean(opened.Account.Name), pricing.Money(opened.Account.AvailableNanoUSD), out.Login)
				return err
			})
		},
	}
	c.Flags().StringVar(&deposit, "deposit", "", "dollars to begin with (default: what the broker grants)")
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
			}}
			for _, a := range accounts {
				t.Add(a.ID, cli.Clean(a.Name), pricing.Money(a.AvailableNanoUSD).String(), pricing.Money(a.HeldNanoUSD).String(),
					pricing.Money(a.SpentNanoUSD).String(), pricing.Money(a.PayableNanoUSD).String())
			}
			return cli.Printer{Out: c.OutOrStdout(), JSON: asJSON}.Table(accounts, t)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// dial returns a client of the broker that runs in a state directory.
func dial(state stateDir) (*api.Client, error) {
	a, err := state.readAdmin()
	if err != nil {
		return nil, err
	}
	return api.NewClient(a.URL, a.Token, nil)
}
