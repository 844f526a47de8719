package flat_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"rialto/blockstore"
	"rialto/blockstore/image/internal/flat"
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

// result is a tree with the data of its small files.
type result struct {
	fs    *flat.FS
	spool *flat.Spool
}

// apply lays streams over each other.
func apply(tb testing.TB, limits flat.Limits, streams ...[]byte) (result, error) {
	tb.Helper()
	spool, err := flat.NewSpool(tb.TempDir())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { spool.Close() })
	r := result{flat.New(limits), spool}
	budget := flat.NewBudget(limits)
	for _, s := range streams {
		l, err := flat.Read(bytes.NewReader(s), spool, budget, func(blockstore.Block) error { return nil })
		if err != nil {
			return r, err
		}
		if err := r.fs.Apply(l); err != nil {
			return r, err
		}
	}
	return r, nil
}

// list returns a tree as sorted words: path, and content or target.
func (r result) list(tb testing.TB) string {
	tb.Helper()
	var words []string
	var walk func(path string, n *blockstore.Inode)
	walk = func(path string, n *blockstore.Inode) {
		for _, name := range slices.Sorted(maps.Keys(n.Children)) {
			child := n.Children[name]
			at := path + name
			switch child.Kind {
			case blockstore.Dir:
				words = append(words, at+"/")
				walk(at+"/", child)
			case blockstore.Symlink:
				words = append(words, at+"->"+child.Target)
			default:
				p, err := r.spool.Read(child)
				if err != nil {
					tb.Fatal(err)
				}
				words = append(words, at+"="+string(p))
			}
		}
	}
	walk("", r.fs.Root())
	return strings.Join(words, " ")
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
			got, err := apply(t, flat.Limits{}, streams...)
			if err != nil {
				t.Fatal(err)
			}
			if got := got.list(t); got != tc.want {
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
		limits  flat.Limits
	}{
		{"dots", []e{{name: "../canary", data: "x"}}, flat.Limits{}},
		{"dots inside", []e{{name: "a/../../canary", data: "x"}}, flat.Limits{}},
		{"hard link with dots", []e{{name: "x", kind: hard, link: "../canary"}}, flat.Limits{}},
		{"hard link to a directory", []e{{name: "d/f"}, {name: "x", kind: hard, link: "d"}}, flat.Limits{}},
		{"hard link to the root", []e{{name: "x", kind: hard, link: "/"}}, flat.Limits{}},
		{"symlink loop", loop, flat.Limits{}},
		{"file as directory", []e{{name: "f"}, {name: "f/x"}}, flat.Limits{}},
		{"root as file", []e{{name: ".", data: "x"}}, flat.Limits{}},
		{"whiteout of dots", []e{{name: "d/.wh..."}}, flat.Limits{}},
		{"too many entries", deep, flat.Limits{Entries: 9}},
		{"too many bytes", deep, flat.Limits{Bytes: 49}},
		{"too deep", []e{{name: strings.Repeat("d/", 128) + "f"}}, flat.Limits{}},
		{"long name", []e{{name: strings.Repeat("n", 256)}}, flat.Limits{}},
		{"long path", []e{{name: strings.Repeat(strings.Repeat("n", 200)+"/", 21) + "f"}}, flat.Limits{}},
		{"long symlink", []e{{name: "s", kind: link, link: strings.Repeat("x/", 2500)}}, flat.Limits{}},
		{"unknown type", []e{{name: "x", kind: tar.TypeCont}}, flat.Limits{}},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			streams := [][]byte{layer(t, tc.entries...)}
			if strings.HasPrefix(tc.name, "whiteout") {
				streams = append([][]byte{layer(t, e{name: "d/f"})}, streams...)
			}
			if _, err := apply(t, tc.limits, streams...); !errors.Is(err, flat.ErrRefused) {
				t.Errorf("error = %v, want a refusal", err)
			}
		})
	}
}

// A hard link cannot reach a file outside through a symlink either: it resolves as the container would.
func TestHardLinkThroughSymlink(t *testing.T) {
	_, err := apply(t, flat.Limits{}, layer(t,
		e{name: "out", kind: tar.TypeSymlink, link: "/etc"},
		e{name: "stolen", kind: tar.TypeLink, link: "out/shadow"}))
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error = %v, want that the target does not exist", err)
	}
}

