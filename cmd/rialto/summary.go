package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"rialto/broker"
	"rialto/broker/api"
	"rialto/cmd/internal/cli"
	"rialto/cmd/internal/tenant"
)

// errNotDone is the end of a job whose container did not exit by itself.
var errNotDone = errors.New("the container did not exit by itself")

// step is one part of how a job started.
type step struct {
	Name   string  `json:"name"`
	TookMS float64 `json:"took_ms"`
	Note   string  `json:"note,omitempty"`
}

// summary is all that `rialto run` says at the end.
type summary struct {
	Job       string     `json:"job"`
	State     string     `json:"state"`
	ExitCode  *int       `json:"exit_code,omitempty"`
	Error     string     `json:"error,omitempty"`
	Host      string     `json:"host,omitempty"`
	Simulated bool       `json:"simulated"`
	Root      string     `json:"root,omitempty"` // CID of the image's root that the job was signed with
	Steps     []step     `json:"steps"`
	Reserved  *time.Time `json:"reserved_until,omitempty"`
	TotalMS   float64    `json:"total_ms"` // from the command to its first output, or until it ran if it printed nothing
	Bill      *bill      `json:"bill,omitempty"`
}

// conclude prints how the job started and what it cost, and turns its end into an exit code.
func (f *follower) conclude(ctx context.Context) error {
	job, err := retry(ctx, func() (api.Job, error) { return f.market.Job(ctx, f.id()) })
	if err != nil {
		return f.unsettled(err)
	}
	s := summary{Job: job.ID, State: job.State, ExitCode: job.ExitCode, Error: job.Error, Host: job.Host, Simulated: job.Simulated, Root: f.root}
	if job.Lease != "" {
		lease, err := retry(ctx, func() (api.Lease, error) { return f.market.Lease(ctx, f.id()) })
		if err != nil {
			return f.unsettled(err)
		}
		first := time.Duration(f.firstOutput.Load())
		s.Reserved = lease.ReservedUntil
		s.Steps, s.TotalMS = timeline(f.steps, f.events, lease, first), ms(firstOf(first, f.ready))
		if job.Ended != nil && lease.Ready != nil {
			s.Bill = f.settle(ctx)
		}
	}
	if f.collect != nil {
		*f.collect = s
	}
	f.print(s)
	return ending(job)
}

// unsettled is the end of a job about which the broker says nothing.
func (f *follower) unsettled(err error) error {
	f.view.say("%v", err)
	if s := f.session; s != nil && s.known {
		f.view.say("the container exited with %d; `rialto bill %s` shows the cost once the broker answers", s.exit, f.record.Job)
		if s.exit == 0 {
			return nil
		}
		return &cli.ExitError{Code: s.exit}
	}
	return cli.Hint(fmt.Errorf("job %s: how it ended is not known", f.record.Job), "`rialto ps -a` shows it once the broker answers")
}

// settle waits a moment for the receipt, which follows the end by the blink of an eye.
func (f *follower) settle(ctx context.Context) *bill {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for attempt := 0; ; attempt++ {
		b, err := f.market.bill(ctx, f.id(), f.market.home.newest(f.record))
		if err == nil {
			return &b
		}
		if !errors.Is(err, broker.ErrNotFound) && !transient(err) {
			f.view.say("bill of job %s: %v", f.record.Job, err)
			return nil
		}
		if !backoff(ctx, attempt) {
			f.view.say("not settled yet; `rialto bill %s` shows the cost later", f.record.Job)
			return nil
		}
	}
}

func (f *follower) print(s summary) {
	if f.flags.out.JSON && f.collect != nil {
		return // the gang prints all
	}
	if f.flags.out.JSON {
		b, err := json.Marshal(s)
		if err == nil {
			fmt.Fprintf(f.stderr, "%s\n", b)
		}
		return
	}
	if f.flags.quiet {
		return
	}
	if len(s.Steps) > 0 && f.ready > 0 {
		for line := range strings.Lines(cli.Wrap(f.stderr, timelineParts(s.Steps, s.TotalMS), " · ")) {
			fmt.Fprintln(f.stderr, cli.Paint(f.stderr, cli.Dim, strings.TrimSuffix(line, "\n")))
		}
	}
	if s.Reserved != nil {
		fmt.Fprintln(f.stderr, cli.Paint(f.stderr, cli.Dim, "reserved until "+moment(*s.Reserved, time.Now())))
	}
	if s.Bill != nil {
		fmt.Fprintln(f.stderr, s.Bill.line())
	}
}

