package mount_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	gofs "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"rialto/blockstore"
	"rialto/blockstore/erofs/erofstest"
	"rialto/blockstore/mount"
)

// rival shows a tree at a directory.
type rival struct {
	name string
	show func(tb testing.TB) (at string, took time.Duration, hide func())
}

// rivals are our tiers, a directory of ext4 (or whatever is at the temporary directory), and a go-fuse tree as other
// lazy images have it: every node made at the mount, and each read answered with a copy.
func rivals(b *testing.B, f *erofstest.Files, verified bool) []rival {
	b.Helper()
	can := needMounts(b)
	src := newStore(b, b.TempDir(), f, verified)
	var other erofstest.Builder
	other.Add("f", blockstore.Node{Kind: blockstore.File, Mode: 0o644}, []byte("f"))
	small := other.Build()
	// Each time with a new agent and a new server, which are ready: nothing is cached but metadata on the disk.
	ours := func(tier mount.Tier, change func(*mount.Config)) func(testing.TB) (string, time.Duration, func()) {
		dir := b.TempDir()
		return func(tb testing.TB) (string, time.Duration, func()) {
			tb.Helper()
			cfg := mount.Config{Dir: dir, Can: can, Args: []string{os.Args[0], serverVerb}}
			if change != nil {
				change(&cfg)
			}
			r, err := mount.New(cfg)
			if err != nil {
				tb.Fatal(err)
			}
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan error)
			go func() { done <- r.Run(ctx) }()
			hide := func() {
				cancel()
				if err := errors.Join(<-done, r.Close(context.Background())); err != nil {
					tb.Fatal(err)
				}
			}
			if _, err := r.MountAs(ctx, rootOf(small), small.Tree, newStore(b, b.TempDir(), small, true), mount.FUSE); err != nil {
				hide()
				tb.Fatal(err)
			}
			// An agent compares the sums of what it keeps on the disk once.
			if _, err := r.MountAs(ctx, rootOf(f), f.Tree, src, tier); err != nil {
				hide()
				tb.Fatal(err)
			}
			if err := r.Unmount(rootOf(f)); err != nil {
				tb.Fatal(err)
			}
			m, err := r.MountAs(ctx, rootOf(f), f.Tree, src, tier)
			if err != nil {
				hide()
				tb.Fatal(err)
			}
			return m.Path, m.Took, hide
		}
	}
	plain := b.TempDir()
	writeTree(b, plain, f)
	all := []rival{{"directory", func(testing.TB) (string, time.Duration, func()) { return plain, 0, func() {} }}}
	for _, t := range []struct {
		name   string
		tier   mount.Tier
		needs  error
		change func(*mount.Config)
	}{
		{"sealed", mount.Sealed, can.FileBacked, nil},
		{"lazy", mount.Lazy, can.Device, nil},
		{"lazy-direct", mount.Lazy, can.Device, func(c *mount.Config) { c.Can.ShortReads = errors.New("benchmark") }},
		{"loop", mount.Loop, can.Loop, nil},
		{"fuse", mount.FUSE, can.FUSE, nil},
	} {
		if t.needs == nil {
			all = append(all, rival{t.name, ours(t.tier, t.change)})
		}
	}
	at := b.TempDir()
	return append(all, rival{"go-fuse", func(tb testing.TB) (string, time.Duration, func()) {
		tb.Helper()
		start := time.Now()
		long := time.Minute
		s, err := gofs.Mount(at, &memoryTree{files: f}, &gofs.Options{
			MountOptions: fuse.MountOptions{
				DirectMountStrict: true, MaxReadAhead: 1 << 20, MaxWrite: 1 << 20, MaxBackground: 512, DisableSplice: true, DisableXAttrs: true,
			},
			EntryTimeout: &long, AttrTimeout: &long,
		})
		if err != nil {
			tb.Fatal(err)
		}
		return at, time.Since(start), func() {
			if err := s.Unmount(); err != nil {
				tb.Fatal(err)
			}
		}
	}})
}

// memoryTree is the stand-in for others' lazy images.
type memoryTree struct {
	gofs.Inode
	files *erofstest.Files
}

func (m *memoryTree) OnAdd(ctx context.Context) {
	nodes := m.files.Tree.Nodes
	made := make([]*gofs.Inode, len(nodes))
	made[0] = &m.Inode
	for i := 1; i < len(nodes); i++ {
		n := &nodes[i]
		p := made[n.Parent]
		if n.Kind == blockstore.Dir {
			made[i] = p.NewPersistentInode(ctx, &gofs.Inode{}, gofs.StableAttr{Mode: fuse.S_IFDIR})
		} else {
			made[i] = p.NewPersistentInode(ctx, &gofs.MemRegularFile{Data: m.files.Content(n), Attr: fuse.Attr{Mode: 0o644}}, gofs.StableAttr{})
		}
		p.AddChild(n.Name, made[i], false)
	}
}

