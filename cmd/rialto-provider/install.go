package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"rialto/cmd/internal/cli"
)

const (
	unitName = "rialto-provider.service"
	unitPath = "/etc/systemd/system/" + unitName
)

func installCommand() *cobra.Command {
	var o options
	var dryRun bool
	c := &cobra.Command{
		Use:     "install",
		Short:   "Run the agent as a systemd service",
		Long:    "Write a systemd unit that runs the agent with the given flags, and start it. --dry-run only says so.",
		Example: "  rialto-provider install --dry-run --broker https://broker.example --price 0.40/h",
		Args:    cli.Args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := o.parse()
			if err != nil {
				return err
			}
			exe, err := os.Executable()
			if err != nil {
				return err
			}
			unit := unitFile(exe, runArgs(c.Flags()), s.state)
			if dryRun {
				fmt.Fprintf(c.OutOrStdout(), "# would write %s:\n%s# would then run:\n#   systemctl daemon-reload\n#   systemctl enable --now %s\n", unitPath, unit, unitName)
				return nil
			}
			if err := os.WriteFile(unitPath, []byte(unit), 0o644); err != nil { //nolint:gosec // units are world-readable, and hold no secret
				return cli.Hint(err, "installing needs root and systemd")
			}
			fmt.Fprintln(c.ErrOrStderr(), "wrote", unitPath)
			return systemctl(c.Context(), c.ErrOrStderr(), []string{"daemon-reload"}, []string{"enable", "--now", unitName})
		},
	}
	o.register(c.Flags())
	completeModels(c)
	c.Flags().BoolVar(&dryRun, "dry-run", false, "only show what would be done")
	return c
}

func uninstallCommand() *cobra.Command {
	var dryRun bool
	c := &cobra.Command{
		Use:   "uninstall",
		Short: "Stop the systemd service and remove its unit",
		Long: "Stop the agent and remove its unit. The agent's folder with its identity stays; jobs that run are ended\n" +
			"by their watchdogs at the end of their leases. `rialto-provider drain` beforehand is kinder.",
		Example: "  rialto-provider drain && rialto-provider uninstall",
		Args:    cli.Args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			if dryRun {
				fmt.Fprintf(c.OutOrStdout(), "# would run:\n#   systemctl disable --now %s\n# would remove %s\n# would then run:\n#   systemctl daemon-reload\n", unitName, unitPath)
				return nil
			}
			if !exists(unitPath) {
				return cli.Hint(fmt.Errorf("%s does not exist", unitPath), "there is nothing to uninstall")
			}
			if err := systemctl(c.Context(), c.ErrOrStderr(), []string{"disable", "--now", unitName}); err != nil {
				return err
			}
			if err := os.Remove(unitPath); err != nil {
				return err
			}
			fmt.Fprintln(c.ErrOrStderr(), "removed", unitPath)
			return systemctl(c.Context(), c.ErrOrStderr(), []string{"daemon-reload"})
		},
	}
	c.Flags().BoolVar(&dryRun, "dry-run", false, "only show what would be done")
	return c
}

// runArgs returns the flags that were given, for run.
func runArgs(given *pflag.FlagSet) []string {
	args := []string{"run"}
	given.Visit(func(f *pflag.Flag) {
		if f.Name == "dry-run" || f.Name == "state" {
			return
		}
		values := []string{f.Value.String()}
		if list, ok := f.Value.(pflag.SliceValue); ok {
			values = list.GetSlice()
		}
		for _, v := range values {
			args = append(args, "--"+f.Name+"="+v)
		}
	})
	return args
}

// unitFile writes the unit. KillMode=process leaves jobs to the next agent when this one is restarted.
func unitFile(exe string, args []string, state string) string {
	words := []string{quote(exe)}
	for _, a := range append(args, "--state="+state) {
		words = append(words, quote(a))
	}
	return `[Unit]
Description=Rialto provider: offers this host's GPUs on the market
Wants=network-online.target
After=network-online.target nvidia-persistenced.service

[Service]
ExecStart=` + strings.Join(words, " ") + `
Restart=on-failure
RestartSec=2
KillMode=process
TimeoutStopSec=60
LimitNOFILE=1048576
TasksMax=infinity
Delegate=yes

[Install]
WantedBy=multi-user.target
`
}

// quote writes a word as systemd reads it.
func quote(word string) string {
	word = strings.NewReplacer(`\`, `\\`, `"`, `\"`, `%`, `%%`, `$`, `$$`).Replace(word)
	if strings.ContainsAny(word, " '\"\\;") {
		return `"` + word + `"`
	}
	return word
}

func systemctl(ctx context.Context, talk io.Writer, commands ...[]string) error {
	for _, args := range commands {
		fmt.Fprintln(talk, "systemctl", strings.Join(args, " "))
		out, err := exec.CommandContext(ctx, "systemctl", args...).CombinedOutput()
		if errors.Is(err, exec.ErrNotFound) {
			return cli.Hint(errors.New("this host has no systemd"), "start `rialto-provider run` by your own means")
		}
		if err != nil {
			return fmt.Errorf("systemctl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
		}
	}
	return nil
}
