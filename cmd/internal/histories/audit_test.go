//go:build linux

package histories

import (
	"context"
	"encoding/json"
	"os/exec"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"

	"rialto/broker"
	"rialto/broker/api"
	"rialto/pricing"
)

// settle waits until all jobs have ended, and adds up what they cost.
func (w *world) settle(all []*customer) {
	ctx, stop := context.WithTimeout(w.ctx, settling)
	defer stop()
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for _, c := range all {
		c.resolve(ctx)
		for !w.settled(ctx, c) {
			select {
			case <-again.C:
			case <-ctx.Done():
				w.problem("a job never ends", "account %s: %+v\n%s", c.id, c.final, w.broker.said())
				return
			}
		}
		w.count(func(r *result) {
			r.Jobs, r.Deposits = r.Jobs+len(c.final), r.Deposits+len(c.paid)
			for _, j := range c.final {
				r.States[j.State]++
			}
		})
	}
	w.mu.Lock()
	owed := w.owed
	w.owed = map[broker.JobID]string{}
	w.mu.Unlock()
	for _, c := range all {
		for id := range c.final {
			delete(owed, broker.JobID(id))
		}
	}
	if len(owed) > 0 {
		w.problem("a job is lost", "%v", owed)
	}
	w.followers.Wait()
	w.compare(ctx, all)
}

// settled reports whether all jobs of a customer have ended, and keeps how.
func (w *world) settled(ctx context.Context, c *customer) bool {
	jobs := c.list(ctx)
	a, ok := c.look(ctx)
	if !ok {
		return false
	}
	var cost, held int64
	final := map[string]api.Job{}
	open := false
	for _, j := range jobs {
		final[j.ID] = j
		open = open || rank(j.State) < 3
		cost, held = cost+j.CostNanoUSD, held+j.HeldNanoUSD
	}
	c.final, c.account = final, a
	if open {
		return false
	}
	if a.SpentNanoUSD != cost || a.HeldNanoUSD != 0 || held != 0 {
		w.problem("money", "account %s spent %d and holds %d, its jobs cost %d and hold %d", c.id, a.SpentNanoUSD, a.HeldNanoUSD, cost, held)
	}
	return true
}

// compare holds what the broker says of leases against what their providers have.
func (w *world) compare(ctx context.Context, all []*customer) {
	byID := map[string]*agent{}
	for _, a := range w.agents {
		byID[string(a.id())] = a
	}
	type epoch struct {
		uuid string
		n    uint64
	}
	taken := map[epoch]string{}
	for _, c := range all {
		for id, j := range c.final {
			if j.Lease == "" {
				continue
			}
			var l api.Lease
			if err := w.insist(ctx, func(ctx context.Context) (err error) { l, err = c.client.Lease(ctx, broker.JobID(id)); return err }); err != nil {
				w.problem("a lease is lost", "of job %s: %v", id, err)
				continue
			}
			if len(l.GPUs) > 0 {
				w.compareLease(byID[l.Provider], j, l)
				w.compareBill(ctx, c, byID[l.Provider], j)
			}
			for _, g := range l.GPUs {
				if other, ok := taken[epoch{g.UUID, g.Epoch}]; ok {
					w.problem("a GPU in two leases", "%+v: %s and %s", g, other, l.ID)
				}
				taken[epoch{g.UUID, g.Epoch}] = l.ID
			}
		}
	}
	for _, a := range w.agents {
		a.forget()
	}
}

func (w *world) compareLease(a *agent, j api.Job, l api.Lease) {
	a.mu.Lock()
	defer a.mu.Unlock()
	work := a.work[broker.LeaseID(l.ID)]
	if work == nil || !slices.EqualFunc(work.gpus, l.GPUs, func(x broker.GPULease, y api.GPULease) bool { return x.UUID == y.UUID && x.Epoch == y.Epoch }) {
		w.problem("a lease that its provider has not", "%+v, it has %+v", l, work)
		return
	}
	last := work.last
	switch {
	case work.done && j.State != "done" && j.State != "cancelled":
		w.problem("a report is lost", "lease %s: its end was acknowledged in time, the job is %+v", l.ID, j)
	case l.UsedMS < work.used.Milliseconds():
		w.problem("a report is lost", "lease %s: used %d ms, the lease was renewed for a report of %v", l.ID, l.UsedMS, work.used)
	case l.IngressBytes < work.traffic.Ingress || l.EgressBytes < work.traffic.Egress:
		w.problem("a report is lost", "lease %s: %d bytes in and %d out, the lease was renewed for a report of %+v", l.ID, l.IngressBytes, l.EgressBytes, work.traffic)
	case j.State == "done" && (broker.Traffic{Ingress: l.IngressBytes, Egress: l.EgressBytes}) != last.Traffic:
		w.problem("traffic", "lease %s: %d bytes in and %d out, reported %+v", l.ID, l.IngressBytes, l.EgressBytes, last.Traffic)
	case l.BilledMS > l.UsedMS:
		w.problem("bill", "lease %s: billed %d ms of %d", l.ID, l.BilledMS, l.UsedMS)
	case l.Ready != nil && l.Ended != nil && l.BilledMS > l.Ended.Sub(*l.Ready).Milliseconds()+1:
		w.problem("bill", "lease %s: billed %d ms between %v and %v", l.ID, l.BilledMS, l.Ready, l.Ended)
	case j.State == "done" && (last.Phase != broker.PhaseExited || *j.ExitCode != last.ExitCode || l.UsedMS != last.Used.Milliseconds()):
		w.problem("exit code", "lease %s: job %+v, used %d ms, reported %+v", l.ID, j, l.UsedMS, last)
	}
	w.count(func(r *result) { r.Leases++ })
}

