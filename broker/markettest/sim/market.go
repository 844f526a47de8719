package sim

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"rialto/broker"
	"rialto/broker/markettest"
	"rialto/pricing"
)

// market is the real market as a venue: each call is a step, and its effects are carried out at once.
type market struct {
	*engine
	*broker.Market
	start time.Time
	inbox []broker.Event
	busy  bool
	steps int
	books books
	err   error
	// refused says that the last job found no offer, free or busy.
	refused bool

	runs   map[broker.LeaseID]*run
	byJob  map[broker.JobID]*job
	peers  map[broker.PeerID]*host
	closed map[broker.JobID]bool
}

func openMarket(e *engine) (venue, error) {
	w, err := markettest.NewWorld(broker.MarketConfig{HoldTTL: holdTTL, LeaseTTL: leaseTTL, QueueTimeout: patience, PrepareTimeout: prepareTTL, FeePPM: feePPM})
	if err != nil {
		return nil, err
	}
	for i := range customers {
		if err := w.Open(customer(i), 1_000_000*pricing.USD); err != nil {
			return nil, err
		}
	}
	m := &market{
		engine: e, Market: w.Market, start: w.Now, books: books{}, runs: map[broker.LeaseID]*run{}, byJob: map[broker.JobID]*job{},
		peers: map[broker.PeerID]*host{}, closed: map[broker.JobID]bool{},
	}
	for _, x := range w.Transfers {
		if err := m.books.post(x); err != nil {
			return nil, err
		}
	}
	for _, h := range e.hosts {
		m.peers[broker.PeerID(h.name)] = h
	}
	return m, nil
}

func customer(i int) string { return fmt.Sprintf("c%02d", i) }

func (m *market) time() time.Time { return m.start.Add(m.now) }

// send plays an event, what its effects cause, and so on.
func (m *market) send(ev broker.Event) {
	m.inbox = append(m.inbox, ev)
	if m.busy {
		return
	}
	m.busy = true
	for len(m.inbox) > 0 && m.err == nil {
		ev := m.inbox[0]
		m.inbox = m.inbox[1:]
		if err := m.step(ev); err != nil {
			m.err = fmt.Errorf("at %v: %T: %w", m.now, ev, err)
		}
	}
	m.busy = false
}

func (m *market) step(ev broker.Event) error {
	effects, err := m.Step(m.time(), ev)
	if _, none := errors.AsType[*broker.NoOfferError](err); none {
		m.refused = true
		return nil
	}
	if err != nil {
		return err
	}
	if err := m.books.step(effects); err != nil {
		return err
	}
	if m.steps++; m.cfg.AuditEvery > 0 && m.steps%m.cfg.AuditEvery == 0 {
		if err := m.Audit(); err != nil {
			return err
		}
	}
	for _, e := range effects {
		m.do(e)
	}
	return nil
}

// do carries out an effect. What is saved needs no doing: the market remembers it.
func (m *market) do(e broker.Effect) {
	if e, ok := e.(broker.SendHold); ok {
		j := m.byJob[e.Hold.Job]
		r := &run{id: string(e.Hold.Lease), job: j, host: m.peers[e.Provider], rate: e.Hold.Rate, tariff: e.Hold.Tariff}
		m.runs[e.Hold.Lease] = r
		m.ask(r)
	}
	if e, ok := e.(broker.SendConfirm); ok {
		r, failed := m.runs[e.Confirm.Lease], ""
		if !r.host.online || r.phase >= exited {
			failed = "not connected"
		} else {
			m.engine.start(r)
		}
		m.inbox = append(m.inbox, broker.ConfirmAnswered{Lease: e.Confirm.Lease, Error: failed})
	}
	if e, ok := e.(broker.SendRelease); ok {
		m.let(m.runs[e.Release.Lease])
	}
	if e, ok := e.(broker.SignReceipt); ok {
		m.inbox = append(m.inbox, broker.ReceiptSigned{Lease: e.Receipt.Lease, Envelope: []byte("receipt")})
	}
	if e, ok := e.(broker.SaveLease); ok && len(e.Lease.Receipt) > 0 {
		m.settle(m.runs[e.Lease.ID], e.Lease.Billed, e.Lease.Cost)
	}
	if e, ok := e.(broker.SaveJob); ok && e.Job.State.Terminal() && !m.closed[e.Job.ID] {
		m.closed[e.Job.ID] = true
		r := m.runs[e.Job.Lease]
		if r != nil && r.ready == 0 && !r.live() {
			r = nil // the last host that had it lost it before, and no other took it
		}
		j := m.byJob[e.Job.ID]
		m.after(0, func() { m.finished(j, r, e.Job.State == broker.JobDone && e.Job.ExitCode == 0) })
	}
}

// let ends a run that the market releases, with its last report.
func (m *market) let(r *run) {
	was := r.live()
	answer := broker.ReleaseAnswered{Lease: broker.LeaseID(r.id)}
	if !m.release(r) {
		answer.Error = "not connected"
	} else if was {
		m.inbox = append(m.inbox, m.reported(r))
	}
	m.inbox = append(m.inbox, answer)
}

