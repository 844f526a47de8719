// Command rialto-provider offers a host's GPUs on the market and runs the workloads that lease them.
//
// It keeps everything in one folder, readable by root only (--state, /var/lib/rialto-provider):
//
//	identity.key   the host's Ed25519 key; its peer id is the provider's name
//	journal/       leases and the epoch of every GPU
//	blocks/        images and weights as content-addressed blocks
//	images/        the same, unpacked
//	sandboxes/     one folder per workload
//	drained        exists while the host takes no jobs
//	agent.sock     where status and drain reach the running agent
package main

import (
	"context"
	"io"
	"os"

	"github.com/spf13/cobra"

	"rialto/blockstore/mount"
	"rialto/cmd/internal/cli"
	"rialto/provider/nvml"
	"rialto/provider/sandbox"
)

// mountVerb is the first argument of the process that serves images to containers.
const mountVerb = "mount-server"

func main() {
	if len(os.Args) > 1 {
		switch os.Args[1] { // this binary is its own helper processes, see the packages
		case sandbox.SupervisorVerb:
			os.Exit(sandbox.SupervisorMain(os.Args[2:]))
		case nvml.ChildVerb:
			os.Exit(nvml.ChildMain(os.Args[2:]))
		case mountVerb:
			os.Exit(mount.ServerMain(os.Args[2:]))
		}
	}
	os.Exit(cli.Main("rialto-provider", run))
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	return cli.Execute(ctx, root(), args, stdout, stderr) //nolint:contextcheck // cobra hands ctx to the commands
}

func root() *cobra.Command {
	c := &cobra.Command{
		Use:   "rialto-provider",
		Short: "Offer this host's GPUs on the market",
		Long: "The agent on a GPU host: it offers GPUs to brokers, runs the containers that lease them, each in a\n" +
			"sandbox with a network of its own, and is paid by the second.",
		Example: "  rialto-provider doctor\n" +
			"  rialto-provider run --broker https://broker.example --price 0.40/h --name my-host\n" +
			"  rialto-provider install --dry-run --broker https://broker.example --price 0.40/h",
	}
	c.AddCommand(
		runCommand(), doctorCommand(), installCommand(), uninstallCommand(), statusCommand(), drainCommand(), cli.VersionCommand("rialto-provider"),
	)
	return c
}
