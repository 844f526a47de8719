package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"rialto/broker"
	"rialto/broker/api"
	"rialto/cmd/internal/cli"
	"rialto/cmd/internal/tenant"
	"rialto/pricing"
)

// bill is a receipt that was checked: the broker signed it for this customer, the provider signed the
// usage inside, and the cost is what the rate makes of the billed time, and the tariff of disk and traffic.
type bill struct {
	Job                string    `json:"job"`
	Lease              string    `json:"lease"`
	Provider           string    `json:"provider"`
	Model              string    `json:"model"`
	GPUs               int       `json:"gpus"`
	RateNanoUSDPerHour int64     `json:"rate_nanousd_per_hour"`          // per GPU
	BidNanoUSDPerHour  int64     `json:"bid_nanousd_per_hour,omitempty"` // of an interruptible job, per GPU
	UsedMS             int64     `json:"used_ms"`
	BilledMS           int64     `json:"billed_ms"`
	CostNanoUSD        int64     `json:"cost_nanousd"`
	UnusedMS           int64     `json:"unused_ms,omitempty"`           // rest of a reservation
	UnusedCostNanoUSD  int64     `json:"unused_cost_nanousd,omitempty"` // what of the cost it is
	FeeNanoUSD         int64     `json:"fee_nanousd"`
	Fetched            fetched   `json:"fetched"`
	ExitCode           int       `json:"exit_code"`
	Ended              time.Time `json:"ended"`
	Verified           bool      `json:"verified"`

	DiskMiB      uint64 `json:"disk_mib,omitempty"`      // that is charged for
	TrafficBytes int64  `json:"traffic_bytes,omitempty"` // each way, that is paid for at most; zero: not known here
	api.Tariff
	api.Extras

	billed, unused time.Duration
}

type fetched struct {
	LocalBytes    int64 `json:"local_bytes"`
	PeersBytes    int64 `json:"peers_bytes"`
	RegistryBytes int64 `json:"registry_bytes"`
	TotalBytes    int64 `json:"total_bytes"`

	From []servedBy `json:"from,omitempty"` // of what came from peers, by the provider's word; the most first
}

// servedBy is what one peer served.
type servedBy struct {
	Peer  string `json:"peer"`
	Host  string `json:"host,omitempty"` // if the peer offers something now
	Bytes int64  `json:"bytes"`
}

func fetchedOf(f broker.Fetched) fetched {
	out := fetched{LocalBytes: f.Local, PeersBytes: f.Peers, RegistryBytes: f.Registry, TotalBytes: f.Total}
	for _, p := range f.From {
		out.From = append(out.From, servedBy{Peer: string(p.Peer), Bytes: p.Bytes})
	}
	return out
}

// nameHosts adds the names of the hosts that served, as far as the broker knows them now. They are for people: without
// them the bill is as good.
func (m *market) nameHosts(ctx context.Context, f *fetched) {
	if len(f.From) == 0 {
		return
	}
	hosts := map[string]string{}
	if offers, err := m.Offers(ctx, api.Query{}); err == nil {
		for _, o := range slices.Concat(offers.Offers, offers.Busy) {
			hosts[o.Provider] = o.Host
		}
	}
	if info, err := m.Market(ctx); err == nil {
		hosts[info.Broker] = "the broker"
	}
	for i := range f.From {
		f.From[i].Host = hosts[f.From[i].Peer]
	}
}

// who is a peer that served, for people.
func (s servedBy) who() string { return tenant.HostName(cmp.Or(s.Host, "host"), s.Peer) }

func (a *app) billCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "bill [JOB]",
		Short: "Show what jobs cost, from signed receipts",
		Long: "Show what a job cost, or all jobs. A receipt is signed by the broker and holds the provider's signed\n" +
			"report of the usage; both signatures are checked here, and the cost is computed again.",
		Example:           "  rialto bill\n  rialto bill --last\n  rialto bill j-4k2 --json",
		ValidArgsFunction: a.completeJobs(false),
		Args:              cli.Args(0, 1),
	}
	ref := newJobRef(c)
	whole := c.Flags().Bool("no-trunc", false, "show ids and hosts whole")
	p := a.jsonFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		m, err := a.connect()
		if err != nil {
			return err
		}
		if len(args) == 0 && !ref.last {
			return a.allBills(c.Context(), m, p, *whole)
		}
		word, _, err := ref.split(c, args, 0, 0)
		if err != nil {
			return err
		}
		job, err := m.find(c.Context(), word)
		if err != nil {
			return err
		}
		nodes, err := m.whole(c.Context(), job)
		if err != nil {
			return err
		}
		if len(nodes) > 1 {
			return m.printBills(c.Context(), p, nodes)
		}
		b, err := m.billOf(c.Context(), job)
		if err != nil {
			return err
		}
		m.nameHosts(c.Context(), &b.Fetched)
		return p.Print(b, func(w io.Writer) error { return writeBill(w, b) })
	}
	return c
}

