package erofs_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"rialto/blockstore"
	"rialto/blockstore/erofs"
	"rialto/blockstore/erofs/erofstest"
)

// flat has everything on one device, each file in as few chunks as possible.
type flat struct{ layout *blockstore.Layout }

func (f flat) Devices() []int64 {
	if f.layout.Size == 0 {
		return nil
	}
	return []int64{f.layout.Size}
}

func (f flat) Chunks(n *blockstore.Node, places []erofs.Place) (int64, []erofs.Place) {
	size := int64(blockstore.Page)
	for size < n.Size {
		size *= 2
	}
	return size, append(places, erofs.Place{Device: 1, Addr: f.layout.File(n)})
}

func (f flat) write(tb testing.TB, files *erofstest.Files, dir string) []string {
	tb.Helper()
	b := make([]byte, f.layout.Size)
	for _, s := range f.layout.Slots {
		copy(b[s.Addr:], files.Data[s.Block][s.Offset:s.Offset+s.Size])
	}
	return writeAll(tb, dir, b)
}

// spread has each leaf of a large file on one of three devices, in no order, and small files on a fourth.
type spread struct {
	layout *blockstore.Layout
	tree   *blockstore.Tree
}

const leafRoom = blockstore.MaxBlock + blockstore.Page // leaves are not next to each other

func (s spread) leaf(block int) erofs.Place {
	n := len(s.tree.Blocks)
	return erofs.Place{Device: 1 + block%3, Addr: int64((n-block)/3) * leafRoom}
}

func (s spread) Devices() []int64 {
	room := int64(len(s.tree.Blocks)/3+2) * leafRoom
	return []int64{room, room, room, s.layout.Size}
}

func (s spread) Chunks(n *blockstore.Node, places []erofs.Place) (int64, []erofs.Place) {
	if !n.Large() {
		return 64 << 10, append(places, erofs.Place{Device: 4, Addr: s.layout.File(n)})
	}
	for b := n.Block; int64(b-n.Block)*blockstore.MaxBlock < n.Size; b++ {
		places = append(places, s.leaf(b))
	}
	return blockstore.MaxBlock, places
}

func (s spread) write(tb testing.TB, files *erofstest.Files, dir string) []string {
	tb.Helper()
	var all [][]byte
	for _, n := range s.Devices() {
		all = append(all, make([]byte, n+64<<10)) // a chunk may end behind its file
	}
	for i, p := range files.Data {
		at := s.leaf(i)
		copy(all[at.Device-1][at.Addr:], p)
	}
	for _, slot := range s.layout.Slots {
		copy(all[3][slot.Addr:], files.Data[slot.Block][slot.Offset:slot.Offset+slot.Size])
	}
	return writeAll(tb, dir, all...)
}

func writeAll(tb testing.TB, dir string, all ...[]byte) []string {
	tb.Helper()
	var paths []string
	for i, b := range all {
		path := filepath.Join(dir, "device"+strconv.Itoa(i))
		if len(b) == 0 {
			continue
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			tb.Fatal(err)
		}
		paths = append(paths, path)
	}
	return paths
}

