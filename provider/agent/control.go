package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"slices"
	"time"

	"rialto/broker"
	"rialto/pricing"
)

// Status is what the agent says of itself to its host's owner.
type Status struct {
	Peer     broker.PeerID  `json:"peer"`
	Host     string         `json:"host"`
	Version  string         `json:"version"`
	Draining bool           `json:"draining"`
	Rate     int64          `json:"rate_nanousd_per_hour"` // of a GPU
	Disk     int64          `json:"disk_nanousd_per_gib_hour,omitzero"`
	Ingress  int64          `json:"ingress_nanousd_per_gb,omitzero"`
	Egress   int64          `json:"egress_nanousd_per_gb,omitzero"`
	Addrs    []string       `json:"addrs"`
	Brokers  []BrokerStatus `json:"brokers"`
	GPUs     []GPUStatus    `json:"gpus"`
	Leases   []LeaseStatus  `json:"leases"`
	Served   int64          `json:"served_bytes"`
	Fetched  int64          `json:"fetched_bytes"` // from peers, since the agent's start
	Peers    []PeerTraffic  `json:"peers"`         // those with most traffic, the most first
}

// Tariff is what the host charges for beside its GPUs.
func (s *Status) Tariff() broker.Tariff {
	return broker.Tariff{Disk: pricing.Rate(s.Disk), Ingress: pricing.Money(s.Ingress), Egress: pricing.Money(s.Egress)}
}

// BrokerStatus is the connection to one broker.
type BrokerStatus struct {
	Addr      string        `json:"addr"`
	ID        broker.PeerID `json:"id,omitempty"`
	Connected bool          `json:"connected"`
	Since     time.Time     `json:"since,omitzero"`
	// Accusers is how many hosts lately told it that this one sent them wrong blocks; DistrustedUntil, how long it names
	// this one as no source of blocks for that.
	Accusers        int       `json:"accusers"`
	DistrustedUntil time.Time `json:"distrusted_until,omitzero"`
}

// GPUStatus is one GPU of the host.
type GPUStatus struct {
	UUID      string         `json:"uuid"`
	Model     string         `json:"model"`
	MemoryMiB uint64         `json:"memory_mib"`
	Simulated bool           `json:"simulated"`
	Offered   bool           `json:"offered"`
	Lease     broker.LeaseID `json:"lease,omitempty"`
	Cause     string         `json:"unusable_cause,omitempty"`
}

// LeaseStatus is one workload.
type LeaseStatus struct {
	Lease   broker.LeaseID `json:"lease"`
	Job     broker.JobID   `json:"job"`
	Broker  broker.PeerID  `json:"broker"`
	State   string         `json:"state"`
	GPUs    []string       `json:"gpus"`
	UsedMS  int64          `json:"used_ms"`
	Ingress int64          `json:"ingress_bytes"` // that reached the job through its tunnel, as of the last report
	Egress  int64          `json:"egress_bytes"`  // that left it
	Message string         `json:"message,omitempty"`
	Unacked bool           `json:"end_unacknowledged"`
}

