package blocks

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"rialto/blockstore"
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

// mounting measures mounts of the site, and the first reading of all its files.
func (t tree) mounting(ctx context.Context, r *report, l *lab.Lab, native string) error {
	files, size := 0, t.tree.Size()
	for i := range t.tree.Nodes {
		if t.tree.Nodes[i].Kind == blockstore.File {
			files++
		}
	}
	mounts := map[mount.Tier]*seconds{mount.Lazy: new(none()), mount.Sealed: new(none()), mount.FUSE: new(none())}
	const times = 4 * rounds
	for _, tier := range []mount.Tier{mount.Lazy, mount.Sealed, mount.FUSE} {
		for i := range 1 + times {
			if err := t.as(ctx, tier, func(m mount.Mounted) error {
				if i > 0 { // the first makes the index that the others find
					mounts[tier].take(m.Took)
				}
				return nil
			}); err != nil {
				return err
			}
		}
	}
	r.section(fmt.Sprintf("mount of an image of %d files, its index and blocks on the host; best of %d", files, times))
	r.figure("mount_ms", "lazy: EROFS over one FUSE file", 1000*float64(*mounts[mount.Lazy]), "")
	r.row("sealed: EROFS over the store's packs", 1000*float64(*mounts[mount.Sealed]), "ms", "")
	r.row("rival: a FUSE tree (ours, for old kernels)", 1000*float64(*mounts[mount.FUSE]), "ms", "")

	want, err := readBy(1, native) // its pages are cached from now on
	if err != nil {
		return err
	}
	all := runtime.NumCPU()
	check := func(readers int, name string, best *seconds, dir string) error {
		begin := time.Now()
		got, err := readBy(readers, dir)
		best.take(time.Since(begin))
		if err == nil && got != want {
			err = fmt.Errorf("%s: read %d bytes, ext4 has %d", name, got, want)
		}
		return err
	}
	lazy, known, again, sealed, fuse, ext4 := none(), none(), none(), none(), none(), none()
	alone := map[string]*seconds{"lazy": new(none()), "sealed": new(none()), "ext4": new(none())}
	for round := range rounds { // by turns, because what else the machine does changes
		err := errors.Join(
			check(1, "ext4", alone["ext4"], native),
			t.anew(ctx, l, asStored, func(_ tree, m mount.Mounted) error { return check(1, "lazy", alone["lazy"], m.Path) }),
			t.as(ctx, mount.Sealed, func(m mount.Mounted) error { return check(1, "sealed", alone["sealed"], m.Path) }),
			check(all, "ext4", &ext4, native),
			t.anew(ctx, l, asStored, func(_ tree, m mount.Mounted) error { return check(all, "lazy", &lazy, m.Path) }),
			t.anew(ctx, l, asVerified, func(_ tree, m mount.Mounted) error { return check(all, "lazy", &known, m.Path) }),
			t.as(ctx, mount.Lazy, func(m mount.Mounted) error { return check(all, "lazy", &again, m.Path) }),
			t.as(ctx, mount.Sealed, func(m mount.Mounted) error { return check(all, "sealed", &sealed, m.Path) }),
		)
		if err == nil && round < 2 { // it takes long, and is no key
			err = t.as(ctx, mount.FUSE, func(m mount.Mounted) error { return check(all, "fuse", &fuse, m.Path) })
		}
		if err != nil {
			return err
		}
	}
	r.section(fmt.Sprintf("first reading of its %d files, %d MB, %d at a time, after a fresh mount; packs are in the page cache; best of %d (FUSE of 2)", files, size/1e6, all, rounds))
	r.figure("tree_first_lazy_s", "lazy, through a mount server that has served nothing", float64(lazy), "")
	r.row("lazy, all blocks checked before since the agent's start", float64(known), "s", "")
	r.row("lazy, read before through another mount", float64(again), "s", "the FUSE file's pages are cached still")
	r.figure("tree_first_sealed_s", "sealed", float64(sealed), "")
	r.row("rival: a FUSE tree", float64(fuse), "s", "")
	r.row("limit: unpacked on ext4, everything cached", float64(ext4), "s", "")
	r.row("one at a time: lazy, nothing served", float64(*alone["lazy"]), "s", fmt.Sprintf("sealed %s s, ext4 %s s", number(float64(*alone["sealed"])), number(float64(*alone["ext4"]))))
	return nil
}

// readBy reads every file below a directory, readers of them at a time, and returns how many bytes they have.
func readBy(readers int, dir string) (int64, error) {
	type folder []string // names of its files: handing over one by one would take as long as reading some
	folders := make(chan folder, 2*readers)
	sizes, errs := make([]int64, readers), make([]error, readers)
	var wg sync.WaitGroup
	for i := range readers {
		wg.Go(func() {
			buf := make([]byte, 1<<20)
			for f := range folders {
				for _, name := range f {
					k, err := readFile(name, buf)
					sizes[i], errs[i] = sizes[i]+k, cmp.Or(errs[i], err)
				}
			}
		})
	}
	const most = 64
	var names folder
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		if names = append(names, name); len(names) == most {
			folders <- names
			names = nil
		}
		return nil
	})
	folders <- names
	close(folders)
	wg.Wait()
	var n int64
	for _, k := range sizes {
		n += k
	}
	return n, errors.Join(err, errors.Join(errs...))
}

// readFile reads a file as a program in a container does. An os.File would poll each file, which takes as long as opening
// and reading one of a few KB that is cached.
func readFile(name string, buf []byte) (n int64, err error) {
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	defer unix.Close(fd) //nolint:errcheck // only read
	for {
		k, err := unix.Read(fd, buf)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return n, &fs.PathError{Op: "read", Path: name, Err: err}
		case k == 0:
			return n, nil
		default:
			n += int64(k)
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
	for at := 0; at < len(from); at += blockstore.Page {
		from[at] = 1 // until then all pages are one page of zeros, which the processor has cached
	}
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
