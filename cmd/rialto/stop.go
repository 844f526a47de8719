package main

import (
	"errors"

	"github.com/spf13/cobra"

	"rialto/broker"
)

func (a *app) stopCommand() *cobra.Command {
	c := &cobra.Command{
		Use:               "stop JOB",
		Short:             "Cancel a job",
		Long:              "Cancel a job: its container gets SIGTERM, and SIGKILL when it does not end. Only the time until\nthen is paid.",
		Example:           "  rialto stop j-4k2\n  rialto stop --last",
		ValidArgsFunction: a.completeJobs(true),
	}
	ref := newJobRef(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		word, _, err := ref.split(c, args, 0, 0)
		if err != nil {
			return err
		}
		m, err := a.connect()
		if err != nil {
			return err
		}
		job, err := m.find(c.Context(), word)
		if err != nil {
			return err
		}
		_, err = m.Cancel(c.Context(), broker.JobID(job.ID))
		switch {
		case errors.Is(err, broker.ErrJobTerminal) || (err == nil && job.Ended != nil):
			a.say("job %s has ended already: %s", job.ID, job.State)
			return nil
		case err != nil:
			return explain(err)
		}
		a.say("cancelling job %s", job.ID)
		return nil
	}
	return c
}
