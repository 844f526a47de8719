//go:build linux

package images

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"

	"rialto/blockstore"
	"rialto/blockstore/image"
	"rialto/broker"
)

// peerGetter reads single blocks from the store or from the target's peers.
type peerGetter struct{ p *preparation }

// Get returns a block without storing it: it is not proven to belong to anything yet.
func (g peerGetter) Get(ctx context.Context, c blockstore.CID) (blockstore.Block, error) {
	cfg := &g.p.images.cfg
	b, err := cfg.Store.Get(ctx, c)
	if !errors.Is(err, blockstore.ErrNotFound) {
		return b, err
	}
	var mu sync.Mutex
	got, err := cfg.Peers.Fetch(ctx, slices.Values([]blockstore.Ref{{CID: c}}), g.p.target.sources, func(arrived blockstore.Block) error {
		mu.Lock()
		defer mu.Unlock()
		b = arrived
		return nil
	})
	g.p.meter.peers(got.Bytes)
	return b, err
}

// fill brings the blocks of a manifest that are not here.
func (p *preparation) fill(ctx context.Context, m *blockstore.Manifest, buf *buffer) error {
	var missing []blockstore.Ref
	for ref := range m.Refs() {
		ok, err := p.images.cfg.Store.Has(ctx, ref.CID)
		if err != nil {
			return err
		}
		if ok {
			p.meter.local(int64(ref.Size))
			continue
		}
		missing = append(missing, ref)
	}
	p.meter.total(m.Size())
	if len(missing) == 0 {
		return nil
	}
	_, err := p.images.cfg.Peers.Fetch(ctx, slices.Values(missing), p.target.sources, func(b blockstore.Block) error {
		p.meter.peers(int64(b.Size()))
		return buf.add(ctx, b)
	})
	if err == nil || ctx.Err() != nil || errors.Is(err, errEnded) || p.target.image == "" {
		return err
	}
	p.images.cfg.Logger.WarnContext(ctx, "peers failed, the registry gives the rest", "want", p.target.key(), "err", err)
	return p.fillFromRegistry(ctx, m, buf)
}

// fillFromRegistry imports the layers of a manifest of which blocks are missing. The same layer gives the same
// blocks, so that the unpacking goes on where it waits.
func (p *preparation) fillFromRegistry(ctx context.Context, m *blockstore.Manifest, buf *buffer) error {
	img, err := p.registry().Open(ctx, p.target.image, p.target.signed)
	if err != nil {
		return err
	}
	_, err = img.Import(ctx, image.Import{
		Put: func(ctx context.Context, _ int, b blockstore.Block) error { return buf.add(ctx, b) },
		Known: func(id blockstore.Digest) (blockstore.Layer, bool) {
			i := slices.IndexFunc(m.Layers, func(l blockstore.Layer) bool { return l.DiffID == id })
			if i < 0 || !p.complete(ctx, m.Layers[i], buf) {
				return blockstore.Layer{}, false
			}
			return m.Layers[i], true
		},
		Read:     func(n int) { p.meter.registry(int64(n)) },
		MaxBytes: p.images.cfg.Limits.Bytes,
	})
	if err != nil {
		return fmt.Errorf("fetch %s: %w", p.target.image, err)
	}
	return nil
}

// complete reports whether all blocks of a layer are in store or buffer.
func (p *preparation) complete(ctx context.Context, l blockstore.Layer, buf *buffer) bool {
	for _, ref := range l.Blocks {
		if buf != nil && buf.has(ref.CID) {
			continue
		}
		if ok, err := p.images.cfg.Store.Has(ctx, ref.CID); err != nil || !ok {
			return false
		}
	}
	return true
}

func (b *buffer) has(c blockstore.CID) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, ok := b.blocks[c]
	return ok
}

// knownLayers finds layers among the images that are held: a base image is imported once.
func (p *preparation) knownLayers(ctx context.Context) func(blockstore.Digest) (blockstore.Layer, bool) {
	layers := make(map[blockstore.Digest]blockstore.Layer)
	for _, rec := range p.images.roots.list() {
		m, err := blockstore.Load(ctx, rec.Root, p.images.cfg.Store)
		if err != nil {
			continue // it is found out, and told, when that image is wanted
		}
		for _, l := range m.Layers {
			layers[l.DiffID] = l
		}
	}
	return func(id blockstore.Digest) (blockstore.Layer, bool) {
		l, ok := layers[id]
		if !ok || !p.complete(ctx, l, nil) {
			return blockstore.Layer{}, false
		}
		p.meter.local(l.Size())
		return l, true
	}
}

func (p *preparation) registry() image.Registry {
	return image.Registry{Transport: p.images.cfg.Transport, Keychain: p.images.cfg.Keychain}
}

// feed is the list of a layer's blocks while it grows.
type feed struct {
	mu      sync.Mutex
	changed chan struct{}
	list    []blockstore.Ref
	closed  bool
}

func newFeed() *feed { return &feed{changed: make(chan struct{})} }

func (f *feed) add(r blockstore.Ref) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.list = append(f.list, r)
	close(f.changed)
	f.changed = make(chan struct{})
}

// complete ends the list, which is a prefix of all, or empty for a layer that was not imported.
func (f *feed) complete(all []blockstore.Ref) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.list, f.closed = all, true
	close(f.changed)
	f.changed = make(chan struct{})
}

// refs yields the blocks as they become known, until the list ends or the context does.
func (f *feed) refs(ctx context.Context) iter.Seq[blockstore.Ref] {
	return func(yield func(blockstore.Ref) bool) {
		for i := 0; ; {
			f.mu.Lock()
			list, closed, changed := f.list, f.closed, f.changed
			f.mu.Unlock()
			for ; i < len(list); i++ {
				if !yield(list[i]) {
					return
				}
			}
			if closed {
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}
}

// meter counts bytes by where they came from and tells of each further mebibyte.
type meter struct {
	report func(broker.Fetched)

	mu   sync.Mutex
	now  broker.Fetched
	told int64
}

func (m *meter) local(n int64)    { m.count(func(f *broker.Fetched) { f.Local += n }) }
func (m *meter) peers(n int64)    { m.count(func(f *broker.Fetched) { f.Peers += n }) }
func (m *meter) registry(n int64) { m.count(func(f *broker.Fetched) { f.Registry += n }) }
func (m *meter) total(n int64)    { m.count(func(f *broker.Fetched) { f.Total = n }) }

// restart begins with a new source: what was here may have to come again.
func (m *meter) restart(total int64) {
	m.count(func(f *broker.Fetched) { f.Local, f.Total = 0, total })
}

func (m *meter) count(change func(*broker.Fetched)) {
	m.mu.Lock()
	change(&m.now)
	sum := m.now.Local + m.now.Peers + m.now.Registry
	tell := sum-m.told >= 1<<20
	if tell {
		m.told = sum
	}
	now := m.now
	m.mu.Unlock()
	if tell {
		m.report(now)
	}
}

// end returns the final count, whose total is the sum.
func (m *meter) end() broker.Fetched {
	m.mu.Lock()
	m.now.Total = m.now.Local + m.now.Peers + m.now.Registry
	now := m.now
	m.mu.Unlock()
	m.report(now)
	return now
}
