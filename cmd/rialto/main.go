// Command rialto is the customer's side of the market: it runs containers on other people's GPUs
// and shows what they cost. It needs no root, no daemon and no cgo, and builds for Linux, macOS and
// Windows.
//
// It keeps its few files in one folder ($RIALTO_HOME, else "rialto" in the user's configuration
// folder), readable only by the user:
//
//	config.json         the broker's address and the account's token
//	key                 the Ed25519 key that signs jobs; its peer id is bound to the account
//	jobs/<id>.json      one job: its idempotency key, signed spec and tunnel key
//	jobs/<id>.sock      while a command holds the job's tunnel: the door through which other commands share it
//	pending/<key>.json  a submission whose answer has not arrived yet
//	weights.json        weights that were added, by name
//	images.json         images of this machine that were added, by name
//
// A submission is written down before it is sent, and always sent again under the same idempotency
// key, so a lost answer never makes a second job. What a provider says is believed only when it is
// signed by the provider that the lease names.
package main

import (
	"context"
	"io"
	"os"

	"github.com/spf13/cobra"

	"rialto/cmd/internal/cli"
)

func main() { os.Exit(cli.Main("rialto", run)) }

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	a := &app{stdin: os.Stdin, stdout: stdout, stderr: stderr, getenv: os.Getenv}
	root := a.root() //nolint:contextcheck // commands get the context when they run
	if len(args) == 0 {
		root.Long += a.firstStep()
	}
	return a.unreachable(cli.Execute(ctx, root, args, stdout, stderr))
}

// firstStep tells who has no account on this machine how to get to one.
func (a *app) firstStep() string {
	h, err := openHome(a.getenv)
	if err != nil {
		return ""
	}
	if c, err := h.config(); err != nil || c.Token != "" || a.getenv("RIALTO_TOKEN") != "" {
		return ""
	}
	return "\n\nThere is no account on this machine yet:\n  " + welcome + "."
}

// root builds the command tree.
func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "rialto",
		Short: "Run containers on the GPU market, paid by the second",
		Long: "Rialto runs any container on a GPU of the open market: paid by the second, reached through a\n" +
			"private tunnel, with nothing to configure on your side.",
		Example: "  rialto account login https://broker.example TOKEN\n" +
			"  rialto offers --gpu 'RTX 4090'\n" +
			"  rialto run --gpu any python:3.13 -- python3 -c 'print(6*7)'",
	}
	root.PersistentFlags().StringVar(&a.brokerFlag, "broker", "", "address of the broker (also $RIALTO_BROKER)")
	root.AddCommand(
		a.runCommand(), a.psCommand(), a.logsCommand(), a.execCommand(), a.stopCommand(), a.bidCommand(), a.forwardCommand(), a.tunnelCommand(),
		a.offersCommand(), a.pricesCommand(), a.quoteCommand(), a.orderCommand(), a.billCommand(), a.webCommand(), a.accountCommand(), a.weightsCommand(), a.imageCommand(), cli.VersionCommand("rialto"),
	)
	return root
}
