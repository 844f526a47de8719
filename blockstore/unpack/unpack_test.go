//go:build linux

package unpack_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"rialto/blockstore"
	"rialto/blockstore/unpack"
)

// e is a short way to write an entry.
type e struct {
	name string
	kind byte // zero: a file
	data string
	link string
	mode int64
	pax  map[string]string
}

func layer(tb testing.TB, entries ...e) []byte {
	tb.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		h := &tar.Header{
			Typeflag: e.kind, Name: e.name, Linkname: e.link, Mode: e.mode, Size: int64(len(e.data)),
			ModTime: time.Unix(1_600_000_000, 0), PAXRecords: e.pax,
		}
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Mode == 0 {
			h.Mode = 0o755
		}
		if err := w.WriteHeader(h); err != nil {
			tb.Fatal(err)
		}
		if _, err := w.Write([]byte(e.data)); err != nil {
			tb.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return buf.Bytes()
}

// apply unpacks streams into a new directory beside a canary, and fails if the canary changes.
func apply(tb testing.TB, limits unpack.Limits, streams ...[]byte) (string, unpack.Stats, error) {
	tb.Helper()
	outer := tb.TempDir()
	canary := filepath.Join(outer, "canary")
	if err := os.WriteFile(canary, []byte("alive"), 0o600); err != nil {
		tb.Fatal(err)
	}
	dir := filepath.Join(outer, "tree")
	stats, err := applyTo(tb, dir, limits, streams...)
	names, readErr := os.ReadDir(outer)
	if p, err := os.ReadFile(canary); err != nil || string(p) != "alive" || readErr != nil || len(names) != 2 {
		tb.Fatalf("escaped: canary %q, %v; %v", p, err, names)
	}
	return dir, stats, err
}

func applyTo(tb testing.TB, dir string, limits unpack.Limits, streams ...[]byte) (unpack.Stats, error) {
	tb.Helper()
	tree, err := unpack.New(dir, limits)
	if err != nil {
		tb.Fatal(err)
	}
	defer tree.Close()
	for _, s := range streams {
		blocks, id := cut(tb, s)
		if err := tree.Apply(tb.Context(), id, yield(blocks)); err != nil {
			return unpack.Stats{}, err
		}
	}
	return tree.Finish()
}

// cut makes blocks of anything, tar or not.
func cut(tb testing.TB, stream []byte) ([]blockstore.Block, blockstore.Digest) {
	tb.Helper()
	id := blockstore.Sum(stream).Digest()
	var blocks []blockstore.Block
	for len(stream) > 0 {
		n := min(len(stream), 10_000)
		b, err := blockstore.NewBlock(stream[:n:n])
		if err != nil {
			tb.Fatal(err)
		}
		blocks = append(blocks, b)
		stream = stream[n:]
	}
	return blocks, id
}

func yield(blocks []blockstore.Block) func(context.Context) iter.Seq2[blockstore.Block, error] {
	return func(context.Context) iter.Seq2[blockstore.Block, error] {
		return func(yield func(blockstore.Block, error) bool) {
			for _, b := range blocks {
				if !yield(b, nil) {
					return
				}
			}
		}
	}
}

// list returns a tree as sorted lines: path, and content or target.
func list(tb testing.TB, dir string) string {
	tb.Helper()
	var lines []string
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		name := strings.TrimPrefix(p, dir+"/")
		switch {
		case d.IsDir():
			name += "/"
		case d.Type() == fs.ModeSymlink:
			target, err := os.Readlink(p)
			if err != nil {
				return err
			}
			name += "->" + target
		default:
			content, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			name += "=" + string(content)
		}
		lines = append(lines, name)
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
	return strings.Join(lines, " ")
}

func TestLayers(t *testing.T) {
	dir, link, hard := byte(tar.TypeDir), byte(tar.TypeSymlink), byte(tar.TypeLink)
	tests := []struct {
		name   string
		layers [][]e
		want   string
	}{
		{"plain", [][]e{{{name: "./"}, {name: "d/", kind: dir}, {name: "d/f", data: "1"}, {name: "s", kind: link, link: "d/f"}}}, "d/ d/f=1 s->d/f"},
		{"absolute name", [][]e{{{name: "/d/f", data: "1"}}}, "d/ d/f=1"},
		{"file replaced", [][]e{{{name: "f", data: "1"}}, {{name: "f", data: "2"}}}, "f=2"},
		{"directory replaced by file", [][]e{{{name: "d/f", data: "1"}}, {{name: "d", data: "2"}}}, "d=2"},
		{"file replaced by directory", [][]e{{{name: "d", data: "1"}}, {{name: "d/", kind: dir}, {name: "d/f", data: "2"}}}, "d/ d/f=2"},
		{"directory kept", [][]e{{{name: "d/f", data: "1"}}, {{name: "d/", kind: dir}, {name: "d/g", data: "2"}}}, "d/ d/f=1 d/g=2"},
		{"symlink to directory replaced by directory", [][]e{{{name: "x/f", data: "1"}, {name: "d", kind: link, link: "x"}}, {{name: "d/", kind: dir}, {name: "d/g", data: "2"}}}, "d/ d/g=2 x/ x/f=1"},
		{"through a symlink", [][]e{{{name: "usr/bin/a", data: "1"}, {name: "bin", kind: link, link: "usr/bin"}}, {{name: "bin/b", data: "2"}}}, "bin->usr/bin usr/ usr/bin/ usr/bin/a=1 usr/bin/b=2"},
		{"through an absolute symlink", [][]e{{{name: "run/", kind: dir}, {name: "var/run", kind: link, link: "/run"}}, {{name: "var/run/x", data: "2"}}}, "run/ run/x=2 var/ var/run->/run"},
		{"through a symlink with too many dots", [][]e{{{name: "d", kind: link, link: "../../../x"}, {name: "d/f", data: "1"}}}, "d->../../../x x/ x/f=1"},
		{"hard link", [][]e{{{name: "a", data: "1"}, {name: "d/b", kind: hard, link: "a"}}}, "a=1 d/ d/b=1"},
		{"hard link to itself", [][]e{{{name: "a", data: "1"}, {name: "a", kind: hard, link: "a"}}}, "a=1"},
		{"a hard link is not written through", [][]e{{{name: "a", data: "1"}, {name: "b", kind: hard, link: "a"}}, {{name: "b", data: "2"}}}, "a=1 b=2"},
		{"hard link to a symlink", [][]e{{{name: "s", kind: link, link: "/etc/passwd"}, {name: "h", kind: hard, link: "s"}}}, "h->/etc/passwd s->/etc/passwd"},
		{"whiteout", [][]e{{{name: "d/f", data: "1"}, {name: "d/g", data: "1"}}, {{name: "d/.wh.f"}}}, "d/ d/g=1"},
		{"whiteout of a directory", [][]e{{{name: "d/e/f", data: "1"}, {name: "k"}}, {{name: "d/.wh.e"}}}, "d/ k="},
		{"whiteout spares its own layer", [][]e{{{name: "d/f", data: "1"}}, {{name: "d/f", data: "2"}, {name: "d/.wh.f"}}}, "d/ d/f=2"},
		{"opaque", [][]e{{{name: "d/f", data: "1"}, {name: "d/e/g", data: "1"}}, {{name: "d/e/h", data: "2"}, {name: "d/.wh..wh..opq"}}}, "d/ d/e/ d/e/h=2"},
		{"whiteout of nothing", [][]e{{{name: "f", data: "1"}}, {{name: ".wh.x"}, {name: "y/.wh.z"}}}, "f=1 y/"},
		{"whiteout in the first layer", [][]e{{{name: ".wh.x"}, {name: "f", data: "1"}}}, "f=1"},
		{"whiteout of a symlink", [][]e{{{name: "x/f", data: "1"}, {name: "s", kind: link, link: "x"}, {name: "s/g", data: "2"}}, {{name: ".wh.s"}, {name: "s2"}}}, "s2= x/ x/f=1 x/g=2"},
		{"removed directory made anew", [][]e{{{name: "d/f", data: "1"}}, {{name: ".wh.d"}, {name: "k"}}, {{name: "d/g", data: "3"}}}, "d/ d/g=3 k="},
		{"devices are left out", [][]e{{{name: "null", kind: tar.TypeChar}, {name: "fifo", kind: tar.TypeFifo}, {name: "f"}}}, "f="},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			var streams [][]byte
			for _, l := range tc.layers {
				for i := range l {
					if l[i].name == "./" {
						l[i].kind = dir
					}
				}
				streams = append(streams, layer(t, l...))
			}
			dir, _, err := apply(t, unpack.Limits{}, streams...)
			if err != nil {
				t.Fatal(err)
			}
			if got := list(t, dir); got != tc.want {
				t.Errorf("tree\n  %s\nwant\n  %s", got, tc.want)
			}
		})
	}
}

