package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"rialto/broker"
	"rialto/broker/api"
	"rialto/broker/wire"
	"rialto/cmd/internal/cli"
	"rialto/pricing"
	"rialto/tunnel"
)

// runFlags are the flags of `rialto run` beside those of a request.
type runFlags struct {
	*request
	publish []forward
	detach  bool
	wait    bool
	quiet   bool
	key     string
	on      string // job in what is left of whose reservation it runs; empty: none
	given   func(flag string) bool
	accepts string // id of the firm quote to accept; empty: none
	out     *cli.Printer
}

func (a *app) runCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "run [flags] IMAGE [-- CMD…] | run --quote ID",
		Short: "Run a container on a GPU of the market",
		Long: "Run a container on the cheapest offer that matches, stream its output, and print how it started and\n" +
			"what it cost. Its exit code becomes the command's; 125 is an error of Rialto's own. The image is a\n" +
			"registry's, or local/NAME, which `rialto image add` brought here.\n\n" +
			"Ctrl-C cancels the job. Nothing is paid for a container that never became ready.\n" +
			"A host may charge for disk (--disk) and for what goes through the job's tunnel (--traffic) beside its GPUs; rialto offers\n" +
			"shows the prices, and --max-price is with both. Images and weights cost nothing.\n" +
			"With --reserve you commit to a term, from when the container is ready, and hosts that have a lower price for so\n" +
			"long (`rialto offers` shows it) take that for the whole job. The term is kept aside in advance. If you stop the job or\n" +
			"its container exits before it is over, the rest is paid all the same, as a line of the bill of its own; nothing of it\n" +
			"when the host fails, drains or vanishes. So Ctrl-C leaves a reserved job running, and the GPUs of one that has ended\n" +
			"stay kept for you until its term is over: --on JOB runs the next in them, and they cost nothing more. Hosts without such a price take\n" +
			"the job on demand, with no commitment, if that costs less; --where 'reserved_price!=null' wants the others.\n" +
			"Keys of private images and weights go from this machine to the leased host, through the job's tunnel; with\n" +
			"--detach the command stays until that host has them.\n" +
			"With --bid, a container that is displaced finds the seconds that it has left and the time of its end in the file\n" +
			"/run/rialto/preempt, and gets SIGTERM at once; with -e RIALTO_PREEMPT=file it looks for the file, and SIGTERM comes\n" +
			"ten seconds before the end.\n" +
			"With --nodes, all hosts start or none does, and nothing is paid for waiting. Each line of output begins with the\n" +
			"rank of its node, which the container finds in RIALTO_NODE_RANK. A node that fails ends the others. There is no\n" +
			"network between the containers yet.\n" +
			"With --json, the summary goes to stderr as one JSON object; stdout stays the container's.",
		Example: "  rialto run --gpu any python:3.13 -- python3 -c 'print(6*7)'\n" +
			"  rialto run --gpu 'RTX 4090:2' --max-price 0.50/h --for 30m ghcr.io/me/train:1\n" +
			"  rialto run -p 8080:80 --weights llama:/models ghcr.io/me/serve:1\n" +
			"  rialto run local/mine\n" +
			"  rialto run -d --reserve 7d --gpu 'RTX 4090' ghcr.io/me/work:1 \n  rialto run --on j-4k2qxy ghcr.io/me/work:2\n" +
			"  rialto run --nodes 2 --gpu 'RTX 4090' ghcr.io/me/sweep:1\n" +
			"  rialto run -d --gpu-memory 24GiB ghcr.io/me/batch:1 -- ./batch --all",
	}
	r := &runFlags{request: newRequest(c), given: c.Flags().Changed}
	f := c.Flags()
	f.StringVar(&r.on, "on", "", "run in what is left of the reservation of this job, which has ended; its GPUs cost nothing more until its term is over")
	f.VarP(&list[forward]{to: &r.publish, parse: parseForward, kind: "LOCAL:REMOTE"}, "publish", "p", "lead a local port to one in the container (may be repeated)")
	f.BoolVarP(&r.detach, "detach", "d", false, "print the job's id and leave; follow later with rialto logs -f")
	f.BoolVar(&r.wait, "wait", false, "wait for a matching offer if there is none now")
	f.Var(&value[time.Time]{to: &r.until, parse: func(s string) (time.Time, error) { return parseUntil(s, time.Now()) }, kind: "time"}, "until", "wait until then for an offer at --max-price or less, such as Friday, 48h or 2026-12-24T18:00; see rialto order")
	f.IntVar(&r.nodes, "nodes", 0, "run on so many hosts at once, or on none; each has the GPUs of --gpu, and --max-cost is for all")
	f.BoolVar(&r.sameRegion, "same-region", false, "with --nodes: all hosts are in one country")
	f.StringVar(&r.key, "idempotency-key", "", "name the submission: the same key never starts a second job, but continues with the first")
	f.BoolVarP(&r.quiet, "quiet", "q", false, "print nothing but the container's output and errors")
	f.StringVar(&r.accepts, "quote", "", "accept this firm quote of `rialto quote --firm`, instead of IMAGE and CMD")
	r.out = a.jsonFlag(c)
	c.Args = func(c *cobra.Command, args []string) error {
		if r.accepts != "" {
			return quoteFlag(c, args)
		}
		return imageAndCommand(c, args)
	}
	c.RunE = func(c *cobra.Command, args []string) error { return a.run(c.Context(), r, args) }
	a.completeRequest(c)
	return c
}