// billOf returns the bill of a job; one that never had a container cost nothing.
func (m *market) billOf(ctx context.Context, job api.Job) (bill, error) {
	r, _ := m.home.recordOf(job) // of one that was signed on another machine there is none
	b, err := m.bill(ctx, broker.JobID(job.ID), r)
	if !errors.Is(err, broker.ErrNotFound) {
		return b, explain(err)
	}
	if job.Ended == nil {
		return bill{}, cli.Hint(fmt.Errorf("job %s: no bill yet, it is %s", job.ID, job.State),
			"%s so far, for %s", pricing.Money(job.CostNanoUSD), cli.FormatDuration(time.Duration(job.BilledMS)*time.Millisecond))
	}
	if job.CostNanoUSD != 0 {
		return bill{}, fmt.Errorf("job %s: the broker has no receipt for %s", job.ID, pricing.Money(job.CostNanoUSD))
	}
	return bill{Job: job.ID, Lease: job.Lease, Provider: job.Provider, Model: job.GPUModel, GPUs: job.GPUCount, Ended: *job.Ended}, nil
}

// bill fetches a receipt and checks it against what its customer signed.
func (m *market) bill(ctx context.Context, id broker.JobID, signed record) (bill, error) {
	answer, err := m.Receipt(ctx, id)
	if err != nil {
		return bill{}, err
	}
	info, err := m.Market(ctx)
	if err != nil {
		return bill{}, err
	}
	key, err := m.home.key()
	if err != nil {
		return bill{}, err
	}
	spec, known := signed.signed()
	r, err := checkReceipt(answer.Envelope, id, broker.PeerID(info.Broker), broker.PeerID(key.ID()), spec)
	if err != nil {
		return bill{}, fmt.Errorf("receipt of job %s: %w", id, err)
	}
	var paid int64
	if known {
		paid = spec.PaidTraffic()
	}
	return bill{
		BidNanoUSDPerHour: int64(spec.Bid),

		Job: string(r.Job), Lease: string(r.Lease), Provider: string(r.Provider), Model: r.Model, GPUs: len(r.GPUs),
		RateNanoUSDPerHour: int64(r.Rate), UsedMS: r.Used.Milliseconds(), BilledMS: r.Billed.Milliseconds(),
		CostNanoUSD: int64(r.Cost), FeeNanoUSD: int64(r.Fee), ExitCode: r.ExitCode, Ended: r.Ended, Verified: true, billed: r.Billed,
		Fetched: fetchedOf(r.Fetched), UnusedMS: r.Unused.Milliseconds(), UnusedCostNanoUSD: int64(r.UnusedCost), unused: r.Unused,
		DiskMiB: r.DiskMiB, TrafficBytes: paid, Tariff: api.TariffOf(r.Tariff), Extras: api.ExtrasOf(r.Traffic, r.DiskCost, r.TrafficCost),
	}, nil
}

// line is the bill in one line.
func (b *bill) line() string {
	gpus := "GPU"
	if b.GPUs != 1 {
		gpus = "GPUs"
	}
	line := func(d time.Duration, cost int64) string {
		return fmt.Sprintf("%s × %s × %d %s = %s", cli.FormatDuration(d), pricing.Rate(b.RateNanoUSDPerHour), b.GPUs, gpus, pricing.Money(cost))
	}
	ran := b.CostNanoUSD - b.UnusedCostNanoUSD - b.DiskCostNanoUSD - b.TrafficCostNanoUSD
	extras := b.extras()
	whole, err := costOf(pricing.Rate(b.RateNanoUSDPerHour), b.GPUs, b.billed)
	covered := b.unused == 0 && err == nil && int64(whole) > ran
	switch {
	case covered && extras == "":
		return fmt.Sprintf("%s, of which %s are to be paid, fee included: a reservation has paid the rest", line(b.billed, int64(whole)), pricing.Money(ran))
	case covered:
		extras = fmt.Sprintf(", of which %s are to be paid and a reservation has paid the rest%s", pricing.Money(ran), extras)
		ran = int64(whole)
	case b.unused > 0:
		extras = ", and unused reservation " + line(b.unused, b.UnusedCostNanoUSD) + extras
	case extras == "":
		return line(b.billed, ran) + ", fee included"
	}
	return fmt.Sprintf("%s%s: %s in all, fee included", line(b.billed, ran), extras, pricing.Money(b.CostNanoUSD))
}