func TestRefused(t *testing.T) {
	link, hard := byte(tar.TypeSymlink), byte(tar.TypeLink)
	loop := []e{{name: "a", kind: link, link: "b"}, {name: "b", kind: link, link: "a"}, {name: "a/x"}}
	var deep []e
	for i := range 10 {
		deep = append(deep, e{name: fmt.Sprint("f", i), data: "12345"})
	}
	tests := []struct {
		name    string
		entries []e
		limits  unpack.Limits
	}{
		{"dots", []e{{name: "../canary", data: "x"}}, unpack.Limits{}},
		{"dots inside", []e{{name: "a/../../canary", data: "x"}}, unpack.Limits{}},
		{"hard link with dots", []e{{name: "x", kind: hard, link: "../canary"}}, unpack.Limits{}},
		{"hard link to a directory", []e{{name: "d/f"}, {name: "x", kind: hard, link: "d"}}, unpack.Limits{}},
		{"hard link to the root", []e{{name: "x", kind: hard, link: "/"}}, unpack.Limits{}},
		{"symlink loop", loop, unpack.Limits{}},
		{"file as directory", []e{{name: "f"}, {name: "f/x"}}, unpack.Limits{}},
		{"root as file", []e{{name: ".", data: "x"}}, unpack.Limits{}},
		{"whiteout of dots", []e{{name: "d/.wh..."}}, unpack.Limits{}},
		{"too many entries", deep, unpack.Limits{Entries: 9}},
		{"too many bytes", deep, unpack.Limits{Bytes: 49}},
		{"too deep", []e{{name: strings.Repeat("d/", 128) + "f"}}, unpack.Limits{}},
		{"long name", []e{{name: strings.Repeat("n", 256)}}, unpack.Limits{}},
		{"long path", []e{{name: strings.Repeat(strings.Repeat("n", 200)+"/", 21) + "f"}}, unpack.Limits{}},
		{"long symlink", []e{{name: "s", kind: link, link: strings.Repeat("x/", 2500)}}, unpack.Limits{}},
		{"unknown type", []e{{name: "x", kind: tar.TypeCont}}, unpack.Limits{}},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			streams := [][]byte{layer(t, tc.entries...)}
			if strings.HasPrefix(tc.name, "whiteout") {
				streams = append([][]byte{layer(t, e{name: "d/f"})}, streams...)
			}
			if _, _, err := apply(t, tc.limits, streams...); !errors.Is(err, unpack.ErrRefused) {
				t.Errorf("error = %v, want a refusal", err)
			}
		})
	}
}

