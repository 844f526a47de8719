package agent

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"time"

	"rialto/broker"
	"rialto/broker/wire"
	"rialto/p2p/identity"
)

const (
	// maxPoisons bounds the accusations that wait. More are dropped: a peer that goes on will be met again.
	maxPoisons = 64
	// accuseEvery is how often a peer is accused. Brokers count accusers, not words.
	accuseEvery = time.Hour
	// maxSaid bounds the peers whose accusation is remembered.
	maxSaid = 1024
)

// accusePauses are before the second try and those after it: the broker may not have our grant yet, or may be started
// anew.
func accusePauses() []time.Duration { return []time.Duration{2 * time.Second, 30 * time.Second} }

// Accuse tells a broker that a peer sent a wrong block: the one whose hold named the peer, over the lease that it was for,
// or else all that are connected. Lease need not be set. It does not block.
func (a *Agent) Accuse(p broker.PoisonReport) {
	a.Logger.Warn("peer sent a wrong block", slog.String("peer", string(p.Accused)), slog.String("want", p.Want), slog.String("got", p.Got))
	select {
	case a.poisons <- p:
	default:
		a.Logger.Debug("an accusation too many is dropped", slog.String("peer", string(p.Accused)))
	}
}

// accuseAll sends accusations until ctx ends, each peer's once in a while.
func (a *Agent) accuseAll(ctx context.Context) error {
	said := make(map[broker.PeerID]time.Time)
	for {
		var p broker.PoisonReport
		select {
		case <-ctx.Done():
			return nil
		case p = <-a.poisons:
		}
		maps.DeleteFunc(said, func(_ broker.PeerID, at time.Time) bool { return time.Since(at) >= accuseEvery })
		if _, done := said[p.Accused]; done || len(said) >= maxSaid {
			continue
		}
		if a.accuse(ctx, p) {
			said[p.Accused] = time.Now()
		}
	}
}

// accuse reports whether a broker took an accusation.
func (a *Agent) accuse(ctx context.Context, p broker.PoisonReport) (taken bool) {
	to := a.witnesses(&p)
	envelope, err := wire.SealPoison(a.Key, p)
	if err != nil {
		a.Logger.Warn("an accusation is not sent", slog.Any("err", err))
		return false
	}
	for _, pause := range append([]time.Duration{0}, accusePauses()...) {
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return taken
		}
		to = slices.DeleteFunc(to, func(id identity.ID) bool {
			attempt, cancel := context.WithTimeout(ctx, reportTimeout)
			defer cancel()
			_, err := a.Network.Request(attempt, id, wire.ProtocolPoison, envelope)
			if err != nil {
				a.Logger.Debug("an accusation was not taken", slog.String("broker", string(id)), slog.Any("err", err))
			}
			taken = taken || err == nil
			return err == nil
		})
		if len(to) == 0 {
			return taken
		}
	}
	return taken
}

// witnesses returns who is told, and sets the lease: the latest whose hold named the accused.
func (a *Agent) witnesses(p *broker.PoisonReport) []identity.ID {
	a.mu.Lock()
	defer a.mu.Unlock()
	var latest *workload
	for _, w := range a.workloads {
		named := slices.ContainsFunc(w.record().Sources, func(s broker.BlockSource) bool { return s.Peer == p.Accused })
		if named && (latest == nil || w.arrived.After(latest.arrived)) {
			latest = w
		}
	}
	if latest != nil {
		p.Lease = latest.lease
		return []identity.ID{identity.ID(latest.record().Broker)}
	}
	var all []identity.ID
	for _, h := range a.brokers {
		if h.connected {
			all = append(all, h.id)
		}
	}
	slices.Sort(all)
	return all
}
