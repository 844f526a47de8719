package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"rialto/broker"
	"rialto/broker/api"
	"rialto/cmd/internal/cli"
	"rialto/pricing"
)

// stopAtOnce bounds how many jobs one command stops at a time.
const stopAtOnce = 16

func (a *app) stopCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "stop JOB…",
		Short: "End jobs and show what they cost",
		Long: "End jobs: a container gets SIGTERM, and SIGKILL when it does not end. Only the time until then is paid,\n" +
			"and what is left of a reservation (`rialto ps` says until when).\n" +
			"A job that runs on several hosts ends on all.\n" +
			"The command waits until the jobs have ended; Ctrl-C leaves it to the broker.",
		Example:           "  rialto stop j-4k2qxy\n  rialto stop --last\n  rialto stop --no-wait j-4k2qxy j-b7mzzo",
		ValidArgsFunction: a.completeJobs(true),
	}
	ref := newJobRef(c)
	leave := c.Flags().Bool("no-wait", false, "return as soon as the broker knows")
	c.RunE = func(c *cobra.Command, args []string) error {
		word, more, err := ref.split(c, args, 0, -1)
		if err != nil {
			return err
		}
		m, err := a.connect()
		if err != nil {
			return err
		}
		words := append([]string{word}, more...)
		var jobs []api.Job
		for _, w := range words { // all are found before any is stopped
			job, err := m.find(c.Context(), w)
			if err != nil {
				return err
			}
			if job, err = m.node(c.Context(), job, 0); err != nil { // any node stands for all
				return err
			}
			nodes, err := m.whole(c.Context(), job)
			if err != nil {
				return err
			}
			jobs = append(jobs, nodes...)
		}
		return a.stop(c.Context(), m, jobs, !*leave)
	}
	return c
}

// stop ends jobs and prints a line for each when it has ended.
func (a *app) stop(ctx context.Context, m *market, jobs []api.Job, wait bool) error {
	slow := time.AfterFunc(2*time.Second, func() { a.say("waiting for the end; Ctrl-C leaves it to the broker") })
	defer slow.Stop()
	var mu sync.Mutex // one line at a time
	show := func(line string) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintln(a.stdout, line)
	}
	var g errgroup.Group
	g.SetLimit(stopAtOnce)
	for _, job := range jobs {
		g.Go(func() error {
			if job.Ended != nil {
				show(endLine(job) + " (it had ended already)")
				return nil
			}
			_, err := m.Cancel(ctx, broker.JobID(job.ID))
			switch {
			case err != nil && !errors.Is(err, broker.ErrJobTerminal):
				return explain(err)
			case !wait:
				show("job " + job.ID + " is being stopped")
				return nil
			}
			ended, err := m.ended(ctx, broker.JobID(job.ID))
			if err != nil {
				return err
			}
			show(endLine(ended))
			return nil
		})
	}
	err := g.Wait()
	if err != nil && ctx.Err() != nil {
		a.say("left; the broker goes on stopping what was asked for, and `rialto ps` shows how far it is")
	}
	return err
}

// ended waits until a job has ended and its bill is final.
func (m *market) ended(ctx context.Context, id broker.JobID) (api.Job, error) {
	limited, done := context.WithTimeout(ctx, cancelPatience)
	defer done()
	for attempt := 0; ; attempt++ {
		var broke error
		for _, err := range m.Events(limited, id, 0) {
			broke = err
		}
		if broke == nil && limited.Err() == nil {
			return retry(limited, func() (api.Job, error) { return m.Job(limited, id) })
		}
		if _, refused := errors.AsType[*api.Problem](broke); refused && !transient(broke) {
			return api.Job{}, explain(broke)
		}
		if !backoff(limited, attempt) {
			if ctx.Err() != nil {
				return api.Job{}, ctx.Err()
			}
			return api.Job{}, cli.Hint(fmt.Errorf("job %s has not ended after %s", id, cli.FormatDuration(cancelPatience)),
				"its host may be gone; the broker ends it all the same, and `rialto ps` shows when")
		}
	}
}

// endLine says in one line how a job ended and what it cost.
func endLine(j api.Job) string {
	line := "job " + j.ID + " " + j.State
	if j.ExitCode != nil && *j.ExitCode != 0 {
		line += fmt.Sprintf(" (exit %d)", *j.ExitCode)
	}
	if j.BilledMS == 0 && j.CostNanoUSD == 0 {
		return line + ", nothing to pay"
	}
	return line + ": " + cli.FormatDuration(time.Duration(j.BilledMS)*time.Millisecond) + " for " + pricing.Money(j.CostNanoUSD).String() + unusedText(j)
}

// unusedText says what of a job's cost is the rest of its reservation.
func unusedText(j api.Job) string {
	if j.UnusedNanoUSD == 0 {
		return ""
	}
	return fmt.Sprintf(", %s of it for the unused rest of its reservation", pricing.Money(j.UnusedNanoUSD))
}