// A hard link cannot reach a file outside through a symlink either: it resolves as the container would.
func TestHardLinkThroughSymlink(t *testing.T) {
	outside := t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("s"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, _, err := apply(t, unpack.Limits{}, layer(t,
		e{name: "out", kind: tar.TypeSymlink, link: outside},
		e{name: "stolen", kind: tar.TypeLink, link: "out/secret"}))
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error = %v, want that the target does not exist", err)
	}
}

func TestWrongLayer(t *testing.T) {
	s := layer(t, e{name: "f", data: strings.Repeat("x", 50_000)})
	blocks, id := cut(t, s)
	good := blocks[1]
	tests := []struct {
		name   string
		change func() []blockstore.Block
		want   error
	}{
		{"blocks swapped", func() []blockstore.Block { return append([]blockstore.Block{good}, blocks...) }, nil},
		{"block missing at the end", func() []blockstore.Block { return blocks[:len(blocks)-1] }, nil},
		{"nothing", func() []blockstore.Block { return nil }, unpack.ErrDiffID},
		{"more behind the end", func() []blockstore.Block { return append(slices.Clip(blocks), good) }, unpack.ErrDiffID},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			tree, err := unpack.New(t.TempDir(), unpack.Limits{})
			if err != nil {
				t.Fatal(err)
			}
			defer tree.Close()
			err = tree.Apply(t.Context(), id, yield(tc.change()))
			if err == nil || tc.want != nil && !errors.Is(err, tc.want) {
				t.Errorf("error = %v, want %v", err, tc.want)
			}
		})
	}
}

