//go:build linux

package images

import (
	"context"
	"slices"
	"time"

	"rialto/blockstore"
	"rialto/blockstore/exchange"
)

// Finder knows which hosts hold a root whole; see p2p.Roots.
type Finder interface {
	// Find returns hosts that say they hold a root. It returns what it has found when ctx ends.
	Find(ctx context.Context, root blockstore.CID) []exchange.Peer
}

const (
	// findTime is how long a registry may wait for an answer: less than it takes itself to send a manifest and a layer's
	// first bytes, and several round trips to hosts on the same continent.
	findTime = 300 * time.Millisecond
	// findEvery is the least time between two questions of a fill, whose container may read for days.
	findEvery = time.Minute
)

// widen looks for hosts that hold what the customer vouches for, because those that the lease names are none or
// failed, and reports whether it knows of others now. What is asked for again is asked of them.
func (f *fill) widen(ctx context.Context) bool {
	find, root := f.images.cfg.Finder, f.target.root
	f.mu.Lock()
	now := time.Now()
	if find == nil || root.IsZero() || ctx.Err() != nil || f.closed || now.Sub(f.asked) < findEvery {
		f.mu.Unlock()
		return false
	}
	f.asked = now
	f.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, findTime)
	defer cancel()
	found := find.Find(ctx, root)

	f.mu.Lock()
	defer f.mu.Unlock()
	known := len(f.target.sources)
	sources := slices.Clip(f.target.sources)
	for _, p := range found {
		if !slices.ContainsFunc(sources, func(q exchange.Peer) bool { return q.ID == p.ID }) {
			sources = append(sources, p)
		}
	}
	found = sources[known:]
	if len(found) == 0 || f.closed {
		return false
	}
	f.images.cfg.Logger.DebugContext(ctx, "hosts were found that hold an image", "want", f.target.name(), "hosts", len(found))
	f.target.sources = sources // of the next download
	if f.down != nil {
		f.down.Add(found...)
	}
	return true
}
