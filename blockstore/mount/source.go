package mount

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"

	"rialto/blockstore"
)

// Place is where the bytes of a block lie.
type Place struct {
	Path   string // of a file that the mount server may open
	Offset int64
	// Verified says that these very bytes were found to be right since this process started: by the block's name, or by
	// checksums that a store made when it had compared them with the name.
	Verified bool
}

// Source is where a tree's blocks come from: the agent's store, and its way to more of them. It is safe for concurrent use.
type Source interface {
	// Locate says where a block lies that is here, or returns blockstore.ErrNotFound.
	Locate(ctx context.Context, ref blockstore.Ref) (Place, error)
	// Block makes a block be here, which may take until ctx ends, and says where it lies. Its error is what people
	// read about a file that could not be read, so it names the peers that were tried.
	Block(ctx context.Context, ref blockstore.Ref) (Place, error)
}

// origin is a tree's source.
type origin struct {
	Source
	refs  []blockstore.Ref
	ended chan struct{} // closed when the tree was unmounted: nothing is fetched any more for who has files open still
}

// Block makes a block be here, or only looks.
func (o origin) Block(ctx context.Context, ref blockstore.Ref) (Place, error) {
	select {
	case <-o.ended:
		p, err := o.Locate(ctx, ref)
		if err != nil {
			err = fmt.Errorf("the tree was unmounted: %w", err)
		}
		return p, err
	default:
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // ends with ctx at the latest
		select {
		case <-o.ended:
			cancel()
		case <-ctx.Done():
		}
	}()
	return o.Source.Block(ctx, ref)
}

// end has a tree's blocks come only from what is here.
func (m *Mounts) end(root blockstore.CID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	o, ok := m.sources[root]
	if !ok {
		return
	}
	select {
	case <-o.ended:
	default:
		close(o.ended)
	}
}

// hint is what the server may hear of before it asks.
type hint struct {
	src  Source
	refs []blockstore.Ref
}

// use has a tree's blocks come from a source from now on.
func (m *Mounts) use(root blockstore.CID, src Source, refs []blockstore.Ref) {
	m.mu.Lock()
	m.sources[root] = origin{src, refs, make(chan struct{})}
	close(m.changed)
	m.changed = make(chan struct{})
	m.mu.Unlock()
	select {
	case m.ahead <- hint{src, refs}:
	default: // then they are asked for one by one
	}
}

// source waits until it is known where a tree's blocks come from: after a restart, readers may be there first.
func (m *Mounts) source(ctx context.Context, root blockstore.CID) (origin, error) {
	for {
		m.mu.Lock()
		src, changed := m.sources[root], m.changed
		m.mu.Unlock()
		if src.Source != nil {
			return src, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return origin{}, ctx.Err()
		}
	}
}

// verify compares the bytes at a place with a block's name.
func verify(p Place, ref blockstore.Ref) error {
	f, err := os.Open(p.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	return verifyAt(f, p, ref, make([]byte, ref.Size))
}

// verifyAt reads the block into buf, which must be as long, and compares it with its name.
func verifyAt(f *os.File, p Place, ref blockstore.Ref, buf []byte) error {
	if _, err := f.ReadAt(buf, p.Offset); err != nil {
		return fmt.Errorf("read block %s at %d of %s: %w", ref.CID, p.Offset, p.Path, err)
	}
	if !p.Verified && sha256.Sum256(buf) != ref.CID {
		return &blockstore.BlockError{Op: "verify at " + p.Path, CID: ref.CID, Err: blockstore.ErrMismatch}
	}
	return nil
}
