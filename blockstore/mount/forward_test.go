package mount

import (
	"slices"
	"testing"

	"rialto/blockstore"
)

// TestStride gives the numbers of blocks that are asked for, and what is verified ahead then.
func TestStride(t *testing.T) {
	type ask struct{ block, from, to int }
	tests := []struct {
		name string
		asks []ask
	}{
		{"front to back", []ask{{0, 1, 1}, {1, 2, 3}, {3, 4, 6}, {6, 7, 11}, {11, 12, 20}, {20, 21, 37}, {37, 38, 54}}},
		{"here and there", []ask{{5, 6, 6}, {90, 91, 91}, {40, 41, 41}, {0, 1, 1}, {60, 61, 61}}},
		{"another place", []ask{{10, 11, 11}, {11, 12, 13}, {50, 51, 51}, {51, 52, 53}}},
		{"what is announced in a moment", []ask{{0, 1, 1}, {1, 2, 3}, {2, 2, 2}, {3, 4, 6}, {5, 5, 5}, {6, 7, 11}}},
		{"two requests in the other order", []ask{{0, 1, 1}, {2, 3, 4}, {1, 1, 1}, {4, 5, 7}}},
		{"over what another tree has", []ask{{0, 1, 1}, {3, 4, 5}}},
		{"two readers by turns", []ask{{0, 1, 1}, {100, 101, 101}, {1, 2, 3}, {101, 102, 103}, {3, 4, 6}, {103, 104, 106}, {6, 7, 11}}},
		{"more readers than are told apart", []ask{{0, 1, 1}, {10, 11, 11}, {20, 21, 21}, {30, 31, 31}, {40, 41, 41}, {50, 51, 51}, {60, 61, 61}, {70, 71, 71}, {80, 81, 81}, {1, 2, 2}, {81, 82, 83}}},
	}
	for _, tc := range tests {
		var s course
		for _, a := range tc.asks {
			if from, to := s.step(a.block); from != a.from || to != a.to {
				t.Errorf("%s: at block %d %d to %d are verified, want %d to %d", tc.name, a.block, from, to, a.from, a.to)
			}
		}
	}
}

// TestForwardEndsWithTheTree asks for the last block of a tree, for one of another tree, and for one that is in none.
func TestForwardEndsWithTheTree(t *testing.T) {
	var refs []blockstore.Ref
	for i := range 5 {
		refs = append(refs, blockstore.Ref{CID: blockstore.Sum([]byte{byte(i)}), Size: 1})
	}
	a, b := blockstore.CID{1}, blockstore.CID{2}
	w := newForward()
	for i, want := range []int{0, 1, 1, 1, 0} {
		if i == 2 {
			continue
		}
		if got := w.next(a, refs[i].CID, refs); len(got) != want || want > 0 && !slices.Equal(got, refs[i+1:i+1+want]) {
			t.Errorf("after block %d: %d are verified ahead, want %d", i, len(got), want)
		}
	}
	if got := w.next(b, refs[1].CID, refs); len(got) != 0 {
		t.Errorf("the first block of another tree has %d verified ahead", len(got))
	}
	if got := w.next(a, blockstore.CID{3}, refs); len(got) != 0 {
		t.Errorf("a block of no tree has %d verified ahead", len(got))
	}
}

// TestForwardVerifiesOnce has one block be verified ahead while it is asked for, and the other way round.
func TestForwardVerifiesOnce(t *testing.T) {
	w, c := newForward(), blockstore.CID{1}
	end, ok := w.begin(c)
	if _, again := w.begin(c); !ok || again {
		t.Fatalf("begun: %v, and once more: %v", ok, again)
	}
	now, over := w.answer(c)
	if now == nil {
		t.Fatal("an answer does not know that its block is being verified")
	}
	end(true)
	if <-now.done; !now.announced {
		t.Error("the answer would announce the block once more")
	}
	if _, ok := w.begin(c); ok {
		t.Error("a block is verified ahead while an answer about it is under way")
	}
	over()
	if len(w.ahead)+len(w.answers) != 0 {
		t.Errorf("left: %v, %v", w.ahead, w.answers)
	}
}