func TestAttributes(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to give files to others")
	}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	mtime := time.Unix(1_234_567_890, 500)
	for _, h := range []*tar.Header{
		{Typeflag: tar.TypeDir, Name: "d/", Mode: 0o2750, Uid: 7, Gid: 8, ModTime: mtime},
		{Typeflag: tar.TypeReg, Name: "d/su", Mode: 0o4755, Uid: 9, Gid: 10, ModTime: mtime, PAXRecords: map[string]string{
			"SCHILY.xattr.user.a": "b", "SCHILY.xattr.trusted.overlay.opaque": "y",
		}},
		{Typeflag: tar.TypeSymlink, Name: "d/s", Linkname: "x", Uid: 11, Gid: 12, ModTime: mtime},
	} {
		h.Format = tar.FormatPAX
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
	}
	w.Close()
	dir, stats, err := apply(t, unpack.Limits{}, buf.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]struct{ mode, uid, gid uint32 }{
		"d":    {syscall.S_IFDIR | 0o2750, 7, 8},
		"d/su": {syscall.S_IFREG | 0o4755, 9, 10},
		"d/s":  {syscall.S_IFLNK | 0o777, 11, 12},
	} {
		var st syscall.Stat_t
		if err := syscall.Lstat(filepath.Join(dir, path), &st); err != nil {
			t.Fatal(err)
		}
		if st.Mode != want.mode || st.Uid != want.uid || st.Gid != want.gid {
			t.Errorf("%s: mode %o owner %d:%d, want %o %d:%d", path, st.Mode, st.Uid, st.Gid, want.mode, want.uid, want.gid)
		}
		if got := time.Unix(st.Mtim.Sec, st.Mtim.Nsec); !got.Equal(mtime) {
			t.Errorf("%s: mtime %v, want %v", path, got, mtime)
		}
	}
	if stats.Skipped != 1 {
		t.Errorf("%d attributes skipped, want the overlay's", stats.Skipped)
	}
}

func FuzzLayer(f *testing.F) {
	f.Add(layer(f, e{name: "d/f", data: "1"}, e{name: "s", kind: tar.TypeSymlink, link: "/d"}, e{name: "s/x", data: "2"}))
	f.Add(layer(f, e{name: "a", data: "1"}, e{name: "b", kind: tar.TypeLink, link: "a"}, e{name: ".wh.a"}))
	f.Add(layer(f, e{name: "d", kind: tar.TypeSymlink, link: "../../x"}, e{name: "d/.wh..wh..opq"}))
	f.Add([]byte("not a tar"))
	base := layer(f, e{name: "d/f", data: "1"}, e{name: "e", kind: tar.TypeSymlink, link: "d"}, e{name: "g/h/i", data: "3"})
	f.Fuzz(func(t *testing.T, stream []byte) {
		// Whatever it is: no panic, and nothing outside changes.
		_, _, err := apply(t, unpack.Limits{Entries: 1000, Bytes: 1 << 20}, base, stream)
		_ = err
	})
}
