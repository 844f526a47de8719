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
	"rialto/broker/wire"
	"rialto/cmd/internal/cli"
	"rialto/cmd/internal/tenant"
	"rialto/pricing"
)

// bill is a receipt that was checked: the broker signed it for this customer, the provider signed the
// usage inside, and the cost is what the rate makes of the billed time.
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
	b, err := m.bill(ctx, broker.JobID(job.ID))
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

// bill fetches a receipt and checks it.
func (m *market) bill(ctx context.Context, id broker.JobID) (bill, error) {
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
	spec := m.signed(id)
	r, err := checkReceipt(answer.Envelope, id, broker.PeerID(info.Broker), broker.PeerID(key.ID()), spec)
	if err != nil {
		return bill{}, fmt.Errorf("receipt of job %s: %w", id, err)
	}
	return bill{
		BidNanoUSDPerHour: int64(spec.Bid),

		Job: string(r.Job), Lease: string(r.Lease), Provider: string(r.Provider), Model: r.Model, GPUs: len(r.GPUs),
		RateNanoUSDPerHour: int64(r.Rate), UsedMS: r.Used.Milliseconds(), BilledMS: r.Billed.Milliseconds(),
		CostNanoUSD: int64(r.Cost), FeeNanoUSD: int64(r.Fee), ExitCode: r.ExitCode, Ended: r.Ended, Verified: true, billed: r.Billed,
		Fetched: fetchedOf(r.Fetched), UnusedMS: r.Unused.Milliseconds(), UnusedCostNanoUSD: int64(r.UnusedCost), unused: r.Unused,
	}, nil
}

// signed is what a job's customer signed, as far as it bounds the bill; of a job that was signed on another machine, what
// bounds nothing.
func (m *market) signed(id broker.JobID) broker.JobSpec {
	r, err := m.home.record(string(id))
	if err != nil {
		return broker.JobSpec{Reserve: broker.MaxTerm}
	}
	spec, _, err := wire.OpenJobSpec(r.Envelope)
	if err != nil {
		return broker.JobSpec{Reserve: broker.MaxTerm}
	}
	return spec
}

// checkReceipt opens a receipt and believes only what is signed, was signed for, and adds up.
func checkReceipt(envelope []byte, job broker.JobID, market, customer broker.PeerID, spec broker.JobSpec) (broker.Receipt, error) {
	r, signer, err := wire.OpenReceipt(envelope)
	if err != nil {
		return r, err
	}
	switch {
	case signer != market:
		return r, fmt.Errorf("signed by %s, not by the broker %s", signer, market)
	case r.Job != job:
		return r, fmt.Errorf("it is for job %s", r.Job)
	case r.Customer != customer:
		return r, cli.Hint(fmt.Errorf("it is for customer %s", r.Customer), "this machine's key is %s; the job was signed elsewhere", customer)
	}
	limit, term := cmp.Or(spec.Bid, spec.MaxRate), spec.Reserve
	most, err := costOf(r.Rate, len(r.GPUs), r.Billed+r.Unused)
	used := pricing.Money(0)
	if err == nil {
		used, err = costOf(r.Rate, len(r.GPUs), r.Billed)
	}
	switch {
	case err != nil:
		return r, err
	case limit > 0 && r.Rate > limit:
		return r, fmt.Errorf("it charges %s, the job was signed for %s at most", r.Rate, limit)
	case r.Cost > most:
		return r, fmt.Errorf("it says %s, but %s of %d × %s is %s", r.Cost, r.Billed+r.Unused, len(r.GPUs), r.Rate, most)
	case r.Cost-r.UnusedCost > used:
		return r, fmt.Errorf("it says %s for the time that was used, but %s of %d × %s is %s", r.Cost-r.UnusedCost, r.Billed, len(r.GPUs), r.Rate, used)
	case r.Unused > 0 && (r.Ready.IsZero() || r.Ended.Add(r.Unused).After(r.Ready.Add(term))):
		return r, fmt.Errorf("it bills %s that were not used, but of the %s that were reserved at most %s were left", r.Unused, term, max(0, r.Ready.Add(term).Sub(r.Ended)))
	case r.Fee > r.Cost:
		return r, fmt.Errorf("its fee %s is more than its cost %s", r.Fee, r.Cost)
	case r.Billed > r.Used:
		return r, fmt.Errorf("it bills %s, but the provider reported %s", r.Billed, r.Used)
	case len(r.Report) == 0 && r.Cost == 0:
		return r, nil
	}
	report, reporter, err := wire.OpenReport(r.Report)
	switch {
	case err != nil:
		return r, fmt.Errorf("the provider's report: %w", err)
	case reporter != r.Provider:
		return r, fmt.Errorf("the provider's report is signed by %s, not by %s", reporter, r.Provider)
	case report.Lease != r.Lease:
		return r, fmt.Errorf("the provider's report is for lease %s", report.Lease)
	case r.Unused > 0 && report.Phase != broker.PhaseExited:
		return r, fmt.Errorf("it bills %s that were not used, but the provider does not report that the container exited", r.Unused)
	case report.Used < r.Billed:
		return r, fmt.Errorf("it bills %s, but the provider reported %s", r.Billed, report.Used)
	}
	return r, nil
}

// costOf is what a time costs on a number of GPUs, rounded once.
func costOf(rate pricing.Rate, gpus int, d time.Duration) (pricing.Money, error) {
	all, err := rate.MulInt(int64(gpus))
	if err != nil {
		return 0, err
	}
	return all.Cost(d)
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
	whole, err := costOf(pricing.Rate(b.RateNanoUSDPerHour), b.GPUs, b.billed)
	switch {
	case b.unused == 0 && err == nil && int64(whole) > b.CostNanoUSD:
		return fmt.Sprintf("%s, of which %s are to be paid, fee included: a reservation has paid the rest", line(b.billed, int64(whole)), pricing.Money(b.CostNanoUSD))
	case b.unused == 0:
		return line(b.billed, b.CostNanoUSD) + ", fee included"
	}
	return fmt.Sprintf("%s, and unused reservation %s: %s in all, fee included", line(b.billed, b.CostNanoUSD-b.UnusedCostNanoUSD),
		line(b.unused, b.UnusedCostNanoUSD), pricing.Money(b.CostNanoUSD))
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
