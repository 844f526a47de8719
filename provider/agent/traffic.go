package agent

import (
	"log/slog"
	"sync"

	"rialto/broker"
	"rialto/provider"
	"rialto/tunnel"
)

// gauge counts what a workload's tunnel carries, in bytes of WireGuard's packets, from the tunnel's opening to the
// workload's end. A device counts from zero again under each agent: what an earlier one counted is in its last report, and
// what its tunnel carried after that is counted by nobody. Methods are safe for concurrent use.
type gauge struct {
	log *slog.Logger

	mu     sync.Mutex
	device tunnel.Device // nil: nothing is counted now
	opened tunnel.Stats  // of device, when it was
	before broker.Traffic
	total  broker.Traffic // before, and what was seen of the device; it never shrinks
}

// open goes on with what a device carries from these counts on.
func (g *gauge) open(d tunnel.Device, opened tunnel.Stats) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.device, g.opened, g.before = d, opened, g.total
}

// read returns what was carried so far.
func (g *gauge) read() broker.Traffic {
	g.mu.Lock()
	d := g.device
	g.mu.Unlock()
	if d == nil {
		return g.sum(nil)
	}
	now, err := d.Stats()
	if err != nil {
		g.log.Debug("the tunnel's traffic is not known", slog.Any("err", err))
		return g.sum(nil)
	}
	return g.sum(&now)
}

// sum adds what the device says. Of two who read at once, the one with the older counts changes nothing.
func (g *gauge) sum(now *tunnel.Stats) broker.Traffic {
	g.mu.Lock()
	defer g.mu.Unlock()
	if now != nil && g.device != nil {
		g.total.Ingress = max(g.total.Ingress, g.before.Ingress+now.ReceivedBytes-g.opened.ReceivedBytes)
		g.total.Egress = max(g.total.Egress, g.before.Egress+now.SentBytes-g.opened.SentBytes)
	}
	return g.total
}

// close counts no more: what an ended workload's console sends is not its traffic.
func (g *gauge) close() {
	g.read()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.device = nil
}

// counts reports whether a lease's broker reads what a report says of traffic: older ones refuse a field that they do not
// know. One that named prices for traffic does, and so does one that took such a report, which must not miss it in the next.
func (a *Agent) counts(r *provider.Record) bool {
	return r.Tariff != (broker.Tariff{}) || r.Counted || a.understands(r.Broker)
}