// extras is what of the bill is not for GPUs, to go on after what is; empty: nothing.
func (b *bill) extras() string {
	text := ""
	if b.DiskCostNanoUSD > 0 {
		text += fmt.Sprintf(", and %s for %s of disk", pricing.Money(b.DiskCostNanoUSD), cli.FormatMiB(b.DiskMiB))
	}
	if b.TrafficCostNanoUSD > 0 {
		text += fmt.Sprintf(", and %s for traffic, %s", pricing.Money(b.TrafficCostNanoUSD), carriedText(b.carried()))
	}
	return text
}

func (b *bill) carried() broker.Traffic {
	return broker.Traffic{Ingress: b.IngressBytes, Egress: b.EgressBytes}
}

// paidText says how much traffic is paid for at most, if that is known here.
func (b *bill) paidText() string {
	if b.TrafficBytes == 0 {
		return ""
	}
	return ", of which at most " + cli.FormatTraffic(b.TrafficBytes) + " each way are paid for"
}

func writeBill(w io.Writer, b bill) error {
	if !b.Verified {
		_, err := fmt.Fprintf(w, "job %s cost nothing: its container never became ready\n", b.Job)
		return err
	}
	f := b.Fetched
	fmt.Fprintf(w, "job       %s\n", b.Job)
	fmt.Fprintf(w, "provider  %s\n", b.Provider)
	fmt.Fprintf(w, "GPUs      %d × %s\n", b.GPUs, cli.Clean(b.Model))
	fmt.Fprintf(w, "bytes     %s from peers, %s from the registry, %s already on the host\n",
		cli.FormatBytes(f.PeersBytes), cli.FormatBytes(f.RegistryBytes), cli.FormatBytes(f.LocalBytes))
	for i, s := range f.From {
		title := ""
		if i == 0 {
			title = "served by"
		}
		fmt.Fprintf(w, "%-9s %s from %s\n", title, cli.FormatBytes(s.Bytes), s.who())
	}
	if b.BidNanoUSDPerHour > 0 {
		fmt.Fprintf(w, "terms     interruptible, bid %s, paid %s\n", pricing.Rate(b.BidNanoUSDPerHour), pricing.Rate(b.RateNanoUSDPerHour))
	}
	if b.DiskNanoUSDPerGiBHour > 0 {
		fmt.Fprintf(w, "disk      %s at %s for a GiB a month: %s\n", cli.FormatMiB(b.DiskMiB), perMonth(b.Tariff), pricing.Money(b.DiskCostNanoUSD))
	}
	if chargesTraffic(b.Tariff) {
		fmt.Fprintf(w, "traffic   %s%s, at %s: %s\n", carriedText(b.carried()), b.paidText(), perGB(b.Tariff), pricing.Money(b.TrafficCostNanoUSD))
	}
	fmt.Fprintf(w, "cost      %s\n", b.line())
	_, err := fmt.Fprintf(w, "          %s: both signatures are right, and the cost adds up\n", cli.Paint(w, cli.Good, "checked"))
	return err
}

// allBills lists what all jobs of the account cost.
func (a *app) allBills(ctx context.Context, m *market, p *cli.Printer, whole bool) error {
	jobs, err := m.Jobs(ctx)
	if err != nil {
		return explain(err)
	}
	t := cli.Table{Columns: []cli.Column{
		{Title: "JOB"}, {Title: "STATE", Tone: stateTone}, {Title: "HOST", Shrink: !whole}, {Title: "BILLED", Align: cli.Right}, {Title: "COST", Align: cli.Decimal},
	}}
	total, n := pricing.Money(0), newNames(jobs, whole)
	for _, j := range jobs {
		t.Add(n.job(j), j.State, n.host(j), cli.FormatDuration(time.Duration(j.BilledMS)*time.Millisecond), pricing.Money(j.CostNanoUSD).String())
		if total, err = total.Add(pricing.Money(j.CostNanoUSD)); err != nil {
			return err
		}
	}
	return p.Print(api.Jobs{Jobs: jobs}, func(w io.Writer) error {
		if len(jobs) == 0 {
			_, err := fmt.Fprintln(w, "No jobs yet, and nothing to pay.")
			return err
		}
		if err := t.Write(w); err != nil {
			return err
		}
		_, err := fmt.Fprintf(w, "%s in all; `rialto bill JOB` checks a receipt\n", total)
		return err
	})
}
