package main

import (
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"rialto/broker/api"
	"rialto/cmd/internal/cli"
)

func accusedCommand(state *string) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "accused",
		Short: "List the peers that providers say sent them wrong blocks",
		Long: "List the peers that providers say sent them bytes which do not hash to the block that was asked for. An\n" +
			"accusation counts for six hours, if the provider has a lease whose hold named the peer as a source. A peer that two\n" +
			"providers accuse is not named as a source meanwhile; it sells GPUs as before, and no money moves.",
		Example: "  rialto-broker accused\n  rialto-broker accused --json",
		Args:    cli.Args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := dial(stateDir(*state))
			if err != nil {
				return err
			}
			defer client.Close()
			accused, err := client.Accused(c.Context())
			if err != nil {
				return err
			}
			return cli.Printer{Out: c.OutOrStdout(), JSON: asJSON}.Print(api.AccusedPeers{Accused: accused}, func(w io.Writer) error {
				return writeAccused(w, accused)
			})
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func writeAccused(w io.Writer, accused []api.Accused) error {
	if len(accused) == 0 {
		_, err := fmt.Fprintln(w, "Nobody is accused of wrong blocks.")
		return err
	}
	t := cli.Table{Columns: []cli.Column{
		{Title: "ACCUSED"}, {Title: "NAMED AS A SOURCE"}, {Title: "BY"}, {Title: "LAST"}, {Title: "TIMES", Align: cli.Right}, {Title: "LEASE"}, {Title: "COUNTS"},
	}}
	for _, a := range accused {
		named := "yes"
		if a.DistrustedUntil != nil {
			named = "not until " + a.DistrustedUntil.Local().Format(time.DateTime)
		}
		for _, x := range a.Accusations {
			t.Add(a.Peer, named, x.Accuser, x.At.Local().Format(time.DateTime), strconv.Itoa(x.Times), x.Lease, map[bool]string{true: "yes", false: "no"}[x.Counts])
		}
	}
	return t.Write(w)
}
