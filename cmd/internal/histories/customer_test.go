//go:build linux

package histories

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"rialto/broker"
	"rialto/broker/api"
	"rialto/broker/wire"
	"rialto/p2p/identity"
	"rialto/pricing"
	"rialto/tunnel"
)

const (
	digest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	// unsureTries is how often a customer asks again after an unknown outcome, with the same key or ref.
	unsureTries = 8
	maxDeposits = 64
)

// customer is an account and what its owner does with it, several things at once.
type customer struct {
	w      *world
	id     broker.AccountID
	key    identity.Key
	client *api.Client

	mu       sync.Mutex
	random   *rand.Rand
	wants    []*want
	byText   map[string]place // of the spec's command
	deposits int              // begun
	paid     []int            // refs of those that were made
	final    map[string]api.Job
	account  api.Account
}

// want is two specs under two keys, of which the first of each is meant.
type want struct {
	name string
	spec [specs][]byte

	mu  sync.Mutex
	ids [specs]broker.JobID // that were seen
}

// place is a spec of a want.
type place struct {
	*want
	spec int
}

func newCustomer(ctx context.Context, w *world) (*customer, error) {
	key, err := identity.Generate()
	if err != nil {
		return nil, err
	}
	c := &customer{w: w, key: key, random: w.rand(), byText: map[string]place{}, final: map[string]api.Job{}}
	var opened api.OpenedAccount
	// A broker that dies while it opens an account may leave one that nobody has the token of.
	if err := w.insist(ctx, func(ctx context.Context) (err error) {
		opened, err = w.admin.OpenAccount(ctx, "customer", new(pricing.Money))
		return err
	}); err != nil {
		return nil, err
	}
	c.id = broker.AccountID(opened.Account.ID)
	if c.client, err = api.NewClient(brokerURL, opened.Token, newLine(w.broker, w.rand(), 0.03)); err != nil {
		return nil, err
	}
	return c, w.insist(ctx, func(ctx context.Context) error {
		_, err := c.client.BindKey(ctx, broker.PeerID(key.ID()))
		return err
	})
}

func (c *customer) intn(n int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.random.IntN(n)
}

// work does one thing after the other until ctx ends.
func (c *customer) work(ctx context.Context) {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-pause.C:
		case <-ctx.Done():
			return
		}
		if c.intn(10) > 0 { // or ask whoever is there, or not
			if _, err := c.w.broker.await(ctx); err != nil {
				return
			}
		}
		c.act(ctx)
		pause.Reset(time.Duration(c.intn(20)) * time.Millisecond)
	}
}

func (c *customer) act(ctx context.Context) {
	switch n := c.intn(100); {
	case n < 12:
		c.demand(ctx)
	case n < 45:
		if p := c.someJob(); p != nil {
			c.read(ctx, *p)
		}
	case n < 55:
		if p := c.someJob(); p != nil {
			c.cancel(ctx, *p)
		}
	case n < 65:
		c.list(ctx)
	case n < 90:
		c.look(ctx)
	case n < 93:
		c.newDeposit(ctx)
	default:
		c.oldDeposit(ctx)
	}
}

// demand submits a new want until it is answered, and makes mistakes on the way.
func (c *customer) demand(ctx context.Context) {
	t := c.newWant()
	if t == nil {
		return
	}
	var others sync.WaitGroup
	defer others.Wait()
	switch c.intn(6) {
	case 0: // the same at once
		others.Go(func() { c.submit(ctx, t, 0, 0) })
	case 1: // the same spec under another key
		others.Go(func() { c.submit(ctx, t, 1, 0) })
	case 2: // another spec under the same key
		others.Go(func() { c.submit(ctx, t, 0, 1) })
	}
	c.submit(ctx, t, 0, 0)
	switch c.intn(6) {
	case 0, 1: // again, after the answer
		c.submit(ctx, t, 0, 0)
	case 2:
		c.submit(ctx, t, 1, 0)
	case 3:
		c.submit(ctx, t, 0, 1)
	}
}

func (c *customer) newWant() *want {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := &want{name: fmt.Sprintf("%s/%d", c.id[len(c.id)-4:], len(c.wants))}
	for i := range w.spec {
		text := fmt.Sprintf("%s/%d", w.name, i)
		envelope, err := wire.SealJobSpec(c.key, broker.JobSpec{
			Image: "registry/app:1", Digest: digest, Command: []string{text}, GPU: broker.GPURequest{Model: "any", Count: 1},
			MaxRate: pricing.Rate(pricing.USD), MaxCost: pricing.USD / 50, MaxDuration: time.Hour, TunnelKey: tunnel.Key{1},
			Customer: broker.PeerID(c.key.ID()), Broker: broker.PeerID(c.w.id), Created: time.Now().Round(0).UTC(), Nonce: text,
			DiskMiB: []uint64{0, 16, 1000, 9999}[c.random.IntN(4)], Traffic: []int64{0, 1, 1e8, 3e9}[c.random.IntN(4)],
		})
		if err != nil {
			c.w.problem("bad spec", "%v", err)
			return nil
		}
		w.spec[i] = envelope
		c.byText[text] = place{w, i}
	}
	c.wants = append(c.wants, w)
	return w
}

