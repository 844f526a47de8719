//go:build linux

package images

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"slices"

	"golang.org/x/sync/errgroup"

	"rialto/blockstore"
	"rialto/blockstore/image"
	"rialto/blockstore/unpack"
	"rialto/provider"
)

// preparation brings one target onto the host.
type preparation struct {
	images *Images
	target target
	meter  meter
}

// run tries the host itself, then peers, then the registry.
func (p *preparation) run(ctx context.Context) (provider.Image, error) {
	name := p.target.key()
	log := p.images.cfg.Logger.With("want", name)
	if rec, ok := p.images.roots.find(p.target); ok {
		img, err := p.local(ctx, rec)
		if err == nil || ctx.Err() != nil {
			return img, err
		}
		log.WarnContext(ctx, "image on this host is damaged and fetched again", "err", err)
		if err := p.images.roots.drop(rec.Root); err != nil {
			return provider.Image{}, err
		}
	}
	img, err := p.fromPeers(ctx)
	if err == nil || ctx.Err() != nil {
		return img, err
	}
	if p.target.image == "" {
		return provider.Image{}, fmt.Errorf("weights %s: %w: %w", name, ErrUnavailable, err)
	}
	if !errors.Is(err, errNoSources) {
		log.WarnContext(ctx, "peers failed, the registry takes over", "err", err)
	}
	return p.fromRegistry(ctx)
}

// local uses blocks that are all here.
func (p *preparation) local(ctx context.Context, rec record) (provider.Image, error) {
	store := p.images.cfg.Store
	m, err := blockstore.Load(ctx, rec.Root, store)
	if err != nil {
		return provider.Image{}, err
	}
	p.meter.total(m.Size())
	dir, ok := p.images.trees.path(rec.Root)
	if !ok {
		tmp, err := p.unpack(ctx, m, store)
		if err != nil {
			return provider.Image{}, err
		}
		if dir, err = p.images.trees.finish(tmp, rec.Root); err != nil {
			return provider.Image{}, err
		}
	}
	p.meter.local(m.Size())
	return p.image(m, rec.Root, dir)
}

var errNoSources = errors.New("no peers known")

// fromPeers begins with the manifest, which proves itself. Blocks that peers do not give come from the
// registry, where there is one.
func (p *preparation) fromPeers(ctx context.Context) (provider.Image, error) {
	if p.target.root.IsZero() || len(p.target.sources) == 0 || p.images.cfg.Peers == nil {
		return provider.Image{}, errNoSources
	}
	from := peerGetter{p}
	m, err := blockstore.Load(ctx, p.target.root, from)
	if err != nil {
		return provider.Image{}, fmt.Errorf("manifest from peers: %w", err)
	}
	rec := record{Root: p.target.root, Digest: m.Digest()}
	index, err := p.prove(ctx, m, from)
	if err != nil {
		return provider.Image{}, fmt.Errorf("manifest from peers: %w", err)
	}
	if index != nil {
		rec.Index = p.target.signed
	}
	return p.stream(ctx, rec, index, func(ctx context.Context, buf *buffer) (*blockstore.Manifest, error) {
		return m, p.fill(ctx, m, buf)
	}, func(ctx context.Context, buf *buffer) (string, error) {
		return p.unpack(ctx, m, buf)
	})
}

// prove checks that a manifest is what was signed: the root itself for weights, else a digest of the OCI
// manifest or of an index that lists it. An index is a block as well, under its own digest; it is returned.
func (p *preparation) prove(ctx context.Context, m *blockstore.Manifest, from blockstore.Getter) (index []byte, err error) {
	if p.target.image == "" {
		if m.IsImage() {
			return nil, errors.New("the root is an image, not weights")
		}
		return nil, nil
	}
	if m.IsImage() && m.Digest() != p.target.signed {
		b, err := from.Get(ctx, p.target.signed.CID())
		if err != nil {
			return nil, fmt.Errorf("signed index: %w", err)
		}
		index = b.Data()
	}
	return index, image.Prove(m, p.target.signed, index)
}

// fromRegistry imports the image and unpacks it while it is imported.
func (p *preparation) fromRegistry(ctx context.Context) (provider.Image, error) {
	img, err := p.registry().Open(ctx, p.target.image, p.target.signed)
	if err != nil {
		return provider.Image{}, err
	}
	rec := record{Digest: img.Digest()}
	if img.Index != nil {
		rec.Index = p.target.signed
	}
	p.meter.restart(img.CompressedSize())
	ids := img.DiffIDs()
	feeds := make([]*feed, len(ids))
	for i := range feeds {
		feeds[i] = newFeed()
	}
	known := p.knownLayers(ctx)
	return p.stream(ctx, rec, img.Index, func(ctx context.Context, buf *buffer) (*blockstore.Manifest, error) {
		m, err := img.Import(ctx, image.Import{
			Put: func(ctx context.Context, layer int, b blockstore.Block) error {
				if err := buf.add(ctx, b); err != nil {
					return err
				}
				feeds[layer].add(b.Ref())
				return nil
			},
			Known:    known,
			Done:     func(layer int, l blockstore.Layer) { feeds[layer].complete(l.Blocks) },
			Read:     func(n int) { p.meter.registry(int64(n)) },
			MaxBytes: p.images.cfg.Limits.Bytes,
		})
		if err != nil {
			return nil, fmt.Errorf("fetch %s: %w", p.target.image, err)
		}
		return m, nil
	}, func(ctx context.Context, buf *buffer) (string, error) {
		return p.apply(ctx, ids, func(ctx context.Context, layer int) iter.Seq2[blockstore.Block, error] {
			return readBlocks(ctx, feeds[layer].refs(ctx), buf)
		})
	})
}

