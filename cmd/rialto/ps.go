package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"rialto/broker"
	"rialto/broker/api"
	"rialto/cmd/internal/cli"
)

func (a *app) psCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "ps",
		Short:   "List jobs, newest first",
		Example: "  rialto ps\n  rialto ps -a --json",
		Args:    cli.Args(0, 0),
	}
	all := c.Flags().BoolP("all", "a", false, "also jobs that have ended")
	p := a.jsonFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		m, err := a.connect()
		if err != nil {
			return err
		}
		jobs, err := m.Jobs(c.Context())
		if err != nil {
			return explain(err)
		}
		shown := make([]api.Job, 0, len(jobs))
		for _, j := range jobs {
			if *all || j.Ended == nil {
				shown = append(shown, j)
			}
		}
		return p.Print(api.Jobs{Jobs: shown}, func(w io.Writer) error {
			if len(shown) == 0 && len(jobs) > 0 {
				_, err := fmt.Fprintf(w, "No job runs now; `rialto ps -a` shows the %d that ended.\n", len(jobs))
				return err
			}
			return writeJobs(w, shown, time.Now())
		})
	}
	return c
}

func writeJobs(w io.Writer, jobs []api.Job, now time.Time) error {
	t := cli.Table{Columns: []cli.Column{
		{Title: "JOB"},
		{Title: "STATE", Tone: stateTone},
		{Title: "IMAGE"},
		{Title: "GPU"},
		{Title: "HOST"},
		{Title: "AGE", Align: cli.Right},
		{Title: "BILLED", Align: cli.Right},
		{Title: "$", Align: cli.Decimal},
		{Title: ""},
	}}
	for _, j := range jobs {
		state := j.State
		if j.ExitCode != nil && *j.ExitCode != 0 {
			state = fmt.Sprintf("%s (exit %d)", state, *j.ExitCode)
		}
		mark := ""
		if j.Simulated {
			mark = "SIMULATED"
		}
		t.Add(j.ID, state, j.Image, fmt.Sprintf("%d × %s", j.GPUCount, j.GPUModel), hostName(j.Host, j.Provider),
			cli.FormatDuration(now.Sub(j.Accepted).Truncate(time.Second)), cli.FormatDuration(time.Duration(j.BilledMS)*time.Millisecond),
			dollars(j.CostNanoUSD), mark)
	}
	return t.Write(w)
}

func stateTone(state string) cli.Tone {
	switch state {
	case broker.JobReady.String(), broker.JobRunning.String():
		return cli.Good
	case broker.JobFailed.String(), broker.JobExpired.String():
		return cli.Bad
	case broker.JobCancelled.String(), broker.JobDone.String():
		return cli.Dim
	default:
		return cli.Plain
	}
}
