package markettest_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"rialto/broker"
	"rialto/broker/markettest"
	"rialto/pricing"
)

// history drives one random market.
type history struct {
	*rapid.T
	world  *markettest.World
	agents []*agent
	mail   []broker.Effect // sent by the market, not arrived yet
	jobs   []broker.JobID
	ends   map[broker.JobID]broker.Job // as they were when they became terminal
	held   map[broker.JobID]pricing.Money
	most   map[broker.JobID]pricing.Money              // ever held
	said   map[broker.LeaseID]map[uint64]broker.Report // those that were taken, by their numbers
	posted map[broker.PeerID]broker.Tariff             // by who asks for it
	past   []moment

	displaced       int // leases, so far
	raised, lowered int // bids
}

// moment is one input of the market and its answer, to be played again.
type moment struct {
	now     time.Time
	event   broker.Event // nil: a restart
	effects string
}

func TestRandomHistories(t *testing.T) {
	var disk, traffic, covered int
	rapid.Check(t, func(t *rapid.T) {
		for _, l := range live(t).world.Leases {
			disk += int(min(l.DiskCost, 1))
			traffic += int(min(l.TrafficCost, 1))
			covered += int(min(l.Covered, 1))
		}
	})
	if t.Logf("bills with disk: %d, with traffic: %d, that a reservation paid: %d", disk, traffic, covered); disk == 0 || traffic == 0 {
		t.Error("the histories show nothing")
	}
}

// FuzzHistories lets the fuzzer choose what happens.
func FuzzHistories(f *testing.F) { f.Fuzz(rapid.MakeFuzz(func(t *rapid.T) { live(t) })) }

// live plays one random history to its end.
func live(t *rapid.T) *history {
	h := begin(t)
	actions := map[string]func(*rapid.T){
		"submit": h.submit, "use": h.use, "deliver": h.deliver, "flow": h.flow, "advance": h.advance, "report": h.report,
		"pass": h.pass, "cancel": h.cancel, "rebid": h.rebid, "accept": h.accept, "limit": h.limit, "connect": h.connect, "restart": h.restart, "crash": h.crash, "forge": h.forge,
		"live": h.live, "reprice": h.reprice,
	}
	// What usually happens is more likely than faults, so that jobs get far.
	names := slices.Sorted(maps.Keys(actions))
	names = append(names, "submit", "submit", "submit", "use", "use", "accept", "flow", "flow", "flow", "live", "live", "live", "advance", "report", "pass", "pass")
	for range even(t, "steps", 15, 40, 80, 120) {
		actions[even(t, "action", names...)](t)
		h.check(t)
	}
	h.drain()
	h.playAgain()
	return h
}

// even draws one of a few with equal chances: rapid's own choices prefer what comes first.
func even[T any](t *rapid.T, label string, of ...T) T {
	i := 0
	for n := 1; n < len(of); n *= 2 {
		if i *= 2; rapid.Bool().Draw(t, label) {
			i++
		}
	}
	return of[i%len(of)]
}

