package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"rialto/broker"
	"rialto/broker/api"
	"rialto/cmd/internal/cli"
	"rialto/cmd/internal/tenant"
	"rialto/tunnel/console"
)

const (
	// brokerPatience is how long a silent broker is asked again. Its restart takes seconds; a running job
	// does not need it.
	brokerPatience = 10 * time.Minute
	// settlePatience is how long the end of a container waits for the broker to say the same.
	settlePatience = time.Minute
	// drainPatience is how long the end of a job waits for the end of its output: this long after the last
	// byte. A job that did not end by itself may have lost its host, so it waits less.
	drainPatience     = 10 * time.Second
	drainLostPatience = time.Second
	// trafficEvery is how often it is looked whether the traffic that is paid for is used up, if the host charges for it.
	trafficEvery = 10 * time.Second
	// cancelPatience is how long a cancelled job may take to end.
	cancelPatience = time.Minute
)

// follower stays with a job until it has ended.
type follower struct {
	*app
	market *market
	record record
	flags  *runFlags
	view   *view

	root        string       // CID of the image's root that the job's spec names; empty: none
	begin       time.Time    // when the command started
	steps       []step       // what this machine did before the broker accepted
	firstOutput atomic.Int64 // nanoseconds since begin; zero: none yet

	events  []api.Event
	ready   time.Duration // since begin, when we heard that the container runs; zero: it never did
	session *session      // the lease that we are inside of; nil: none
	refused error         // why a host did not take the keys of what is private
	slow    bool          // it was said that the traffic that is paid for is used up
	collect *summary      // where the end of a gang's node is told; nil: it is no node
}

func newFollower(a *app, m *market, f *runFlags) *follower {
	return &follower{app: a, market: m, flags: f, begin: time.Now(), view: newView(a.stderr, f.quiet || f.out.JSON)}
}

// took notes a part of the start that this machine did.
func (f *follower) took(name string, since time.Time, note string) {
	f.steps = append(f.steps, step{Name: name, TookMS: ms(time.Since(since)), Note: note})
}

func (f *follower) id() broker.JobID { return broker.JobID(f.record.Job) }

// follow streams the job's output and returns its end as an error: nil, an exit code, or what went wrong.
// When ctx ends, it cancels the job, unless that is reserved and paid for anyway.
func (f *follower) follow(ctx context.Context) error {
	defer f.view.close()
	// What follows outlives the first Ctrl-C, because cancelling takes a moment.
	live, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	defer func() {
		if f.session != nil {
			f.session.close()
		}
	}()
	ended, err := f.watch(ctx, live)
	switch {
	case errors.Is(err, errInterrupted):
		return f.cancel(ctx, live)
	case err != nil:
		return err
	}
	f.view.close()
	if ended {
		f.drain(live)
	}
	return f.conclude(live)
}

var errInterrupted = errors.New("interrupted")

// watch follows the broker's events and the container's output until either says that the job has ended;
// ended says whether the broker knows.
func (f *follower) watch(ctx, live context.Context) (ended bool, err error) {
	streaming, stop := context.WithCancel(live)
	defer stop()
	events := f.stream(streaming)
	progress := time.NewTicker(300 * time.Millisecond)
	defer progress.Stop()
	traffic := time.NewTicker(trafficEvery)
	defer traffic.Stop()
	var settle <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return false, errInterrupted
		case e, ok := <-events:
			if !ok {
				return true, nil
			}
			if e.err != nil && f.session == nil {
				return false, explain(e.err)
			}
			if e.err != nil { // the output still flows and will tell the end
				events = nil
				continue
			}
			if err := f.event(live, e.Event); err != nil {
				return false, err
			}
		case <-f.session.ended():
			f.session.exited = true
			settle = time.After(settlePatience)
			if events == nil {
				return false, nil
			}
		case <-settle:
			return false, nil
		case <-progress.C:
			f.progress(live)
		case <-traffic.C:
			f.lookAtTraffic(live)
		}
	}
}

type eventOrError struct {
	api.Event
	err error
}

