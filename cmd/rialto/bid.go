package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"rialto/broker"
	"rialto/broker/api"
	"rialto/broker/wire"
	"rialto/cmd/internal/cli"
	"rialto/pricing"
)

func (a *app) bidCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "bid JOB PRICE",
		Short: "Have an interruptible job bid more, or less while it waits",
		Long: "Have an interruptible job bid something else for one GPU. One that waits may bid more or less, and what is kept\n" +
			"aside for it goes along: its budget, too, unless you set that yourself with --max-cost.\n\n" +
			"One that has a host can only bid more. It goes on to pay what was agreed when it began; a higher bid only keeps\n" +
			"others from displacing it. It comes too late for a job that is displaced already.\n" +
			"Only the machine that started a job can change its bid, which is signed.",
		Example: "  rialto bid j-4k2qxy 0.40/h\n" +
			"  rialto bid --last 0.40/h --max-cost 2.00\n" +
			"  rialto prices --interruptible   # what clears, how likely a bid is served and how long it lasts",
	}
	c.ValidArgsFunction = a.completeJobsThat(func(j api.Job) bool { return j.Ended == nil && j.BidNanoUSDPerHour > 0 })
	ref := newJobRef(c)
	var budget pricing.Money
	c.Flags().Var(&value[pricing.Money]{to: &budget, parse: pricing.ParseMoney, kind: "amount"}, "max-cost", "also change what a job that waits costs at most in all")
	p := a.jsonFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		word, rest, err := ref.split(c, args, 1, 1)
		if err != nil {
			return err
		}
		bid, err := pricing.ParseRate(rest[0])
		if err == nil && bid <= 0 {
			err = errors.New("want more than nothing")
		}
		if err != nil {
			return cli.Hint(fmt.Errorf("price %q: %w", cli.Clean(rest[0]), err), "such as 0.40/h")
		}
		m, err := a.connect()
		if err != nil {
			return err
		}
		before, after, err := m.bid(c.Context(), word, bid, budget)
		if err != nil {
			return err
		}
		return p.Print(after, func(w io.Writer) error { return writeBid(w, before, after) })
	}
	return c
}

// rebidTries is how often a change is signed anew when the job has got a host just before it came.
const rebidTries = 3

// bid changes what a job bids, and its budget unless that is zero. It returns the job as it was and as it is.
func (m *market) bid(ctx context.Context, word string, bid pricing.Rate, budget pricing.Money) (before, after api.Job, err error) {
	if before, err = m.find(ctx, word); err != nil {
		return before, after, err
	}
	switch {
	case before.Ended != nil:
		return before, after, fmt.Errorf("job %s has ended: it is %s", before.ID, before.State)
	case before.BidNanoUSDPerHour == 0:
		return before, after, cli.Hint(fmt.Errorf("job %s does not bid: it is on-demand", before.ID), "`rialto run --bid` starts interruptible jobs")
	}
	r, err := m.home.record(before.ID)
	if err != nil {
		return before, after, err
	}
	for try := 1; ; try++ {
		after, err = m.changeBid(ctx, r, before, bid, budget)
		if !errors.Is(err, broker.ErrConflict) || try == rebidTries || before.State != broker.JobQueued.String() {
			return before, after, explainBid(err)
		}
		refused := err
		if before, err = m.Job(ctx, broker.JobID(before.ID)); err != nil {
			return before, after, explain(err)
		}
		if before.State == broker.JobQueued.String() || before.Ended != nil {
			return before, after, explainBid(refused)
		}
	}
}

// explainBid is explain for what may be wrong with a bid.
func explainBid(err error) error {
	switch {
	case errors.Is(err, broker.ErrNoFunds), errors.Is(err, broker.ErrLimit):
		return cli.Hint(err, "bid less, or give a --max-cost; `rialto account` shows the balance and its limits")
	case errors.Is(err, broker.ErrConflict):
		return err
	}
	return explain(err)
}

// changeBid signs a change and sends it until the broker answers. The job's bill is held to the record, which is changed
// first where that is more, and last where it is less.
func (m *market) changeBid(ctx context.Context, r record, job api.Job, bid pricing.Rate, budget pricing.Money) (api.Job, error) {
	spec, _, err := wire.OpenJobSpec(r.Envelope)
	if err != nil {
		return api.Job{}, fmt.Errorf("job %s: %w", job.ID, err)
	}
	key, err := m.home.key()
	if err != nil {
		return api.Job{}, err
	}
	old, _ := r.signed()
	was := r
	if budget > 0 {
		r.AutoBudget = false
	} else if budget, err = r.budgetFor(&spec, job, bid); err != nil {
		return api.Job{}, err
	}
	change, err := wire.SealBidChange(key, broker.BidChange{
		Customer: spec.Customer, Broker: spec.Broker, Nonce: spec.Nonce, Bid: bid, MaxCost: budget, Created: time.Now().UTC(),
	})
	if err != nil {
		return api.Job{}, err
	}
	r.Changed = &rebid{Bid: max(bid, old.Bid), MaxCost: max(budget, old.MaxCost)}
	if err := m.home.saveJob(r); err != nil {
		return api.Job{}, err
	}
	after, err := retry(ctx, func() (api.Job, error) { return m.ChangeBid(ctx, broker.JobID(job.ID), change) })
	switch {
	case err == nil:
		r.Changed = &rebid{Bid: bid, MaxCost: budget}
		return after, m.home.saveJob(r)
	case transient(err):
		return after, cli.Hint(err, "whether the bid was changed is not known: the same command finds out")
	}
	return after, errors.Join(err, m.home.saveJob(was))
}

// budgetFor is what a job may cost in all once it bids something else. Only of one that waits it may change, and one that the
// customer set himself stays.
func (r record) budgetFor(spec *broker.JobSpec, job api.Job, bid pricing.Rate) (pricing.Money, error) {
	budget := pricing.Money(job.MaxCostNanoUSD)
	if !r.AutoBudget || job.State != broker.JobQueued.String() {
		return budget, nil
	}
	before, err := costOf(pricing.Rate(job.BidNanoUSDPerHour), spec.GPU.Count, spec.MaxDuration)
	if err != nil {
		return 0, err
	}
	now, err := costOf(bid, spec.GPU.Count, spec.MaxDuration)
	return budget + now - before, err
}

// writeBid says what a job bids now and what that means.
func writeBid(w io.Writer, before, after api.Job) error {
	bid, was := pricing.Rate(after.BidNanoUSDPerHour), pricing.Rate(before.BidNanoUSDPerHour)
	text := fmt.Sprintf("job %s bids %s now, and no longer %s", after.ID, bid, was)
	if bid == was {
		text = fmt.Sprintf("job %s bids %s, as before", after.ID, bid)
	}
	if after.MaxCostNanoUSD != before.MaxCostNanoUSD {
		text += fmt.Sprintf("; it costs at most %s in all", pricing.Money(after.MaxCostNanoUSD))
	}
	switch {
	case after.State != broker.JobQueued.String():
		text += fmt.Sprintf("; it pays %s, as agreed with its host", pricing.Rate(after.RateNanoUSDPerHour))
	case after.Ahead > 0:
		text += fmt.Sprintf("; it waits, %d before it", after.Ahead)
	default:
		text += "; it waits"
	}
	_, err := fmt.Fprintln(w, text)
	return err
}
