package blockstore

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"slices"
)

// MaxTrace is the most blocks that a trace names: the head of a start of the largest images. What comes later is
// found soon enough by the fill that follows.
const MaxTrace = 8192

// ErrTrace reports bytes that are no canonical trace.
var ErrTrace = errors.New("invalid trace")

// Trace is a list of blocks of a tree, by number and each once, in the order in which a program first touched them.
// It is a hint: a wrong one costs time and changes nothing else, so that it may come from anybody.
type Trace []uint32

// Valid reports whether a trace names each block once, of a tree with so many, and not too many of them.
func (t Trace) Valid(blocks int) bool {
	if len(t) > MaxTrace {
		return false
	}
	seen := make(map[uint32]struct{}, len(t))
	for _, b := range t {
		if _, again := seen[b]; again || int64(b) >= int64(blocks) {
			return false
		}
		seen[b] = struct{}{}
	}
	return true
}

// AppendBinary encodes the trace: the number of blocks, and for each the zigzag form of its distance from the block
// behind the one before, all as minimal unsigned varints. A file that is read from front to back is a row of zeros.
func (t Trace) AppendBinary(b []byte) ([]byte, error) {
	if len(t) > MaxTrace {
		return nil, fmt.Errorf("%w: %d blocks", ErrTrace, len(t))
	}
	b = binary.AppendUvarint(b, uint64(len(t)))
	next := int64(0)
	for _, block := range t {
		d := int64(block) - next
		b = binary.AppendUvarint(b, uint64(d<<1^d>>63)) //nolint:gosec // zigzag
		next = int64(block) + 1
	}
	return b, nil
}

// DecodeTrace reads what AppendBinary wrote, all of p.
func DecodeTrace(p []byte) (Trace, error) {
	d := decoder{rest: p}
	t := make(Trace, d.uvarint(min(MaxTrace, len(p))))
	next := int64(0)
	for i := range t {
		v := d.uvarint(1 << 34)
		block := next + (int64(v>>1) ^ -int64(v&1))
		if block < 0 || block > 1<<32-1 {
			d.bad = true
		}
		if d.bad {
			break
		}
		t[i] = uint32(block)
		next = block + 1
	}
	if d.bad || len(d.rest) > 0 {
		return nil, fmt.Errorf("%w: truncated, not minimal, or too long", ErrTrace)
	}
	return t, nil
}

// MergeTraces makes one trace of several runs of one program. A block that most runs touched comes at about the place
// where they touched it; one that few touched comes behind all those. Equal runs give that run.
func MergeTraces(runs ...Trace) Trace {
	type touch struct {
		block uint32
		runs  int
		place float64 // sum of the places, as shares of the run
	}
	at := make(map[uint32]*touch)
	var all []*touch
	for _, run := range runs {
		for i, b := range run {
			t := at[b]
			if t == nil {
				t = &touch{block: b}
				at[b] = t
				all = append(all, t)
			}
			t.runs++
			t.place += float64(i) / float64(len(run))
		}
	}
	slices.SortStableFunc(all, func(a, b *touch) int {
		few := func(t *touch) int {
			if 2*t.runs > len(runs) {
				return 0
			}
			return 1
		}
		return cmp.Or(cmp.Compare(few(a), few(b)), cmp.Compare(a.place/float64(a.runs), b.place/float64(b.runs)))
	})
	merged := make(Trace, 0, min(len(all), MaxTrace))
	for _, t := range all[:min(len(all), MaxTrace)] {
		merged = append(merged, t.block)
	}
	return merged
}

// InOrder yields the blocks of a tree, each once: first those of a trace, then the others in the tree's own order.
// Numbers that the tree does not have are passed over.
func (t *Tree) InOrder(trace Trace) iter.Seq[Ref] {
	refs := make([]Ref, 0, len(trace)+len(t.Blocks))
	for _, b := range trace {
		if int64(b) < int64(len(t.Blocks)) {
			refs = append(refs, t.Blocks[b])
		}
	}
	return distinct(append(refs, t.Blocks...))
}
