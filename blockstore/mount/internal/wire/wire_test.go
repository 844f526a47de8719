package wire_test

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"testing"

	"rialto/blockstore"
	"rialto/blockstore/erofs/erofstest"
	"rialto/blockstore/mount/internal/wire"
)

func messages() []wire.Message {
	c := blockstore.Sum([]byte("x"))
	return []wire.Message{
		&wire.Hello{Version: 7, Purpose: wire.Feed}, &wire.Want{Root: blockstore.Sum(nil), Ref: blockstore.Ref{CID: c, Size: 1 << 20}, Millis: 5},
		&wire.File{ID: 3, Path: "/a/b"}, &wire.Have{CID: c, File: 3, Offset: 1 << 40}, &wire.Fail{Root: blockstore.Sum(nil), CID: c, Reason: "no peer"},
		&wire.Call{Body: []byte("{}")}, &wire.Reply{Body: []byte(`{"a":1}`)},
	}
}

func TestMessagesComeBack(t *testing.T) {
	var b bytes.Buffer
	if err := wire.Write(&b, messages()...); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(&b)
	for _, want := range messages() {
		if got, err := wire.Read(r); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, %v; want %+v", got, err, want)
		}
	}
	if _, err := wire.Read(r); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
}

func TestBounds(t *testing.T) {
	if _, err := wire.Append(nil, &wire.Reply{Body: make([]byte, wire.MaxFrame)}); err == nil {
		t.Error("a frame beyond the bound was written")
	}
	if _, err := wire.Append(nil, &wire.File{Path: strings.Repeat("p", wire.MaxPath+1)}); err == nil {
		t.Error("a path beyond the bound was written")
	}
	b, err := wire.Append(nil, &wire.Fail{Reason: strings.Repeat("r", 2*wire.MaxReason)})
	if err != nil {
		t.Fatal(err)
	}
	m, err := wire.Read(bufio.NewReader(bytes.NewReader(b)))
	if f, ok := m.(*wire.Fail); err != nil || !ok || len(f.Reason) != wire.MaxReason {
		t.Errorf("a long reason is not cut: %v", err)
	}
	if _, err := wire.Read(bufio.NewReader(strings.NewReader("\xff\xff\xff\xffx"))); !errors.Is(err, wire.ErrFrame) {
		t.Error(err)
	}
}

// FuzzRead reads any bytes: what is a message is written as the same bytes.
func FuzzRead(f *testing.F) {
	for _, m := range messages() {
		b, err := wire.Append(nil, m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := wire.Read(bufio.NewReader(bytes.NewReader(b)))
		if err != nil {
			return
		}
		again, err := wire.Append(nil, m)
		if err != nil || !bytes.HasPrefix(b, again) {
			t.Errorf("%+v: %x became %x, %v", m, b, again, err)
		}
	})
}

func TestTableComesBack(t *testing.T) {
	tree := erofstest.Corners(t).Tree
	want := wire.NewTable(tree, tree.Layout())
	b, err := want.Encode(nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := wire.DecodeTable(b, nil)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("another table, %v", err)
	}
}

func TestPrivateTableNeedsItsSecret(t *testing.T) {
	tree := erofstest.Corners(t).Tree
	want := wire.NewTable(tree, tree.Layout())
	for i := range want.Blocks {
		want.Keys = append(want.Keys, blockstore.Salt{1}.Key([]byte{byte(i)}))
	}
	secret := wire.NewSecret()
	b, err := want.Encode(secret)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := wire.DecodeTable(b, secret); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("another table, %v", err)
	}
	for i := range want.Keys {
		if bytes.Contains(b, want.Keys[i][:]) {
			t.Fatalf("the key of block %d can be read", i)
		}
	}
	changed := bytes.Clone(b)
	changed[40]++ // the name of a block
	for name, err := range map[string]error{
		"no secret": second(wire.DecodeTable(b, nil)), "another": second(wire.DecodeTable(b, wire.NewSecret())),
		"changed": second(wire.DecodeTable(changed, secret)), "no secret to encode": second(want.Encode(nil)),
	} {
		if !errors.Is(err, wire.ErrTable) {
			t.Errorf("%s: got %v, want ErrTable", name, err)
		}
	}
	if text := fmt.Sprintf("%v %+v %#v %s %x", secret, wire.Request{Secret: secret}, secret, secret, secret); strings.Contains(text, hex.EncodeToString(secret)) ||
		strings.Count(text, "redacted") != 5 {
		t.Errorf("a secret prints as %s", text)
	}
}

func second[T any](_ T, err error) error { return err }

func TestTreeComesBack(t *testing.T) {
	tree := erofstest.Corners(t).Tree
	own, err := tree.Encode()
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := wire.WriteTree(&b, tree); err != nil {
		t.Fatal(err)
	}
	got, err := wire.ReadTree(t.Context(), b.Bytes(), own[0].CID())
	if err != nil || len(got.Nodes) != len(tree.Nodes) || !slices.Equal(got.Blocks, tree.Blocks) {
		t.Errorf("another tree, %v", err)
	}
	for _, cut := range []int{0, 2, 100, b.Len() - 1} {
		if _, err := wire.ReadTree(t.Context(), b.Bytes()[:cut], own[0].CID()); err == nil {
			t.Errorf("read a tree from %d bytes", cut)
		}
	}
}

// FuzzReadTree reads any bytes as the tree that their first block would be.
func FuzzReadTree(f *testing.F) {
	var b erofstest.Builder
	b.Add("a/b", blockstore.Node{Kind: blockstore.File, Mode: 0o644}, []byte("data"))
	var buf bytes.Buffer
	if err := wire.WriteTree(&buf, b.Build().Tree); err != nil {
		f.Fatal(err)
	}
	f.Add(buf.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < 5 {
			return
		}
		end := min(len(b), 4+int(b[0])|int(b[1])<<8)
		tree, err := wire.ReadTree(t.Context(), b, blockstore.Sum(b[4:max(end, 5)]))
		if err != nil {
			return
		}
		if _, err := tree.Encode(); err != nil {
			t.Errorf("a tree that cannot be: %v", err)
		}
	})
}

func FuzzDecodeTable(f *testing.F) {
	small := wire.Table{
		Blocks: []blockstore.Ref{{CID: blockstore.Sum([]byte("1")), Size: 5000}, {CID: blockstore.Sum([]byte("2")), Size: 1 << 20}},
		Slots:  []blockstore.Slot{{Size: 10}, {Offset: 10, Size: 4990}, {Block: 1, Size: 1 << 20}},
	}
	secret := wire.Secret(make([]byte, 32))
	for _, keys := range [][]blockstore.Key{nil, make([]blockstore.Key, 2)} {
		small.Keys = keys
		b, err := small.Encode(secret)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte("rialto slots 1\n\x00\xff\xff\xff\xff\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		table, err := wire.DecodeTable(b, secret)
		if err != nil {
			return
		}
		if again, err := table.Encode(secret); err != nil || !bytes.Equal(again, b) {
			t.Errorf("another encoding: %v", err)
		}
		end := int64(0)
		for _, s := range table.Slots {
			if s.Addr < end || s.Addr%blockstore.Page != 0 || s.Offset+s.Size > table.Blocks[s.Block].Size {
				t.Errorf("impossible slot %+v", s)
			}
			end = s.Addr + int64(s.Size)
		}
		if end > table.Size {
			t.Error("a slot behind the end")
		}
	})
}
