package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"rialto/broker"
	"rialto/broker/api"
	"rialto/broker/wire"
	"rialto/cmd/internal/cli"
	"rialto/cmd/internal/tenant"
	"rialto/pricing"
)

// quoteKept is how long after its end a quote stays in the home folder: whoever accepted it at the last moment and got no
// answer may ask again.
const quoteKept = 10 * time.Minute

// quoteRecord is a firm quote that this machine may accept: the job that it becomes, with the key of its tunnel.
type quoteRecord struct {
	record

	Until time.Time `json:"until"` // by this machine's clock
}

// firmQuote asks for a firm quote and shows it.
func (a *app) firmQuote(ctx context.Context, r *request, args []string, p *cli.Printer) error {
	m, err := a.connect()
	if err != nil {
		return err
	}
	q, until, err := a.askFirm(ctx, m, r, args)
	if err != nil {
		return err
	}
	return p.Print(q, func(w io.Writer) error { return writeFirmQuote(w, q, until) })
}

// askFirm asks for a firm quote, checks it and files it, so that this machine can accept it until the time that is returned.
func (a *app) askFirm(ctx context.Context, m *market, r *request, args []string) (q api.FirmQuote, until time.Time, err error) {
	if err := r.check(); err != nil {
		return q, until, err
	}
	if !m.known {
		return q, until, cli.Hint(fmt.Errorf("no account for the broker at %s on this machine", m.url), welcome)
	}
	if err := m.home.sweepQuotes(time.Now()); err != nil {
		return q, until, err
	}
	rec, err := a.prepare(ctx, m, &runFlags{request: r}, args)
	if err != nil {
		return q, until, err
	}
	if q, err = retry(ctx, func() (api.FirmQuote, error) { return m.FirmQuote(ctx, rec.Envelope, rec.IdempotencyKey) }); err != nil {
		return q, until, explain(errors.Join(err, m.home.dropPending(rec.IdempotencyKey)))
	}
	until = time.Now().Add(time.Duration(q.ExpiresInMS) * time.Millisecond)
	rec.Job = q.ID
	if err := checkQuote(q, r.firm); err != nil {
		return q, until, errors.Join(err, m.home.dropPending(rec.IdempotencyKey), m.giveBack(ctx, q))
	}
	if err := m.home.saveQuote(quoteRecord{rec, until}); err != nil {
		return q, until, errors.Join(err, m.giveBack(ctx, q))
	}
	return q, until, nil
}

// checkQuote makes sure that the provider itself says what the broker says that it does.
func checkQuote(q api.FirmQuote, firm time.Duration) error {
	if !jobPattern().MatchString(q.ID) {
		return fmt.Errorf("broker's answer: quote id %q is not one", q.ID)
	}
	if q.State != broker.JobQuoted.String() {
		why := cli.Clean(q.Error)
		if why == "" {
			why = "no host has answered yet"
		}
		return cli.Hint(fmt.Errorf("no quote: %s", why), "ask again: hosts that refused now may not the next time; `rialto offers` shows what there is")
	}
	host := tenant.HostName(q.Host, q.Provider)
	answer, signer, err := wire.OpenAnswer(q.Answer)
	switch g := answer.Grant; {
	case err != nil:
		return fmt.Errorf("provider %s: its quote: %w", host, err)
	case string(signer) != q.Provider:
		return fmt.Errorf("provider %s: its quote is signed by somebody else, %s", host, signer)
	case g == nil || string(g.Job) != q.ID:
		return fmt.Errorf("provider %s: its quote is not for job %s", host, q.ID)
	case g.Tariff != q.BrokerTariff():
		return fmt.Errorf("provider %s signed other prices for disk and traffic, %+v, than the broker says, %+v", host, g.Tariff, q.BrokerTariff())
	case int64(g.Rate) != q.RateNanoUSDPerHour || g.Firm < firm:
		return fmt.Errorf("provider %s signed %s for %v, the broker says %s for %v", host, g.Rate, g.Firm, pricing.Rate(q.RateNanoUSDPerHour), firm)
	}
	return nil
}

// giveBack ends a quote that is of no use. One that has ended already is none.
func (m *market) giveBack(ctx context.Context, q api.FirmQuote) error {
	_, err := m.DropQuote(context.WithoutCancel(ctx), broker.JobID(q.ID))
	if errors.Is(err, broker.ErrJobTerminal) || errors.Is(err, broker.ErrNotFound) {
		return nil
	}
	return err
}

