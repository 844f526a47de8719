package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"rialto/broker"
	"rialto/broker/api"
	"rialto/cmd/internal/cli"
)

// shortHash is how much of a command's hash tables show.
const shortHash = 12

func (a *app) imageTraceCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "trace IMAGE",
		Short: "Show of which commands the broker remembers what their runs read first",
		Long: "Hosts tell the broker which blocks of an image a run read first, and the next host fetches those before all others.\n" +
			"Commands are shown by their hash, because they may be other customers'.",
		Example: "  rialto image trace python:3.13\n" +
			"  rialto image trace python:3.13 --blocks e3b0c44298fc",
		Args:              cli.Args(1, 1),
		ValidArgsFunction: a.completeImages,
	}
	blocks := c.Flags().String("blocks", "", "print the blocks that runs of a command read, in order; the beginning of its hash is enough")
	p := a.jsonFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		m, err := a.connect()
		if err != nil {
			return err
		}
		found, err := m.home.findImage(c.Context(), args[0])
		if err != nil {
			return err
		}
		list, err := m.Traces(c.Context(), found.digest)
		if err != nil {
			return explain(err)
		}
		if *blocks == "" {
			if len(list) == 0 {
				a.say("no run of %s is remembered", cli.Clean(args[0]))
			}
			return p.Table(api.Traces{Commands: list}, tracesTable(list))
		}
		command, err := findCommand(list, *blocks)
		if err != nil {
			return err
		}
		trace, err := m.Trace(c.Context(), found.digest, command)
		if err != nil {
			return explain(err)
		}
		return p.Print(trace, func(w io.Writer) error {
			for _, b := range trace.Blocks {
				if _, err := fmt.Fprintln(w, b); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return c
}

func tracesTable(list []api.TracedCommand) *cli.Table {
	t := &cli.Table{Columns: []cli.Column{
		{Title: "COMMAND"}, {Title: "RUNS", Align: cli.Right}, {Title: "BLOCKS", Align: cli.Right}, {Title: "RECORDED"},
	}}
	for _, c := range list {
		name := c.Command[:min(len(c.Command), shortHash)]
		if c.Command == broker.CommandHash(nil) {
			name += " (the image's own)"
		}
		t.Add(name, strconv.Itoa(c.Runs), strconv.Itoa(c.Blocks), c.UpdatedAt.Local().Format(time.DateTime))
	}
	return t
}

// findCommand returns the one command whose hash begins with a text.
func findCommand(list []api.TracedCommand, begin string) (string, error) {
	var found []string
	for _, c := range list {
		if strings.HasPrefix(c.Command, begin) {
			found = append(found, c.Command)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return "", cli.Hint(fmt.Errorf("no run of command %s is remembered", cli.Clean(begin)), "without --blocks the command lists them")
	default:
		return "", fmt.Errorf("%d commands begin with %s", len(found), cli.Clean(begin))
	}
}
