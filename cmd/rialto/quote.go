package main

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"rialto/broker"
	"rialto/broker/api"
	"rialto/cmd/internal/cli"
	"rialto/cmd/internal/tenant"
	"rialto/pricing"
)

func (a *app) quoteCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "quote [flags] IMAGE [-- CMD…]",
		Short: "Show what a job would cost, and on which hosts",
		Long: "Show what a job would cost on the offer that it would get now, and on which other hosts it could\nrun. Takes the flags of `rialto run`. Nothing is held.\n\n" +
			"With --firm a host holds GPUs and signs its price until you accept with `rialto run --quote ID`, or time\n" +
			"is up. The money is kept aside meanwhile; nothing runs, and nothing is paid. The command is part of what is\n" +
			"quoted.",
		Example: "  rialto quote --gpu any python:3.13\n" +
			"  rialto quote --gpu 'H100 SXM:2' --for 30m ghcr.io/me/train:1\n" +
			"  rialto quote --firm --ttl 60s ghcr.io/me/train:1 -- ./train --all",
	}
	r := newRequest(c)
	f := c.Flags()
	firm := f.Bool("firm", false, "let a host hold GPUs and price until you accept")
	ttl := broker.DefaultFirm
	f.Var(&value[time.Duration]{to: &ttl, parse: cli.ParseDuration, kind: "duration", text: cli.FormatDuration(ttl)}, "ttl", "with --firm: how long, at most "+cli.FormatDuration(broker.MaxFirm))
	p := a.jsonFlag(c)
	c.Args = func(c *cobra.Command, args []string) error {
		if *firm {
			return imageAndCommand(c, args)
		}
		return cli.Args(1, 1)(c, args)
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		switch {
		case *firm && (ttl < time.Second || ttl > broker.MaxFirm):
			return fmt.Errorf("--ttl %v: want 1s to %v", ttl, broker.MaxFirm)
		case *firm:
			r.firm = ttl
			return a.firmQuote(c.Context(), r, args, p)
		case f.Changed("ttl"):
			return cli.Hint(errors.New("--ttl is for firm quotes"), "add --firm")
		}
		m, err := a.connect()
		if err != nil {
			return err
		}
		q, err := a.search(c.Context(), m, r, args)
		if err != nil {
			return err
		}
		quote, err := r.quote(c.Context(), m.Client, q)
		if err != nil {
			return err
		}
		return p.Print(quote, func(w io.Writer) error { return writeQuote(w, quote, r) })
	}
	a.completeRequest(c)
	return c
}

func writeQuote(w io.Writer, q api.Quote, r *request) error {
	b := q.Best
	mark := ""
	if b.Simulated {
		mark = " " + cli.Paint(w, cli.Warn, simulated)
	}
	fmt.Fprintf(w, "Now: %d × %s%s on %s; %s.\n", r.gpu.Count, cli.Clean(b.Model), mark, tenant.HostName(b.Host, b.Provider), fetching(b))
	with := ""
	if b.Tariff != (api.Tariff{}) {
		with = ", with disk and traffic"
	}
	fmt.Fprintf(w, "%s for at most %s: %s at most%s, fee included; %s kept aside while it runs.\n",
		pricing.Rate(q.RateNanoUSDPerHour), cli.FormatDuration(r.duration), pricing.Money(q.CostNanoUSD), with, pricing.Money(q.HoldNanoUSD))
	spec := r.extras()
	if line := besideLine(b.Tariff, spec.Disk(), spec.PaidTraffic()); line != "" {
		fmt.Fprintln(w, sentence(line))
	}
	fmt.Fprintln(w)
	if b.Reserved {
		fmt.Fprintf(w, "Reserved for %s at this price, from when it is ready: what you do not use of it is paid all the same.\n\n", termText(r.reserve))
	}
	writeSurvival(w, q, r)
	if err := writeExpected(w, b, r); err != nil {
		return err
	}
	return writeOffers(w, q.Search)
}

// fetching says what a host would fetch before it starts a job.
func fetching(o api.Offer) string {
	switch {
	case o.MissBytes != nil && *o.MissBytes > 0:
		return cli.FormatBytes(*o.MissBytes) + " would be fetched first"
	case o.HasImage:
		return "the image is already there"
	}
	return "the image would be fetched first"
}

// writeExpected draws what a job is expected to cost, and what that is made of.
func writeExpected(w io.Writer, o api.Offer, r *request) error {
	t := cli.Table{Columns: []cli.Column{{Title: "EXPECTED"}, {Title: "COST", Align: cli.Decimal}, {Title: "WHAT IT IS", Shrink: true}}}
	ready := cli.FormatDuration(time.Duration(o.ReadyMS) * time.Millisecond)
	if o.MissBytes == nil {
		ready += ", plus fetching the image"
	}
	c := o.Expected
	t.Add("run", micros(c.RunNanoUSD), cli.FormatDuration(r.duration)+" at the price")
	if c.DiskNanoUSD > 0 {
		t.Add("disk", micros(c.DiskNanoUSD), diskFor(o, r))
	}
	if c.TrafficNanoUSD > 0 {
		t.Add("traffic", micros(c.TrafficNanoUSD), trafficFor(o, r))
	}
	t.Add("start", micros(c.StartNanoUSD), "ready in "+ready+"; not billed")
	t.Add("failure", micros(c.FailureNanoUSD), fmt.Sprintf("redoing lost work: %.2f%% of hours pass without failure", float64(o.ReliabilityPPM)/1e4))
	if c.WaitingNanoUSD > 0 {
		t.Add("waiting", micros(c.WaitingNanoUSD), "until it is ready, at "+r.waitRate.String())
	}
	t.Add("total", micros(c.TotalNanoUSD), "what offers are ranked by; no bill")
	if err := t.Write(w); err != nil {
		return err
	}
	_, err := fmt.Fprintln(w)
	return err
}

// micros is an expected amount: nobody expects it more exactly than to the microdollar.
func micros(nanos int64) string {
	return pricing.Money((nanos + 500) / 1000 * 1000).String()
}