func image(tb testing.TB, t *blockstore.Tree, p erofs.Placement) []byte {
	tb.Helper()
	var b bytes.Buffer
	if err := erofs.Write(&b, t, p); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

type placement interface {
	erofs.Placement
	write(tb testing.TB, files *erofstest.Files, dir string) []string
}

func placements(t *blockstore.Tree) map[string]placement {
	l := t.Layout()
	return map[string]placement{"flat": flat{l}, "spread": spread{l, t}}
}

// mount mounts an image, or skips the test.
func mount(tb testing.TB, dir string, img []byte, devices []string) string {
	tb.Helper()
	if os.Getuid() != 0 {
		tb.Skip("needs root to mount")
	}
	meta, at := filepath.Join(dir, "meta"), filepath.Join(dir, "root")
	if err := os.WriteFile(meta, img, 0o600); err != nil {
		tb.Fatal(err)
	}
	if err := os.MkdirAll(at, 0o700); err != nil {
		tb.Fatal(err)
	}
	var options []string
	for _, d := range devices {
		options = append(options, "device="+d)
	}
	err := unix.Mount(meta, at, "erofs", unix.MS_RDONLY, strings.Join(options, ","))
	if err == unix.ENODEV || err == unix.ENOTBLK {
		tb.Skip("needs a kernel that mounts EROFS from files (6.12): ", err)
	}
	if err != nil {
		tb.Fatal("mount: ", err)
	}
	tb.Cleanup(func() {
		if err := unix.Unmount(at, 0); err != nil {
			tb.Error("unmount: ", err)
		}
	})
	return at
}

func TestKernelReadsTheTree(t *testing.T) {
	files := erofstest.Corners(t)
	for name, p := range placements(files.Tree) {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			erofstest.Compare(t, mount(t, dir, image(t, files.Tree, p), p.write(t, files, dir)), files)
		})
	}
}

// The image's hash is a promise: records of earlier versions name images by it.
func TestImageIsDeterministic(t *testing.T) {
	files := erofstest.Corners(t)
	for name, want := range map[string]string{
		"flat":   "016d7d29e6facbfbe976bbcfa9cd4e9691270fdb11a795fe097466ef95995602",
		"spread": "3a535efe560f71fbf73218619504a5dcfc6d402e5261e789de25f1c46c96f193",
	} {
		p := placements(files.Tree)[name]
		img := image(t, files.Tree, p)
		if !bytes.Equal(img, image(t, files.Tree, p)) {
			t.Errorf("%s: two images differ", name)
		}
		if got := fmt.Sprintf("%x", sha256.Sum256(img)); got != want {
			t.Errorf("%s: sha256 %s, want %s", name, got, want)
		}
	}
}

func TestFsckFindsNothing(t *testing.T) {
	fsck, err := exec.LookPath("fsck.erofs")
	if err != nil {
		t.Skip("needs erofs-utils: ", err)
	}
	files := erofstest.Corners(t)
	for name, p := range placements(files.Tree) {
		dir := t.TempDir()
		meta := filepath.Join(dir, "meta")
		if err := os.WriteFile(meta, image(t, files.Tree, p), 0o600); err != nil {
			t.Fatal(err)
		}
		args := []string{"--extract"}
		for _, d := range p.write(t, files, dir) {
			args = append(args, "--device="+d)
		}
		if out, err := exec.CommandContext(t.Context(), fsck, append(args, meta)...).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}

func TestEmptyTree(t *testing.T) {
	var b erofstest.Builder
	b.Add("", blockstore.Node{Kind: blockstore.Dir}, nil)
	files := b.Build()
	p := flat{files.Tree.Layout()}
	erofstest.Compare(t, mount(t, t.TempDir(), image(t, files.Tree, p), nil), files)
}

// TestAnyTree mounts random trees.
func TestAnyTree(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		files := randomTree(rt)
		p := placements(files.Tree)[rapid.SampledFrom([]string{"flat", "spread"}).Draw(rt, "placement")]
		t.Run("", func(t *testing.T) {
			dir := t.TempDir()
			erofstest.Compare(t, mount(t, dir, image(t, files.Tree, p), p.write(t, files, dir)), files)
		})
		if t.Failed() {
			rt.Fatal("differs")
		}
	})
}

