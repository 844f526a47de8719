package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"rialto/broker"
	"rialto/broker/api"
	"rialto/cmd/internal/cli"
	"rialto/pricing"
)

// prefixed writes whole lines with the rank of a node before each. Nodes that share a mutex do not mix their lines.
type prefixed struct {
	mu   *sync.Mutex
	to   io.Writer
	rank int
	rest []byte // of a line that has not ended
}

// longestLine is how much of a line is kept back until it ends.
const longestLine = 64 << 10

// Write implements [io.Writer].
func (w *prefixed) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rest = append(w.rest, p...)
	for {
		i := bytes.IndexByte(w.rest, '\n')
		if i < 0 && len(w.rest) < longestLine {
			return len(p), nil
		}
		if i < 0 {
			i = len(w.rest) - 1
		}
		if err := w.line(w.rest[:i+1]); err != nil {
			return 0, err
		}
		w.rest = w.rest[i+1:]
	}
}

func (w *prefixed) line(text []byte) error {
	_, err := fmt.Fprintf(w.to, "[%d] %s\n", w.rank, bytes.TrimSuffix(text, []byte("\n")))
	return err
}

// flush writes a last line that has no end.
func (w *prefixed) flush() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.rest) > 0 {
		_ = w.line(w.rest) // there is nobody left to tell
		w.rest = nil
	}
}

// nodes returns the app as it is for each node of a gang: it writes the node's rank before each line. Flush writes what is
// left of them.
func (a *app) nodes(n int) (all []*app, flush func()) {
	var mu sync.Mutex
	var writers []*prefixed
	for rank := range n {
		own := *a
		out, errs := &prefixed{mu: &mu, to: a.stdout, rank: rank}, &prefixed{mu: &mu, to: a.stderr, rank: rank}
		own.stdout, own.stderr = out, errs
		all, writers = append(all, &own), append(writers, out, errs)
	}
	return all, func() {
		for _, w := range writers {
			w.flush()
		}
	}
}

// gangSummary is what `rialto run --json` says at the end of a job of several hosts.
type gangSummary struct {
	Job         string    `json:"job"`
	CostNanoUSD int64     `json:"cost_nanousd"` // of all nodes
	Nodes       []summary `json:"nodes"`        // by rank
}

// together stays with all nodes of a gang at once, and returns the end of the one that ended them all.
func (f *follower) together(n int, stay func(*follower) error) error {
	f.view.close()
	apps, flush := f.nodes(n)
	total := gangSummary{Job: f.record.Job, Nodes: make([]summary, n)}
	ends := make([]error, n)
	var g errgroup.Group
	for rank, own := range apps {
		node := newFollower(own, f.market, f.flags)
		node.begin, node.steps, node.root, node.record = f.begin, slices.Clone(f.steps), f.root, f.record
		node.record.Job = string(broker.MemberID(f.id(), rank))
		node.collect = &total.Nodes[rank]
		g.Go(func() error {
			defer node.view.close()
			ends[rank] = stay(node)
			return nil
		})
	}
	_ = g.Wait() // what the nodes return is in ends
	flush()
	for _, s := range total.Nodes {
		if s.Bill != nil {
			total.CostNanoUSD += s.Bill.CostNanoUSD
		}
	}
	f.total(total)
	for _, err := range ends { // the others were ended because of it
		if _, ok := errors.AsType[*cli.ExitError](err); ok {
			return err
		}
	}
	return cmp.Or(ends...)
}

// followAll is follow for a job of so many hosts; zero is one.
func (f *follower) followAll(ctx context.Context, nodes int) error {
	if nodes == 0 {
		return f.follow(ctx)
	}
	return f.together(nodes, func(n *follower) error { return n.follow(ctx) })
}

// handOverAll is handOver for a job of so many hosts; zero is one.
func (f *follower) handOverAll(ctx context.Context, nodes int) error {
	if nodes == 0 {
		return f.handOver(ctx)
	}
	return f.together(nodes, func(n *follower) error { return n.handOver(ctx) })
}

func (f *follower) total(s gangSummary) {
	switch {
	case f.flags.detach:
	case f.flags.out.JSON:
		if b, err := json.Marshal(s); err == nil {
			fmt.Fprintf(f.stderr, "%s\n", b)
		}
	case !f.flags.quiet:
		fmt.Fprintf(f.stderr, "%d nodes: %s in all\n", len(s.Nodes), pricing.Money(s.CostNanoUSD))
	}
}

// leader is the first node of a job's gang, or the job itself.
func leader(j api.Job) string { return cmp.Or(j.Gang, j.ID) }

