//go:build linux

package images

import (
	"context"
	"errors"
	"fmt"
	"time"

	"rialto/blockstore"
	"rialto/blockstore/image"
	"rialto/provider"
)

// preparation brings one target onto the host as far as a container needs it to start.
type preparation struct {
	images *Images
	target target
	meter  *meter
}

// found is a target whose list of files is here.
type found struct {
	record record
	image  *blockstore.Image // nil: weights, or a private one that is shown already
	tree   *blockstore.Tree
}

// run tries the host itself and peers together, then peers that nobody named, then the registry. The tree comes with a user.
func (p *preparation) run(ctx context.Context) (*tree, provider.Image, error) {
	m := p.images
	f := m.newFill(p.target, p.meter) //nolint:contextcheck // it outlives the preparation
	t, img, err := p.begin(ctx, f)
	if err != nil {
		err = errors.Join(err, f.close())
	}
	return t, img, err
}

func (p *preparation) begin(ctx context.Context, f *fill) (*tree, provider.Image, error) {
	m := p.images
	is, img, err := p.find(ctx, f)
	if err != nil {
		return nil, provider.Image{}, err
	}
	t, err := m.show(ctx, f, is)
	if err != nil {
		return nil, provider.Image{}, fmt.Errorf("show %s: %w", p.target.name(), err)
	}
	f.unpin()
	return t, img, nil
}

// find brings the lists of what is wanted, and makes a record that names their blocks.
func (p *preparation) find(ctx context.Context, f *fill) (is found, img provider.Image, err error) {
	m := p.images
	done, err := m.filling()
	if err != nil {
		return found{}, provider.Image{}, err
	}
	to := f.store() //nolint:contextcheck // it outlives the preparation
	vain := false   // blocks came that no record will name
	defer func() { done(err == nil && !vain) }()
	load := p.load
	if p.target.private {
		load = p.loadPrivate
	}
	is, err = load(ctx, f)
	if err != nil && !errors.Is(err, errLocked) && f.widen(ctx) {
		is, err = load(ctx, f)
	}
	if err == nil {
		err = to.drain(ctx) // the fill brings what the lists name, and not the lists
	}
	vain = err != nil && !errors.Is(err, errNoSources)
	if err != nil && ctx.Err() == nil && p.target.registered() {
		if !errors.Is(err, errNoSources) {
			m.cfg.Logger.WarnContext(ctx, "the host and its peers failed, the registry takes over", "want", p.target.name(), "err", err)
		}
		is, err = p.fromRegistry(ctx, f)
	} else if err != nil && ctx.Err() == nil && !errors.Is(err, errLocked) {
		err = fmt.Errorf("%s: %w: %w", p.target.name(), ErrUnavailable, err)
	}
	if err != nil {
		return found{}, provider.Image{}, err
	}
	if img, err = is.describe(); err != nil {
		return found{}, provider.Image{}, err
	}
	is.record.Used = time.Now()
	return is, img, m.records.keep(is.record)
}

// load reads the lists of what is wanted, from the host or from peers.
func (p *preparation) load(ctx context.Context, f *fill) (found, error) {
	is := found{record: record{Root: p.target.root}}
	if here, ok := p.images.records.find(p.target); ok {
		is.record = here
	}
	if is.record.Root.IsZero() {
		return is, errNoSources
	}
	is.record.Tree = is.record.Root
	var err error
	if p.target.image != "" {
		if is.image, err = blockstore.LoadImage(ctx, is.record.Root, f); err != nil {
			return is, err
		}
		is.record.Tree, is.record.Digest = is.image.Tree, is.image.Digest()
		var index []byte
		if is.record.Digest != p.target.signed {
			// An index is a block as well, under its own digest.
			b, err := f.Get(ctx, p.target.signed.CID())
			if err != nil {
				return is, fmt.Errorf("signed index: %w", err)
			}
			index, is.record.Index = b.Data(), p.target.signed
		}
		if err := image.Prove(is.image, p.target.signed, index); err != nil {
			return is, err
		}
	}
	if is.tree = p.images.list(is.record.Tree); is.tree == nil {
		is.tree, err = blockstore.LoadTree(ctx, is.record.Tree, f)
	}
	return is, err
}

// fromRegistry imports the image from its layers.
func (p *preparation) fromRegistry(ctx context.Context, f *fill) (found, error) {
	to := f.store() //nolint:contextcheck // it outlives the preparation
	got, err := f.importImage(ctx, to)
	if err != nil {
		return found{}, err
	}
	if err := to.drain(ctx); err != nil {
		return found{}, err
	}
	p.meter.end()
	rec := record{Root: got.Root, Tree: got.Image.Tree, Digest: got.Image.Digest(), Own: true, Whole: true}
	if rec.Digest != p.target.signed {
		rec.Index = p.target.signed
	}
	rec.Used = time.Now()
	if err := p.images.records.keep(rec); err != nil {
		return found{}, err
	}
	p.images.cfg.Changed()
	return found{record: rec, image: got.Image, tree: got.Tree}, nil
}

// describe says how to run what was found.
func (is found) describe() (provider.Image, error) {
	img := provider.Image{Root: is.record.Root.String()}
	if is.image == nil {
		if !is.record.Digest.IsZero() { // a private one, whose key is not asked for
			img.Digest = is.record.Digest.String()
		}
		return img, nil
	}
	c, err := image.ParseConfig(is.image.Config)
	if err != nil {
		return provider.Image{}, err
	}
	img.Digest = is.record.Digest.String()
	img.Entrypoint, img.Cmd, img.Env, img.Workdir, img.User = c.Entrypoint, c.Cmd, c.Env, c.Workdir, c.User
	return img, nil
}