// imageAndCommand wants one image and everything else behind "--".
func imageAndCommand(c *cobra.Command, args []string) error {
	before := len(args)
	if dash := c.ArgsLenAtDash(); dash >= 0 {
		before = dash
	}
	if before > 1 && before == len(args) {
		err := fmt.Errorf("`%s` takes one image; %q is not expected", c.CommandPath(), args[1])
		return cli.Hint(err, "put the command behind --: %s %s -- %s", c.CommandPath(), args[0], strings.Join(args[1:], " "))
	}
	return cli.Args(1, 1)(c, args[:before])
}

func (a *app) run(ctx context.Context, f *runFlags, args []string) error {
	if f.detach && len(f.publish) > 0 {
		return cli.Hint(errors.New("--publish needs the command to stay, --detach makes it leave"), "use `rialto forward JOB %s` later", f.publish[0].arg())
	}
	if err := f.check(); err != nil {
		return err
	}
	if f.nodes > 0 && len(f.publish) > 0 {
		return cli.Hint(errors.New("--publish leads to one container, --nodes starts several"), "use `rialto forward --node K JOB %s` later", f.publish[0].arg())
	}
	m, err := a.connect()
	if err != nil {
		return err
	}
	if !m.known {
		return cli.Hint(fmt.Errorf("no account for the broker at %s on this machine", m.url), welcome)
	}
	if f.on != "" {
		if err := f.useRest(ctx, m, time.Now()); err != nil {
			return err
		}
	}
	follower := newFollower(a, m, f)
	defer follower.view.close()
	var r record
	if f.accepts != "" {
		r, err = follower.accept(ctx, f.accepts)
	} else {
		r, err = a.prepare(ctx, m, f, args)
	}
	if err != nil {
		return err
	}
	spec, _, err := wire.OpenJobSpec(r.Envelope)
	if err != nil {
		return fmt.Errorf("submission %s: %w", r.IdempotencyKey, err)
	}
	follower.root = spec.Root
	if f.accepts == "" {
		follower.took("resolve", follower.begin, vouchedNote(&spec))
	}
	job := api.Job{ID: r.Job}
	if r.Job == "" {
		sent := time.Now()
		if job, err = follower.submit(ctx, r); err != nil {
			return err
		}
		follower.took("match", sent, "")
		r.Job = job.ID
		if err := m.home.saveJob(r); err != nil {
			return cli.Hint(err, "the job runs all the same; `rialto stop %s` ends it", job.ID)
		}
	}
	follower.record = r
	if f.detach {
		if len(spec.PrivateRoots()) > 0 {
			if err := follower.handOverAll(ctx, spec.Nodes); err != nil {
				return err
			}
		}
		follower.view.close()
		return f.out.Print(job, func(w io.Writer) error { _, err := fmt.Fprintln(w, r.Job); return err })
	}
	follower.view.talk("job %s", r.Job)
	return follower.followAll(ctx, spec.Nodes)
}

// prepare returns a submission that is signed and written down. With an idempotency key that was used
// before, that is the earlier one.
func (a *app) prepare(ctx context.Context, m *market, f *runFlags, args []string) (record, error) {
	if f.key == "" {
		f.key = strings.ToLower(rand.Text())
	} else {
		if err := checkIdempotencyKey(f.key); err != nil {
			return record{}, err
		}
		r, ok, err := m.home.submitted(f.key)
		if err != nil || ok {
			return r, err
		}
	}
	auto := f.maxCost == 0
	spec, err := f.specFor(ctx, m, args)
	if err != nil {
		return record{}, err
	}
	key, err := m.home.key()
	if err != nil {
		return record{}, err
	}
	private, err := tunnel.NewPrivateKey()
	if err != nil {
		return record{}, err
	}
	if spec.TunnelKey, err = private.Public(); err != nil {
		return record{}, err
	}
	spec.Customer = broker.PeerID(key.ID())
	envelope, err := wire.SealJobSpec(key, spec)
	if err != nil {
		return record{}, err
	}
	r := record{Broker: m.url, IdempotencyKey: f.key, Image: spec.Image, Envelope: envelope, TunnelKey: private.Base64(), Created: spec.Created, AutoBudget: auto}
	return r, m.home.savePending(r)
}

