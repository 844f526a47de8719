package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"rialto/broker/ledger"
	"rialto/cmd/internal/cli"
)

// audited is what `audit --json` prints.
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
		RunE: func(c *cobra.Command, _ []string) (err error) {
			dir := stateDir(*state).ledger()
			if _, err := os.Stat(dir); err != nil {
				return cli.Hint(fmt.Errorf("no ledger: %w", err), "choose the broker's directory with --state DIR")
			}
			s, err := ledger.Open(c.Context(), ledger.Config{Dir: dir, MinFree: 1})
			if err != nil {
				if errors.Is(err, ledger.ErrCorrupt) {
					return cli.Hint(err, "keep a copy of %s before you try anything", dir)
				}
				return inUse(err)
			}
			defer closing(&err, s)
			r, err := ledger.Audit(c.Context(), s)
			if err != nil {
				return cli.Hint(err, "keep a copy of %s before you try anything", dir)
			}
			out := audited{
				Batches: r.Batches, Head: fmt.Sprintf("%x", r.Head), Keys: r.Keys, Transfers: r.Transfers, Accounts: r.Accounts,
				WorldNanoUSD: int64(r.World), AvailableNanoUSD: int64(r.Available), HeldNanoUSD: int64(r.Held),
				PayableNanoUSD: int64(r.Payable), FeeNanoUSD: int64(r.Fee),
			}
			return cli.Printer{Out: c.OutOrStdout(), JSON: asJSON}.Print(out, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "chain      %d batches, head %.16s\nstate      %d keys, as the journal says\n"+
					"money      %d transfers, %d accounts\npaid in    %v\navailable  %v\nheld       %v\nearned     %v\nfees       %v\n",
					out.Batches, out.Head, out.Keys, out.Transfers, out.Accounts, -r.World, r.Available, r.Held, r.Payable, r.Fee)
				return err
			})
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
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