func (m *market) post(h *host) {
	h.seq++
	o := markettest.Offer(h.name, h.model.name, len(h.slots), h.rate)
	o.Region, o.Tariff, o.Free = h.region, h.tariff, nil
	for i := range o.GPUs {
		o.GPUs[i].MemoryMiB = h.model.memoryMiB
		if h.slots[i] == nil {
			o.Free = append(o.Free, o.GPUs[i].UUID)
		}
	}
	for i := range images {
		if h.images[i] {
			o.Images = append(o.Images, imageHeld(i))
		}
	}
	m.send(broker.OffersPosted{
		Provider: broker.PeerID(h.name),
		Set:      broker.OfferSet{Boot: fmt.Sprintf("boot %d", h.boot), Seq: h.seq, Offers: []broker.Offer{o}},
	})
}

func imageHeld(i int) broker.ImageHeld {
	name := fmt.Sprintf("image %d", i)
	return broker.ImageHeld{Digest: markettest.Digest(name), Root: markettest.Root(name)}
}

func (m *market) gone(h *host) { m.send(broker.ProviderGone{Provider: broker.PeerID(h.name)}) }

func (m *market) submit(j *job) bool {
	spec := markettest.Spec(customer(j.customer), fmt.Sprintf("%d.%d", j.id, j.tries))
	held := imageHeld(j.image)
	spec.Digest, spec.Root = held.Digest, held.Root
	spec.GPU = broker.GPURequest{Model: broker.AnyModel, Count: j.gpus, MinMemoryMiB: j.memory}
	if j.model != nil {
		spec.GPU.Model = j.model.name
	}
	spec.MaxRate, spec.MaxDuration = j.maxRate, j.maxDuration()
	spec.DiskMiB, spec.Traffic = j.disk, j.traffic
	if len(j.bad) > 0 {
		var names []string
		for _, h := range j.bad {
			names = append(names, h.name)
		}
		spec.Where = "host notin [" + strings.Join(names, ",") + "]"
	}
	id := broker.JobID(fmt.Sprintf("j-%d.%d", j.id, j.tries))
	m.byJob[id], m.refused = j, false
	m.send(broker.Submitted{Job: id, Account: broker.AccountID(customer(j.customer)), Spec: spec, Envelope: []byte("spec")})
	return !m.refused
}

func (m *market) answered(r *run, a answer) {
	id := broker.LeaseID(r.id)
	switch a {
	case granted:
		l, _ := m.Lease(id)
		m.send(markettest.Grant(l, r.leased()...))
	case refused:
		m.send(broker.HoldAnswered{Lease: id, Answer: broker.Answer{Lease: id, Refusal: "no free GPU"}})
	case unreachable:
		m.send(broker.HoldAnswered{Lease: id, Error: "not connected"})
	}
}

func (r *run) leased() []broker.GPULease {
	var out []broker.GPULease
	for _, i := range r.slots {
		out = append(out, broker.GPULease{UUID: fmt.Sprintf("GPU-%s-%d", r.host.name, i), Epoch: r.host.epochs[i]})
	}
	return out
}

func (m *market) report(r *run) { m.send(m.reported(r)) }

func (m *market) reported(r *run) broker.Reported {
	r.seq++
	size := int64(m.images[r.job.image])
	report := broker.Report{Lease: broker.LeaseID(r.id), GPUs: r.leased(), Seq: r.seq, Used: r.used(m.now), Traffic: r.carried(m.now)}
	switch r.phase {
	case asked, held, preparing:
		report.Phase = broker.PhasePreparing
	case running:
		report.Phase = broker.PhaseReady
	case exited, vanished:
		report.Phase, report.ExitCode = broker.PhaseExited, r.exitCode
		if r.released {
			report.Message = "released"
		}
	}
	if r.ready != 0 {
		took := r.ready - r.granted - overhead
		report.Fetched = broker.Fetched{Local: size, Total: size}
		if r.fetched {
			report.Fetched = broker.Fetched{Registry: size, Total: size}
		}
		report.Steps = []broker.Step{{Name: "image", Took: took}, {Name: "start", Start: took, Took: overhead}}
		report.Held = []broker.ImageHeld{imageHeld(r.job.image)}
	}
	return broker.Reported{Provider: broker.PeerID(r.host.name), Report: report, Envelope: []byte("report")}
}

func (m *market) tick() { m.send(broker.Ticked{}) }

func (m *market) check() error {
	if m.err != nil || m.open > 0 {
		return m.err
	}
	// The end: what customers spent is what leases cost, and what hosts and broker have.
	var spent, earned pricing.Money
	for i := range customers {
		a, _ := m.Account(broker.AccountID(customer(i)))
		spent += a.Spent
	}
	for name := range m.peers {
		a, _ := m.Account(broker.AccountID(name))
		earned += a.Payable
	}
	if _, fee := m.Books(); spent != m.tally.paid || spent != earned+fee {
		return fmt.Errorf("customers spent %v, leases cost %v, hosts have %v and the broker %v", spent, m.tally.paid, earned, fee)
	}
	return m.Audit()
}

var _ venue = (*market)(nil)