func TestAttributes(t *testing.T) {
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
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := apply(t, flat.Limits{}, buf.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	d := r.fs.Root().Children["d"]
	var got strings.Builder
	for _, n := range []*blockstore.Inode{d, d.Children["su"], d.Children["s"]} {
		fmt.Fprintf(&got, "%d %o %d:%d %d.%d %q %s\n", n.Kind, n.Mode, n.UID, n.GID, n.Sec, n.Nsec, n.Target, n.Xattrs)
	}
	want := "1 2750 7:8 1234567890.500 \"\" map[]\n2 4755 9:10 1234567890.500 \"\" map[user.a:b]\n3 777 11:12 1234567890.500 \"x\" map[]\n"
	if got.String() != want {
		t.Errorf("got\n%swant\n%s", got.String(), want)
	}
	if r.fs.Skipped() != 1 {
		t.Errorf("%d skipped, want the overlay's attribute", r.fs.Skipped())
	}
}

func FuzzLayer(f *testing.F) {
	f.Add(layer(f, e{name: "d/f", data: "1"}, e{name: "s", kind: tar.TypeSymlink, link: "/d"}, e{name: "s/x", data: "2"}))
	f.Add(layer(f, e{name: "a", data: "1"}, e{name: "b", kind: tar.TypeLink, link: "a"}, e{name: ".wh.a"}))
	f.Add(layer(f, e{name: "d", kind: tar.TypeSymlink, link: "../../x"}, e{name: "d/.wh..wh..opq"}))
	f.Add([]byte("not a tar"))
	base := layer(f, e{name: "d/f", data: "1"}, e{name: "e", kind: tar.TypeSymlink, link: "d"}, e{name: "g/h/i", data: "3"})
	f.Fuzz(func(t *testing.T, stream []byte) {
		r, err := apply(t, flat.Limits{Entries: 1000, Bytes: 1 << 20}, base, stream)
		if err != nil {
			return
		}
		// Whatever it is: what is accepted makes a tree, unless a name or a time is beyond what trees have.
		_, err = blockstore.Build(r.fs.Root(), r.spool.Read, func(blockstore.Block) error { return nil })
		if err != nil && !errors.Is(err, blockstore.ErrTree) {
			t.Fatal(err)
		}
	})
}

// pantry has the data of files.
type pantry struct {
	blocks map[blockstore.CID]bool
	small  map[[sha256.Size]byte][]byte
}

func (p pantry) Has(_ context.Context, c blockstore.CID) (bool, error) { return p.blocks[c], nil }

func (p pantry) Small(_ context.Context, sum [sha256.Size]byte) ([]byte, error) {
	return p.small[sum], nil
}

// A layer that is recalled makes the tree that it made when it was read, if all its data is here.
func TestRecall(t *testing.T) {
	big := strings.Repeat("large", 20_000)
	stream := layer(t,
		e{name: "d/", kind: tar.TypeDir, mode: 0o700}, e{name: "d/f", data: "small", pax: map[string]string{"SCHILY.xattr.user.a": "b"}},
		e{name: "d/g", data: big}, e{name: "s", kind: tar.TypeSymlink, link: "d/f"}, e{name: "h", kind: tar.TypeLink, link: "d/f"},
		e{name: "empty"}, e{name: "null", kind: tar.TypeChar}, e{name: "x/.wh.y"})
	spool, err := flat.NewSpool(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer spool.Close()
	have := pantry{make(map[blockstore.CID]bool), map[[sha256.Size]byte][]byte{sha256.Sum256([]byte("small")): []byte("small")}}
	budget := flat.NewBudget(flat.Limits{})
	read, err := flat.Read(bytes.NewReader(stream), spool, budget, func(b blockstore.Block) error {
		have.blocks[b.CID()] = true
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	list := read.List()
	tree := func(l *flat.Layer) string {
		f := flat.New(flat.Limits{})
		if err := f.Apply(l); err != nil {
			t.Fatal(err)
		}
		built, err := blockstore.Build(f.Root(), spool.Read, func(blockstore.Block) error { return nil })
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(built, f.Skipped())
	}
	again, err := flat.Recall(t.Context(), list, have, spool, budget)
	if err != nil || again == nil {
		t.Fatalf("recalled %v, %v", again, err)
	}
	if got, want := tree(again), tree(read); got != want {
		t.Errorf("recalled\n%s\nread\n%s", got, want)
	}
	for name, lack := range map[string]pantry{"small": {have.blocks, nil}, "large": {nil, have.small}} {
		if got, err := flat.Recall(t.Context(), list, lack, spool, budget); got != nil || err != nil {
			t.Errorf("recalled without its %s data: %v, %v", name, got, err)
		}
	}
	for i := range list {
		if got, err := flat.Recall(t.Context(), list[:i], have, spool, budget); err == nil {
			t.Fatalf("recalled %v from %d of %d bytes", got, i, len(list))
		}
	}
}

func FuzzRecall(f *testing.F) {
	spool, err := flat.NewSpool(f.TempDir())
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { spool.Close() })
	l, err := flat.Read(bytes.NewReader(layer(f, e{name: "a/b", data: "c"}, e{name: "s", kind: tar.TypeSymlink, link: "a"})), spool,
		flat.NewBudget(flat.Limits{}), func(blockstore.Block) error { return nil })
	if err != nil {
		f.Fatal(err)
	}
	f.Add(l.List())
	f.Fuzz(func(t *testing.T, list []byte) {
		l, err := flat.Recall(t.Context(), list, pantry{}, spool, flat.NewBudget(flat.Limits{Entries: 1000, Bytes: 1 << 20}))
		if err != nil || l == nil {
			return
		}
		if err := flat.New(flat.Limits{}).Apply(l); err != nil {
			return
		}
	})
}
