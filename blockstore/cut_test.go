package blockstore_test

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
	"testing/iotest"

	"pgregory.net/rapid"

	"rialto/blockstore"
)

type file struct {
	name string
	data []byte
}

func tarOf(tb testing.TB, files ...file) []byte {
	tb.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, f := range files {
		if err := w.WriteHeader(&tar.Header{Name: f.name, Mode: 0o644, Size: int64(len(f.data))}); err != nil {
			tb.Fatal(err)
		}
		if _, err := w.Write(f.data); err != nil {
			tb.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return buf.Bytes()
}

func random(seed byte, n int) []byte {
	p := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(p)
	return p
}

// cut returns a stream's layer and the concatenation of its blocks.
func cut(tb testing.TB, r io.Reader) (blockstore.Layer, []byte) {
	tb.Helper()
	var all []byte
	var refs []blockstore.Ref
	l, err := blockstore.Cut(r, func(b blockstore.Block) error {
		refs = append(refs, b.Ref())
		all = append(all, b.Data()...)
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
	if fmt.Sprint(refs) != fmt.Sprint(l.Blocks) {
		tb.Error("emitted other blocks than the layer has")
	}
	return l, all
}

func TestCutKeepsEveryByte(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var files []file
		for i := range rapid.IntRange(0, 12).Draw(rt, "files") {
			n := rapid.OneOf(rapid.IntRange(0, 5000), rapid.IntRange(60_000, 70_000), rapid.IntRange(1<<20-5, 2<<20+5)).Draw(rt, "size")
			files = append(files, file{fmt.Sprint("f", i), random(byte(i), n)})
		}
		stream := tarOf(t, files...)
		stream = append(stream, make([]byte, rapid.IntRange(0, 3000).Draw(rt, "behind the end"))...)
		l, all := cut(t, bytes.NewReader(stream))
		if !bytes.Equal(all, stream) {
			rt.Fatal("blocks do not add up to the stream")
		}
		if l.DiffID != blockstore.Digest(sha256.Sum256(stream)) || l.Size() != int64(len(stream)) {
			rt.Fatal("layer is not the stream's")
		}
		// How the stream comes does not matter.
		if again, _ := cut(t, iotest.HalfReader(bytes.NewReader(stream))); fmt.Sprint(again) != fmt.Sprint(l) {
			rt.Fatal("another cut of the same stream")
		}
	})
}

// The leaves of a large file are those that a plain cut at 1 MiB gives, as ipfs add does.
func TestLargeFileHasPlainLeaves(t *testing.T) {
	data := random(1, 3<<20+12345)
	l, _ := cut(t, bytes.NewReader(tarOf(t, file{"small", []byte("x")}, file{"large", data}, file{"last", []byte("y")})))
	in := make(map[blockstore.CID]bool)
	for _, r := range l.Blocks {
		in[r.CID] = true
	}
	for rest := data; len(rest) > 0; {
		n := min(len(rest), 1<<20)
		if !in[blockstore.Sum(rest[:n])] {
			t.Errorf("leaf at %d is no block", len(data)-len(rest))
		}
		rest = rest[n:]
	}
	// Of `ipfs add --cid-version=1 --raw-leaves` for "hello world\n".
	if got := blockstore.Sum([]byte("hello world\n")).String(); got != "bafkreifjjcie6lypi6ny7amxnfftagclbuxndqonfipmb64f2km2devei4" {
		t.Errorf("CID = %s", got)
	}
}

// One changed small file changes its own pack and nothing else.
func TestChangeIsLocal(t *testing.T) {
	var files []file
	for i := range 2000 {
		files = append(files, file{fmt.Sprintf("lib/module%04d.py", i), random(byte(i), 4000)})
	}
	before, _ := cut(t, bytes.NewReader(tarOf(t, files...)))
	files[1000].data = random(99, 9000)
	files = append(files[:500], files[501:]...)
	after, _ := cut(t, bytes.NewReader(tarOf(t, files...)))
	have := make(map[blockstore.CID]bool)
	for _, r := range before.Blocks {
		have[r.CID] = true
	}
	fresh := 0
	for _, r := range after.Blocks {
		if !have[r.CID] {
			fresh++
		}
	}
	if fresh > 2 || len(after.Blocks) < 20 {
		t.Errorf("%d of %d blocks are new after one change and one removal, want 2", fresh, len(after.Blocks))
	}
}

func TestCutRefuses(t *testing.T) {
	whole := tarOf(t, file{"f", random(1, 100_000)})
	for name, stream := range map[string][]byte{
		"empty": nil, "no tar": bytes.Repeat([]byte("x"), 1000), "truncated": whole[:50_000], "truncated header": whole[:300],
	} {
		if _, err := blockstore.Cut(bytes.NewReader(stream), func(blockstore.Block) error { return nil }); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	stop := errors.New("stop")
	if _, err := blockstore.Cut(bytes.NewReader(whole), func(blockstore.Block) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("error = %v, want that of emit", err)
	}
}

func FuzzCut(f *testing.F) {
	f.Add(tarOf(f, file{"a", []byte("1")}, file{"b", random(1, 2000)}))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, stream []byte) {
		var all []byte
		l, err := blockstore.Cut(bytes.NewReader(stream), func(b blockstore.Block) error {
			all = append(all, b.Data()...)
			return nil
		})
		if err == nil && (!bytes.Equal(all, stream) || l.DiffID != blockstore.Digest(sha256.Sum256(stream))) {
			t.Error("blocks do not add up to the stream")
		}
	})
}
