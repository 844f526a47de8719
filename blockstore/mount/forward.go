package mount

import (
	"context"
	"slices"
	"sync"

	"rialto/blockstore"
	"rialto/blockstore/mount/internal/wire"
)

const (
	// mostAhead is how many blocks are verified ahead of a reader: at most 16 MiB, which a core hashes in about the time
	// that a reader takes for them.
	mostAhead = 16
	// aheadTurns is how many readers' blocks are verified ahead at a time.
	aheadTurns = 2
	// mostReaders is how many readers of a tree are told apart. One more makes the one that rested longest begin anew.
	mostReaders = 8
)

// forward has blocks that are here verified and announced before the server asks for them, where it reads a tree from
// front to back. Without it, a reader waits for each block's hash; with it, that is computed while the reader is busy with
// the blocks before. Nothing is fetched for it.
type forward struct {
	turns   chan struct{} // has an element for each turn under way
	running sync.WaitGroup

	mu      sync.Mutex
	ahead   map[blockstore.CID]*verifying // right now
	answers map[blockstore.CID]int        // under way
	trees   map[blockstore.CID]*course
}

// verifying is a block that is being verified before anybody asked for it.
type verifying struct {
	done      chan struct{}
	announced bool // after done
}

func newForward() *forward {
	return &forward{
		turns: make(chan struct{}, aheadTurns), ahead: make(map[blockstore.CID]*verifying),
		answers: make(map[blockstore.CID]int), trees: make(map[blockstore.CID]*course),
	}
}

// answer begins an answer about a block, which ends with end. It returns the verification that is under way, or nil.
func (w *forward) answer(c blockstore.CID) (now *verifying, end func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answers[c]++
	return w.ahead[c], func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.answers[c]--; w.answers[c] == 0 {
			delete(w.answers, c)
		}
	}
}

// begin begins to verify a block ahead, unless an answer about it is under way, or another reader has begun.
func (w *forward) begin(c blockstore.CID) (end func(announced bool), ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ahead[c] != nil || w.answers[c] > 0 {
		return nil, false
	}
	v := &verifying{done: make(chan struct{})}
	w.ahead[c] = v
	return func(announced bool) {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.ahead, c)
		v.announced = announced
		close(v.done)
	}, true
}

// next notes that the server asks for a block of a tree, and returns what it is likely to ask for next.
func (w *forward) next(root, c blockstore.CID, refs []blockstore.Ref) []blockstore.Ref {
	w.mu.Lock()
	defer w.mu.Unlock()
	tree := w.trees[root]
	if tree == nil {
		tree = &course{number: make(map[blockstore.CID]int, len(refs))}
		for i, r := range refs {
			tree.number[r.CID] = i
		}
		w.trees[root] = tree
	}
	i, ok := tree.number[c]
	if !ok {
		return nil
	}
	from, to := tree.step(i)
	return refs[min(from, len(refs)):min(to, len(refs))]
}

// course is how a tree's blocks are asked for: by some readers at a time, each from where it is.
type course struct {
	number  map[blockstore.CID]int
	strides []stride // the last that went on first
}

// step moves the reader that is at block i on, or notes a new one, and returns what to verify ahead.
func (c *course) step(i int) (from, to int) {
	at := slices.IndexFunc(c.strides, func(s stride) bool { return s.takes(i) })
	if at < 0 {
		if len(c.strides) < mostReaders {
			c.strides = append(c.strides, stride{})
		}
		at = len(c.strides) - 1
	}
	s := c.strides[at]
	from, to = s.step(i)
	copy(c.strides[1:], c.strides[:at])
	c.strides[0] = s
	return from, to
}

// stride is how one reader goes on.
type stride struct {
	from, to int // the block that was asked for last, and those behind it that are verified ahead
	width    int // how many these are
}

// slack is how many blocks of a reader may not be asked for, because another tree has them.
const slack = 3

func (s *stride) within(i int) bool { return i >= s.from-slack && i < s.to }
func (s *stride) behind(i int) bool { return i >= s.to && i < s.to+slack && s.to > 0 }
func (s *stride) takes(i int) bool  { return s.within(i) || s.behind(i) }

// step moves on to block i and returns what to verify ahead: twice as many blocks each time that the reader goes on where
// it was, and none when it does not. Several requests of one reader may come in another order.
func (s *stride) step(i int) (from, to int) {
	switch {
	case s.within(i):
		return i, i
	case s.behind(i):
		s.width = min(max(1, 2*s.width), mostAhead)
	default:
		s.width = 0
	}
	s.from, s.to = i, i+1+s.width
	return i + 1, s.to
}

// lookAhead begins to verify what a reader is likely to ask for next.
func (m *Mounts) lookAhead(ctx context.Context, f *feed, want *wire.Want) {
	m.mu.Lock()
	src, ok := m.sources[want.Root]
	m.mu.Unlock()
	if !ok {
		return
	}
	refs := f.forward.next(want.Root, want.Ref.CID, src.refs)
	if len(refs) == 0 {
		return
	}
	select {
	case f.forward.turns <- struct{}{}:
		f.forward.running.Go(func() {
			m.verifyAhead(ctx, f, src, refs)
			<-f.forward.turns
		})
	default: // they are verified when they are asked for
	}
}

// verifyAhead verifies and announces blocks, up to the first that is not here.
func (m *Mounts) verifyAhead(ctx context.Context, f *feed, src origin, refs []blockstore.Ref) {
	for _, ref := range refs {
		if _, err := src.Locate(ctx, ref); err != nil || ctx.Err() != nil {
			return
		}
		end, ok := f.forward.begin(ref.CID)
		if !ok {
			continue
		}
		p, err := src.Block(ctx, ref)
		if err == nil && !p.Verified {
			err = verify(p, ref)
		}
		if err == nil {
			err = f.have(ref.CID, p)
		}
		end(err == nil)
		if err != nil {
			return // who reads the block is told why
		}
	}
}
