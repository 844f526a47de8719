package broker

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// flaw says what is wrong with a grant.
func (m *Market) flaw(l *Lease, j *Job, a *Answer) string {
	g := a.Grant
	switch {
	case a.Lease != l.ID || g.Lease != l.ID || g.Job != l.Job:
		return "it is for another lease"
	case len(g.GPUs) != j.Spec.GPU.Count:
		return fmt.Sprintf("%d GPUs, want %d", len(g.GPUs), j.Spec.GPU.Count)
	case g.TunnelKey.IsZero():
		return "no tunnel key"
	case j.quoting() && (g.Rate != l.Rate || g.Firm < j.Spec.Firm):
		return fmt.Sprintf("it signs %v for %v, want %v for %v", g.Rate, g.Firm, l.Rate, j.Spec.Firm)
	case j.quoting() && g.Tariff != l.Tariff:
		return "it signs other prices of disk and traffic than it offers"
	case len(g.Endpoints) > maxJobGPUs:
		return "too many endpoints"
	}
	for _, e := range g.Endpoints {
		if !isEndpoint(e) {
			return "endpoint " + quoteClipped(e) + " is not host:port"
		}
	}
	for i, gpu := range g.GPUs {
		id := gpuID{l.Provider, gpu.UUID}
		_, leased := m.leased[gpu.UUID]
		switch {
		case !m.offered(l.Provider, l.Offer, gpu.UUID):
			return "GPU " + quoteClipped(gpu.UUID) + " is not in the offer"
		case slices.ContainsFunc(g.GPUs[:i], func(o GPULease) bool { return o.UUID == gpu.UUID }):
			return "GPU " + gpu.UUID + " twice"
		case leased:
			return "GPU " + gpu.UUID + " is leased already"
		case gpu.Epoch <= m.epochs[id]:
			return fmt.Sprintf("GPU %s: epoch %d is not above %d: %v", gpu.UUID, gpu.Epoch, m.epochs[id], ErrFencedEpoch)
		}
	}
	return ""
}

// isEndpoint reports whether s is host:port with a host that is not empty.
func isEndpoint(s string) bool {
	colon := strings.LastIndexByte(s, ':')
	if colon < 1 || len(s) > 2*maxName || !printable(s) {
		return false
	}
	port, err := strconv.ParseUint(s[colon+1:], 10, 16)
	return err == nil && port > 0
}

// offered reports whether a GPU belongs to an offer. The provider may have left since it was asked: it
// knows its own GPUs, so then only a GPU that another provider sells is foreign.
func (m *Market) offered(p PeerID, o OfferID, uuid string) bool {
	s := m.shops[p]
	if s == nil {
		_, foreign := m.sellers[uuid]
		return !foreign && uuid != "" && len(uuid) <= maxName
	}
	return slices.ContainsFunc(s.offers, func(x *Offer) bool {
		return x.ID == o && slices.ContainsFunc(x.GPUs, func(g GPU) bool { return g.UUID == uuid })
	})
}
