package blocks

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
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

// rounds is how often a thing is measured of which the best counts.
const rounds = 5

// seconds is the best of several times.
type seconds float64

func none() seconds { return seconds(math.Inf(1)) }

func (s *seconds) take(d time.Duration) { *s = min(*s, seconds(d.Seconds())) }

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
	at := filepath.Join(dir, "mounts")
	if err := os.MkdirAll(at, 0o700); err != nil {
		return nil, errors.Join(err, store.Close())
	}
	can, err := mount.Probe(ctx, at)
	if err != nil {
		return nil, errors.Join(err, store.Close())
	}
	m, err := mount.New(mount.Config{Dir: at, Can: can, Exe: l.Bin("rialto-provider"), Args: []string{"rialto-provider", "mount-server"}})
	if err != nil {
		return nil, errors.Join(err, store.Close())
	}
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 1)
	go func() { done <- m.Run(life) }() // ends with stop
	return &local{store, m, func() error {
		cancel()
		err := <-done
		end, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		return errors.Join(err, m.Close(end), store.Close())
	}}, nil
}

// Locate implements mount.Source.
func (l *local) Locate(ctx context.Context, ref blockstore.Ref) (mount.Place, error) {
	at, err := l.store.Locate(ctx, ref.CID)
	return mount.Place{Path: at.Path, Offset: at.Offset}, err
}

// Block implements mount.Source, as an agent's host does: a block is compared with its name before a container gets it.
func (l *local) Block(ctx context.Context, ref blockstore.Ref) (mount.Place, error) {
	if _, err := l.store.Get(ctx, ref.CID); err != nil {
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

// mounting measures mounts of the site, and the first reading of all its files after each.
func (t tree) mounting(ctx context.Context, r *report, native string) error {
	files, size := 0, t.tree.Size()
	for i := range t.tree.Nodes {
		if t.tree.Nodes[i].Kind == blockstore.File {
			files++
		}
	}
	want, err := readAll(native)
	if err != nil {
		return err
	}
	mounts, reads := make(map[mount.Tier]*seconds), make(map[mount.Tier]*seconds)
	ext4 := none()
	tiers := []mount.Tier{mount.Lazy, mount.Sealed, mount.FUSE}
	for _, tier := range tiers {
		mounts[tier], reads[tier] = new(none()), new(none())
		for i := range 1 + 4*rounds {
			if err := t.as(ctx, tier, func(m mount.Mounted) error {
				if i > 0 { // the first makes what the others find
					mounts[tier].take(m.Took)
				}
				return nil
			}); err != nil {
				return err
			}
		}
	}
	for round := range rounds {
		begin := time.Now()
		if _, err := readAll(native); err != nil {
			return err
		}
		ext4.take(time.Since(begin))
		for _, tier := range tiers {
			if tier == mount.FUSE && round >= 2 {
				continue // it takes long, and is no key
			}
			if err := t.as(ctx, tier, func(m mount.Mounted) error {
				begin := time.Now()
				got, err := readAll(m.Path)
				reads[tier].take(time.Since(begin))
				if err == nil && got != want {
					err = fmt.Errorf("%s: read %d bytes, ext4 has %d", tier, got, want)
				}
				return err
			}); err != nil {
				return err
			}
		}
	}
	r.section(fmt.Sprintf("mount of an image of %d files, its index and blocks on the host; best of %d", files, 4*rounds))
	r.figure("mount_ms", "lazy: EROFS over one FUSE file", 1000*float64(*mounts[mount.Lazy]), "")
	r.row("sealed: EROFS over the store's packs", 1000*float64(*mounts[mount.Sealed]), "ms", "")
	r.row("rival: a FUSE tree (ours, for old kernels)", 1000*float64(*mounts[mount.FUSE]), "ms", "")
	r.section(fmt.Sprintf("first reading of its %d files, %d MB, after a fresh mount; what lies below is in the page cache; best of %d (FUSE of 2)", files, size/1e6, rounds))
	r.figure("tree_first_lazy_s", "lazy", float64(*reads[mount.Lazy]), "each block hashed once more")
	r.figure("tree_first_sealed_s", "sealed", float64(*reads[mount.Sealed]), "")
	r.row("rival: a FUSE tree", float64(*reads[mount.FUSE]), "s", "")
	r.row("limit: unpacked on ext4, everything cached", float64(ext4), "s", "")
	return nil
}

// readAll reads every file below a directory and returns how many bytes they have.
func readAll(dir string) (int64, error) {
	buf := make([]byte, 1<<20)
	var n int64
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		k, err := readFile(name, buf)
		n += k
		return err
	})
	return n, err
}

func readFile(name string, buf []byte) (n int64, err error) {
	f, err := os.Open(name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for {
		k, err := f.Read(buf)
		n += int64(k)
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

// sequential measures the warm reading of one large file.
func (l *local) sequential(ctx context.Context, r *report, dir string) (err error) {
	w, err := image.OpenWeights(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	batch := &batch{store: l.store}
	root, err := w.Import(ctx, batch.add)
	if err != nil {
		return err
	}
	if err := batch.flush(ctx); err != nil {
		return err
	}
	list, err := blockstore.LoadTree(ctx, root, l.store)
	if err != nil {
		return err
	}
	t := tree{l, root, list}
	best := make(map[string]*seconds)
	buf := make([]byte, 1<<20)
	measure := func(name, dir string) error {
		if best[name] == nil {
			best[name] = new(none())
		}
		for range rounds + 1 { // the first fills the page cache
			begin := time.Now()
			if _, err := readFile(filepath.Join(dir, "large.bin"), buf); err != nil {
				return err
			}
			best[name].take(time.Since(begin))
		}
		return nil
	}
	for range 2 { // by turns, because what else the machine does changes
		if err := measure("ext4", dir); err != nil {
			return err
		}
		for _, tier := range []mount.Tier{mount.Lazy, mount.Sealed, mount.FUSE} {
			if err := t.as(ctx, tier, func(m mount.Mounted) error { return measure(string(tier), m.Path) }); err != nil {
				return err
			}
		}
	}
	from, memory := make([]byte, largeFile), none()
	for range rounds {
		begin := time.Now()
		for at := 0; at < len(from); at += len(buf) {
			copy(buf, from[at:])
		}
		memory.take(time.Since(begin))
	}
	gbps := func(s seconds) float64 { return largeFile / 1e9 / float64(s) }
	r.section(fmt.Sprintf("warm sequential reading of a file of 256 MiB, 1 MiB at a time; best of %d", 2*rounds))
	r.figure("warm_seq_gbps", "lazy", gbps(*best["lazy"]), "")
	r.row("sealed", gbps(*best["sealed"]), "GB/s", "")
	r.figure("native_seq_gbps", "rival: ext4", gbps(*best["ext4"]), "")
	r.row("rival: a FUSE tree", gbps(*best["fuse"]), "GB/s", "")
	r.row("limit: copy in memory", gbps(memory), "GB/s", "")
	return nil
}