// submit asks until the outcome is known, or patience ends.
func (c *customer) submit(ctx context.Context, t *want, key, spec int) {
	for range unsureTries {
		in := jobInput{want: t.name, call: submit, key: key, spec: spec}
		j, out := c.job(ctx, in, func(ctx context.Context) (api.Job, error) {
			return c.client.Submit(ctx, t.spec[spec], fmt.Sprintf("%s key %d", t.name, key))
		})
		switch out {
		case answered:
			c.w.promised(broker.JobID(j.ID), "an answer")
			if c.saw(t, spec, j.ID) && c.intn(3) == 0 {
				c.w.followers.Go(func() { c.follow(c.w.ctx, broker.JobID(j.ID)) }) // ends with its job, or with the world
			}
			return
		case unknown, refused: // ask again: a refusal is for the moment
			if _, err := c.w.broker.await(ctx); err != nil {
				return
			}
		case reused, conflict, ended, missing:
			return
		}
	}
}

// saw notes the id of a job and reports whether it was new.
func (c *customer) saw(t *want, spec int, id string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	isNew := t.ids[spec] == ""
	t.ids[spec] = broker.JobID(id)
	return isNew
}

// someJob returns one whose id was seen, most often a young one.
func (c *customer) someJob() *place {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := len(c.wants)
	if n == 0 {
		return nil
	}
	back := n
	if c.random.IntN(4) > 0 {
		back = min(n, 5)
	}
	p := &place{want: c.wants[n-1-c.random.IntN(back)]}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ids[1] != "" && (p.ids[0] == "" || c.random.IntN(4) == 0) {
		p.spec = 1
	}
	if p.ids[p.spec] == "" {
		return nil
	}
	return p
}

func (p place) id() broker.JobID {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ids[p.spec]
}

func (c *customer) read(ctx context.Context, p place) {
	in := jobInput{want: p.name, call: read, spec: p.spec}
	c.job(ctx, in, func(ctx context.Context) (api.Job, error) { return c.client.Job(ctx, p.id()) })
}

func (c *customer) cancel(ctx context.Context, p place) {
	in := jobInput{want: p.name, call: cancel, spec: p.spec}
	c.job(ctx, in, func(ctx context.Context) (api.Job, error) { return c.client.Cancel(ctx, p.id()) })
}

// job makes a call about a job and records it.
func (c *customer) job(ctx context.Context, in jobInput, ask func(context.Context) (api.Job, error)) (api.Job, outcome) {
	begun := c.w.clock()
	ctx, stop := context.WithTimeout(ctx, patience)
	defer stop()
	j, err := ask(ctx)
	out := jobOutput{outcome: c.w.outcome(err)}
	if out.outcome == answered {
		out.jobs[in.spec] = sightOf(j)
	}
	c.w.record(&c.w.jobs, begun, in, out, out.outcome == unknown)
	if in.call != read && out.outcome == answered {
		in.call = read
		c.w.record(&c.w.jobs, begun, in, out, false)
	}
	return j, out.outcome
}

func sightOf(j api.Job) sight {
	s := sight{id: j.ID, state: j.State, cost: j.CostNanoUSD, exit: -1}
	if j.ExitCode != nil {
		s.exit = *j.ExitCode
	}
	return s
}

// list reads all jobs of the account: a call about each want.
func (c *customer) list(ctx context.Context) []api.Job {
	begun := c.w.clock()
	ctx, stop := context.WithTimeout(ctx, patience)
	defer stop()
	jobs, err := c.client.Jobs(ctx)
	if c.w.outcome(err) != answered {
		return nil
	}
	c.mu.Lock()
	wants := slices.Clone(c.wants)
	c.mu.Unlock()
	seen := map[string]*jobOutput{}
	for _, t := range wants {
		seen[t.name] = &jobOutput{outcome: answered}
	}
	for _, j := range jobs {
		c.mu.Lock()
		p, ok := c.byText[strings.Join(j.Command, " ")]
		c.mu.Unlock()
		if !ok || seen[p.name] == nil {
			c.w.problem("a job that nobody asked for", "%+v", j)
			continue
		}
		out := seen[p.name]
		out.twice = out.twice || out.jobs[p.spec].id != ""
		out.jobs[p.spec] = sightOf(j)
		c.saw(p.want, p.spec, j.ID)
	}
	for _, t := range wants {
		c.w.record(&c.w.jobs, begun, jobInput{want: t.name, call: list}, *seen[t.name], false)
	}
	return jobs
}

// follow reads a job's events to their end, across brokers, and then once more: a history is never rewritten.
func (c *customer) follow(ctx context.Context, id broker.JobID) {
	var events []api.Event
	read := func(after uint64, each func(api.Event)) bool {
		for ctx.Err() == nil {
			var err error
			for e, failed := range c.client.Events(ctx, id, after) {
				if err = failed; err == nil {
					after = e.Seq
					each(e)
				}
			}
			switch {
			case err == nil:
				return true
			case c.w.outcome(err) != unknown:
				c.w.problem("events", "of job %s after %d: %v", id, after, err)
				return false
			}
			if _, err := c.w.broker.await(ctx); err != nil {
				return false
			}
		}
		return false
	}
	if !read(0, func(e api.Event) { events = append(events, e) }) {
		return
	}
	n := 0
	read(0, func(e api.Event) {
		if n >= len(events) || !e.Time.Equal(events[n].Time) || e.Text != events[n].Text || e.State != events[n].State {
			c.w.problem("history rewritten", "job %s: event %+v, before %+v", id, e, events)
		}
		n++
	})
	if n < len(events) && ctx.Err() == nil {
		c.w.problem("history rewritten", "job %s: %d events, before %d", id, n, len(events))
	}
	c.w.count(func(r *result) { r.Followed++ })
}
