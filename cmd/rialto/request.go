package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"rialto/broker"
	"rialto/broker/api"
	"rialto/cmd/internal/cli"
	"rialto/cmd/internal/tenant"
	"rialto/pricing"
)

// request is what `run` and `quote` ask the market for.
type request struct {
	gpu      broker.GPURequest
	gpuMiB   uint64
	maxRate  pricing.Rate
	bid      pricing.Rate // of an interruptible job; zero: on-demand
	maxCost  pricing.Money
	duration time.Duration
	reserve  time.Duration // term that is committed to; zero: none
	waitRate pricing.Rate
	diskMiB  uint64 // that the job may write; zero: what is usual
	traffic  int64  // bytes each way that are paid for at most; zero: what is usual
	env      []pair
	workdir  string
	cpus     int
	memory   uint64
	region   string
	provider string
	weights  []mount
	where    string        // in the query language
	firm     time.Duration // of a firm quote; zero: none
	until    time.Time     // of a standing order; zero: none

	nodes      int // hosts at once; zero: one
	sameRegion bool

	forFlag *pflag.Flag // nil: the duration was said in another way
}

// defaultDuration ends a forgotten job before it costs much.
const defaultDuration = time.Hour

// newRequest declares the flags of a request.
func newRequest(c *cobra.Command) *request {
	r := &request{gpu: broker.GPURequest{Model: broker.AnyModel}, duration: defaultDuration} // the count: see check
	f := c.Flags()
	f.SortFlags = false
	f.Var(&value[broker.GPURequest]{to: &r.gpu, parse: parseGPU, kind: "MODEL[:N]", text: "any"}, "gpu", "GPU model and count, such as 'RTX 4090:2' or any:2")
	f.Var(&value[uint64]{to: &r.gpuMiB, parse: cli.ParseMiB, kind: "size"}, "gpu-memory", "least memory of each GPU, such as 24GiB")
	f.Var(&value[pricing.Rate]{to: &r.maxRate, parse: pricing.ParseRate, kind: "price"}, "max-price", "highest price of one GPU, such as 0.50/h, with disk and traffic spread over the time of --for")
	f.Var(&value[pricing.Rate]{to: &r.bid, parse: pricing.ParseRate, kind: "price"}, "bid", "run interruptibly for at most this for one GPU, such as 0.20/h: it pays what clears the market, and who bids more may displace it")
	f.Var(&value[pricing.Money]{to: &r.maxCost, parse: pricing.ParseMoney, kind: "dollars"}, "max-cost", "never pay more than this; kept aside while the job runs")
	f.Var(&value[time.Duration]{to: &r.duration, parse: cli.ParseDuration, kind: "duration", text: "1h"}, "for", "end the job after running this long")
	r.forFlag = f.Lookup("for")
	f.Var(&value[time.Duration]{to: &r.reserve, parse: cli.ParseDuration, kind: "duration"}, "reserve", "commit to so long, such as 7d, for the lower price of hosts that have one; see rialto run --help")
	f.Var(&value[pricing.Rate]{to: &r.waitRate, parse: pricing.ParseRate, kind: "price"}, "wait-rate", "what an hour of waiting costs you beside the GPUs, such as 1/h: hosts that are ready sooner may be dearer")
	r.extrasFlags(f)
	f.VarP(&list[pair]{to: &r.env, parse: parseEnv, kind: "KEY=VALUE"}, "env", "e", "set a variable in the container (may be repeated)")
	f.StringVarP(&r.workdir, "workdir", "w", "", "working directory in the container")
	f.IntVar(&r.cpus, "cpus", 0, "CPU cores that the host must grant")
	f.Var(&value[uint64]{to: &r.memory, parse: cli.ParseMiB, kind: "size"}, "memory", "host memory that the host must grant, such as 16GiB")
	f.Var(&value[string]{to: &r.region, parse: parseRegion, kind: "country"}, "region", "country of the host, such as DE, or EU")
	f.StringVar(&r.provider, "provider", "", "only this host, by name or provider id")
	f.Var(&value[string]{to: &r.where, parse: parseQuery, kind: "query"}, "where", "what else the offer must satisfy, such as 'gpu_ram>=24 region!=US'; see rialto offers --fields")
	f.Var(&list[mount]{to: &r.weights, parse: parseMount, kind: "NAME:PATH"}, "weights", "mount weights read-only at a path (may be repeated)")
	return r
}

