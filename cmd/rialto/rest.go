package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"rialto/broker"
	"rialto/broker/api"
	"rialto/cmd/internal/cli"
	"rialto/pricing"
)

// restOf reports until when GPUs are kept that a job reserved and does not use any more.
func restOf(j *api.Job, now time.Time) (time.Time, bool) {
	if j.Ended == nil || j.ReservedUntil == nil || j.UnusedNanoUSD == 0 || !now.Before(*j.ReservedUntil) {
		return time.Time{}, false
	}
	return *j.ReservedUntil, true
}

// useRest sends the request to where another job's reservation has time left.
func (f *runFlags) useRest(ctx context.Context, m *market, now time.Time) error {
	job, err := m.find(ctx, f.on)
	if err != nil {
		return err
	}
	until, ok := restOf(&job, now)
	switch {
	case ok:
	case job.ReservedUntil == nil:
		return cli.Hint(fmt.Errorf("--on %s: the job was not reserved", job.ID), "`rialto run --reserve 7d` reserves")
	case job.Ended == nil:
		return cli.Hint(fmt.Errorf("--on %s: the job still runs there", job.ID), "`rialto exec %s -- CMD` runs beside it", job.ID)
	default:
		return fmt.Errorf("--on %s: nothing is left of its reservation", job.ID)
	}
	if f.provider != "" || f.reserve > 0 || f.nodes > 0 || !f.until.IsZero() {
		return errors.New("--on names the host and its price: leave --provider, --reserve, --nodes and --until away")
	}
	lease, err := m.Lease(ctx, broker.JobID(job.ID))
	if err != nil {
		return explain(err)
	}
	f.provider = job.Provider
	if !f.given("gpu") {
		f.gpu = broker.GPURequest{Model: lease.Model, Count: job.GPUCount}
	}
	if !f.given("for") {
		f.duration = max(time.Second, until.Sub(now).Truncate(time.Second))
	}
	if f.maxCost == 0 {
		if f.maxCost, err = f.costOn(ctx, m, lease); err != nil {
			return err
		}
	}
	f.wait = true // the GPUs are free for this account only, which no quote knows
	return nil
}

// costOn is what the job costs at most on the host of a lease: it may run on after the term.
func (f *runFlags) costOn(ctx context.Context, m *market, lease api.Lease) (pricing.Money, error) {
	live, err := m.Offers(ctx, api.Query{Provider: lease.Provider})
	if err != nil {
		return 0, explain(err)
	}
	for _, o := range slices.Concat(live.Offers, live.Busy) {
		if o.Model == lease.Model {
			return f.dearestHost([]api.Offer{o})
		}
	}
	return 0, cli.Hint(fmt.Errorf("--on %s: its host is not connected", f.on), "try again when `rialto offers` shows it")
}