func writeFirmQuote(w io.Writer, q api.FirmQuote, until time.Time) error {
	mark := ""
	if q.Simulated {
		mark = " " + cli.Paint(w, cli.Warn, simulated)
	}
	fmt.Fprintf(w, "Firm: %d × %s%s on %s at %s, which the host has signed.\n", len(q.GPUs), cli.Clean(q.Model), mark,
		tenant.HostName(q.Host, q.Provider), pricing.Rate(q.TotalRateNanoUSDPerHour))
	if line := besideLine(q.Tariff, q.DiskMiB, q.TrafficBytes); line != "" {
		fmt.Fprintln(w, sentence(line))
	}
	fmt.Fprintf(w, "%s at most for %s, fee included; %s kept aside. Nothing runs and nothing is paid before you accept.\n",
		pricing.Money(q.CostNanoUSD), cli.FormatDuration(time.Duration(q.MaxDurationMS)*time.Millisecond), pricing.Money(q.HeldNanoUSD))
	if q.ReservedMS > 0 {
		fmt.Fprintf(w, "Reserved for %s from when it is ready: what you do not use of it is paid all the same.\n", cli.FormatDuration(time.Duration(q.ReservedMS)*time.Millisecond))
	}
	fmt.Fprintf(w, "Valid for %s, until %s:\n\n", cli.FormatDuration(time.Until(until)), until.Local().Format(time.TimeOnly))
	_, err := fmt.Fprintf(w, "  %s\n  %s   # gives it back\n", cli.Paint(w, cli.Strong, "rialto run --quote "+q.ID), "rialto stop "+q.ID)
	return err
}

// quoteFlag checks that nothing contradicts --quote: what runs, and where, was signed with the quote.
func quoteFlag(c *cobra.Command, args []string) error {
	own := []string{"quote", "publish", "detach", "quiet", "json", "broker"}
	var err error
	c.Flags().Visit(func(f *pflag.Flag) {
		if err == nil && !slices.Contains(own, f.Name) {
			err = cli.Hint(fmt.Errorf("--%s and --quote: the quote says what runs", f.Name), "give --%s to `rialto quote --firm`", f.Name)
		}
	})
	if err == nil && len(args) > 0 {
		err = cli.Hint(fmt.Errorf("--quote takes no image and no command; %q is not expected", args[0]), "give them to `rialto quote --firm`")
	}
	return err
}

// accept accepts a firm quote and files the job that it has become. Doing it again finds the same job.
func (f *follower) accept(ctx context.Context, word string) (record, error) {
	home := f.market.home
	q, err := home.quote(word)
	if err != nil {
		return record{}, err
	}
	sent := time.Now()
	ctx = context.WithoutCancel(ctx) // so that a job is not left behind unnoticed
	job, err := retry(ctx, func() (api.Job, error) { return f.market.AcceptQuote(ctx, broker.JobID(q.Job)) })
	if err != nil && !transient(err) {
		err = errors.Join(err, home.dropQuote(q.Job))
		return record{}, cli.Hint(err, "`rialto quote --firm %s` asks for a new one", cli.Clean(q.Image))
	}
	if err != nil {
		return record{}, cli.Hint(err, "whether the quote was accepted is not known: the same command finds out")
	}
	f.took("accept", sent, "")
	if job.ID != q.Job {
		return record{}, fmt.Errorf("broker's answer: quote %s became job %q", q.Job, job.ID)
	}
	if err := home.saveJob(q.record); err != nil {
		return record{}, cli.Hint(err, "the job runs all the same; `rialto stop %s` ends it", job.ID)
	}
	return q.record, home.dropQuote(q.Job)
}

// saveQuote files a quote, readable only by the user.
func (h home) saveQuote(q quoteRecord) error {
	if err := h.save(q, "quotes", q.Job+".json"); err != nil {
		return err
	}
	return h.dropPending(q.IdempotencyKey)
}

// dropQuote forgets a quote and the key of its tunnel.
func (h home) dropQuote(id string) error {
	err := os.Remove(h.path("quotes", id+".json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// quote finds a quote by its id or how that begins; also one that was accepted and is a job now.
func (h home) quote(word string) (quoteRecord, error) {
	all, err := h.quotes()
	if err != nil {
		return quoteRecord{}, err
	}
	var found []quoteRecord
	for _, q := range all {
		if strings.HasPrefix(q.Job, word) {
			found = append(found, q)
		}
	}
	if len(found) == 1 {
		return found[0], nil
	}
	if len(found) > 1 {
		return quoteRecord{}, fmt.Errorf("quote %q: %d quotes begin so", word, len(found))
	}
	if r, err := h.record(word); err == nil {
		return quoteRecord{record: r}, nil
	}
	return quoteRecord{}, cli.Hint(fmt.Errorf("quote %q: not on this machine, or it has ended", word),
		"`rialto quote --firm IMAGE` asks for one; only the machine that did can accept it")
}

func (h home) quotes() ([]quoteRecord, error) {
	files, err := filepath.Glob(h.path("quotes", "j-*.json"))
	if err != nil {
		return nil, err
	}
	var all []quoteRecord
	for _, f := range files {
		var q quoteRecord
		err := h.load(&q, "quotes", filepath.Base(f))
		if errors.Is(err, fs.ErrNotExist) {
			continue // another command has just accepted or swept it
		}
		if err != nil {
			return nil, err
		}
		all = append(all, q)
	}
	return all, nil
}

// sweepQuotes forgets quotes that ended a while ago.
func (h home) sweepQuotes(now time.Time) error {
	all, err := h.quotes()
	for _, q := range all {
		if now.Sub(q.Until) > quoteKept {
			err = errors.Join(err, h.dropQuote(q.Job))
		}
	}
	return err
}