// Status returns the present state.
func (a *Agent) Status() Status {
	s := Status{Peer: a.self, Host: a.Host, Version: a.Version, Addrs: a.Network.Addrs()}
	s.Rate, s.Disk, s.Ingress, s.Egress = int64(a.Rate), int64(a.Tariff.Disk), int64(a.Tariff.Ingress), int64(a.Tariff.Egress)
	if a.Served != nil {
		s.Served = a.Served()
	}
	if a.Peers != nil {
		all := a.Peers()
		for _, p := range all {
			s.Fetched += p.Fetched
		}
		s.Peers = TopTraffic(all)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	s.Draining = a.draining
	for _, h := range a.brokers {
		b := BrokerStatus{Addr: h.addr, ID: broker.PeerID(h.id), Connected: h.connected, Since: h.since, Accusers: h.accusers}
		if time.Now().Before(h.distrusted) {
			b.DistrustedUntil = h.distrusted
		}
		s.Brokers = append(s.Brokers, b)
	}
	slices.SortFunc(s.Brokers, func(x, y BrokerStatus) int { return cmp.Compare(x.Addr, y.Addr) })
	holder := make(map[string]broker.LeaseID)
	for _, w := range a.workloads {
		r := w.record()
		l := LeaseStatus{
			Lease: r.Lease, Job: r.Job, Broker: r.Broker, State: r.State.String(), UsedMS: w.used().Milliseconds(),
			Ingress: r.Report.Traffic.Ingress, Egress: r.Report.Traffic.Egress,
			Message: r.Report.Message, Unacked: r.Report.Phase >= broker.PhaseExited && !r.Reported(),
		}
		for _, g := range r.GPUs {
			l.GPUs = append(l.GPUs, g.UUID)
			if r.State.Holding() {
				holder[g.UUID] = r.Lease
			}
		}
		s.Leases = append(s.Leases, l)
	}
	slices.SortFunc(s.Leases, func(x, y LeaseStatus) int { return cmp.Compare(x.Lease, y.Lease) })
	for _, g := range a.gpus {
		cause := g.UnusableCause
		if cause == "" && g.Busy {
			cause = "another process uses it"
		}
		s.GPUs = append(s.GPUs, GPUStatus{
			UUID: g.UUID, Model: g.Model, MemoryMiB: g.MemoryMiB, Simulated: g.Simulated,
			Offered: !a.draining && a.authority != nil && a.usable(g), Lease: holder[g.UUID], Cause: cause,
		})
	}
	return s
}

// Drain stops taking holds and returns when no workload has GPUs any more. With now it ends the
// workloads instead of waiting for them. The host stays drained until [Agent.Resume], also under later agents
// if there is a DrainFile.
func (a *Agent) Drain(ctx context.Context, now bool) error {
	if err := a.setDraining(true); err != nil {
		return err
	}
	for {
		left := 0
		a.mu.Lock()
		ended := !a.draining
		for _, w := range a.workloads {
			if !w.record().State.Holding() {
				continue
			}
			left++
			if now {
				w.end("the provider is draining")
			}
		}
		a.mu.Unlock()
		if ended {
			signal(a.freed)
			return errors.New("the drain was ended meanwhile")
		}
		if left == 0 {
			signal(a.freed) // for another drain that waits
			return nil
		}
		select {
		case <-a.freed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Resume ends a drain.
func (a *Agent) Resume() error { return a.setDraining(false) }

// setDraining keeps in a file what must outlive the agent: an upgrade must not put a host back on the market
// whose owner took it off. The file comes before the effect and goes before it too.
func (a *Agent) setDraining(on bool) error {
	a.drains.Lock()
	defer a.drains.Unlock()
	var err error
	switch {
	case a.DrainFile == "":
	case on:
		err = os.WriteFile(a.DrainFile, []byte("drained: this host takes no jobs\n"), 0o600)
	default:
		if err = os.Remove(a.DrainFile); errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	}
	if err != nil {
		return fmt.Errorf("drain: %w", err)
	}
	a.mu.Lock()
	a.draining = on
	a.mu.Unlock()
	a.Touch()
	signal(a.freed) // for a drain that waits
	return nil
}

// Handler serves the agent's owner on a socket that only the owner can open:
//
//	GET  /v1/status         200, JSON Status
//	POST /v1/drain?now=1    204 once no workload has GPUs
//	DELETE /v1/drain        204; the GPUs are offered again
func (a *Agent) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(a.Status()); err != nil {
			a.Logger.Debug("status was not read", "err", err)
		}
	})
	mux.HandleFunc("POST /v1/drain", func(w http.ResponseWriter, r *http.Request) {
		err := a.Drain(r.Context(), r.URL.Query().Get("now") == "1")
		switch {
		case err == nil:
			w.WriteHeader(http.StatusNoContent)
		case errors.Is(err, context.Canceled): // the owner left; the drain stays
		default:
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	mux.HandleFunc("DELETE /v1/drain", func(w http.ResponseWriter, _ *http.Request) {
		if err := a.Resume(); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	return mux
}
