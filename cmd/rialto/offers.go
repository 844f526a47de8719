package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"rialto/broker/api"
	"rialto/cmd/internal/cli"
	"rialto/pricing"
)

func (a *app) offersCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "offers [IMAGE]",
		Short: "Show the GPUs on offer, cheapest first",
		Long: "Show the GPUs on offer, cheapest first. With an image, hosts that already hold it come first\n" +
			"among equals. When nothing matches, the answer says what eliminated how many offers.",
		Example: "  rialto offers\n" +
			"  rialto offers --gpu 'RTX 4090:2' --max-price 0.50/h\n" +
			"  rialto offers --gpu-memory 48GiB --region DE --json",
		Args: cli.Args(0, 1),
	}
	r := newRequest(c)
	for _, f := range []string{"env", "workdir", "for", "max-cost"} {
		if err := c.Flags().MarkHidden(f); err != nil {
			panic(err) // a flag that newRequest does not declare
		}
	}
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
		offers, err := m.Offers(c.Context(), q)
		if err != nil {
			return explain(err)
		}
		return p.Print(offers, func(w io.Writer) error { return writeOffers(w, offers) })
	}
	a.completeRequest(c)
	return c
}

// search resolves what the flags name and returns the query; args may hold an image.
func (a *app) search(ctx context.Context, m *market, r *request, args []string) (api.Query, error) {
	if err := r.check(); err != nil {
		return api.Query{}, err
	}
	known, err := m.home.weights()
	if err != nil {
		return api.Query{}, err
	}
	mounts, err := r.mounts(known)
	if err != nil {
		return api.Query{}, err
	}
	var image imageRef
	if len(args) > 0 {
		if image, err = m.home.findImage(ctx, args[0]); err != nil {
			return api.Query{}, err
		}
	}
	if err := r.resolve(ctx, m.Client); err != nil {
		return api.Query{}, explain(err)
	}
	return r.query(image.digest, mounts), nil
}

// writeOffers draws the offers, the busy ones last, or says why there is none.
func writeOffers(w io.Writer, offers api.Offers) error {
	shown := slices.Concat(offers.Offers, offers.Busy)
	if len(shown) == 0 {
		return writeEliminations(w, offers)
	}
	t := cli.Table{Columns: []cli.Column{
		{Title: "GPU"},
		{Title: "MEMORY", Align: cli.Right},
		{Title: "FREE", Align: cli.Right, Tone: freeTone},
		{Title: "GPU-HOUR", Align: cli.Decimal, Tone: func(string) cli.Tone { return cli.Strong }},
		{Title: "CPUS", Align: cli.Right},
		{Title: "RAM", Align: cli.Right},
		{Title: "HOST"},
		{Title: "PROOF", Tone: proofTone},
	}}
	region := slices.ContainsFunc(shown, func(o api.Offer) bool { return o.Region != "" })
	if region {
		t.Columns = append(t.Columns, cli.Column{Title: "REGION"})
	}
	held := slices.ContainsFunc(shown, func(o api.Offer) bool { return o.HasImage })
	if held {
		t.Columns = append(t.Columns, cli.Column{Title: "IMAGE", Tone: func(string) cli.Tone { return cli.Good }})
	}
	for _, o := range shown {
		proof := o.Level
		if o.Simulated {
			proof = simulated
		}
		row := []string{
			o.Model, cli.FormatMiB(o.GPUMemoryMiB), fmt.Sprintf("%d/%d", o.Free, o.GPUs), pricing.Money(o.RateNanoUSDPerHour).String(),
			strconv.Itoa(o.CPUsPerGPU), cli.FormatMiB(o.MemoryMiBPerGPU), hostName(o.Host, o.Provider), proof,
		}
		if region {
			row = append(row, o.Region)
		}
		if held {
			row = append(row, map[bool]string{true: "on host"}[o.HasImage])
		}
		t.Add(row...)
	}
	if err := t.Write(w); err != nil {
		return err
	}
	if len(offers.Offers) < offers.Total {
		fmt.Fprintf(w, "%d of %d offers match:\n", len(offers.Offers), offers.Total)
		for _, e := range eliminations(offers) {
			fmt.Fprintln(w, "  "+e)
		}
	}
	return nil
}

func freeTone(free string) cli.Tone {
	if strings.HasPrefix(free, "0/") {
		return cli.Dim
	}
	return cli.Plain
}

func proofTone(proof string) cli.Tone {
	switch proof {
	case simulated:
		return cli.Warn
	case "claimed":
		return cli.Dim
	default:
		return cli.Good
	}
}

func writeEliminations(w io.Writer, offers api.Offers) error {
	if offers.Total == 0 {
		_, err := fmt.Fprintln(w, "No offers: no provider is connected to the broker.")
		return err
	}
	fmt.Fprintf(w, "No offer of %d matches:\n", offers.Total)
	for _, e := range eliminations(offers) {
		if _, err := fmt.Fprintln(w, "  "+e); err != nil {
			return err
		}
	}
	return nil
}

// eliminations says what removed how many offers, and how near the nearest miss was.
func eliminations(offers api.Offers) []string {
	var all []string
	for _, e := range offers.Eliminated {
		if e.Count == 0 {
			continue
		}
		s := fmt.Sprintf("%d eliminated by %s", e.Count, cli.Clean(e.Predicate))
		if e.Nearest != "" {
			s += " (nearest: " + cli.Clean(e.Nearest) + ")"
		}
		all = append(all, s)
	}
	return all
}

// completeRequest completes the image and the flags that name things of the market.
func (a *app) completeRequest(c *cobra.Command) {
	c.ValidArgsFunction = a.completeImages
	for flag, complete := range map[string]cobra.CompletionFunc{
		"gpu": a.completeModels, "provider": a.completeHosts, "weights": a.completeWeights,
	} {
		if err := c.RegisterFlagCompletionFunc(flag, complete); err != nil {
			panic(err) // a flag that newRequest does not declare
		}
	}
}