func writeTree(tb testing.TB, dir string, f *erofstest.Files) {
	tb.Helper()
	for i := range f.Tree.Nodes {
		n := &f.Tree.Nodes[i]
		at := filepath.Join(dir, f.Tree.Path(i))
		var err error
		if n.Kind == blockstore.Dir {
			err = os.MkdirAll(at, 0o755)
		} else {
			err = os.WriteFile(at, f.Content(n), 0o644)
		}
		if err != nil {
			tb.Fatal(err)
		}
	}
}

// readAll reads every file below a directory.
func readAll(tb testing.TB, root string, buf []byte) (total int64) {
	tb.Helper()
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		fd, err := unix.Open(p, unix.O_RDONLY, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		for {
			n, err := unix.Read(fd, buf)
			if errors.Is(err, syscall.EINTR) {
				continue
			}
			if err != nil || n == 0 {
				return err
			}
			total += int64(n)
		}
	})
	if err != nil {
		tb.Fatal(err)
	}
	return total
}

// report prints the medians of each rival and their ratios to the last.
func report(b *testing.B, unit string, names []string, seen map[string][]float64) {
	b.Helper()
	median := func(name string) float64 {
		all := slices.Sorted(slices.Values(seen[name]))
		return all[len(all)/2]
	}
	var line strings.Builder
	last := names[len(names)-1] // the directory, which has no mount, comes first
	for _, n := range names {
		all := seen[n]
		fmt.Fprintf(&line, "\n  %-12s %9.3f %s (%.3f to %.3f), %.3f of %s", n, median(n), unit, slices.Min(all), slices.Max(all), median(n)/median(last), last)
	}
	load, _ := os.ReadFile("/proc/loadavg")
	b.Logf("%d runs, load %s%s", len(seen[names[0]]), strings.Fields(string(load))[0], line.String())
}

const runs = 5

// BenchmarkTree mounts a tree of 46,000 files and reads all of it, once and again.
func BenchmarkTree(b *testing.B) {
	f := erofstest.Python(1, 46_000)
	for _, verified := range []bool{true, false} {
		b.Run(fmt.Sprintf("verified=%v", verified), func(b *testing.B) {
			all := rivals(b, f, verified)
			mounts, first, warm := make(map[string][]float64), make(map[string][]float64), make(map[string][]float64)
			var names []string
			buf := make([]byte, 1<<20)
			for run := range runs + 1 {
				for _, r := range all {
					runtime.GC()
					at, took, hide := r.show(b)
					mounted := time.Now()
					if n := readAll(b, at, buf); n < f.Tree.Size() {
						b.Fatalf("%s: read %d bytes of %d", r.name, n, f.Tree.Size())
					}
					read := time.Now()
					readAll(b, at, buf)
					again := time.Now()
					hide()
					if run == 0 { // makes metadata, fills caches
						names = append(names, r.name)
						continue
					}
					mounts[r.name] = append(mounts[r.name], took.Seconds()*1e3)
					first[r.name] = append(first[r.name], read.Sub(mounted).Seconds())
					warm[r.name] = append(warm[r.name], again.Sub(read).Seconds())
				}
			}
			b.Logf("mount of %d nodes, %d MB", len(f.Tree.Nodes), f.Tree.Size()/1e6)
			report(b, "ms", names, mounts)
			b.Log("first read of all")
			report(b, "s", names, first)
			b.Log("second read of all")
			report(b, "s", names, warm)
			for b.Loop() {
			}
		})
	}
}

// BenchmarkLargeFile reads a file of 256 MiB, once and again.
func BenchmarkLargeFile(b *testing.B) {
	debug.SetGCPercent(400)
	const size = 256 << 20
	var t erofstest.Builder
	t.Add("weights", blockstore.Node{Kind: blockstore.File, Mode: 0o644}, erofstest.Random(1, size))
	f := t.Build()
	all := rivals(b, f, true)
	first, warm := make(map[string][]float64), make(map[string][]float64)
	var names []string
	buf := make([]byte, 1<<20)
	for run := range runs + 1 {
		for _, r := range all {
			at, _, hide := r.show(b)
			start := time.Now()
			readAll(b, at, buf)
			read := time.Now()
			best := time.Hour
			for range 4 {
				start := time.Now()
				readAll(b, at, buf)
				best = min(best, time.Since(start))
			}
			hide()
			if run == 0 {
				names = append(names, r.name)
				continue
			}
			first[r.name] = append(first[r.name], size/1e9/read.Sub(start).Seconds())
			warm[r.name] = append(warm[r.name], size/1e9/best.Seconds())
		}
	}
	b.Log("first sequential read of 256 MiB")
	report(b, "GB/s", names, first)
	b.Log("best of four more")
	report(b, "GB/s", names, warm)
	for b.Loop() {
	}
}