// stream sends the job's events, over as many connections as it takes, and closes the channel after the
// last one. An error is the last thing that it sends.
func (f *follower) stream(ctx context.Context) <-chan eventOrError {
	out := make(chan eventOrError)
	go func() { // ends with ctx, with the job, or when the broker is silent for too long
		defer close(out)
		send := func(e eventOrError) bool {
			select {
			case out <- e:
				return true
			case <-ctx.Done():
				return false
			}
		}
		var after uint64
		heard, attempt := time.Now(), 0
		for {
			var broke error
			for e, err := range f.market.Events(ctx, f.id(), after) {
				if broke = err; err != nil {
					break
				}
				if attempt > 0 {
					f.view.say("the broker answers again")
				}
				after, heard, attempt = e.Seq, time.Now(), 0
				if !send(eventOrError{Event: e}) {
					return
				}
			}
			if broke == nil || ctx.Err() != nil {
				return
			}
			if _, lost := errors.AsType[*api.Problem](broke); (lost && !transient(broke)) || time.Since(heard) > brokerPatience {
				send(eventOrError{err: broke})
				return
			}
			if attempt == 0 {
				f.view.say("%v; the job goes on, asking again for %s", brief(broke), cli.FormatDuration(brokerPatience))
			}
			if !backoff(ctx, attempt) {
				return
			}
			attempt++
		}
	}()
	return out
}

// note remembers a line of the job's history.
func (f *follower) note(e api.Event) (broker.JobState, error) {
	var state broker.JobState
	if err := state.UnmarshalText([]byte(e.State)); err != nil {
		return 0, fmt.Errorf("broker's answer: %w", err)
	}
	f.events = append(f.events, e)
	if state == broker.JobReady || state == broker.JobRunning || state == broker.JobDone {
		f.ready = firstOf(f.ready, time.Since(f.begin))
	}
	return state, nil
}

// event takes a line of the job's history and enters the lease that it tells of.
func (f *follower) event(ctx context.Context, e api.Event) error {
	state, err := f.note(e)
	if err != nil {
		return err
	}
	f.view.event(e)
	if state != broker.JobLeased && state != broker.JobReady && state != broker.JobRunning {
		return nil
	}
	if state != broker.JobLeased && f.session != nil {
		return nil
	}
	lease, err := retry(ctx, func() (api.Lease, error) { return f.market.Lease(ctx, f.id()) })
	if err != nil {
		return explain(err)
	}
	if f.session != nil {
		if f.session.lease.ID == lease.ID {
			return nil
		}
		f.session.close()
		f.session = nil
	}
	if len(lease.Answer) == 0 {
		return nil // this line is old: the job has gone on to another lease, which is not granted yet
	}
	return f.enter(ctx, lease)
}

// enter opens the tunnel of a new lease and follows the container's output.
func (f *follower) enter(ctx context.Context, lease api.Lease) error {
	s, err := f.market.enter(f.record, lease)
	if err != nil {
		return cli.Hint(err, "do not trust this provider; `rialto stop %s` ends the job", f.record.Job)
	}
	silent := atomic.Bool{}
	s.console.GiveUp = time.Hour // the broker notices sooner
	s.console.Retrying = func(err error) {
		s.mayHaveLost()
		if s.heard.Load() && !silent.Swap(true) {
			f.view.say("provider %s does not answer: %v; the broker ends or moves the job if it stays away, trying again until then",
				tenant.HostName(lease.Host, lease.Provider), err)
		}
	}
	if s.unlocked, err = s.unlock(ctx, f.market.home, f.record, f.noKey); err == nil {
		err = s.publish(ctx, f.flags.publish, f.view.say)
	}
	if err != nil {
		s.close()
		return err
	}
	if f.session = s; f.flags.detach {
		return nil
	}
	if spec, known := signed(f.record.Envelope); known {
		if line := besideLine(lease.Tariff, spec.Disk(), spec.PaidTraffic()); line != "" {
			f.view.talk("%s", line)
		}
	}
	s.follow(ctx, func(stream byte, p []byte) error {
		f.firstOutput.CompareAndSwap(0, int64(time.Since(f.begin)))
		silent.Store(false)
		f.view.output()
		w := f.stdout
		if stream == console.Stderr {
			w = f.stderr
		}
		_, err := w.Write(p)
		return err
	})
	return nil
}

