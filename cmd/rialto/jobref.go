package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"rialto/broker"
	"rialto/broker/api"
	"rialto/cmd/internal/cli"
)

// jobRef is how a command line names a job: an id, a prefix of one that is unique, or --last.
type jobRef struct{ last bool }

func newJobRef(c *cobra.Command) *jobRef {
	r := &jobRef{}
	c.Flags().BoolVarP(&r.last, "last", "l", false, "the job that was started last")
	return r
}

// split takes the job off the arguments; low and high bound what may follow.
func (r *jobRef) split(c *cobra.Command, args []string, low, high int) (word string, rest []string, err error) {
	need := 1
	if r.last {
		need = 0
	}
	top := -1
	if high >= 0 {
		top = high + need
	}
	if err := cli.Args(low+need, top)(c, args); err != nil {
		return "", nil, err
	}
	if r.last {
		return "", args, nil
	}
	return args[0], args[1:], nil
}

// withoutDash drops the "--" between a job and a command, where flags end at the job.
func (r *jobRef) withoutDash(args []string) []string {
	if !r.last && len(args) > 1 && args[1] == "--" {
		return slices.Delete(slices.Clone(args), 1, 2)
	}
	return args
}

// find asks the broker for the job that word names; an empty word means the last one.
func (m *market) find(ctx context.Context, word string) (api.Job, error) {
	jobs, err := m.Jobs(ctx)
	if err != nil {
		return api.Job{}, explain(err)
	}
	if word == "" {
		if len(jobs) == 0 {
			return api.Job{}, cli.Hint(fmt.Errorf("no job was started yet"), "`rialto run --help` shows how")
		}
		return m.node(ctx, jobs[0], 0)
	}
	var found []api.Job
	for _, j := range jobs {
		if j.ID == word {
			return j, nil
		}
		if strings.HasPrefix(j.ID, word) || strings.HasPrefix(j.ID, "j-"+word) {
			found = append(found, j)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		err := fmt.Errorf("job %q: this account has no such job", cli.Clean(word))
		if near, ok := cli.Nearest(word, ids(jobs)); ok {
			return api.Job{}, cli.Hint(err, "did you mean %s?", near)
		}
		return api.Job{}, cli.Hint(err, "`rialto ps -a` lists all jobs")
	default:
		return api.Job{}, cli.Hint(fmt.Errorf("job %q: %d jobs begin like this", word, len(found)), "%s", strings.Join(ids(found), "\n"))
	}
}

func ids(jobs []api.Job) []string {
	all := make([]string, len(jobs))
	for i, j := range jobs {
		all[i] = j.ID
	}
	return all
}

// completeJobs completes a job id; live restricts it to jobs that have not ended.
func (a *app) completeJobs(live bool) cobra.CompletionFunc {
	return a.completeJobsThat(func(j api.Job) bool { return !live || j.Ended == nil })
}

// completeJobsThat completes the id of a job that fits.
func (a *app) completeJobsThat(fits func(api.Job) bool) cobra.CompletionFunc {
	return func(c *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		m, err := a.connect()
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		jobs, err := m.Jobs(c.Context())
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		var all []string
		for _, j := range jobs {
			if fits(j) && strings.HasPrefix(j.ID, prefix) {
				all = append(all, cobra.CompletionWithDesc(j.ID, j.State+" · "+cli.Clean(j.Image)))
			}
		}
		return all, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
	}
}

// completeModels completes GPU models that are on offer.
func (a *app) completeModels(c *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	all := []string{broker.AnyModel}
	for _, o := range a.liveOffers(c.Context()) {
		all = append(all, o.Model)
	}
	return all, cobra.ShellCompDirectiveNoFileComp
}

// completeHosts completes names of hosts that offer something.
func (a *app) completeHosts(c *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	var all []string
	for _, o := range a.liveOffers(c.Context()) {
		all = append(all, cobra.CompletionWithDesc(cli.Clean(o.Host), o.Model))
	}
	return all, cobra.ShellCompDirectiveNoFileComp
}

func (a *app) liveOffers(ctx context.Context) []api.Offer {
	m, err := a.connect()
	if err != nil {
		return nil
	}
	offers, err := m.Offers(ctx, api.Query{})
	if err != nil {
		return nil
	}
	return offers.Offers
}
