package main

import (
	"cmp"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"rialto/broker"
	"rialto/broker/api"
	"rialto/cmd/internal/cli"
	"rialto/pricing"
)

func (a *app) orderCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "order LINE IMAGE [-- CMD…] | order",
		Short: "Place a standing limit order, or list those that stand",
		Long: "Place a standing limit order: a job that waits until a time for GPUs at a price or less, whether there are\n" +
			"any now or not. Its most expensive outcome is kept aside; what it takes is charged at the price that the host asks,\n" +
			"by the second; the rest comes back, all of it when nothing came. The container starts by itself, also while this\n" +
			"machine is off; an image or weights that are encrypted need `rialto logs -f` then, for the key goes through the\n" +
			"job's tunnel.\n\n" +
			"LINE has, between commas and in any order: which GPUs (4x24GiB, 2x RTX 4090), the limit for one (<= 0.35/h), with disk and traffic, how\n" +
			"long the order stands (until Friday, until 2026-12-24T18:00, until 48h), and if you like where (EU, DE), the most\n" +
			"in all (<= 20 total), and for how long the job may run (for 6h; an hour if not said).\n\n" +
			"Without arguments: the orders that stand. `rialto stop JOB` takes one back.",
		Example: "  rialto order '4x24GiB, EU, <= 0.35/GPU-h, <= 20 total, until Friday' ghcr.io/me/train:1 -- ./train\n" +
			"  rialto order\n  rialto stop JOB",
	}
	var wants request
	wants.extrasFlags(c.Flags())
	spot := c.Flags().Bool("interruptible", false, "the limit is a bid: who bids more may displace the job; see rialto run --bid")
	p := a.jsonFlag(c)
	c.Args = func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		if len(args) == 1 || c.ArgsLenAtDash() == 1 {
			return cli.Hint(fmt.Errorf("`%s` needs an order and an image", c.CommandPath()), "%s", c.Example)
		}
		before := len(args) - 1
		if dash := c.ArgsLenAtDash(); dash >= 0 {
			before = dash - 1
		}
		return cli.Args(1, 1)(c, args[1:1+before])
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return a.listOrders(c, p)
		}
		o, err := parseOrderLine(args[0], time.Now())
		if err != nil {
			return cli.Hint(err, "a whole order: %s", `'4x24GiB, EU, <= 0.35/h, <= 20 total, until Friday'`)
		}
		a.say("order   %s", o.describe())
		r := o.request()
		r.diskMiB, r.traffic = wants.diskMiB, wants.traffic
		if *spot {
			r.bid, r.maxRate = r.maxRate, 0
		}
		return a.run(c.Context(), &runFlags{request: r, detach: true, out: p}, args[1:])
	}
	return c
}

// request is what the order asks the market for.
func (o *orderLine) request() *request {
	r := &request{gpu: o.gpu, gpuMiB: o.gpuMiB, region: o.region, maxRate: o.maxRate, maxCost: o.maxCost, duration: o.duration, until: o.until}
	if r.duration == 0 {
		r.duration = defaultDuration
	}
	return r
}

// describe says how the line was understood.
func (o *orderLine) describe() string {
	gpus := o.gpu.Model
	if o.gpuMiB > 0 {
		gpus = fmt.Sprintf("any GPU of %d GiB or more", o.gpuMiB>>10)
	}
	s := fmt.Sprintf("%d × %s at %v each or less, until %s", o.gpu.Count, gpus, o.maxRate, o.until.Format("Mon 2 Jan 15:04 MST"))
	if o.region != "" {
		s += ", in " + o.region
	}
	if o.maxCost > 0 {
		s += fmt.Sprintf(", %v in all at most", o.maxCost)
	}
	return s
}

func (a *app) listOrders(c *cobra.Command, p *cli.Printer) error {
	m, err := a.connect()
	if err != nil {
		return err
	}
	jobs, err := m.Jobs(c.Context())
	if err != nil {
		return explain(err)
	}
	standing := []api.Job{}
	for _, j := range jobs {
		if j.GoodUntil != nil && j.State == broker.JobQueued.String() {
			standing = append(standing, j)
		}
	}
	return p.Print(api.Jobs{Jobs: standing}, func(w io.Writer) error {
		if len(standing) == 0 {
			_, err := fmt.Fprintln(w, "No order stands; `rialto order --help` shows how to place one.")
			return err
		}
		n := newNames(jobs, false)
		t := cli.Table{Columns: []cli.Column{
			{Title: "JOB"}, {Title: "GPU"}, {Title: "LIMIT", Align: cli.Decimal}, {Title: "HELD", Align: cli.Decimal}, {Title: "UNTIL"}, {Title: "IMAGE", Shrink: true},
		}}
		for _, j := range standing {
			t.Add(n.job(j), fmt.Sprintf("%d × %s", j.GPUCount, j.GPUModel), pricing.Rate(cmp.Or(j.BidNanoUSDPerHour, j.MaxRateNanoUSDPerHour)).String(), pricing.Money(j.HeldNanoUSD).String(),
				j.GoodUntil.Local().Format("Mon 2 Jan 15:04"), n.image(j))
		}
		return t.Write(w)
	})
}
