package markettest_test

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"pgregory.net/rapid"

	"rialto/broker"
	"rialto/pricing"
)

// check compares what is saved with the market and with a naive model.
func (h *history) check(t *rapid.T) {
	for id, want := range h.world.Accounts {
		if got, _ := h.world.Market.Account(id); got != want {
			t.Fatalf("account %s changed without being saved:\n got  %+v\n want %+v", id, got, want)
		}
	}
	for id, want := range h.world.Jobs {
		if got, kept := h.world.Market.Job(id); kept && !reflect.DeepEqual(got, want) {
			t.Fatalf("job %s changed without being saved:\n got  %+v\n want %+v", id, got, want)
		}
		h.checkJob(t, want)
	}
	for id, want := range h.world.Leases {
		if got, kept := h.world.Market.Lease(id); kept && !reflect.DeepEqual(got, want) {
			t.Fatalf("lease %s changed without being saved:\n got  %+v\n want %+v", id, got, want)
		}
		h.checkLease(t, want)
	}
	h.checkMoney(t)
	h.checkGPUs(t)
	h.checkKept(t)
	h.checkQueue(t)
	h.checkSaved(t)
}

// checkSaved restarts the market on the side: what is saved at any step is all that it needs.
func (h *history) checkSaved(t *rapid.T) {
	m, err := h.world.Restored()
	if err == nil {
		err = h.world.Audit(m)
	}
	if err != nil {
		t.Fatalf("a restart now: %v", err)
	}
	for id := range h.world.Jobs {
		got, kept := m.Job(id)
		if want, open := h.world.Market.Job(id); kept != open || !reflect.DeepEqual(got, want) {
			t.Fatalf("job %s after a restart now:\n got  %+v\n want %+v", id, got, want)
		}
	}
	world, fee := m.Books()
	if w, f := h.world.Market.Books(); world != w || fee != f {
		t.Fatalf("after a restart now: world %v, fee %v; want %v, %v", world, fee, w, f)
	}
	for _, a := range h.agents {
		if got, want := m.RecordOf(broker.PeerID(a.host)), h.world.Market.RecordOf(broker.PeerID(a.host)); got.Seen != want.Seen || got.Failures != want.Failures {
			t.Fatalf("record of %s after a restart now: %+v, want %+v", a.host, got, want)
		}
	}
}

// checkLimits wants that no account holds and has spent more after a step than before, if that is above its limits.
func (h *history) checkLimits(before map[broker.AccountID]broker.Account) {
	held := map[broker.JobID]pricing.Money{}
	for id, a := range h.world.Accounts {
		if used := a.Spent + a.Held; a.Limits.Total > 0 && used > a.Limits.Total && used > before[id].Spent+before[id].Held {
			h.Fatalf("account %s: %v spent and held, %v before: %+v", id, used, before[id].Spent+before[id].Held, a.Limits)
		}
	}
	for id, j := range h.world.Jobs {
		held[id] = j.Hold
		h.most[id] = max(h.most[id], j.Hold)
		if most := h.world.Accounts[j.Account].Limits.Job; most > 0 && j.Hold > most && j.Hold > h.held[id] {
			h.Fatalf("job %s: holds %v, and %v before; its account allows %v", id, j.Hold, h.held[id], most)
		}
	}
	h.held = held
}