// specFor asks registry and market at once for what the spec must say.
func (f *runFlags) specFor(ctx context.Context, m *market, args []string) (broker.JobSpec, error) {
	known, err := m.home.weights()
	if err != nil {
		return broker.JobSpec{}, err
	}
	mounts, err := f.mounts(known)
	if err != nil {
		return broker.JobSpec{}, err
	}
	if !f.until.IsZero() {
		f.wait = true
		if f.limit() == 0 {
			return broker.JobSpec{}, cli.Hint(errors.New("--until needs --max-price or --bid, because it takes offers that are not known yet"), "such as --max-price 0.50/h")
		}
	}
	if f.wait && f.maxCost == 0 {
		if f.limit() == 0 {
			return broker.JobSpec{}, errors.New("--wait needs --max-price, --bid or --max-cost, because it takes offers that are not known yet")
		}
		if f.maxCost, err = f.dearest(ctx, m.Client); err != nil {
			return broker.JobSpec{}, err
		}
	}
	var image imageRef
	var info api.MarketInfo
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) { image, err = m.findVouched(ctx, args[0]); return err })
	g.Go(func() (err error) { info, err = m.Market(ctx); return explain(err) })
	g.Go(func() error {
		if err := f.resolve(ctx, m.Client); err != nil || f.wait {
			return explain(err)
		}
		if f.nodes > 0 && f.maxCost == 0 {
			var err error
			f.maxCost, err = f.dearestOf(ctx, m.Client, f.query("", mounts))
			return err
		}
		quote, err := f.quote(ctx, m.Client, f.query("", mounts))
		if f.maxCost == 0 {
			f.maxCost = pricing.Money(quote.HoldNanoUSD)
		}
		return err
	})
	if err := g.Wait(); err != nil {
		return broker.JobSpec{}, err
	}
	spec := f.spec(args[0], image, mounts, args[1:])
	spec.Broker = broker.PeerID(info.Broker)
	_, err = m.home.keysFor(&spec) // better now than when a host waits for them
	return spec, err
}

// dearest is what the job costs at the highest price that it takes. Disk and traffic are in a limit on the price, and come
// on top of a bid: as they are on the dearest host of now.
func (r *request) dearest(ctx context.Context, market *api.Client) (pricing.Money, error) {
	all, err := r.limit().MulInt(int64(r.gpu.Count))
	if err != nil {
		return 0, err
	}
	charge := broker.Charge{GPUs: all}
	if r.bid == 0 {
		return r.costAt(charge)
	}
	live, err := market.Offers(ctx, api.Query{})
	if err != nil {
		return 0, explain(err)
	}
	for _, o := range slices.Concat(live.Offers, live.Busy) {
		c, err := r.chargeOf(o)
		if err != nil {
			return 0, err
		}
		charge.Disk, charge.Traffic = max(charge.Disk, c.Disk), max(charge.Traffic, c.Traffic)
	}
	return r.costAt(charge)
}

// limit is the highest price of one GPU that the request takes; zero: any.
func (r *request) limit() pricing.Rate { return cmp.Or(r.bid, r.maxRate) }

// costAt is what the job, with all its nodes, costs at most where each host asks so much.
func (r *request) costAt(c broker.Charge) (pricing.Money, error) {
	cost, err := c.Cost(r.duration)
	if err != nil {
		return 0, err
	}
	return cost.MulInt(int64(max(1, r.nodes))) // rounded for each: their parts are enough
}

// submitPatience is how long an unanswered submission is sent again.
const submitPatience = 60 * time.Second

// submit sends a submission until the broker answers. It does not stop in the middle of an attempt, so
// that a job is not left behind unnoticed.
func (f *follower) submit(ctx context.Context, r record) (api.Job, error) {
	unanswered := time.Now()
	for attempt := 0; ; attempt++ {
		job, err := f.market.Submit(context.WithoutCancel(ctx), r.Envelope, r.IdempotencyKey)
		if err == nil {
			return job, nil
		}
		if !transient(err) {
			return api.Job{}, explain(errors.Join(err, f.market.home.dropPending(r.IdempotencyKey)))
		}
		if attempt == 0 {
			f.view.say("%v; sending the same again for %s", brief(err), cli.FormatDuration(submitPatience))
		}
		if time.Since(unanswered) > submitPatience || !backoff(ctx, attempt) {
			return api.Job{}, cli.Hint(err, "whether the job was accepted is not known: the same command with --idempotency-key %s finds out and never starts a second one", r.IdempotencyKey)
		}
	}
}
