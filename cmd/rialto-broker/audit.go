package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"rialto/broker/ledger"
	"rialto/cmd/internal/cli"
)

// audited is what `audit --json` and `backup --json` print.
type audited struct {
	Batches          uint64 `json:"batches"`
	Head             string `json:"head"`
	Keys             uint64 `json:"keys"`
	Transfers        uint64 `json:"transfers"`
	Accounts         int    `json:"accounts"`
	WorldNanoUSD     int64  `json:"world_nanousd"`
	AvailableNanoUSD int64  `json:"available_nanousd"`
	HeldNanoUSD      int64  `json:"held_nanousd"`
	PayableNanoUSD   int64  `json:"payable_nanousd"`
	FeeNanoUSD       int64  `json:"fee_nanousd"`
}

func auditCommand(state *string) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "audit",
		Short: "Verify the journal's chain and that the money adds up; the broker must be stopped",
		Example: "  rialto-broker audit --state /var/lib/rialto-broker\n" +
			"  rialto-broker audit --json",
		Args: cli.Args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			r, err := auditStopped(c.Context(), stateDir(*state))
			if err != nil {
				return err
			}
			return printAudit(cli.Printer{Out: c.OutOrStdout(), JSON: asJSON}, r)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// openStopped opens the ledger of a broker that is not running.
func openStopped(ctx context.Context, state stateDir) (*ledger.Badger, error) {
	if _, err := os.Stat(state.ledger()); err != nil {
		return nil, cli.Hint(fmt.Errorf("no ledger: %w", err), "choose the broker's directory with --state DIR")
	}
	s, err := ledger.Open(ctx, ledger.Config{Dir: state.ledger()})
	if err != nil {
		return nil, openHint(err)
	}
	return s, nil
}

func auditStopped(ctx context.Context, state stateDir) (r ledger.Report, err error) {
	s, err := openStopped(ctx, state)
	if err != nil {
		return r, err
	}
	defer closing(&err, s)
	if r, err = ledger.Audit(ctx, s); err != nil {
		return r, openHint(err)
	}
	return r, nil
}

func printAudit(p cli.Printer, r ledger.Report) error {
	out := audited{
		Batches: r.Batches, Head: fmt.Sprintf("%x", r.Head), Keys: r.Keys, Transfers: r.Transfers, Accounts: r.Accounts,
		WorldNanoUSD: int64(r.World), AvailableNanoUSD: int64(r.Available), HeldNanoUSD: int64(r.Held),
		PayableNanoUSD: int64(r.Payable), FeeNanoUSD: int64(r.Fee),
	}
	return p.Print(out, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "chain      %d batches, head %.16s\nstate      %d keys, as the journal says\n"+
			"money      %d transfers, %d accounts\npaid in    %v\navailable  %v\nheld       %v\nearned     %v\nfees       %v\n",
			out.Batches, out.Head, out.Keys, out.Transfers, out.Accounts, -r.World, r.Available, r.Held, r.Payable, r.Fee)
		return err
	})
}

func idCommand(state *string) *cobra.Command {
	return &cobra.Command{
		Use:     "id",
		Short:   "Print the broker's peer id; makes its key if there is none",
		Example: "  rialto-broker id",
		Args:    cli.Args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			key, err := stateDir(*state).key()
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(c.OutOrStdout(), key.ID())
			return err
		},
	}
}
