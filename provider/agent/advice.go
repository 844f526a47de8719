package agent

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"rialto/broker"
	"rialto/broker/wire"
	"rialto/p2p/identity"
)

const (
	maxAdviceTTL = 24 * time.Hour   // no broker decides for longer what we keep
	minAdvice    = time.Minute      // between two sets of offers that are sent for new advice
	adviceTick   = 30 * time.Second // between looks whether advice is due
	maxPeers     = 64               // that a status shows
)

// PeerTraffic is what a peer served us, and we it, since the agent's start.
type PeerTraffic struct {
	Peer    broker.PeerID `json:"peer"`
	Fetched int64         `json:"fetched_bytes"`
	Served  int64         `json:"served_bytes"`
}

// TopTraffic lists the peers with most traffic, the most first, as many as a status shows.
func TopTraffic(all []PeerTraffic) []PeerTraffic {
	all = slices.Clone(all)
	slices.SortFunc(all, func(x, y PeerTraffic) int {
		return cmp.Or(cmp.Compare(y.Fetched+y.Served, x.Fetched+x.Served), cmp.Compare(x.Peer, y.Peer))
	})
	return all[:min(len(all), maxPeers)]
}

// advise takes a broker's answer to our offers; an older broker's is empty. It is refused if it answers others.
func (a *Agent) advise(h *home, to identity.ID, set broker.OfferSet, answer []byte) error {
	if len(answer) == 0 {
		return nil
	}
	advice, signer, err := wire.OpenAdvice(answer)
	if err != nil {
		return err
	}
	if string(signer) != string(to) || advice.Boot != set.Boot || advice.Seq != set.Seq {
		return fmt.Errorf("advice on other offers: %w", broker.ErrInvalid)
	}
	now, ttl := time.Now(), min(advice.TTL, maxAdviceTTL)
	a.Images.Advise(signer, advice.Roots, now.Add(ttl))
	a.mu.Lock()
	defer a.mu.Unlock()
	worse := advice.Accusers > h.accusers
	h.advises, h.due, h.accusers, h.distrusted = true, now.Add(max(minAdvice, ttl/3)), advice.Accusers, time.Time{}
	if advice.Distrusted > 0 {
		h.distrusted = now.Add(advice.Distrusted)
	}
	if worse {
		a.Logger.Warn("other hosts say that this one sent them wrong blocks: check its memory and its disk",
			slog.String("broker", string(signer)), slog.Int("hosts", advice.Accusers), slog.Time("not_a_source_until", h.distrusted))
	}
	return nil
}

// watchAdvice has our offers sent again, as they are, where advice is due.
func (a *Agent) watchAdvice(ctx context.Context) error {
	tick := time.NewTicker(adviceTick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			if a.adviceDue(now) {
				signal(a.changed)
			}
		}
	}
}

func (a *Agent) adviceDue(now time.Time) (due bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, h := range a.brokers {
		if h.connected && h.advises && !now.Before(h.due) {
			h.stale, due = true, true
			h.due = now.Add(minAdvice)
		}
	}
	return due
}

// understands reports whether a broker reads what a report says of the peers that served us: older ones refuse a field
// that they do not know. Those that give advice do.
func (a *Agent) understands(id broker.PeerID) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, h := range a.brokers {
		if h.advises && broker.PeerID(h.id) == id {
			return true
		}
	}
	return false
}
