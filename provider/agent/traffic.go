package agent

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"rialto/broker"
	"rialto/provider"
	"rialto/tunnel"
)

const (
	// slowTunnel is what a tunnel carries each way, in bytes per second, when its customer pays for no more: 1 Mbit/s is
	// enough to read a log, and to stop what sends too much.
	slowTunnel = 125_000
	// trafficTick is the time between two looks at traffic that has a price: what flows beyond the paid until the next
	// look is the host's gift.
	trafficTick = 2 * time.Second
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

// boundTraffic slows a workload's tunnel down once it has carried more than the customer pays for in a direction that the
// host charges for. It returns then, or when ctx ends.
func (w *workload) boundTraffic(ctx context.Context, d tunnel.Device) {
	tariff := w.record().Tariff
	if tariff.Ingress == 0 && tariff.Egress == 0 {
		return
	}
	tick := time.NewTicker(trafficTick)
	defer tick.Stop()
	for {
		if way := beyond(w.traffic.read(), tariff, w.spec.PaidTraffic()); way != "" {
			w.slowDown(ctx, d, way)
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// beyond says which traffic with a price was more than what is paid; empty: none.
func beyond(n broker.Traffic, tariff broker.Tariff, paid int64) string {
	in, out := tariff.Beyond(n, paid)
	switch {
	case in:
		return "reached"
	case out:
		return "left"
	}
	return ""
}

// decimal writes a count of bytes as traffic is priced.
func decimal(n int64) string {
	size, unit := 1e9, " GB"
	if n < 1e9 {
		size, unit = 1e6, " MB"
	}
	return strconv.FormatFloat(float64(n)/size, 'f', -1, 64) + unit
}

// slowDown limits the tunnel for as long as it is open, and tells the customer why.
func (w *workload) slowDown(ctx context.Context, d tunnel.Device, way string) {
	if err := d.Limit(slowTunnel); err != nil {
		if ctx.Err() == nil {
			w.log.Error("traffic that nobody pays for cannot be slowed down", slog.Any("err", err))
		}
		return
	}
	paid := decimal(w.spec.PaidTraffic())
	w.log.Info("the tunnel is slowed down: its customer pays for no more traffic", slog.String("paid", paid))
	w.note(func(r *broker.Report) {
		r.Message = fmt.Sprintf("the job's tunnel is slowed down to 1 Mbit/s: more than the %s that are paid for %s the job", paid, way)
	})
}