func begin(t *rapid.T) *history {
	w, err := markettest.NewWorld(broker.MarketConfig{FeePPM: 30_000, MinRun: 30 * time.Second, Notice: 20 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	h := &history{
		T: t, world: w, ends: map[broker.JobID]broker.Job{},
		most: map[broker.JobID]pricing.Money{}, said: map[broker.LeaseID]map[uint64]broker.Report{}, posted: map[broker.PeerID]broker.Tariff{},
	}
	h.agents = []*agent{newAgent("alpha", 1, 0), newAgent("beta", 2, 400_000_001), newAgent("gamma", 4, 500_000_000)}
	h.agents[0].tariff = broker.Tariff{Egress: 50_000_001}
	h.agents[1].tariff = broker.Tariff{Disk: 333_333, Ingress: 7, Egress: 49_999_999}
	h.agents[1].liar = true
	for _, name := range []string{"ann", "bob"} {
		if err := w.Open(name, 3*pricing.USD); err != nil {
			t.Fatal(err)
		}
	}
	h.reconnect()
	return h
}

// step plays an event and keeps what the market wants to send. It returns the renewal, if there is one.
func (h *history) step(ev broker.Event) (broker.Renewal, bool) {
	before, leases := maps.Clone(h.world.Accounts), maps.Clone(h.world.Leases)
	if p, ok := ev.(broker.OffersPosted); ok {
		h.posted[p.Provider] = p.Set.Offers[0].Tariff
	}
	effects, err := h.world.Step(ev)
	if err != nil && !markettest.Refused(err) {
		h.Fatal(err)
	}
	h.past = append(h.past, moment{h.world.Now, ev, fmt.Sprintf("%+v %v", effects, err)})
	if r, ok := ev.(broker.Reported); ok && leases[r.Report.Lease].Seq < h.world.Leases[r.Report.Lease].Seq {
		h.hear(r.Report)
	}
	h.checkLimits(before)
	h.checkDisplaced(leases)
	h.checkTariffs(leases)
	var renewal broker.Renewal
	renewed := false
	for _, e := range effects {
		switch e := e.(type) {
		case broker.SendHold, broker.SendConfirm, broker.SendRelease, broker.SignReceipt:
			h.mail = append(h.mail, e)
		case broker.SendRenewal:
			renewal, renewed = e.Renewal, true
		case broker.SaveAccount, broker.SaveJob, broker.SaveLease, broker.SaveDerived, broker.Post:
		}
	}
	return renewal, renewed
}

func (h *history) reconnect() {
	for _, a := range h.agents {
		a.online = true
		h.step(a.offers())
	}
}

func (h *history) agent(id broker.PeerID) *agent {
	return h.agents[slices.IndexFunc(h.agents, func(a *agent) bool { return a.host == string(id) })]
}

func (h *history) cancel(t *rapid.T) {
	if len(h.jobs) > 0 {
		h.step(broker.CancelRequested{Job: rapid.SampledFrom(h.jobs).Draw(t, "job")})
	}
}

// accept takes a quote, or tries to take what is none.
func (h *history) accept(t *rapid.T) {
	if len(h.jobs) == 0 {
		return
	}
	id := rapid.SampledFrom(h.jobs).Draw(t, "job")
	if open := h.open(); len(open) > 0 && rapid.Bool().Draw(t, "a quote") {
		id = rapid.SampledFrom(open).Draw(t, "quote")
	}
	if rapid.Bool().Draw(t, "late") { // before the market has noticed
		h.world.Now = h.world.Now.Add(time.Duration(rapid.IntRange(0, 60_000).Draw(t, "ms late")) * time.Millisecond)
		for _, a := range h.agents { // but they have
			a.watch(h.world.Now)
		}
	}
	before := h.world.Jobs[id]
	h.step(broker.QuoteAccepted{Job: id})
	after, now := h.world.Jobs[id], h.world.Now
	may := before.State == broker.JobQuoted && now.Before(before.Quote.Until)
	if took := before.Quote.Taken.IsZero() && !after.Quote.Taken.IsZero(); took != may {
		t.Fatalf("at %v: taken %v: %+v", now, took, before)
	}
}

// open lists the quotes that wait for their customers.
func (h *history) open() []broker.JobID {
	return slices.DeleteFunc(slices.Clone(h.jobs), func(id broker.JobID) bool { return h.world.Jobs[id].State != broker.JobQuoted })
}

// deliver takes one message to its agent, in any order; message or answer may get lost, and a message
// may arrive twice.
func (h *history) deliver(t *rapid.T) {
	if len(h.mail) == 0 {
		return
	}
	i := rapid.IntRange(0, len(h.mail)-1).Draw(t, "message")
	e := h.mail[i]
	fate := rapid.SampledFrom([]string{"arrives", "arrives", "arrives", "twice", "lost", "answer lost"}).Draw(t, "fate")
	if fate != "twice" {
		h.mail = slices.Delete(h.mail, i, i+1)
	}
	h.carry(e, fate)
}

// flow delivers all that is on its way.
func (h *history) flow(*rapid.T) {
	for len(h.mail) > 0 {
		e := h.mail[0]
		h.mail = h.mail[1:]
		h.carry(e, "arrives")
	}
}

func (h *history) carry(e broker.Effect, fate string) {
	now := h.world.Now
	lost := ""
	if fate == "lost" || fate == "answer lost" {
		lost = "connection reset"
	}
	reaches := func(p broker.PeerID) (*agent, bool) {
		a := h.agent(p)
		if !a.online {
			lost = "not connected"
		}
		return a, a.online && fate != "lost"
	}
	switch e := e.(type) {
	case broker.SendHold:
		answer := broker.HoldAnswered{Lease: e.Hold.Lease}
		if a, ok := reaches(e.Provider); ok {
			spec := h.world.Jobs[e.Hold.Job].Spec
			answer = a.hold(now, e.Hold, &spec)
		}
		if lost != "" {
			answer = broker.HoldAnswered{Lease: e.Hold.Lease, Error: lost}
		}
		h.step(answer)
	case broker.SendConfirm:
		answer := broker.ConfirmAnswered{Lease: e.Confirm.Lease}
		if j := h.world.Jobs[h.world.Leases[e.Confirm.Lease].Job]; j.Spec.Firm > 0 && j.Quote.Taken.IsZero() {
			h.Fatalf("lease %s is confirmed, its quote was not accepted", e.Confirm.Lease)
		} else if j.Member.Gang != "" && j.Member.Started.IsZero() {
			h.Fatalf("lease %s is confirmed, its gang has not all its hosts", e.Confirm.Lease)
		} else if l := h.world.Leases[e.Confirm.Lease]; e.Confirm.MaxDuration != lasts(&j.Spec, l.Rate, l.Tariff) {
			h.Fatalf("lease %s may run for %v, want %v", l.ID, e.Confirm.MaxDuration, lasts(&j.Spec, l.Rate, l.Tariff))
		}
		if a, ok := reaches(e.Provider); ok {
			answer = a.confirm(now, e.Confirm)
		}
		if lost != "" {
			answer.Error = lost
		}
		h.step(answer)
	case broker.SendRelease:
		answer := broker.ReleaseAnswered{Lease: e.Release.Lease}
		if a, ok := reaches(e.Provider); ok {
			answer = a.release(now, e.Release)
		}
		answer.Error = lost
		h.step(answer)
	case broker.SignReceipt:
		if lost == "" {
			h.step(broker.ReceiptSigned{Lease: e.Receipt.Lease, Envelope: []byte("receipt")})
		}
	case broker.SaveAccount, broker.SaveJob, broker.SaveLease, broker.SaveDerived, broker.Post, broker.SendRenewal:
	}
}

// workloads lists what connected agents have to report.
func (h *history) workloads() (out []*workload, of []*agent) {
	for _, a := range h.agents {
		for _, id := range slices.Sorted(maps.Keys(a.work)) {
			if w := a.work[id]; a.online && !w.acked {
				out, of = append(out, w), append(of, a)
			}
		}
	}
	return out, of
}

func (h *history) report(t *rapid.T) {
	work, of := h.workloads()
	if len(work) == 0 {
		return
	}
	i := rapid.IntRange(0, len(work)-1).Draw(t, "workload")
	work[i].carry(even(t, "in", int64(0), 1_234_567, 700_000_000, 20_000_000_000), even(t, "out", int64(0), 1, 700_000_000, 20_000_000_000))
	r := of[i].report(h.world.Now, work[i])
	before := h.world.Leases[r.Report.Lease]
	ended := h.world.Jobs[before.Job].State.Terminal()
	if renewal, ok := h.step(r); ok && rapid.Bool().Draw(t, "answer arrives") {
		of[i].renewed(h.world.Now, renewal)
	}
	if job := h.world.Jobs[before.Job]; !ended && r.Report.HostFault && job.State == broker.JobFailed && job.Ended.Equal(h.world.Now) &&
		job.Lease == before.ID && job.Attempts < 32 && (job.Spec.Firm == 0 || !job.Quote.Taken.IsZero()) {
		t.Fatalf("job %s failed through its host's fault: %+v", job.ID, job.Log)
	}
	if rapid.Bool().Draw(t, "replay") {
		h.step(r)
		if effects := h.past[len(h.past)-1].effects; strings.Contains(effects, "Billed") {
			t.Fatalf("a replayed report changed a lease: %s", effects)
		}
	}
}

// carry counts traffic of a workload that runs; its host may count what it likes.
func (w *workload) carry(in, out int64) {
	if w.running() {
		w.traffic.Ingress += in
		w.traffic.Egress += out
	}
}

// advance moves a random workload along.
func (h *history) advance(t *rapid.T) {
	work, _ := h.workloads()
	if len(work) == 0 {
		return
	}
	w := rapid.SampledFrom(work).Draw(t, "workload")
	w.fault = rapid.Bool().Draw(t, "host's fault")
	if rapid.Bool().Draw(t, "host ends it") {
		w.why = "drained"
	}
	h.move(w, rapid.Bool().Draw(t, "breaks"))
}

func (h *history) move(w *workload, breaks bool) {
	switch {
	case w.phase == broker.PhasePreparing && !breaks:
		w.phase, w.ready = broker.PhaseReady, h.world.Now
	case breaks:
		w.end(h.world.Now, broker.PhaseBroken)
	default:
		w.end(h.world.Now, broker.PhaseExited)
	}
}

func (h *history) pass(t *rapid.T) {
	h.wait(time.Duration(rapid.IntRange(0, 60_000).Draw(t, "ms")) * time.Millisecond)
}

func (h *history) wait(d time.Duration) {
	h.world.Now = h.world.Now.Add(d)
	for _, a := range h.agents {
		a.watch(h.world.Now)
	}
	h.step(broker.Ticked{})
}

// connect brings an agent online, or posts its offers again, or cuts it off.
func (h *history) connect(t *rapid.T) {
	a := rapid.SampledFrom(h.agents).Draw(t, "agent")
	if a.online && rapid.Bool().Draw(t, "cut") {
		a.online = false
		h.step(broker.ProviderGone{Provider: broker.PeerID(a.host)})
		return
	}
	a.online = true
	h.step(a.offers())
}

// reprice has a host ask for more or less for disk and traffic.
func (h *history) reprice(t *rapid.T) {
	a := rapid.SampledFrom(h.agents).Draw(t, "agent")
	price := rapid.SampledFrom([]int64{0, 1, 333_333, 49_999_999, 200_000_000})
	a.tariff = broker.Tariff{
		Disk:    pricing.Rate(price.Draw(t, "disk price") / 50),
		Ingress: pricing.Money(price.Draw(t, "ingress price")), Egress: pricing.Money(price.Draw(t, "egress price")),
	}
	if a.online {
		h.step(a.offers())
	}
}

// restart loses the market's memory, its messages and, for a while, its connections.
func (h *history) restart(t *rapid.T) {
	h.reboot()
	h.mail = nil
	for _, a := range h.agents {
		if a.online = rapid.Bool().Draw(t, "reconnects"); a.online {
			h.step(a.offers())
		}
	}
}

func (h *history) reboot() {
	if err := h.world.Restart(); err != nil {
		h.Fatal(err)
	}
	h.past = append(h.past, moment{now: h.world.Now})
}

// hear remembers a report that was taken. A host that forgot what it said may use its number again, which changes nothing.
func (h *history) hear(r broker.Report) {
	if h.said[r.Lease] == nil {
		h.said[r.Lease] = map[uint64]broker.Report{}
	}
	h.said[r.Lease][r.Seq] = r
}

// crash ends a host with all it ran. Its epochs survive with its journal, unless that is lost too.
func (h *history) crash(t *rapid.T) {
	a := rapid.SampledFrom(h.agents).Draw(t, "agent")
	for id, w := range a.work {
		a.ran[id] += w.used(h.world.Now)
	}
	clear(a.work)
	if rapid.Bool().Draw(t, "journal lost") {
		clear(a.epochs)
	}
	h.step(broker.ProviderGone{Provider: broker.PeerID(a.host)})
	if a.online = rapid.Bool().Draw(t, "returns"); a.online {
		h.step(a.offers())
	}
}

// forge sends what nobody may: it must be refused or change nothing that is not allowed.
func (h *history) forge(t *rapid.T) {
	ids := slices.Sorted(maps.Keys(h.world.Leases))
	if len(ids) == 0 {
		return
	}
	l := h.world.Leases[rapid.SampledFrom(ids).Draw(t, "lease")]
	stale := slices.Clone(l.GPUs)
	for i := range stale {
		stale[i].Epoch--
	}
	h.step(rapid.SampledFrom([]broker.Event{
		broker.Reported{Provider: "mallory", Report: broker.Report{Lease: l.ID, GPUs: l.GPUs, Seq: l.Seq + 1, Phase: broker.PhaseExited}},
		broker.Reported{Provider: l.Provider, Report: broker.Report{Lease: l.ID, GPUs: stale, Seq: l.Seq + 1, Phase: broker.PhaseReady, Used: -1}},
		broker.Reported{Provider: l.Provider, Report: broker.Report{Lease: l.ID, GPUs: l.GPUs, Seq: l.Seq + 1, Phase: 9}},
		broker.Reported{Provider: l.Provider, Report: broker.Report{Lease: l.ID, GPUs: l.GPUs, Seq: l.Seq + 1, Phase: broker.PhaseReady, Used: l.Used, Traffic: broker.Traffic{Egress: -1}}},
		broker.Deposited{Account: l.Account, Amount: -1, Ref: "forged"},
		broker.Deposited{Account: l.Account, Amount: 1, Ref: "first of bob"},
		broker.Submitted{Job: l.Job, Account: l.Account, Spec: markettest.Spec("ann", "forged")},
		broker.KeyBound{Account: l.Account, Key: "mallory"},
		broker.QuoteAccepted{Job: "nobody's"},
	}).Draw(t, "event"))
}

// drain ends all faults and lets everything finish: every accepted job must become terminal, every
// lease must end, and no money may stay on hold.
func (h *history) drain() {
	h.reconnect()
	for range 200 {
		h.flow(h.T)
		work, of := h.workloads()
		for i, w := range work {
			w.carry(123_456_789, 400_000_001)
			h.move(w, false)
			if renewal, ok := h.step(of[i].report(h.world.Now, w)); ok {
				of[i].renewed(h.world.Now, renewal)
			}
		}
		for _, a := range h.agents {
			h.step(a.offers())
		}
		h.wait(5 * time.Second)
	}
	h.check(h.T)
	for id, j := range h.world.Jobs {
		if started := j.State >= broker.JobLeased && j.State <= broker.JobDone; started && j.Member.Gang != "" && j.Member.Started.IsZero() {
			h.Errorf("job %s is %v, and its gang has not started: %+v", id, j.State, j.Log)
		}
		if !j.State.Terminal() {
			h.Errorf("job %s is still %v: %+v", id, j.State, j.Log)
		}
	}
	for id, l := range h.world.Leases {
		if l.State != broker.LeaseEnded || len(l.GPUs) > 0 && len(l.Receipt) == 0 {
			h.Errorf("lease %s: state %d, receipt %q", id, l.State, l.Receipt)
		}
	}
}

// playAgain gives the same history to a fresh market and wants the same effects.
func (h *history) playAgain() {
	again := begin(h.T)
	for i, m := range h.past {
		if i < len(again.past) {
			continue // both began alike
		}
		again.world.Now = m.now
		if m.event == nil {
			again.reboot()
			continue
		}
		again.step(m.event)
		if got := again.past[i].effects; got != m.effects {
			h.Fatalf("step %d (%T) played again:\n got  %s\n want %s", i, m.event, got, m.effects)
		}
	}
}