// check finds what no broker could accept.
func (r *request) check() error {
	switch {
	case r.cpus < 0:
		return fmt.Errorf("--cpus %d: must not be negative", r.cpus)
	case r.workdir != "" && !strings.HasPrefix(r.workdir, "/"):
		return cli.Hint(fmt.Errorf("--workdir %q: must be absolute", r.workdir), "did you mean /%s?", r.workdir)
	case r.maxCost < 0:
		return fmt.Errorf("--max-cost %v: must not be negative", r.maxCost)
	case r.nodes < 0 || r.nodes > broker.MaxNodes:
		return fmt.Errorf("--nodes %d: want 1 to %d", r.nodes, broker.MaxNodes)
	case r.nodes > 1 && r.provider != "":
		return cli.Hint(errors.New("--nodes wants several hosts, --provider names one"), "leave --provider away")
	case r.nodes > 1 && r.reserve > 0:
		return cli.Hint(errors.New("--nodes and --reserve: a job of several hosts cannot be reserved"), "reserve each host by itself")
	case r.reserve > r.duration && r.forFlag != nil && r.forFlag.Changed:
		return cli.Hint(fmt.Errorf("--reserve %s is longer than --for %s", cli.FormatDuration(r.reserve), cli.FormatDuration(r.duration)), "leave --for away, or make it longer")
	case r.bid > 0 && r.maxRate > 0:
		return cli.Hint(errors.New("--bid and --max-price are two limits"), "the bid is the limit of an interruptible job")
	case r.bid > 0 && r.nodes > 1:
		return errors.New("--bid is for one host: one bid would end all nodes")
	case r.nodes < 2 && r.sameRegion:
		return errors.New("--same-region needs --nodes")
	}
	r.duration = max(r.duration, r.reserve)
	if r.nodes == 1 {
		r.nodes = 0 // an ordinary job
	}
	if r.region == broker.EU { // the market signs a query for countries, and a word for one
		r.where, r.region = strings.TrimSpace(r.where+" region="+broker.EU), ""
		f, err := broker.ParseFilter(r.where)
		if err != nil {
			return err
		}
		r.where = f.String()
	}
	if r.gpu.Count > 0 {
		return nil
	}
	where, err := broker.ParseFilter(r.where)
	if err == nil {
		r.gpu.Count, err = where.JobGPUs()
	}
	return err
}

// mounts resolves names of weights to their roots.
func (r *request) mounts(known map[string]weights) ([]broker.WeightsMount, error) {
	var all []broker.WeightsMount
	for _, m := range r.weights {
		w, ok := known[m.name]
		if !ok {
			err := fmt.Errorf("weights %q: not known on this machine", m.name)
			if near, ok := cli.Nearest(m.name, slices.Sorted(maps.Keys(known))); ok {
				return nil, cli.Hint(err, "did you mean %s?", near)
			}
			return nil, cli.Hint(err, "`rialto weights add DIR --name %s` adds them", m.name)
		}
		all = append(all, broker.WeightsMount{Name: m.name, Root: w.Root, Path: m.path, Private: w.Private})
	}
	return all, nil
}

// providerOf finds the provider that a host name or provider id means among live offers, free or busy.
func providerOf(name string, live api.Offers) (string, error) {
	var found, hosts []string
	for _, o := range slices.Concat(live.Offers, live.Busy) {
		if o.Provider == name || strings.EqualFold(o.Host, name) {
			found = append(found, o.Provider)
		}
		hosts = append(hosts, o.Host)
	}
	slices.Sort(found)
	found = slices.Compact(found)
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return "", cli.Hint(fmt.Errorf("provider %q: %d hosts have this name", name, len(found)), "use a provider id: %s", strings.Join(found, ", "))
	}
	err := fmt.Errorf("provider %q: no such host is on the market now", name)
	if near, ok := cli.Nearest(name, hosts); ok {
		return "", cli.Hint(err, "did you mean %s?", near)
	}
	return "", cli.Hint(err, "`rialto offers` lists the hosts")
}

