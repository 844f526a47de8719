package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"rialto/broker"
	"rialto/broker/api"
	"rialto/cmd/internal/cli"
	"rialto/cmd/internal/tenant"
	"rialto/pricing"
)

// showJob prints one job, or all nodes of a gang whose first is named.
func (m *market) showJob(ctx context.Context, p *cli.Printer, word string) error {
	job, err := m.find(ctx, word)
	if err != nil {
		return err
	}
	nodes, err := m.whole(ctx, job)
	if err != nil {
		return err
	}
	return p.Print(api.Jobs{Jobs: nodes}, func(w io.Writer) error {
		for i := range nodes {
			if i > 0 {
				fmt.Fprintln(w)
			}
			if err := writeJob(w, &nodes[i], time.Now()); err != nil {
				return err
			}
		}
		return nil
	})
}

// writeJob draws all that there is to know about a job.
func writeJob(w io.Writer, j *api.Job, now time.Time) error {
	line := func(title, format string, args ...any) {
		fmt.Fprintf(w, "%-9s %s\n", title, fmt.Sprintf(format, args...))
	}
	line("job", "%s", j.ID)
	if j.Gang != "" {
		line("node", "%d of %d, of gang %s", j.Rank, j.Nodes, j.Gang)
	}
	state := cli.Paint(w, stateTone(j.State), j.State)
	if j.ExitCode != nil {
		state += fmt.Sprintf(", exit %d", *j.ExitCode)
	}
	if j.Error != "" {
		state += ": " + cli.Clean(j.Error)
	}
	line("state", "%s", state)
	line("image", "%s", cli.Clean(strings.Join(append([]string{j.Image}, j.Command...), " ")))
	line("GPUs", "%s", gpusText(w, j))
	if j.Provider != "" {
		line("host", "%s", tenant.HostName(j.Host, j.Provider))
	}
	line("accepted", "%s ago", cli.FormatAge(now.Sub(j.Accepted)))
	line("ran", "%s of at most %s", cli.FormatDuration(milli(j.BilledMS)), cli.FormatDuration(milli(j.MaxDurationMS)))
	if j.ReservedUntil != nil {
		line("reserved", "until %s", moment(*j.ReservedUntil, now))
	}
	line("disk", "%s", diskOf(j))
	line("traffic", "%s", trafficOf(j))
	if exhausted(j.Tariff, j.Extras, j.TrafficBytes) {
		line("", "%s", cli.Paint(w, cli.Warn, slowLine(j.TrafficBytes)))
	}
	so := ""
	if j.Ended == nil {
		so = fmt.Sprintf(" so far, %s kept aside", pricing.Money(j.HeldNanoUSD))
	}
	_, err := fmt.Fprintf(w, "%-9s %s%s\n", "cost", pricing.Money(j.CostNanoUSD), so)
	return err
}

func milli(ms int64) time.Duration { return time.Duration(ms) * time.Millisecond }

// gpusText is which GPUs a job has, and on which terms.
func gpusText(w io.Writer, j *api.Job) string {
	text := fmt.Sprintf("%d × %s", j.GPUCount, cli.Clean(j.GPUModel))
	if j.Simulated {
		text += " " + cli.Paint(w, cli.Warn, simulated)
	}
	switch {
	case j.BidNanoUSDPerHour > 0:
		text += ", " + interruptible(*j)
	case j.RateNanoUSDPerHour > 0:
		text += fmt.Sprintf(" at %s each", pricing.Rate(j.RateNanoUSDPerHour))
	}
	return text
}

// diskOf says what a job may write, and what that costs.
func diskOf(j *api.Job) string {
	text := cli.FormatMiB(j.DiskMiB)
	switch {
	case j.DiskNanoUSDPerGiBHour > 0:
		return fmt.Sprintf("%s at %s for a GiB a month: %s", text, perMonth(j.Tariff), pricing.Money(j.DiskCostNanoUSD))
	case j.Lease != "":
		return text + ", which the host does not charge for"
	}
	return text
}

// trafficOf says what a job's tunnel carried, of how much that is paid for, and what it costs.
func trafficOf(j *api.Job) string {
	carried := carriedText(broker.Traffic{Ingress: j.IngressBytes, Egress: j.EgressBytes})
	most := cli.FormatTraffic(j.TrafficBytes) + " each way"
	switch {
	case chargesTraffic(j.Tariff):
		return fmt.Sprintf("%s, of which at most %s are paid for, at %s: %s", carried, most, perGB(j.Tariff), pricing.Money(j.TrafficCostNanoUSD))
	case j.Lease != "":
		return carried + ", which the host does not charge for"
	}
	return "at most " + most + " are paid for"
}