// forget drops what is over, so that a long run stays small.
func (a *agent) forget() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for id, w := range a.work {
		if w.ended {
			delete(a.work, id)
		}
	}
}

// check looks for an order of all calls that the sequential broker could have given these answers to.
func (w *world) check() {
	w.mu.Lock()
	jobs, money := w.jobs, w.money
	w.jobs, w.money = nil, nil
	w.mu.Unlock()
	begun := time.Now()
	w.checkHistory("jobs", jobModel(), jobs)
	w.checkHistory("money", moneyModel(), money)
	w.count(func(r *result) { r.CheckMS += time.Since(begun).Milliseconds() })
}

func (w *world) checkHistory(what string, m porcupine.Model, history []porcupine.Operation) {
	parts := m.Partition(history)
	w.count(func(r *result) { r.Partitions += len(parts) })
	m.Partition = nil
	for _, part := range parts {
		part = prune(part)
		switch verdict, info := porcupine.CheckOperationsVerbose(m, part, settling); verdict {
		case porcupine.Ok:
		case porcupine.Unknown:
			w.problem("history not decided", "%s: %d calls", what, len(part))
		case porcupine.Illegal:
			longest := 0
			for _, p := range info.PartialLinearizations() {
				for _, l := range p {
					longest = max(longest, len(l))
				}
			}
			w.problem("no order explains the answers", "%s: %d of %d calls fit\n%s", what, longest, len(part), show(part))
		}
	}
}

// finish compares what earlier rounds left, stops the broker and audits its books.
func (w *world) finish() {
	for _, c := range w.past {
		before, account := c.final, c.account
		if !w.settled(w.ctx, c) || len(c.final) != len(before) || c.account != account {
			w.problem("what had ended changed", "account %s: %+v and %d jobs, before %+v and %d", c.id, c.account, len(c.final), account, len(before))
		}
		for id, j := range before {
			if sightOf(j) != sightOf(c.final[id]) {
				w.problem("what had ended changed", "job %+v, before %+v", c.final[id], j)
			}
		}
	}
	w.jobs, w.money = nil, nil
	list, err := w.admin.Accounts(w.ctx)
	if err != nil {
		w.tb.Fatal(err)
	}
	// The server waits five seconds for connections that were dialled and never used.
	for _, c := range w.past {
		c.client.Close()
	}
	w.admin.Close()
	if err := w.broker.stop(); err != nil {
		w.problem("stop", "%v\n%s", err, w.broker.said())
	}
	out, err := exec.CommandContext(w.ctx, w.broker.bin, "audit", "--state", w.broker.dir, "--json").CombinedOutput()
	var books struct {
		World     int64 `json:"world_nanousd"`
		Available int64 `json:"available_nanousd"`
		Held      int64 `json:"held_nanousd"`
		Payable   int64 `json:"payable_nanousd"`
		Fee       int64 `json:"fee_nanousd"`
	}
	if err == nil {
		err = json.Unmarshal(out, &books)
	}
	if err != nil {
		w.problem("audit", "%v: %s", err, out)
		return
	}
	var paid, spent pricing.Money
	for _, c := range w.past {
		for _, ref := range c.paid {
			paid += amount(ref)
		}
		spent += pricing.Money(c.account.SpentNanoUSD)
	}
	var available, payable int64
	for _, a := range list {
		available, payable = available+a.AvailableNanoUSD, payable+a.PayableNanoUSD
	}
	if -books.World != int64(paid) || books.Held != 0 || books.Available != available || books.Payable != payable ||
		books.Payable+books.Fee != int64(spent) || books.Available+books.Payable+books.Fee != int64(paid) {
		w.problem("audit", "%+v; paid in %d, spent %d, accounts have %d and earned %d", books, paid, spent, available, payable)
	}
}