// busy explains why a host that a request names cannot take it now, if the reason is that it is busy.
func (r *request) busy(live api.Offers) error {
	if r.provider == "" {
		return nil
	}
	ofThis := func(o api.Offer) bool { return o.Provider == r.provider }
	i := slices.IndexFunc(live.Busy, ofThis)
	if i < 0 || slices.ContainsFunc(live.Offers, ofThis) {
		return nil
	}
	o := live.Busy[i]
	return cli.Hint(fmt.Errorf("provider %s is there but busy: %d of its %d × %s free now", tenant.HostName(o.Host, o.Provider), o.Free, o.GPUs, cli.Clean(o.Model)),
		"--wait queues for it; it asks %s for each GPU", hourly(o))
}

// modelOf finds the canonical name of a GPU model, among those that are known or offered.
func modelOf(model string, offers []api.Offer) (string, error) {
	var offered []string
	for _, o := range offers {
		offered = append(offered, o.Model)
	}
	canonical, err := broker.ParseModel(model, offered...)
	if field, ok := errors.AsType[*broker.FieldError](err); ok {
		return "", cli.Hint(fmt.Errorf("--gpu: GPU model %q is not known", model), "did you mean '%s'? `rialto offers` lists what there is", field.Nearest)
	}
	return canonical, err
}

// resolve replaces names in the request by what they mean in the market now.
func (r *request) resolve(ctx context.Context, market *api.Client) error {
	if r.provider == "" && r.gpu.Model == broker.AnyModel {
		return nil
	}
	live, err := market.Offers(ctx, api.Query{})
	if err != nil {
		return err
	}
	if r.provider != "" {
		if r.provider, err = providerOf(r.provider, live); err != nil {
			return err
		}
	}
	if r.gpu.Model != broker.AnyModel {
		r.gpu.Model, err = modelOf(r.gpu.Model, slices.Concat(live.Offers, live.Busy))
	}
	return err
}

// query is the part of a request that offers are matched by.
func (r *request) query(digest string, mounts []broker.WeightsMount) api.Query {
	q := api.Query{
		Model: r.gpu.Model, Count: r.gpu.Count, MinGPUMemoryMiB: r.gpuMiB, MemoryMiB: r.memory, CPUs: r.cpus,
		MaxRateNanoUSDPerHour: int64(r.maxRate), BidNanoUSDPerHour: int64(r.bid), Region: r.region, Provider: r.provider, ImageDigest: digest,
		Q: r.where, RunMS: r.duration.Milliseconds(), WaitRateNanoUSDPerHour: int64(r.waitRate),
		ReserveMS: r.reserve.Milliseconds(), DiskMiB: r.diskMiB, TrafficBytes: r.traffic,
	}
	for _, m := range mounts {
		q.WeightRoots = append(q.WeightRoots, m.Root)
	}
	return q
}

// quote asks what the job would cost now. The error explains why no offer matches.
func (r *request) quote(ctx context.Context, market *api.Client, q api.Query) (api.Quote, error) {
	quote, err := market.Quote(ctx, api.QuoteRequest{Query: q, MaxCostNanoUSD: int64(r.maxCost), DurationMS: r.duration.Milliseconds()})
	if !errors.Is(err, broker.ErrNoOffer) || r.provider == "" {
		return quote, explain(err)
	}
	found, searchErr := market.Offers(ctx, q)
	if searchErr != nil {
		return quote, explain(err)
	}
	return quote, cmp.Or(r.busy(found), explain(err))
}

// spec fills the job that the customer signs.
func (r *request) spec(name string, image imageRef, mounts []broker.WeightsMount, command []string) broker.JobSpec {
	gpu := r.gpu
	gpu.MinMemoryMiB = r.gpuMiB
	return broker.JobSpec{
		Image: name, Digest: image.digest, Root: image.root, Private: image.private, Command: command, Env: environment(r.env), Workdir: r.workdir,
		GPU: gpu, MemoryMiB: r.memory, CPUs: r.cpus,
		MaxRate: r.maxRate, Bid: r.bid, MaxCost: r.maxCost, MaxDuration: r.duration,
		Region: r.region, Provider: broker.PeerID(r.provider), Weights: mounts,
		Where: r.where, Created: time.Now().UTC(), Nonce: rand.Text(), WaitRate: r.waitRate, Firm: r.firm, GoodUntil: r.until.UTC(),
		Nodes: r.nodes, SameRegion: r.sameRegion, Reserve: r.reserve,
		DiskMiB: r.diskMiB, Traffic: r.traffic,
	}
}
