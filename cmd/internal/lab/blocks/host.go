package blocks

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"rialto/blockstore"
	"rialto/blockstore/disk"
	"rialto/blockstore/image"
	"rialto/blockstore/mount"
	"rialto/cmd/internal/lab"
)

// MountVerb is the first argument that makes this program a mount server: see mount.ServerMain. The lab probes with one.
const MountVerb = "mount-server"

// local is a host's blocks and mounts, in this process but for the mount server.
type local struct {
	store  *disk.Store
	mounts *mount.Mounts
	stop   func() error
}

// openLocal opens a store and mounts in a directory.
func openLocal(ctx context.Context, l *lab.Lab, dir string) (*local, error) {
	store, err := disk.Open(ctx, disk.Config{Dir: filepath.Join(dir, "blocks")})
	if err != nil {
		return nil, err
	}
	h, err := mountsOf(ctx, l, dir, store)
	if err != nil {
		return nil, errors.Join(err, store.Close())
	}
	stop := h.stop
	h.stop = func() error { return errors.Join(stop(), store.Close()) }
	return h, nil
}

// mountsOf opens mounts in a directory, with a server of their own, so that the kernel has cached nothing of them.
func mountsOf(ctx context.Context, l *lab.Lab, dir string, store *disk.Store) (*local, error) {
	at := filepath.Join(dir, "mounts")
	if err := os.MkdirAll(at, 0o700); err != nil {
		return nil, err
	}
	can, err := mount.Probe(ctx, at, os.Args[0], MountVerb)
	if err != nil {
		return nil, err
	}
	m, err := mount.New(mount.Config{Dir: at, Can: can, Exe: l.Bin("rialto-provider"), Args: []string{"rialto-provider", MountVerb}})
	if err != nil {
		return nil, err
	}
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 1)
	go func() { done <- m.Run(life) }() // ends with stop
	return &local{store, m, func() error {
		cancel()
		err := <-done
		end, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		return errors.Join(err, m.Close(end))
	}}, nil
}

// Locate implements mount.Source.
func (l *local) Locate(ctx context.Context, ref blockstore.Ref) (mount.Place, error) {
	at, err := l.store.Locate(ctx, ref.CID)
	return mount.Place{Path: at.Path, Offset: at.Offset}, err
}

// Block implements mount.Source, as an agent's host does: a block is checked before a container gets it.
func (l *local) Block(ctx context.Context, ref blockstore.Ref) (mount.Place, error) {
	if err := l.store.Verify(ctx, ref.CID); err != nil {
		return mount.Place{}, err
	}
	at, err := l.store.Locate(ctx, ref.CID)
	return mount.Place{Path: at.Path, Offset: at.Offset, Verified: true}, err
}

// tree is a file tree whose blocks are in a local's store.
type tree struct {
	*local
	root blockstore.CID
	tree *blockstore.Tree
}

// importSite puts the site's blocks into the store, batch by batch.
func (l *local) importSite(ctx context.Context, oci string) (tree, error) {
	src, err := image.OpenLayout(oci, blockstore.Digest{}, v1.Platform{})
	if err != nil {
		return tree{}, err
	}
	batch := &batch{store: l.store}
	got, err := src.Import(ctx, image.Import{Put: batch.add})
	if err != nil {
		return tree{}, err
	}
	return tree{l, got.Image.Tree, got.Tree}, batch.flush(ctx)
}

// as mounts the tree anew, hands fn the mount, and unmounts it.
func (t tree) as(ctx context.Context, tier mount.Tier, fn func(mount.Mounted) error) error {
	m, err := t.mounts.MountAs(ctx, t.root, t.tree, t, tier)
	if err != nil {
		return err
	}
	return errors.Join(fn(m), t.mounts.Unmount(t.root))
}

// anew mounts the tree, lazily, at a mount server that has served nothing, hands fn the mount, and ends both.
func (t tree) anew(ctx context.Context, l *lab.Lab, src func(*local) mount.Source, fn func(tree, mount.Mounted) error) (err error) {
	dir, err := os.MkdirTemp(l.Path(), "anew-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	h, err := mountsOf(ctx, l, dir, t.store)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.stop()) }()
	m, err := h.mounts.MountAs(ctx, t.root, t.tree, src(h), mount.Lazy)
	if err != nil {
		return err
	}
	return errors.Join(fn(tree{h, t.root, t.tree}, m), h.mounts.Unmount(t.root))
}

// asStored is a source as an agent's host is one: it compares blocks with their names before they are read.
func asStored(l *local) mount.Source { return l }

// asVerified is a source that has compared all blocks with their names already.
func asVerified(l *local) mount.Source { return verified{l} }

type verified struct{ *local }

// Locate implements mount.Source.
func (v verified) Locate(ctx context.Context, ref blockstore.Ref) (mount.Place, error) {
	p, err := v.local.Locate(ctx, ref)
	p.Verified = err == nil
	return p, err
}
