package blockstore_test

import (
	"errors"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"rialto/blockstore"
)

func TestTraceRoundTrip(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		want := blockstore.Trace(rapid.SliceOfNDistinct(rapid.Uint32(), 0, 200, rapid.ID[uint32]).Draw(rt, "trace"))
		p, err := want.AppendBinary(nil)
		if err != nil {
			rt.Fatal(err)
		}
		got, err := blockstore.DecodeTrace(p)
		if err != nil || !slices.Equal(got, want) {
			rt.Fatalf("got %v, %v; want %v", got, err, want)
		}
	})
	if p, err := (blockstore.Trace{0, 1, 2, 3, 4, 5}).AppendBinary(nil); err != nil || len(p) != 7 {
		t.Errorf("a file read from front to back takes %d bytes, %v; want one each", len(p), err)
	}
}

func TestTraceRefused(t *testing.T) {
	if _, err := make(blockstore.Trace, blockstore.MaxTrace+1).AppendBinary(nil); !errors.Is(err, blockstore.ErrTrace) {
		t.Errorf("too long: %v", err)
	}
	for name, p := range map[string][]byte{
		"empty": {}, "truncated": {2, 0}, "more": {1, 0, 0}, "negative": {1, 1}, "not minimal": {1, 0x80, 0}, "a count without bytes": {0xff, 0x3f},
	} {
		if got, err := blockstore.DecodeTrace(p); !errors.Is(err, blockstore.ErrTrace) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	for name, bad := range map[string]blockstore.Trace{"twice": {1, 2, 1}, "outside": {10}} {
		if bad.Valid(10) {
			t.Errorf("%s: valid", name)
		}
	}
	if !(blockstore.Trace{9, 0}).Valid(10) {
		t.Error("a good trace is not valid")
	}
}

func TestMergeTraces(t *testing.T) {
	for _, tc := range []struct {
		name string
		runs []blockstore.Trace
		want blockstore.Trace
	}{
		{"none", nil, nil},
		{"one", []blockstore.Trace{{3, 1, 2}}, blockstore.Trace{3, 1, 2}},
		{"equal", []blockstore.Trace{{3, 1, 2}, {3, 1, 2}}, blockstore.Trace{3, 1, 2}},
		{"a stray block comes last", []blockstore.Trace{{9, 3, 1, 2}, {3, 1, 2}, {3, 1, 2}}, blockstore.Trace{3, 1, 2, 9}},
		{"most say when", []blockstore.Trace{{1, 2, 3}, {2, 1, 3}, {1, 2, 3}}, blockstore.Trace{1, 2, 3}},
	} {
		if got := blockstore.MergeTraces(tc.runs...); !slices.Equal(got, tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
	}
}

func TestInOrder(t *testing.T) {
	refs := make([]blockstore.Ref, 4)
	for i := range refs {
		refs[i] = blockstore.Ref{CID: blockstore.Sum([]byte{byte(i)}), Size: 1}
	}
	tree := &blockstore.Tree{Blocks: []blockstore.Ref{refs[0], refs[1], refs[0], refs[2], refs[3]}}
	got := slices.Collect(tree.InOrder(blockstore.Trace{4, 2, 99}))
	if want := []blockstore.Ref{refs[3], refs[0], refs[1], refs[2]}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func FuzzTrace(f *testing.F) {
	f.Add([]byte{3, 0, 0, 4})
	f.Fuzz(func(t *testing.T, p []byte) {
		trace, err := blockstore.DecodeTrace(p)
		if err != nil {
			return
		}
		again, err := trace.AppendBinary(nil)
		if err != nil || !slices.Equal(again, p) {
			t.Fatalf("decoded what encodes otherwise: %v", err)
		}
	})
}
