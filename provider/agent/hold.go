package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"slices"
	"strings"
	"time"

	"rialto/broker"
	"rialto/broker/wire"
	"rialto/p2p/identity"
	"rialto/provider"
	"rialto/tunnel"
)

const (
	maxHoldTTL  = 10 * time.Minute // no broker may block our GPUs longer without a lease
	maxLeaseTTL = time.Hour
	// maxSourceBytes is more than the addresses of thirty peers. JSON may write a byte as six.
	maxSourceBytes = 64 << 10
	maxWorkloads   = 256 // records with an unacknowledged end count too
)

// refusal is why we do not grant a hold. It reaches the broker and, through it, the customer.
type refusal string

func (r refusal) Error() string { return string(r) }

// hold answers a broker that asks for GPUs. Asking again for a lease returns the first answer.
func (a *Agent) hold(ctx context.Context, spawn func(*workload) bool, from identity.ID, request []byte) ([]byte, error) {
	arrived := time.Now()
	hold, signer, err := wire.OpenHold(request)
	if err != nil {
		return nil, err
	}
	if signer != broker.PeerID(from) || !a.isHome(from) {
		return nil, fmt.Errorf("hold from %s: %w", from, broker.ErrForbidden)
	}
	w := a.workload(hold.Lease)
	if w != nil && w.record().Broker != signer {
		return nil, fmt.Errorf("hold %s: %w", hold.Lease, broker.ErrForbidden)
	}
	if w == nil {
		w, err = a.admit(ctx, arrived, hold, signer)
		if no, ok := errors.AsType[refusal](err); ok {
			a.Logger.Info("hold refused", slog.String("lease", string(hold.Lease)), slog.String("reason", string(no)))
			return wire.SealAnswer(a.Key, broker.Answer{Lease: hold.Lease, Refusal: string(no)})
		}
		if err != nil {
			return nil, err
		}
		if !spawn(w) {
			a.forget(w)
			return nil, fmt.Errorf("hold %s: %w", hold.Lease, broker.ErrUnavailable)
		}
	}
	select {
	case <-w.answered:
		return w.answer()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// admit decides whether a hold is granted, and claims its GPUs if so. Nothing is durable yet.
func (a *Agent) admit(ctx context.Context, arrived time.Time, hold broker.Hold, from broker.PeerID) (*workload, error) {
	spec, customer, err := openSpec(hold.Spec, hold.Bid)
	if err != nil {
		return nil, refusal("the job's specification is not valid: " + err.Error())
	}
	if err := checkSpec(spec, customer, from, a.self); err != nil {
		return nil, err
	}
	key, err := tunnel.NewPrivateKey()
	if err != nil {
		return nil, err
	}
	where, err := broker.ParseFilter(spec.Where)
	if err != nil {
		return nil, refusal("the job's query cannot be checked here: " + err.Error())
	}
	w, err := a.claim(arrived, hold, spec, where, from, key)
	if short, ok := errors.AsType[shortage](err); ok {
		a.makeRoom(ctx, hold.Lease, short)
		w, err = a.claim(arrived, hold, spec, where, from, key)
	}
	if short, ok := errors.AsType[shortage](err); ok {
		err = refusal(short.Error())
	}
	if err == nil {
		a.setAside()
	}
	return w, err
}

// claim claims a hold's GPUs, if they are free and there is room for its job; if not, a shortage says so.
func (a *Agent) claim(arrived time.Time, hold broker.Hold, spec broker.JobSpec, where broker.Filter, from broker.PeerID, key tunnel.PrivateKey) (*workload, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.workloads[hold.Lease] != nil {
		return nil, fmt.Errorf("hold %s: %w", hold.Lease, broker.ErrConflict)
	}
	if err := a.checkOffer(hold, spec); err != nil {
		return nil, err
	}
	uuids, simulated, err := a.choose(hold.Offer, spec.GPU)
	if err != nil {
		return nil, err
	}
	if err := a.checkRoom(spec); err != nil {
		return nil, err
	}
	disk, _ := a.freeDisk()
	if err := a.checkWhere(hold.Offer, where, spec, disk); err != nil {
		return nil, err
	}
	claim, err := a.authority.Hold(a.Clock.now(), hold.Lease, from, uuids, min(hold.TTL, maxHoldTTL))
	if err != nil {
		return nil, refusal(err.Error())
	}
	w := newWorkload(a, provider.Record{
		Lease: hold.Lease, Job: hold.Job, Broker: from, State: provider.StateHeld, GPUs: claim.GPUs, Simulated: simulated,
		Spec: hold.Spec, Bid: hold.Bid, Sources: fitting(hold.Sources), TunnelKey: key, Deadline: a.Clock.instant(claim.Deadline), Rate: hold.Rate, Tariff: hold.Tariff,
		Report: broker.Report{Lease: hold.Lease, GPUs: claim.GPUs, Phase: broker.PhasePreparing}, Rank: hold.Rank,
	}, spec, arrived)
	w.hint = hold.Trace
	a.workloads[hold.Lease] = w
	return w, nil
}

// fitting returns the block sources that the journal has room for beside the largest specification. They are
// hints, the best first.
func fitting(sources []broker.BlockSource) []broker.BlockSource {
	room := maxSourceBytes
	for i, s := range sources {
		room -= len(s.Peer)
		for _, addr := range s.Addrs {
			room -= len(addr)
		}
		if room < 0 {
			return sources[:i]
		}
	}
	return sources
}

// checkSpec checks what the customer signed against who asks.
func checkSpec(spec broker.JobSpec, customer, from, self broker.PeerID) error {
	switch {
	case spec.Customer != customer:
		return refusal("the job's specification is not signed by its customer")
	case spec.Broker != from:
		return refusal("the job's specification is for another broker")
	case spec.Provider != "" && spec.Provider != self:
		return refusal("the job is for another provider")
	case spec.GPU.Count < 1:
		return refusal("the job asks for no GPU")
	}
	for _, m := range spec.Weights {
		inside := func(dir string) bool { return m.Path == dir || strings.HasPrefix(m.Path, dir+"/") }
		if path.Clean(m.Path) != m.Path || m.Path == "/" || slices.ContainsFunc([]string{"/proc", "/sys", "/dev"}, inside) {
			return refusal(fmt.Sprintf("weights cannot be mounted at %q", m.Path))
		}
		// Weights are read-only and shared: there is no place in them for others.
		for _, o := range spec.Weights {
			if strings.HasPrefix(m.Path, o.Path+"/") {
				return refusal(fmt.Sprintf("weights cannot be mounted at %q inside those at %q", m.Path, o.Path))
			}
		}
	}
	return nil
}

// checkOffer checks a hold against what we offer. The caller holds a.mu.
func (a *Agent) checkOffer(hold broker.Hold, spec broker.JobSpec) error {
	gpus := uint64(spec.GPU.Count) //nolint:gosec // at least one
	holding := 0
	for _, w := range a.workloads {
		if w.record().State == provider.StateHeld && w.spec.Firm == 0 { // a quote costs nothing but its GPUs, which bound them
			holding++
		}
	}
	sells := broker.Offer{Rate: a.Rate, ReservedRate: a.ReservedRate, ReservedMin: a.ReservedMin}
	price := sells.RateFor(spec.Reserve)
	charge, err := spec.Charge(hold.Rate, hold.Tariff)
	switch {
	case err != nil:
		return refusal("the price is not one: " + err.Error())
	case a.draining:
		return refusal("the provider takes no more jobs")
	case spec.Firm == 0 && holding >= a.MaxHolds:
		return refusal("too many holds at once")
	case len(a.workloads) >= maxWorkloads:
		return refusal("too many leases on this host")
	case spec.Bid > 0 && a.MinBid == 0:
		return refusal("the host takes no interruptible jobs")
	case spec.Bid > 0 && hold.Rate < a.MinBid:
		return refusal(fmt.Sprintf("an interruptible job pays at least %v, not %v", a.MinBid, hold.Rate))
	case spec.Bid > 0 && hold.Rate > spec.Bid:
		return refusal("the price is above the customer's bid")
	case spec.Bid == 0 && hold.Rate < price: // its owner may ask more at a broker
		return refusal(fmt.Sprintf("the price is %v, not %v", price, hold.Rate))
	case hold.Tariff.Disk < a.Tariff.Disk:
		return refusal(fmt.Sprintf("a GiB of disk costs %v, not %v", a.Tariff.Disk, hold.Tariff.Disk))
	case hold.Tariff.Ingress < a.Tariff.Ingress:
		return refusal(fmt.Sprintf("a GB to the job costs %v, not %v", a.Tariff.Ingress, hold.Tariff.Ingress))
	case hold.Tariff.Egress < a.Tariff.Egress:
		return refusal(fmt.Sprintf("a GB from the job costs %v, not %v", a.Tariff.Egress, hold.Tariff.Egress))
	case price < a.Rate && !spec.Pays(spec.Reserve, charge):
		return refusal(fmt.Sprintf("the job's budget does not pay the %v that its customer commits to", spec.Reserve))
	case min(hold.TTL, maxHoldTTL) < spec.Firm:
		return refusal(fmt.Sprintf("the quote is to last %v, the hold %v", spec.Firm, hold.TTL))
	case hold.Rank >= max(1, spec.Nodes):
		return refusal(fmt.Sprintf("the customer wants %d hosts, this would be number %d", max(1, spec.Nodes), hold.Rank+1))
	case !spec.Affords(hold.Rate, charge):
		return refusal("the price is above the customer's limit")
	case spec.Region != "" && spec.Region != a.Region:
		return refusal("the job is for another region")
	case spec.CPUs > a.CPUs*spec.GPU.Count:
		return refusal(fmt.Sprintf("a job has at most %d cores per GPU", a.CPUs))
	case spec.MemoryMiB > a.MemoryMiB*gpus:
		return refusal(fmt.Sprintf("a job has at most %d MiB of memory per GPU", a.MemoryMiB))
	case a.DiskPerJobMiB > 0 && spec.DiskMiB > a.DiskPerJobMiB:
		return refusal(fmt.Sprintf("a job may write at most %d MiB, not %d", a.DiskPerJobMiB, spec.DiskMiB))
	}
	return nil
}

// checkWhere checks the customer's query against what we offer now: what a broker matched is not our word. The caller
// holds a.mu.
func (a *Agent) checkWhere(offer broker.OfferID, where broker.Filter, spec broker.JobSpec, diskMiB uint64) error {
	for _, model := range models(a.gpus) {
		if offerID(a.self, model) != offer {
			continue
		}
		o := a.offerOf(model, diskMiB)
		if p, fails := where.Fails(&o, &spec); fails {
			return refusal(fmt.Sprintf("the offer does not satisfy the job's %s", p))
		}
	}
	return nil
}

// choose picks free GPUs of an offer in the inventory's order. The caller holds a.mu.
func (a *Agent) choose(offer broker.OfferID, want broker.GPURequest) (uuids []string, simulated bool, err error) {
	for _, model := range models(a.gpus) {
		if offerID(a.self, model) != offer {
			continue
		}
		if want.Model != "any" && want.Model != model {
			return nil, false, refusal(fmt.Sprintf("the offer is for %s, the job wants %s", model, want.Model))
		}
		for _, g := range a.gpus {
			if g.Model == model && a.usable(g) && g.NominalMiB() >= want.MinMemoryMiB && len(uuids) < want.Count {
				uuids = append(uuids, g.UUID)
				simulated = simulated || g.Simulated
			}
		}
		if len(uuids) < want.Count {
			return nil, false, refusal(fmt.Sprintf("%d of %d GPUs are free", len(uuids), want.Count))
		}
		return uuids, simulated, nil
	}
	return nil, false, refusal("no such offer")
}

// confirm turns a hold into a lease.
func (a *Agent) confirm(ctx context.Context, from identity.ID, request []byte) ([]byte, error) {
	c, signer, err := wire.OpenConfirm(request)
	if err != nil {
		return nil, err
	}
	w, err := a.owned(c.Lease, signer, from)
	if err != nil {
		return nil, fmt.Errorf("confirm %s: %w", c.Lease, err)
	}
	ttl := min(c.TTL, maxLeaseTTL)
	r := w.record()
	charge, err := w.spec.Charge(r.Rate, r.Tariff)
	if err != nil {
		return nil, fmt.Errorf("confirm %s: %w", c.Lease, err)
	}
	most, err := w.spec.MostTime(charge)
	if err != nil {
		return nil, fmt.Errorf("confirm %s: %w", c.Lease, err)
	}
	a.mu.Lock()
	claim, err := a.authority.Confirm(a.Clock.now(), c.Lease, signer, ttl)
	a.mu.Unlock()
	if err != nil {
		return nil, err
	}
	err = w.update(ctx, func(r *provider.Record) error {
		if r.State == provider.StateHeld {
			r.State = provider.StateConfirmed
		}
		r.Deadline, r.TTL, r.MaxDuration = a.Clock.instant(claim.Deadline), ttl, min(c.MaxDuration, most)
		return nil
	})
	if err != nil {
		return nil, err
	}
	w.confirm()
	return nil, nil
}

// release ends a hold or lease. It returns once the end is under way; the last report says when it came.
func (a *Agent) release(_ context.Context, from identity.ID, request []byte) ([]byte, error) {
	r, signer, err := wire.OpenRelease(request)
	if err != nil {
		return nil, err
	}
	w, err := a.owned(r.Lease, signer, from)
	if errors.Is(err, provider.ErrNoLease) {
		return nil, nil // released before, or never granted
	}
	if err != nil {
		return nil, fmt.Errorf("release %s: %w", r.Lease, err)
	}
	reason := r.Reason
	if reason == "" {
		reason = "released by the broker"
	}
	w.end(reason)
	return nil, nil
}

// owned returns the workload of a lease if the peer that asks is its broker.
func (a *Agent) owned(lease broker.LeaseID, signer broker.PeerID, from identity.ID) (*workload, error) {
	if signer != broker.PeerID(from) {
		return nil, broker.ErrForbidden
	}
	w := a.workload(lease)
	if w == nil {
		return nil, provider.ErrNoLease
	}
	if w.record().Broker != signer {
		return nil, broker.ErrForbidden
	}
	return w, nil
}

func (a *Agent) workload(lease broker.LeaseID) *workload {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.workloads[lease]
}

// forget drops a workload and whatever claim it still has.
func (a *Agent) forget(w *workload) {
	a.mu.Lock()
	a.authority.Release(w.lease)
	delete(a.workloads, w.lease)
	a.mu.Unlock()
	a.Touch()
	signal(a.freed)
}
