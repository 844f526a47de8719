package mount_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"rialto/blockstore"
	"rialto/blockstore/erofs/erofstest"
	"rialto/blockstore/mount"
)

// located counts questions where blocks are, which precede a verification ahead of the reader and no other.
type located struct {
	*store
	count atomic.Int64
}

func (l *located) Locate(ctx context.Context, ref blockstore.Ref) (mount.Place, error) {
	l.count.Add(1)
	return l.store.Locate(ctx, ref)
}

func (l *located) Block(ctx context.Context, ref blockstore.Ref) (mount.Place, error) {
	return l.store.Locate(ctx, ref)
}

// TestReadersFindBlocksVerified reads a large file from front to back: most of it was verified before it was asked for.
func TestReadersFindBlocksVerified(t *testing.T) {
	const blocks = 40
	var b erofstest.Builder
	b.Add("large", blockstore.Node{Kind: blockstore.File, Mode: 0o644}, erofstest.Random(1, blocks*blockstore.MaxBlock))
	files := b.Build()
	src := &located{store: newStore(t, t.TempDir(), files, false)}
	r := newRig(t, t.TempDir(), src, nil)
	m := r.mount(t, files, mount.Lazy)
	got, err := os.ReadFile(filepath.Join(m.Path, "large"))
	if err != nil || !bytes.Equal(got, files.Content(find(t, files, "large"))) {
		t.Fatalf("read %d bytes, %v", len(got), err)
	}
	// When the mount begins, all are looked for that are verified already.
	if n := src.count.Load() - blocks; n < blocks/2 {
		t.Errorf("%d blocks of %d were verified ahead", n, blocks)
	}
}