func randomTree(rt *rapid.T) *erofstest.Files {
	var b erofstest.Builder
	b.Add("", blockstore.Node{Kind: blockstore.Dir}, nil)
	var dirs, files []string
	dirs = append(dirs, "")
	for range rapid.IntRange(0, 60).Draw(rt, "nodes") {
		at := rapid.SampledFrom(dirs).Draw(rt, "in") + "/" + rapid.StringMatching(`[!-.0-z]{1,40}|[ab]{200,255}`).Draw(rt, "name")
		at = strings.TrimPrefix(at, "/")
		if base := filepath.Base(at); base == "." || base == ".." || b.Has(at) {
			continue
		}
		n := blockstore.Node{
			Kind: rapid.SampledFrom([]blockstore.Kind{blockstore.Dir, blockstore.File, blockstore.File, blockstore.Symlink, blockstore.Link}).Draw(rt, "kind"),
			Mode: uint16(rapid.IntRange(0, 0o7777).Draw(rt, "mode")), UID: rapid.Uint32Max(1<<32-2).Draw(rt, "uid"), GID: rapid.Uint32Max(1<<32-2).Draw(rt, "gid"),
			Sec: rapid.Int64Range(-1<<40+1, 1<<40-1).Draw(rt, "sec"), Nsec: rapid.Uint32Max(999999999).Draw(rt, "nsec"),
		}
		var data []byte
		switch n.Kind {
		case blockstore.Dir:
			dirs = append(dirs, at)
		case blockstore.File:
			size := rapid.OneOf(rapid.IntRange(0, 9000), rapid.IntRange(60_000, 70_000), rapid.IntRange(1<<20-2, 1<<20+2)).Draw(rt, "size")
			data = erofstest.Random(uint64(size), size)
			if rapid.Bool().Draw(rt, "attributes") {
				n.Xattrs = []blockstore.Xattr{{Name: "user.x", Value: data[:min(len(data), rapid.IntRange(0, 5000).Draw(rt, "attribute"))]}}
			}
			files = append(files, at)
		case blockstore.Symlink:
			n.Mode, n.Target = 0o777, strings.Repeat("t", rapid.IntRange(1, 4095).Draw(rt, "target"))
		case blockstore.Link:
			if len(files) > 0 {
				if first := rapid.SampledFrom(files).Draw(rt, "first"); b.Before(first, at) {
					b.Link(at, first)
				}
			}
			continue
		}
		b.Add(at, n, data)
	}
	return b.Build()
}

type misplaced struct {
	devices []int64
	size    int64
	place   []erofs.Place
}

func (m misplaced) Devices() []int64 { return m.devices }

func (m misplaced) Chunks(*blockstore.Node, []erofs.Place) (int64, []erofs.Place) {
	return m.size, m.place
}

func TestWriteRefuses(t *testing.T) {
	var b erofstest.Builder
	b.Add("f", blockstore.Node{Kind: blockstore.File}, make([]byte, 5000))
	tree := b.Build().Tree
	one := []int64{8192}
	for name, p := range map[string]misplaced{
		"no such device":       {one, 8192, []erofs.Place{{Device: 2}}},
		"no device":            {nil, 8192, []erofs.Place{{Device: 1}}},
		"device zero":          {one, 8192, []erofs.Place{{Device: 0}}},
		"behind the end":       {one, 8192, []erofs.Place{{Device: 1, Addr: 4096}}},
		"negative address":     {one, 8192, []erofs.Place{{Device: 1, Addr: -4096}}},
		"odd address":          {[]int64{16384}, 8192, []erofs.Place{{Device: 1, Addr: 100}}},
		"chunks too small":     {one, 2048, []erofs.Place{{Device: 1}, {Device: 1}, {Device: 1}}},
		"no power of two":      {one, 12288, []erofs.Place{{Device: 1}}},
		"too few chunks":       {one, 4096, []erofs.Place{{Device: 1}}},
		"too many chunks":      {one, 8192, []erofs.Place{{Device: 1}, {Device: 1}}},
		"odd device":           {[]int64{8000}, 8192, []erofs.Place{{Device: 1}}},
		"device of 16 TiB":     {[]int64{1 << 44}, 8192, []erofs.Place{{Device: 1}}},
		"more devices than go": {make([]int64, erofs.MaxDevices+1), 8192, []erofs.Place{{Device: 1}}},
	} {
		if err := erofs.Write(io.Discard, tree, p); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if err := erofs.Write(io.Discard, tree, misplaced{one, 8192, []erofs.Place{{Device: 1}}}); err != nil {
		t.Error(err)
	}
}
