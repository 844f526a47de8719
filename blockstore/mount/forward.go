package mount

import (
	"context"
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
	trees   map[blockstore.CID]*stride
}

// verifying is a block that is being verified before anybody asked for it.
type verifying struct {
	done      chan struct{}
	announced bool // after done
}

func newForward() *forward {
	return &forward{
		turns: make(chan struct{}, aheadTurns), ahead: make(map[blockstore.CID]*verifying),
		answers: make(map[blockstore.CID]int), trees: make(map[blockstore.CID]*stride),
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
	s := w.trees[root]
	if s == nil {
		s = &stride{number: make(map[blockstore.CID]int, len(refs))}
		for i, r := range refs {
			s.number[r.CID] = i
		}
		w.trees[root] = s
	}
	i, ok := s.number[c]
	if !ok {
		return nil
	}
	from, to := s.step(i)
	return refs[min(from, len(refs)):min(to, len(refs))]
}

// stride is how a tree's blocks are asked for.
type stride struct {
	number   map[blockstore.CID]int
	from, to int // the block that was asked for last, and those behind it that are verified ahead
	width    int // how many these are
}

// step moves on to block i and returns what to verify ahead: twice as many blocks each time that the reader goes on where
// it was, and none when it does not. Several requests of one reader may come in another order.
func (s *stride) step(i int) (from, to int) {
	const slack = 3 // some blocks are not asked for, because another tree has them
	switch {
	case i >= s.from-slack && i < s.to:
		return i, i
	case i >= s.to && i < s.to+slack && s.to > 0:
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