// noKey takes note of a host that did not take the keys. The job's end says the rest.
func (f *follower) noKey(err error) {
	f.refused = err
	f.view.say("%v", err)
}

// progress shows how far the host is with the image.
func (f *follower) progress(ctx context.Context) {
	if f.session == nil || !f.view.moving() {
		return
	}
	if lease, err := f.market.Lease(ctx, f.id()); err == nil {
		f.view.fetched(lease.Fetched)
	}
}

// drain waits for output that the host still holds after the job's end.
func (f *follower) drain(ctx context.Context) {
	if f.session == nil || f.session.exited || f.ready == 0 {
		return
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	start, patience := time.Now(), drainLostPatience
	if f.events[len(f.events)-1].State == broker.JobDone.String() {
		patience = drainPatience
	}
	for {
		select {
		case <-f.session.ended():
			return
		case <-ctx.Done():
			return
		case <-tick.C:
			last := time.Unix(0, f.session.lastByte.Load())
			if last.Before(start) {
				last = start
			}
			if time.Since(last) > patience {
				f.view.say("provider %s does not answer: the end of the output may be missing; `rialto logs %s` asks again",
					tenant.HostName(f.session.lease.Host, f.session.lease.Provider), f.record.Job)
				return
			}
		}
	}
}

// cancel ends the job because ctx has ended, and says so.
func (f *follower) cancel(ctx, live context.Context) error {
	again, stop := signal.NotifyContext(live, os.Interrupt, syscall.SIGTERM)
	defer stop()
	limited, done := context.WithTimeout(again, cancelPatience)
	defer done()
	f.view.close()
	if job, err := f.market.Job(limited, f.id()); err == nil && job.Ended == nil && job.ReservedUntil != nil && time.Now().Before(*job.ReservedUntil) {
		f.view.say("left; job %s runs on: it is reserved until %s, and ending it would save nothing. `rialto logs -f` follows it, `rialto stop %s` ends it",
			f.record.Job, moment(*job.ReservedUntil, time.Now()), f.record.Job)
		return &cli.ExitError{Code: interruptCode(ctx)}
	}
	f.view.say("cancelling job %s; Ctrl-C again leaves at once", f.record.Job)
	_, err := retry(limited, func() (api.Job, error) { return f.market.Cancel(limited, f.id()) })
	if err != nil && !errors.Is(err, broker.ErrJobTerminal) {
		return f.left(again, err)
	}
	for e := range f.stream(limited) {
		if e.err != nil {
			return f.left(again, e.err)
		}
		if _, err := f.note(e.Event); err != nil {
			return err
		}
	}
	f.drain(limited)
	if limited.Err() != nil {
		return f.left(again, limited.Err())
	}
	f.view.say("job %s %s", f.record.Job, f.events[len(f.events)-1].State)
	if err := f.conclude(live); err != nil {
		if _, ok := errors.AsType[*cli.ExitError](err); !ok && !errors.Is(err, errNotDone) {
			return err
		}
	}
	return &cli.ExitError{Code: interruptCode(ctx)}
}

// left says where a job stands whose end was not waited for.
func (f *follower) left(again context.Context, err error) error {
	if again.Err() != nil {
		f.view.say("left while job %s is being cancelled; `rialto stop %s` makes sure", f.record.Job, f.record.Job)
	} else {
		f.view.say("job %s may still run: %v; `rialto stop %s` ends it", f.record.Job, err, f.record.Job)
	}
	return &cli.ExitError{Code: 128 + int(syscall.SIGINT)}
}

func interruptCode(ctx context.Context) int {
	if i, ok := errors.AsType[*cli.InterruptError](context.Cause(ctx)); ok {
		return 128 + int(i.Signal)
	}
	return 128 + int(syscall.SIGINT)
}

// retry repeats a call that failed because the broker was away.
func retry[T any](ctx context.Context, call func() (T, error)) (T, error) {
	since := time.Now()
	for attempt := 0; ; attempt++ {
		v, err := call()
		if err == nil || !transient(err) || time.Since(since) > settlePatience || !backoff(ctx, attempt) {
			return v, err
		}
	}
}