// checkQueue wants that nobody waits for what is free. An offer may become what somebody asks for because time passes,
// which is seen when the market looks at who waits, some at each tick.
func (h *history) checkQueue(t *rapid.T) {
	if _, ticked := h.past[len(h.past)-1].event.(broker.Ticked); !ticked {
		return
	}
	var waiting []broker.Job
	for _, j := range h.world.Jobs {
		if j.State == broker.JobQueued && j.Member.Gang == "" { // a gang wants several hosts at once
			waiting = append(waiting, j)
		}
	}
	if len(waiting) > 4 {
		return
	}
	for _, j := range waiting {
		s := &j.Spec
		found, err := h.world.Market.Search(broker.Query{
			GPU: s.GPU, Provider: s.Provider, MaxRate: s.MaxRate, Bid: s.Bid, Reserve: s.Reserve, Run: s.MaxDuration, DiskMiB: s.DiskMiB, Traffic: s.Traffic,
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range found.Matches {
			rate, asks, q := m.Offer.RateFor(s.Reserve), m.Offer.Tariff, &j.Quote
			paid := need(s, rate, asks) <= j.Hold // else it may need more money than there is
			quoted := q.Taken.IsZero() || rate <= q.Rate && asks.Disk <= q.Tariff.Disk && asks.Ingress <= q.Tariff.Ingress && asks.Egress <= q.Tariff.Egress
			least := time.Second
			if s.Bid == 0 && rate < m.Offer.Rate {
				least = max(least, s.Reserve)
			}
			if lasts(s, max(rate, s.Bid), asks) >= least && paid && quoted && !slices.Contains(j.Tried, m.Offer.Provider) {
				t.Fatalf("job %s waits, and %s has %d GPUs free at %v: %+v", j.ID, m.Offer.Host, m.Free, m.Rate, j)
			}
		}
	}
}

func (h *history) checkJob(t *rapid.T, j broker.Job) {
	for i, e := range j.Log {
		if e.Seq != uint64(i+1) {
			t.Fatalf("job %s: line %d has number %d", j.ID, i+1, e.Seq)
		}
	}
	follows := j.Member.Rank > 0 && j.Member.Started.IsZero() // the first of its gang says why
	if j.State == broker.JobQueued && !follows && j.Log[len(j.Log)-1].State != broker.JobQueued {
		t.Fatalf("job %s waits and does not say why: %+v", j.ID, j.Log)
	}
	h.checkQuote(t, &j)
	h.checkGang(t, &j)
	h.checkHeld(t, &j)
	if end, ok := h.ends[j.ID]; ok && !reflect.DeepEqual(end, j) {
		t.Fatalf("job %s changed after its end:\n got  %+v\n want %+v", j.ID, j, end)
	}
	if j.State.Terminal() {
		h.ends[j.ID] = j
	}
}

// checkGang wants a gang to have all its hosts or none, and none twice.
func (h *history) checkGang(t *rapid.T, j *broker.Job) {
	if j.Member.Gang == "" {
		return
	}
	hosts := map[broker.PeerID]broker.JobID{}
	for rank := range j.Spec.Nodes {
		o, ok := h.world.Jobs[broker.MemberID(j.Member.Gang, rank)]
		l := h.world.Leases[o.Lease]
		serves := l.State == broker.LeaseHolding || l.State == broker.LeaseGranted || l.State == broker.LeaseActive
		switch {
		case !ok || !o.Member.Started.Equal(j.Member.Started):
			t.Fatalf("gang %s: started with some of its nodes: %+v", j.Member.Gang, o)
		case j.Member.Started.IsZero() && (l.State == broker.LeaseActive || !l.Ready.IsZero() || l.Cost != 0):
			t.Fatalf("gang %s has not started, and %s runs: %+v", j.Member.Gang, o.ID, l)
		case j.Member.Started.IsZero() && o.State != j.State:
			t.Fatalf("gang %s has not started: %s is %v, %s is %v", j.Member.Gang, o.ID, o.State, j.ID, j.State)
		case o.State == broker.JobLeased && l.State == broker.LeaseHolding:
			t.Fatalf("gang %s: %s is leased, and its host has not granted: %+v", j.Member.Gang, o.ID, l)
		case serves && hosts[l.Provider] != "":
			t.Fatalf("gang %s: %s and %s are on %s", j.Member.Gang, o.ID, hosts[l.Provider], l.Provider)
		case serves:
			hosts[l.Provider] = o.ID
		}
	}
}

// checkQuote wants a quote to be what its provider holds, to start nothing before it is accepted, and to be the highest
// price after that.
func (h *history) checkQuote(t *rapid.T, j *broker.Job) {
	l := h.world.Leases[j.Lease]
	if j.State == broker.JobQuoted {
		w := h.agent(l.Provider).work[l.ID]
		if l.State != broker.LeaseGranted || l.Rate != j.Quote.Rate || l.Tariff != j.Quote.Tariff || !j.Quote.Taken.IsZero() || j.Hold == 0 && l.Rate > 0 {
			t.Fatalf("job %s is quoted: %+v, lease %+v", j.ID, j.Quote, l)
		}
		if w != nil && w.running() && w.seq == 0 && w.deadline.Before(j.Quote.Until) {
			t.Fatalf("job %s: its quote lasts until %v, its host's hold until %v", j.ID, j.Quote.Until, w.deadline)
		}
	}
	if j.Spec.Firm > 0 && j.Quote.Taken.IsZero() && (l.Cost != 0 || !l.Ready.IsZero() || j.State == broker.JobLeased) {
		t.Fatalf("job %s was not accepted and is %v, its lease %+v", j.ID, j.State, l)
	}
	q, x := &j.Quote.Tariff, &l.Tariff
	if !j.Quote.Taken.IsZero() && (l.Rate > j.Quote.Rate || x.Disk > q.Disk || x.Ingress > q.Ingress || x.Egress > q.Egress) {
		t.Fatalf("job %s: quoted at %+v, leased at %v and %+v", j.ID, j.Quote, l.Rate, l.Tariff)
	}
}

// checkLease holds a bill against what the host truly did.
func (h *history) checkLease(t *rapid.T, l broker.Lease) {
	until := l.Ended
	if until.IsZero() {
		until = h.world.Now
	}
	if l.Ready.IsZero() && (l.Cost != 0 || l.Billed != 0) {
		t.Fatalf("lease %s was never ready and costs %v", l.ID, l.Cost)
	}
	if !l.Ready.IsZero() && l.Billed > until.Sub(l.Ready) {
		t.Fatalf("lease %s: billed %v between %v and %v", l.ID, l.Billed, l.Ready, until)
	}
	h.checkTerm(t, &l, until)
	a := h.agent(l.Provider)
	if w := a.work[l.ID]; w != nil && !a.liar && l.Billed > a.ran[l.ID]+w.used(h.world.Now) {
		t.Fatalf("lease %s: billed %v, it ran %v", l.ID, l.Billed, a.ran[l.ID]+w.used(h.world.Now))
	}
}

// checkTerm wants that the rest of a term is billed where its customer or its workload ended it, and nowhere else.
func (h *history) checkTerm(t *rapid.T, l *broker.Lease, until time.Time) {
	j := h.world.Jobs[l.Job]
	if committed := l.Rate > 0 && j.Spec.Reserve >= time.Minute; committed != (l.Term > 0) || l.Term > 0 && l.Term != j.Spec.Reserve {
		t.Fatalf("lease %s: a commitment of %v is a term of %v at %v", l.ID, j.Spec.Reserve, l.Term, l.Rate)
	}
	h.checkBill(t, l)
	h.checkRest(t, l)
	last := h.said[l.ID][l.Seq]
	theirs := j.State == broker.JobCancelled || j.State == broker.JobDone && last.Message == ""
	want := time.Duration(0)
	if l.Term > 0 && l.State == broker.LeaseEnded && !l.Ready.IsZero() && j.Lease == l.ID && theirs && last.Phase == broker.PhaseExited {
		want = max(0, l.Ready.Add(l.Term).Sub(until))
	}
	unused := during(tabOf(&j.Spec, l.Rate, l.Tariff).gpus, l.Unused) // rounded by itself, which the bill does not
	if l.Unused != want || want == 0 && l.UnusedCost != 0 || l.UnusedCost < unused-1 || l.UnusedCost > unused+1 {
		t.Fatalf("lease %s: %v unused for %v, want %v: job %+v, said %+v", l.ID, l.Unused, l.UnusedCost, want, j.Log, last)
	}
}

// checkRest wants that of a lease that uses the rest of a reservation all time before its end is covered, and none after.
func (h *history) checkRest(t *rapid.T, l *broker.Lease) {
	if l.Rest == "" {
		if l.Covered != 0 {
			t.Fatalf("lease %s: %v are covered by nothing", l.ID, l.Covered)
		}
		return
	}
	r := h.world.Leases[l.Rest]
	end := r.Ready.Add(r.Term)
	switch {
	case r.Unused == 0 || r.Account != l.Account || r.Provider != l.Provider || len(r.GPUs) < len(l.GPUs):
		t.Fatalf("lease %s uses what %s left: %+v", l.ID, r.ID, r)
	case l.Covered > l.Billed || !l.Ready.IsZero() && l.Covered > max(0, end.Sub(l.Ready)):
		t.Fatalf("lease %s: %v of %v are covered between %v and %v", l.ID, l.Covered, l.Billed, l.Ready, end)
	case !l.Renewed.After(end) && l.Covered != l.Billed:
		t.Fatalf("lease %s: %v of %v are covered until %v, of a rest until %v", l.ID, l.Covered, l.Billed, l.Renewed, end)
	}
}

// checkKept wants that what is left of a reservation is leased to nobody else.
func (h *history) checkKept(t *rapid.T) {
	taken := map[broker.PeerID]int{}
	for id, l := range h.world.Leases {
		if l.State != broker.LeaseEnded {
			taken[l.Provider] += len(l.GPUs)
		}
		if l.State != broker.LeaseEnded || l.Unused == 0 || !h.world.Now.Before(l.Until()) {
			continue
		}
		idle := len(l.GPUs)
		for _, user := range h.world.Leases {
			if user.Rest == id && (user.State == broker.LeaseHolding || user.State != broker.LeaseEnded && len(user.GPUs) > 0) {
				idle -= h.world.Jobs[user.Job].Spec.GPU.Count
			}
		}
		if idle < 0 {
			t.Fatalf("lease %s: jobs use more than its %d GPUs", id, len(l.GPUs))
		}
		taken[l.Provider] += idle
	}
	for _, a := range h.agents {
		if n := taken[broker.PeerID(a.host)]; n > len(a.uuids) {
			var all []string
			for id, l := range h.world.Leases {
				if l.Provider == broker.PeerID(a.host) && (l.State != broker.LeaseEnded || l.Unused > 0) {
					all = append(all, fmt.Sprintf("%s of %s: state %d, GPUs %v, uses %q, unused %v until %v", id, l.Job, l.State, l.GPUs, l.Rest, l.Unused, l.Until()))
				}
			}
			t.Fatalf("%s: %d GPUs are leased or kept, it has %d: %s", a.host, n, len(a.uuids), strings.Join(all, "; "))
		}
	}
}

// checkMoney adds up the ledger by itself.
func (h *history) checkMoney(t *rapid.T) {
	type book struct {
		name broker.Book
		id   broker.AccountID
	}
	books := map[book]pricing.Money{}
	held := map[broker.JobID]pricing.Money{}
	out, paid := map[broker.JobID]int{}, map[broker.JobID]pricing.Money{}
	for i, x := range h.world.Transfers {
		if x.Seq != uint64(i+1) || x.Amount <= 0 {
			t.Fatalf("transfer %d: %+v", i+1, x)
		}
		books[book{x.From, x.FromID}] -= x.Amount
		books[book{x.To, x.ToID}] += x.Amount
		switch x.Ref {
		case "hold":
			held[x.Job] += x.Amount
		case "unhold":
			held[x.Job] -= x.Amount
		case "charge", "fee", "void":
			held[x.Job] -= x.Amount
			out[x.Job]++
			if x.Ref != "void" {
				paid[x.Job] += x.Amount
			}
		}
	}
	for b, balance := range books {
		a := h.world.Accounts[b.id]
		world, fee := h.world.Market.Books()
		kept := map[broker.Book]pricing.Money{
			broker.BookWorld: world, broker.BookFee: fee,
			broker.BookAvailable: a.Available, broker.BookHeld: a.Held, broker.BookPayable: a.Payable,
		}[b.name]
		if kept != balance || balance < 0 && b.name != broker.BookWorld {
			t.Fatalf("book %+v: the ledger says %v, the market %v", b, balance, kept)
		}
	}
	for id, j := range h.world.Jobs {
		if cost := h.world.Leases[j.Lease].Cost; j.State.Terminal() && paid[id] != cost || !j.State.Terminal() && paid[id] != 0 {
			t.Fatalf("job %s is %v: %v were paid, its lease costs %v", id, j.State, paid[id], cost)
		}
		if held[id] != j.Hold || out[id] > 3 || j.State.Terminal() && j.Hold != 0 {
			t.Fatalf("job %s is %v: holds %v, the ledger says %v after %d payments", id, j.State, j.Hold, held[id], out[id])
		}
	}
}

// checkGPUs wants each GPU in at most one lease at a time, under epochs that grow from lease to lease.
func (h *history) checkGPUs(t *rapid.T) {
	holder := map[string]broker.LeaseID{}
	epochs := map[broker.GPULease]broker.LeaseID{}
	for id, l := range h.world.Leases {
		for _, g := range l.GPUs {
			if other, ok := epochs[g]; ok {
				t.Fatalf("GPU %s: leases %s and %s have epoch %d", g.UUID, id, other, g.Epoch)
			}
			epochs[g] = id
			if l.State == broker.LeaseEnded {
				continue
			}
			if other, ok := holder[g.UUID]; ok {
				t.Fatalf("GPU %s: leased to %s and %s", g.UUID, id, other)
			}
			holder[g.UUID] = id
		}
	}
}
