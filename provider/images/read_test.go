//go:build linux

package images_test

import (
	"slices"
	"sync"
	"testing"

	"rialto/blockstore"
	"rialto/blockstore/mount"
	"rialto/broker"
	"rialto/provider"
)

// pair returns a host that has an image of size bytes, one that has nothing of it, and what that may want: the image from
// the first one.
func pair(t *testing.T, size int) (has, lacks *hostNode, w provider.Want, blocks []blockstore.Ref) {
	t.Helper()
	w = openShop(t).push(t, "app", map[string][]byte{"big": random(1, size)})
	has, lacks = newHost(t, nil), newHost(t, nil)
	w.Root, w.Sources = ensure(t, has, w).Root, []broker.BlockSource{has.source()}
	return has, lacks, w, treeOf(t, has, w.Root).Blocks
}

// sourceOf is what the mount of an image reads from.
func (n *hostNode) sourceOf(img provider.Image) mount.Source {
	n.mounts.mu.Lock()
	defer n.mounts.mu.Unlock()
	return n.mounts.shown[img.RootFS].source
}

// sentOnce wants a host to have sent size bytes, and hardly more.
func (n *hostNode) sentOnce(t *testing.T, size int) {
	t.Helper()
	if sent, most := n.x.Stats().ServedBytes, int64(size*103/100); sent > most {
		t.Errorf("the peer sent %d bytes of %d, want at most %d", sent, size, most)
	}
}

// TestReadWhileItComes has a container read what the bulk is bringing at that time, behind it and ahead of it. No block is
// fetched twice, wherever it is: asked for, on its way, or waiting for the disk.
func TestReadWhileItComes(t *testing.T) {
	const size = 60 << 20
	a, b, w, blocks := pair(t, size)
	for i := range blocks {
		w.Trace = append(w.Trace, uint32(i))
	}
	var mu sync.Mutex
	var last broker.Fetched
	img, err := b.Ensure(t.Context(), w, func(now broker.Fetched) {
		mu.Lock()
		defer mu.Unlock()
		last = now
	})
	if err != nil {
		t.Fatal(err)
	}
	defer img.Release()
	source := b.sourceOf(img)
	var readers sync.WaitGroup
	for part := range slices.Chunk(blocks, 10) {
		readers.Go(func() {
			for _, ref := range part {
				if _, err := source.Block(t.Context(), ref); err != nil {
					t.Error(err)
				}
			}
		})
	}
	readers.Wait()
	b.awaitHeld(t, 1)
	a.sentOnce(t, size)
	mu.Lock()
	defer mu.Unlock()
	if served := last.From[0].Bytes; last.Peers != served || last.Peers > size*103/100 {
		t.Errorf("the job is told of %d bytes from peers, the peer served %d of %d", last.Peers, served, size)
	}
}

// TestReadBeforeTheBulk has a container read in the time in which the bulk of its image lets it go first.
func TestReadBeforeTheBulk(t *testing.T) {
	const size = 20 << 20
	a, b, w, blocks := pair(t, size)
	w.Trace = blockstore.Trace{0} // the bulk comes a moment later
	img := ensure(t, b, w)
	source := b.sourceOf(img)
	for _, ref := range blocks[:10] {
		if _, err := source.Block(t.Context(), ref); err != nil {
			t.Fatal(err)
		}
	}
	b.awaitHeld(t, 1)
	a.sentOnce(t, size)
}
