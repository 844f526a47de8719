package blockstore_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"rialto/blockstore"
)

func someManifest(blocks int) *blockstore.Manifest {
	m := &blockstore.Manifest{OCI: []byte(`{"oci":1}`), Config: []byte(`{}`)}
	for i := range 2 {
		l := blockstore.Layer{DiffID: blockstore.Sum(fmt.Append(nil, "layer", i)).Digest()}
		for j := range blocks {
			l.Blocks = append(l.Blocks, blockstore.Ref{CID: blockstore.Sum(fmt.Append(nil, i, j)), Size: 1 + j%blockstore.MaxBlock})
		}
		m.Layers = append(m.Layers, l)
	}
	return m
}

func load(tb testing.TB, blocks []blockstore.Block) (*blockstore.Manifest, error) {
	tb.Helper()
	var s blockstore.Memory
	if err := s.Put(tb.Context(), blocks...); err != nil {
		tb.Fatal(err)
	}
	return blockstore.Load(tb.Context(), blocks[0].CID(), &s)
}

func TestManifestRoundTrip(t *testing.T) {
	weights := someManifest(3)
	weights.OCI, weights.Config, weights.Layers = nil, nil, weights.Layers[:1]
	for name, tc := range map[string]struct {
		m    *blockstore.Manifest
		many bool
	}{"image": {someManifest(3), false}, "weights": {weights, false}, "long": {someManifest(40_000), true}} {
		t.Run(name, func(t *testing.T) {
			blocks, err := tc.m.Blocks()
			if err != nil {
				t.Fatal(err)
			}
			if (len(blocks) > 1) != tc.many {
				t.Errorf("%d blocks", len(blocks))
			}
			got, err := load(t, blocks)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, tc.m) {
				t.Error("decoded another manifest")
			}
			parts, err := blockstore.Parts(blocks[0])
			if err != nil || len(parts) != len(blocks)-1 {
				t.Errorf("parts = %d, %v", len(parts), err)
			}
		})
	}
}

// The encoding is what roots are made of: it must never change under the same header.
func TestManifestRootIsFixed(t *testing.T) {
	blocks, err := someManifest(3).Blocks()
	if err != nil {
		t.Fatal(err)
	}
	const want = "bafkreihdqhggsyjfwxx63jc6u4pmffeohpc4tumh4vue7pnhq2qg7zr26a"
	if got := blocks[0].CID().String(); got != want {
		t.Errorf("root = %s, want %s", got, want)
	}
}

func TestManifestRefusesToEncode(t *testing.T) {
	for name, change := range map[string]func(*blockstore.Manifest){
		"config without manifest": func(m *blockstore.Manifest) { m.OCI = nil },
		"manifest without config": func(m *blockstore.Manifest) { m.Config = nil },
		"directory of two layers": func(m *blockstore.Manifest) { m.OCI, m.Config = nil, nil },
		"empty layer":             func(m *blockstore.Manifest) { m.Layers[0].Blocks = nil },
		"no diff id":              func(m *blockstore.Manifest) { m.Layers[0].DiffID = blockstore.Digest{} },
		"empty block":             func(m *blockstore.Manifest) { m.Layers[0].Blocks[0].Size = 0 },
		"too large block":         func(m *blockstore.Manifest) { m.Layers[0].Blocks[0].Size = blockstore.MaxBlock + 1 },
		"too many layers":         func(m *blockstore.Manifest) { m.Layers = make([]blockstore.Layer, blockstore.MaxLayers+1) },
	} {
		m := someManifest(2)
		change(m)
		if _, err := m.Blocks(); !errors.Is(err, blockstore.ErrManifest) {
			t.Errorf("%s: error = %v", name, err)
		}
	}
}

func TestManifestRefusesToDecode(t *testing.T) {
	blocks, err := someManifest(2).Blocks()
	if err != nil {
		t.Fatal(err)
	}
	good := blocks[0].Data()
	header := []byte("rialto manifest 1\n")
	many := append(bytes.Clone(header), 2)
	many = binary.AppendUvarint(many, 64<<20)
	for name, p := range map[string][]byte{
		"truncated":         good[:len(good)-1],
		"trailing":          append(bytes.Clone(good), 0),
		"other header":      append([]byte("rialto manifest 2\n"), good[len(header):]...),
		"not minimal":       append(append(bytes.Clone(header), 0x80, 0), good[len(header)+1:]...),
		"unknown kind":      append(bytes.Clone(header), 0, 3),
		"huge count":        append(bytes.Clone(header), 0, 2, 0xff, 0xff, 0xff, 0xff, 0x0f),
		"wrong part count":  many,
		"short split body":  append(append(bytes.Clone(header), 1, 10), make([]byte, 32)...),
		"only header":       header,
		"no blocks at all":  append(append(bytes.Clone(header), 0, 2, 1), make([]byte, 33)...),
		"image without oci": append(bytes.Clone(header), 0, 1, 0, 0, 0),
	} {
		b, err := blockstore.NewBlock(p)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := load(t, []blockstore.Block{b}); !errors.Is(err, blockstore.ErrManifest) {
			t.Errorf("%s: error = %v", name, err)
		}
	}
}

func FuzzManifest(f *testing.F) {
	for _, n := range []int{1, 3} {
		blocks, err := someManifest(n).Blocks()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(blocks[0].Data())
	}
	f.Add([]byte("rialto manifest 1\n\x00\x02\x01"))
	f.Fuzz(func(t *testing.T, p []byte) {
		root, err := blockstore.NewBlock(p)
		if err != nil {
			return
		}
		m, err := load(t, []blockstore.Block{root})
		if err != nil {
			return
		}
		again, err := m.Blocks()
		if err != nil {
			t.Fatalf("decoded what cannot be encoded: %v", err)
		}
		if again[0].CID() != root.CID() {
			t.Error("two encodings of one manifest")
		}
	})
}

func TestNames(t *testing.T) {
	c := blockstore.Sum([]byte("x"))
	if got, err := blockstore.ParseCID(c.String()); err != nil || got != c {
		t.Errorf("parse %v = %v, %v", c, got, err)
	}
	if got, err := blockstore.ParseDigest(c.Digest().String()); err != nil || got.CID() != c {
		t.Errorf("parse %v = %v, %v", c.Digest(), got, err)
	}
	s := c.String()
	for _, bad := range []string{
		"", "b", s[:58], s + "a", strings.ToUpper(s), "z" + s[1:], s[:58] + "9", "bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi",
		"QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG", blockstore.CID{}.String(), s[:58] + "7",
	} {
		if _, err := blockstore.ParseCID(bad); err == nil {
			t.Errorf("parsed %q", bad)
		}
	}
	d := c.Digest().String()
	for _, bad := range []string{"", d[7:], d[:70], d + "0", strings.ToUpper(d), "sha512:" + d[7:], "sha256:" + strings.Repeat("0", 64)} {
		if _, err := blockstore.ParseDigest(bad); err == nil {
			t.Errorf("parsed %q", bad)
		}
	}
}

func FuzzParseCID(f *testing.F) {
	f.Add(blockstore.Sum([]byte("x")).String())
	f.Fuzz(func(t *testing.T, s string) {
		if c, err := blockstore.ParseCID(s); err == nil && c.String() != s {
			t.Errorf("%q is also written %q", s, c)
		}
	})
}
