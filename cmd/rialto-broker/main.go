// Command rialto-broker runs a market: it takes offers from providers and jobs from customers, joins
// them, meters leases and keeps the books.
//
// All that it keeps is in its state directory, readable only by its user:
//
//	key          its Ed25519 key; the peer id is the broker's name, and jobs are signed for it
//	admin.json   where the running broker listens and the admin's token, for the other commands
//	ledger/      accounts, jobs, leases, transfers and their hash-chained journal
//	blocks/      weights and images that customers uploaded
//	scratch/     small files of the image that is being built; emptied at each start
//
// Unless it is told not to, it imports each image of its customers once from the image's registry, without keeping
// the layers, and vouches for what comes of it: that the image's root, by which hosts exchange its files block by
// block, is what the layers of the signed digest add up to. A customer who trusts it with that signs the root in his job.
//
// An account that was created with --custodial is one whose key this broker holds: it signs the account's jobs and is the
// customer's end of their tunnels, for clients that know nothing but a token. Those of Vast.ai work unmodified: the API
// below /api/v0 and /api/v1 is Vast's (see rialto/broker/vast).
//
// It may be killed at any moment: what it answered is durable, leases go on at the providers meanwhile,
// and a restart continues where it was.
package main

import (
	"context"
	"io"
	"os"

	"github.com/spf13/cobra"

	"rialto/cmd/internal/cli"
)

func main() { os.Exit(cli.Main("rialto-broker", run)) }

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	return cli.Execute(ctx, rootCommand(), args, stdout, stderr) //nolint:contextcheck // commands take it from cobra
}

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "rialto-broker",
		Short: "Run a market for GPU time",
		Example: "  rialto-broker run --state /var/lib/rialto-broker\n" +
			"  rialto-broker account create ada --deposit 10.00\n" +
			"  rialto-broker audit\n" +
			"  rialto-broker backup /mnt/backup/market",
	}
	var state string
	root.PersistentFlags().StringVar(&state, "state", "/var/lib/rialto-broker", "directory of the broker's key, ledger and blocks")
	root.AddCommand(runCommand(&state), accountCommand(&state), accusedCommand(&state), auditCommand(&state), backupCommand(&state), idCommand(&state), cli.VersionCommand("rialto-broker"))
	return root
}