// stream runs a source of blocks, the storing of blocks and the unpacking side by side, and then makes
// the result known.
func (p *preparation) stream(ctx context.Context, rec record, index []byte,
	source func(context.Context, *buffer) (*blockstore.Manifest, error),
	unpack func(context.Context, *buffer) (string, error),
) (provider.Image, error) {
	buf := newBuffer(p.images.cfg.Store)
	var m *blockstore.Manifest
	var tmp string
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return buf.run(gctx) })
	g.Go(func() (err error) {
		m, err = source(gctx, buf)
		buf.end(err)
		return err
	})
	g.Go(func() (err error) {
		tmp, err = unpack(gctx, buf)
		return err
	})
	if err := g.Wait(); err != nil {
		if tmp != "" {
			err = errors.Join(err, os.RemoveAll(tmp))
		}
		return provider.Image{}, err
	}
	return p.publish(ctx, rec, m, index, tmp)
}

// publish keeps the manifest, gives the tree its name, and from then on the image is held.
func (p *preparation) publish(ctx context.Context, rec record, m *blockstore.Manifest, index []byte, tmp string) (provider.Image, error) {
	blocks, err := m.Blocks()
	if err != nil {
		return provider.Image{}, errors.Join(err, os.RemoveAll(tmp))
	}
	rec.Root = blocks[0].CID()
	if index != nil && len(index) <= blockstore.MaxBlock {
		b, err := blockstore.NewBlock(index)
		if err != nil {
			return provider.Image{}, errors.Join(err, os.RemoveAll(tmp))
		}
		blocks = append(blocks, b)
	}
	if err := p.images.cfg.Store.Put(ctx, blocks...); err != nil {
		return provider.Image{}, errors.Join(err, os.RemoveAll(tmp))
	}
	dir, err := p.images.trees.finish(tmp, rec.Root)
	if err != nil {
		return provider.Image{}, err
	}
	if err := p.images.roots.add(rec); err != nil {
		return provider.Image{}, err
	}
	return p.image(m, rec.Root, dir)
}

// unpack makes a tree of a manifest's layers and returns where it is, for now.
func (p *preparation) unpack(ctx context.Context, m *blockstore.Manifest, from blockstore.Getter) (string, error) {
	ids := make([]blockstore.Digest, len(m.Layers))
	for i, l := range m.Layers {
		ids[i] = l.DiffID
	}
	return p.apply(ctx, ids, func(ctx context.Context, layer int) iter.Seq2[blockstore.Block, error] {
		return readBlocks(ctx, slices.Values(m.Layers[layer].Blocks), from)
	})
}

func (p *preparation) apply(ctx context.Context, ids []blockstore.Digest, open func(context.Context, int) iter.Seq2[blockstore.Block, error]) (string, error) {
	tmp, err := p.images.trees.begin()
	if err != nil {
		return "", err
	}
	limits, err := p.images.trees.limits(p.images.cfg.Limits)
	if err != nil {
		return "", errors.Join(err, os.RemoveAll(tmp))
	}
	tree, err := unpack.New(tmp, limits)
	if err != nil {
		return "", errors.Join(err, os.RemoveAll(tmp))
	}
	defer tree.Close() //nolint:errcheck // only descriptors of directories
	for i, id := range ids {
		err := tree.Apply(ctx, id, func(ctx context.Context) iter.Seq2[blockstore.Block, error] { return open(ctx, i) })
		if err != nil {
			return "", errors.Join(err, os.RemoveAll(tmp))
		}
	}
	stats, err := tree.Finish()
	if err != nil {
		return "", errors.Join(err, os.RemoveAll(tmp))
	}
	p.images.cfg.Logger.InfoContext(ctx, "image unpacked",
		"entries", stats.Entries, "bytes", stats.Bytes, "skipped", stats.Skipped)
	return tmp, nil
}

// readBlocks yields the blocks that refs name, and ends with the first error.
func readBlocks(ctx context.Context, refs iter.Seq[blockstore.Ref], from blockstore.Getter) iter.Seq2[blockstore.Block, error] {
	return func(yield func(blockstore.Block, error) bool) {
		for ref := range refs {
			b, err := from.Get(ctx, ref.CID)
			if err == nil && b.Size() != ref.Size {
				err = fmt.Errorf("%w: block %v has %d bytes, not %d", blockstore.ErrManifest, ref.CID, b.Size(), ref.Size)
			}
			if !yield(b, err) || err != nil {
				return
			}
		}
		if err := ctx.Err(); err != nil {
			yield(blockstore.Block{}, err)
		}
	}
}

func (p *preparation) image(m *blockstore.Manifest, root blockstore.CID, dir string) (provider.Image, error) {
	img := provider.Image{RootFS: dir, Root: root.String(), Fetched: p.meter.end()}
	if !m.IsImage() {
		return img, nil
	}
	c, err := image.ParseConfig(m.Config)
	if err != nil {
		return provider.Image{}, err
	}
	img.Digest = m.Digest().String()
	img.Entrypoint, img.Cmd, img.Env, img.Workdir, img.User = c.Entrypoint, c.Cmd, c.Env, c.Workdir, c.User
	return img, nil
}
