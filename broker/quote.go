package broker

import (
	"fmt"
	"time"

	"rialto/pricing"
)

// How long a firm quote may wait for its customer.
const (
	DefaultFirm = 15 * time.Second // unless the customer says otherwise; a person reads a price, a program needs less
	MaxFirm     = time.Minute      // GPUs that wait earn nothing

	minFirm = time.Second
	// maxQuotes is how many firm quotes of one account may be open: they cost nothing unless they are accepted.
	maxQuotes = 8
)

// FirmQuote is what a provider promised a job's customer: GPUs at a price, until a moment.
//
// A job whose spec says Firm is asked for like any other: its money is held, and the best provider is asked to hold GPUs.
// The provider signs the price and how long it stands by it into its grant. Then the job waits (quoted) for its customer,
// and nothing is prepared that costs the host much. Accepted, it goes on like any job; if its provider then fails it, only
// to offers that cost no more. Otherwise it expires, its GPUs are released and all its money is returned. A quote that was
// made is never replaced by another one: what the customer accepts is what he saw.
type FirmQuote struct {
	Rate   pricing.Rate // per GPU-hour
	Tariff Tariff       `json:",omitzero"`
	Until  time.Time    // it may be accepted before; zero: not made yet
	Taken  time.Time    // when it was accepted; zero: it was not
}

// quoting reports whether a job is a firm quote that is neither accepted nor over.
func (j *Job) quoting() bool {
	return j.Spec.Firm > 0 && j.Quote.Taken.IsZero() && !j.State.Terminal()
}

// holdTTL is how long a job's hold must last: until it was surely confirmed, or its quote has surely expired. The quote
// is made at most HoldTTL after the hold was sent, so that it never outlasts the hold.
func (c MarketConfig) holdTTL(j *Job) time.Duration {
	if j.quoting() {
		return c.HoldTTL + j.Spec.Firm
	}
	if j.forming() { // the last host may answer when its time is nearly over, and all are to be confirmed then
		return 2 * c.HoldTTL
	}
	return c.HoldTTL
}

// affords reports whether a job may go to an offer: one whose quote was accepted never costs more than that.
func (j *Job) affords(o *Offer) bool {
	return j.Quote.Taken.IsZero() || o.RateFor(j.Spec.Reserve) <= j.Quote.Rate && o.Tariff.within(j.Quote.Tariff)
}

// quoted makes a grant a quote, which waits for the job's customer.
func (t *turn) quoted(l *Lease, j *Job) {
	j.State = JobQuoted
	j.Quote = FirmQuote{Rate: l.Rate, Tariff: l.Tariff, Until: t.now.Add(j.Spec.Firm)}
	t.log(j, "%s holds %d × %s at %v for %v: waiting for its customer to accept", l.Host, len(l.GPUs), l.Model, l.Rate, j.Spec.Firm)
}

// accept turns a firm quote into a job that goes on. Accepting again changes nothing.
func (t *turn) accept(ev QuoteAccepted) error {
	j := t.job(ev.Job)
	refuse := func(err error) error { return &JobError{Op: "accept quote of", Job: ev.Job, Err: err} }
	switch {
	case j == nil:
		return refuse(ErrNotFound)
	case j.Spec.Firm == 0:
		return refuse(fmt.Errorf("%w: the job is not a quote", ErrConflict))
	case !j.Quote.Taken.IsZero():
		return nil
	case j.State.Terminal():
		return refuse(fmt.Errorf("%w: %s", ErrJobTerminal, j.Error))
	case j.State != JobQuoted:
		return refuse(fmt.Errorf("%w: no provider has made it yet", ErrConflict))
	case !t.now.Before(j.Quote.Until):
		return refuse(fmt.Errorf("%w: the quote expired at %s", ErrJobTerminal, j.Quote.Until.Format(time.RFC3339)))
	}
	l := t.leases[j.Lease]
	t.touchJob(j)
	t.touchLease(l)
	t.quotes[j.Account]--
	j.Quote.Taken = t.now
	j.State = JobLeased
	l.Granted, l.Renewed = t.now, t.now // all that counts from a grant counts from here
	t.log(j, "accepted: %s leased %d × %s at %v", l.Host, len(l.GPUs), l.Model, l.Rate)
	t.sendConfirm(l, j)
	return nil
}

// tickQuoted ends a quote that its customer did not accept in time.
func (t *turn) tickQuoted(l *Lease, j *Job) {
	if t.now.Before(j.Quote.Until) {
		return
	}
	t.finish(j, nil, JobExpired, fmt.Sprintf("the quote was not accepted within %v", j.Spec.Firm))
	t.release(l, j.Error)
}

// withdrawn ends a quote that its provider did not keep.
func (t *turn) withdrawn(l *Lease, j *Job, why string) {
	t.judge(l, FillFailed)
	if j.forming() {
		t.end(l)
		t.next(j, l, l.Host+" took its word back: "+why)
		return
	}
	t.finish(j, nil, JobFailed, l.Host+" withdrew its quote: "+why)
	t.end(l)
}

// auditQuotes recounts the open quotes.
func (m *Market) auditQuotes() error {
	open := map[AccountID]int{}
	for _, j := range m.jobs {
		if j.quoting() {
			open[j.Account]++
		}
		if j.State == JobQuoted && (m.leases[j.Lease] == nil || m.leases[j.Lease].State != LeaseGranted) {
			return &InvariantError{Rule: fmt.Sprintf("job %s: quoted without a granted lease", j.ID)}
		}
	}
	for id, n := range m.quotes {
		if open[id] != n {
			return &InvariantError{Rule: fmt.Sprintf("account %s: %d open quotes, counted %d", id, open[id], n)}
		}
	}
	return nil
}