// ending turns a job's end into the command's.
func ending(job api.Job) error {
	what := cli.Clean(job.Error)
	if job.State == broker.JobDone.String() {
		switch {
		case job.ExitCode == nil || *job.ExitCode == 0:
			return nil
		default:
			return &cli.ExitError{Code: *job.ExitCode}
		}
	}
	text := fmt.Sprintf("job %s %s", job.ID, job.State)
	if what != "" {
		text += ": " + what
	}
	if job.Host != "" && !strings.Contains(what, cli.Clean(job.Host)) {
		text += fmt.Sprintf(" (provider %s)", tenant.HostName(job.Host, job.Provider))
	}
	return &endError{text}
}

// endError says how a job ended that did not end by itself.
type endError struct{ text string }

func (e *endError) Error() string { return e.text }

func (e *endError) Unwrap() error { return errNotDone }

// vouchedNote says who vouches for the root of a job's image; empty: nobody, so that hosts import it.
func vouchedNote(spec *broker.JobSpec) string {
	if spec.Root == "" {
		return ""
	}
	who := "the broker"
	if broker.IsLocalImage(spec.Image) {
		who = "this machine"
	}
	return fmt.Sprintf("image root bafk…%s vouched for by %s", spec.Root[max(0, len(spec.Root)-6):], who)
}

// timeline puts together what this machine, the broker and the provider measured; each by its own clock,
// and some at the same time as others, so the parts need not add up to the whole.
func timeline(own []step, events []api.Event, lease api.Lease, first time.Duration) []step {
	steps := slices.Clone(own)
	known := 0.0
	for _, s := range own {
		known += s.TookMS
	}
	var holding, leased time.Time // of the lease that came to be, which is the last
	quoted := false
	for _, e := range events {
		switch e.State {
		case broker.JobHolding.String():
			holding, quoted = e.Time, false
		case broker.JobQuoted.String(): // what follows is the customer's own time
			leased, quoted = e.Time, true
		case broker.JobLeased.String():
			if !quoted {
				leased = e.Time
			}
		}
	}
	if !holding.IsZero() && !leased.IsZero() {
		steps = append(steps, step{Name: "hold", TookMS: ms(leased.Sub(holding))})
	}
	prepared := int64(0)
	for _, s := range lease.Steps {
		prepared = max(prepared, s.StartMS+s.TookMS)
		switch {
		case s.Name == "image":
			steps = append(steps, step{Name: s.Name, TookMS: float64(s.TookMS), Note: byNow(lease.Fetched)})
		case s.TookMS > 0:
			steps = append(steps, step{Name: cli.Clean(s.Name), TookMS: float64(s.TookMS)})
		}
	}
	if first > 0 {
		steps = append(steps, step{Name: "first output", TookMS: max(0, ms(first)-known-float64(prepared))})
	}
	return steps
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// timelineParts is a timeline for people: "match 1 ms", "image 340 ms (212 MiB from peers by now)", … The
// last part carries the whole.
func timelineParts(steps []step, totalMS float64) []string {
	var parts []string
	for _, s := range steps {
		part := s.Name + " " + milliseconds(s.TookMS)
		if s.Note != "" {
			part += " (" + s.Note + ")"
		}
		parts = append(parts, part)
	}
	if len(parts) > 0 {
		parts[len(parts)-1] += " — " + milliseconds(totalMS) + " in all"
	}
	return parts
}

// milliseconds prints a part of the start; nothing shorter than a millisecond is worth telling apart.
func milliseconds(v float64) string {
	if v < 1 {
		return "0 ms"
	}
	return cli.FormatDuration(time.Duration(v * float64(time.Millisecond)))
}
