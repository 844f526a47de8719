package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"rialto/broker/api"
	"rialto/cmd/internal/cli"
	"rialto/cmd/internal/tenant"
	"rialto/pricing"
)

func (a *app) quoteCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "quote [flags] IMAGE",
		Short: "Show what a job would cost, and on which hosts",
		Long:  "Show what a job would cost on the offer that it would get now, and on which other hosts it could\nrun. Takes the flags of `rialto run`. Nothing is held.",
		Example: "  rialto quote --gpu any python:3.13\n" +
			"  rialto quote --gpu 'H100 SXM:2' --for 30m ghcr.io/me/train:1",
		Args: cli.Args(1, 1),
	}
	r := newRequest(c)
	p := a.jsonFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
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
	image := "the image would be fetched first"
	if b.HasImage {
		image = "the image is already there"
	}
	mark := ""
	if b.Simulated {
		mark = " " + cli.Paint(w, cli.Warn, simulated)
	}
	fmt.Fprintf(w, "Now: %d × %s%s on %s; %s.\n", r.gpu.Count, cli.Clean(b.Model), mark, tenant.HostName(b.Host, b.Provider), image)
	fmt.Fprintf(w, "%s for at most %s: %s at most, fee included; %s kept aside while it runs.\n\n",
		pricing.Rate(q.RateNanoUSDPerHour), cli.FormatDuration(r.duration), pricing.Money(q.CostNanoUSD), pricing.Money(q.HoldNanoUSD))
	return writeOffers(w, q.Search)
}
