package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"rialto/broker"
	"rialto/broker/api"
	"rialto/cmd/internal/cli"
	"rialto/cmd/internal/tenant"
	"rialto/tunnel/console"
)

// reachPatience is how long a command tries to reach a container before it says that it cannot.
const reachPatience = 15 * time.Second

func (a *app) logsCommand() *cobra.Command {
	c := &cobra.Command{
		Use:               "logs JOB",
		Short:             "Print what a container printed",
		Long:              "Print what a container printed: its stdout to stdout, its stderr to stderr. The host keeps the output\nfor a few minutes after the end.",
		Example:           "  rialto logs --last\n  rialto logs -f j-4k2",
		ValidArgsFunction: a.completeJobs(false),
	}
	ref := newJobRef(c)
	node := nodeFlag(c, "only this node of a job that runs on several hosts; 0 is the first")
	follow := c.Flags().BoolP("follow", "f", false, "go on until the container ends")
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
		if *node >= 0 {
			if job, err = m.node(c.Context(), job, *node); err != nil {
				return err
			}
			return a.logs(c.Context(), m, job, *follow)
		}
		nodes, err := m.whole(c.Context(), job)
		if err != nil {
			return err
		}
		if len(nodes) < 2 {
			return a.logs(c.Context(), m, job, *follow)
		}
		apps, flush := a.nodes(len(nodes))
		defer flush()
		var g errgroup.Group
		for i, own := range apps {
			g.Go(func() error { return own.logs(c.Context(), m, nodes[i], *follow) })
		}
		return g.Wait()
	}
	return c
}

// logs copies what a job's container prints.
func (a *app) logs(ctx context.Context, m *market, job api.Job, follow bool) error {
	s, err := a.reachJob(ctx, m, job, follow)
	if err != nil {
		return err
	}
	defer s.close()
	_, _, err = s.console.Logs(ctx, follow, func(stream byte, p []byte) error {
		w := a.stdout
		if stream == console.Stderr {
			w = a.stderr
		}
		_, err := w.Write(p)
		return err
	})
	return s.explain(err)
}

// reach opens the way into a job's container, or into that of a node of its gang; wait is whether to wait for a job that has none yet.
func (a *app) reach(ctx context.Context, word string, node int, wait bool) (*session, error) {
	m, err := a.connect()
	if err != nil {
		return nil, err
	}
	job, err := m.find(ctx, word)
	if err != nil {
		return nil, err
	}
	if job, err = m.node(ctx, job, node); err != nil {
		return nil, err
	}
	return a.reachJob(ctx, m, job, wait)
}

func (a *app) reachJob(ctx context.Context, m *market, job api.Job, wait bool) (*session, error) {
	r, err := m.home.recordOf(job)
	if err != nil {
		return nil, err
	}
	var lease api.Lease
	for attempt := 0; ; attempt++ {
		lease, err = m.Lease(ctx, broker.JobID(job.ID))
		if err != nil && !errors.Is(err, broker.ErrNotFound) {
			return nil, explain(err)
		}
		if err == nil && len(lease.Answer) > 0 {
			break
		}
		if job, err = m.Job(ctx, broker.JobID(job.ID)); err != nil {
			return nil, explain(err)
		}
		if !wait || job.Ended != nil {
			err := fmt.Errorf("job %s has no container: it is %s", job.ID, job.State)
			if job.Error != "" {
				err = fmt.Errorf("%w: %s", err, cli.Clean(job.Error))
			}
			return nil, err
		}
		if !backoff(ctx, attempt) {
			return nil, ctx.Err()
		}
	}
	s, err := m.enter(r, lease)
	if err != nil {
		return nil, err
	}
	s.console.GiveUp = reachPatience
	s.console.Retrying = func(error) { s.mayHaveLost() }
	s.over = job.Ended != nil
	if !slices.Contains([]string{broker.JobReady.String(), broker.JobRunning.String()}, job.State) && !s.over {
		// Perhaps it moved to another host, which nobody has brought the keys to.
		if _, err := s.unlock(ctx, m.home, r, func(err error) { a.say("%v", err) }); err != nil {
			a.say("%v", err)
		}
	}
	return s, nil
}

// explain adds to an error of the console which provider it is about and what to do.
func (s *session) explain(err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	who := tenant.HostName(s.lease.Host, s.lease.Provider)
	if _, ok := errors.AsType[*console.RemoteError](err); ok {
		return fmt.Errorf("provider %s: %w", who, err)
	}
	err = fmt.Errorf("provider %s does not answer: %w", who, err)
	if s.over {
		return cli.Hint(err, "job %s has ended; hosts keep the output only for a few minutes", s.lease.Job)
	}
	return cli.Hint(err, "the broker ends or moves the job if its host stays away; `rialto ps` shows what became of it")
}
