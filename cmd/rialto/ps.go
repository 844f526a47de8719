package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"rialto/broker"
	"rialto/broker/api"
	"rialto/cmd/internal/cli"
	"rialto/pricing"
)

func (a *app) psCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "ps [JOB]",
		Short: "List jobs, newest first, or show one",
		Long: "List jobs, newest first. Job ids are cut to what tells them apart, which every command takes;\n" +
			"--no-trunc and --json show them whole. With a job: all that there is to know about it, such as the traffic\n" +
			"that its tunnel carried, and how much of it is paid for.",
		Example:           "  rialto ps\n  rialto ps -a --json\n  rialto ps j-4k2",
		ValidArgsFunction: a.completeJobs(false),
		Args:              cli.Args(0, 1),
	}
	ref := newJobRef(c)
	all := c.Flags().BoolP("all", "a", false, "also jobs that have ended")
	whole := c.Flags().Bool("no-trunc", false, "show ids, images and hosts whole")
	p := a.jsonFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		m, err := a.connect()
		if err != nil {
			return err
		}
		if len(args) > 0 || ref.last {
			word, _, err := ref.split(c, args, 0, 0)
			if err != nil {
				return err
			}
			return m.showJob(c.Context(), p, word)
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
		err = p.Print(api.Jobs{Jobs: shown}, func(w io.Writer) error {
			switch {
			case len(jobs) == 0:
				_, err := fmt.Fprintln(w, "No jobs yet; `rialto run --help` shows how to start one.")
				return err
			case len(shown) == 0:
				_, err := fmt.Fprintf(w, "No job runs now; `rialto ps -a` shows the %d that ended.\n", len(jobs))
				return err
			}
			return writeJobs(w, shown, newNames(jobs, *whole), time.Now())
		})
		if err != nil || p.JSON {
			return err
		}
		return writeRests(c.OutOrStdout(), jobs, time.Now())
	}
	return c
}

// writeRests says which GPUs are paid for and not used.
func writeRests(w io.Writer, jobs []api.Job, now time.Time) error {
	for i := range jobs {
		j := &jobs[i]
		if until, ok := restOf(j, now); ok {
			if _, err := fmt.Fprintf(w, "Reserved until %s on %s, and not used by %s any more: `rialto run --on %s IMAGE` does.\n",
				moment(until, now), cli.Clean(j.Host), j.ID, j.ID); err != nil {
				return err
			}
		}
	}
	return nil
}

func writeJobs(w io.Writer, jobs []api.Job, n names, now time.Time) error {
	t := cli.Table{Columns: []cli.Column{
		{Title: "JOB"},
		{Title: "STATE", Tone: stateTone},
		{Title: "GPU", Tone: gpuTone},
		{Title: "IMAGE", Shrink: !n.whole},
		{Title: "HOST", Shrink: !n.whole},
		{Title: "AGE", Align: cli.Right},
		{Title: "COST", Align: cli.Decimal},
	}}
	for _, j := range grouped(jobs) {
		state, name := j.State, n.job(j)
		if j.Rank > 0 && !n.whole {
			name = fmt.Sprintf("  node %d", j.Rank)
		}
		if j.ExitCode != nil && *j.ExitCode != 0 {
			state = fmt.Sprintf("%s (exit %d)", state, *j.ExitCode)
		}
		if j.Ahead > 0 {
			state = fmt.Sprintf("%s, %d before", state, j.Ahead)
		}
		if j.ReservedUntil != nil && j.Ended == nil {
			state += ", reserved until " + moment(*j.ReservedUntil, now)
		}
		gpu := fmt.Sprintf("%d × %s", j.GPUCount, j.GPUModel)
		if j.BidNanoUSDPerHour > 0 {
			gpu += ", " + interruptible(j)
		}
		if j.Simulated {
			gpu += " " + simulated
		}
		t.Add(name, state, gpu, n.image(j), n.host(j), cli.FormatAge(now.Sub(j.Accepted)), pricing.Money(j.CostNanoUSD).String())
	}
	return t.Write(w)
}

// moment is a time near now, for people.
func moment(t, now time.Time) string {
	t, now = t.Local(), now.Local()
	if t.Sub(now).Abs() < 24*time.Hour && t.Day() == now.Day() {
		return t.Format(time.TimeOnly)
	}
	return t.Format("Mon 2 Jan 15:04")
}

// interruptible says on which terms an interruptible job runs.
func interruptible(j api.Job) string {
	text := fmt.Sprintf("bid %s", pricing.Rate(j.BidNanoUSDPerHour))
	if j.RateNanoUSDPerHour > 0 {
		text += fmt.Sprintf(", pays %s", pricing.Rate(j.RateNanoUSDPerHour))
	}
	return text
}

// simulated marks what a real GPU would not be.
const simulated = "SIMULATED"

func gpuTone(gpu string) cli.Tone {
	if strings.HasSuffix(gpu, simulated) {
		return cli.Warn
	}
	return cli.Plain
}

func stateTone(state string) cli.Tone {
	word, _, failed := strings.Cut(state, " ") // "done (exit 7)", "queued, 3 before", "running, reserved until 14:05:00"
	word = strings.TrimSuffix(word, ",")
	switch word {
	case broker.JobReady.String(), broker.JobRunning.String():
		return cli.Good
	case broker.JobFailed.String(), broker.JobExpired.String(), broker.JobPreempted.String():
		return cli.Bad
	case broker.JobCancelled.String(), broker.JobDone.String():
		if failed {
			return cli.Plain
		}
		return cli.Dim
	default:
		return cli.Plain
	}
}