// recordOf is what this machine keeps of a job; all nodes of a gang have one.
func (h home) recordOf(j api.Job) (record, error) {
	r, err := h.record(leader(j))
	r.Job = j.ID
	return r, err
}

// nodeFlag adds --node; -1 means that it was not given.
func nodeFlag(c *cobra.Command, what string) *int {
	node := c.Flags().Int("node", -1, what)
	if err := c.RegisterFlagCompletionFunc("node", cobra.NoFileCompletions); err != nil {
		panic(err) // it is declared above
	}
	return node
}

// node finds a node of a job's gang.
func (m *market) node(ctx context.Context, j api.Job, rank int) (api.Job, error) {
	if rank >= max(1, j.Nodes) {
		return api.Job{}, fmt.Errorf("--node %d: job %s has %d, the first is node 0", rank, leader(j), max(1, j.Nodes))
	}
	if rank < 0 || j.Gang == "" || rank == j.Rank {
		return j, nil
	}
	found, err := m.Job(ctx, broker.MemberID(broker.JobID(j.Gang), rank))
	return found, explain(err)
}

// whole returns all nodes of a gang whose first node is named; any other job is alone.
func (m *market) whole(ctx context.Context, j api.Job) ([]api.Job, error) {
	if j.Gang == "" || j.Rank > 0 {
		return []api.Job{j}, nil
	}
	g, err := m.Gang(ctx, broker.JobID(j.ID))
	return g.Nodes, explain(err)
}

// grouped puts the nodes of each gang together, by rank; jobs come newest first.
func grouped(jobs []api.Job) []api.Job {
	place := map[string]int{}
	for i, j := range jobs {
		if _, ok := place[leader(j)]; !ok {
			place[leader(j)] = i
		}
	}
	out := slices.Clone(jobs)
	slices.SortStableFunc(out, func(a, b api.Job) int {
		return cmp.Or(cmp.Compare(place[leader(a)], place[leader(b)]), cmp.Compare(a.Rank, b.Rank))
	})
	return out
}

// dearestOf is what a gang costs at most, if all its nodes cost what the dearest does of the hosts that would take them now
// or, if too few are free, later.
func (r *request) dearestOf(ctx context.Context, market *api.Client, q api.Query) (pricing.Money, error) {
	found, err := market.Offers(ctx, q)
	if err != nil {
		return 0, explain(err)
	}
	for _, among := range [][]api.Offer{found.Offers, slices.Concat(found.Offers, found.Busy)} {
		if hosts := r.apart(among); len(hosts) > 0 {
			return r.dearestHost(hosts)
		}
	}
	err = fmt.Errorf("%d hosts are wanted at once, and there are not so many that match", r.nodes)
	return 0, cli.Hint(err, "`rialto offers` lists what there is; --wait with --max-price waits for them")
}

// apart returns the first offers of as many hosts as are wanted, in each region if need be: which region it will be is the
// market's choice, and the money is to be enough for any.
func (r *request) apart(offers []api.Offer) []api.Offer {
	return slices.Concat(broker.Apart(offers, r.nodes, r.sameRegion, func(o api.Offer) (broker.PeerID, string) { return broker.PeerID(o.Provider), o.Region })...)
}

// dearestHost is what the job costs if all its nodes cost what the dearest of some hosts asks.
func (r *request) dearestHost(hosts []api.Offer) (most pricing.Money, err error) {
	for _, o := range hosts {
		c, err := r.chargeOf(o)
		if err != nil {
			return 0, err
		}
		cost, err := r.costAt(c)
		if err != nil {
			return 0, err
		}
		most = max(most, cost)
	}
	return most, nil
}

// gangBill is what `rialto bill --json` says of a job of several hosts.
type gangBill struct {
	Job         string `json:"job"`
	CostNanoUSD int64  `json:"cost_nanousd"`
	Nodes       []bill `json:"nodes"` // by rank
}

// printBills shows the bills of all nodes, and what they come to.
func (m *market) printBills(ctx context.Context, p *cli.Printer, nodes []api.Job) error {
	total := gangBill{Job: leader(nodes[0])}
	for _, j := range nodes {
		b, err := m.billOf(ctx, j)
		if err != nil {
			return err
		}
		m.nameHosts(ctx, &b.Fetched)
		total.Nodes = append(total.Nodes, b)
		total.CostNanoUSD += b.CostNanoUSD
	}
	return p.Print(total, func(w io.Writer) error {
		for _, b := range total.Nodes {
			if err := writeBill(w, b); err != nil {
				return err
			}
		}
		_, err := fmt.Fprintf(w, "%d nodes: %s in all\n", len(total.Nodes), pricing.Money(total.CostNanoUSD))
		return err
	})
}
