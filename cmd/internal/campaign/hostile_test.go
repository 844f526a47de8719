//go:build linux

package campaign

import (
	"bytes"
	"context"
	"errors"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"rialto/blockstore"
	"rialto/blockstore/exchange"
	"rialto/broker"
	"rialto/p2p"
	"rialto/p2p/p2ptest"
)

// liar is a store whose blocks have other bytes, as many as they should.
type liar struct{ blockstore.Store }

func (l liar) Get(ctx context.Context, c blockstore.CID) (blockstore.Block, error) {
	n, err := l.Size(ctx, c)
	if err != nil {
		return blockstore.Block{}, err
	}
	return blockstore.NewBlock(bytes.Repeat(c[:4], n/4+1)[:n])
}

// addPoisoner makes a peer that has everything, and sends other bytes.
func (w *world) addPoisoner(tb testing.TB) broker.BlockSource {
	tb.Helper()
	h := p2ptest.New(tb, p2p.Config{})
	x, err := exchange.New(exchange.Config{Host: h.Libp2p(), Store: liar{w.store}})
	if err != nil {
		tb.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- x.Run(ctx) }()
	tb.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			tb.Error(err)
		}
	})
	return broker.BlockSource{Peer: broker.PeerID(h.ID()), Addrs: h.Addrs()}
}

// TestPoisoners: of eight peers seven send wrong bytes. Everything comes, is right, and little came in vain.
func TestPoisoners(t *testing.T) {
	w := newWorld(t)
	img := w.addImage(t, "image", some(1, "image", 48<<20, 200))
	img.want.Sources = nil
	for range 7 {
		img.want.Sources = append(img.want.Sources, w.addPoisoner(t))
	}
	img.want.Sources = append(img.want.Sources, w.source())
	img.want.Image = "local/image" // which no registry has
	l := newLife(t, filepath.Join(t.TempDir(), "host"))
	// At worst each of them sends one block, of up to 1 MiB, before it is known. Nobody reads until it is whole: what a reader asks for ahead of the rest may come twice, from good peers.
	lazy := l.ensure("first", img)
	for _, dir := range []string{l.seal("second", img), lazy} {
		if err := img.files.compare(dir); err != nil {
			t.Error(err)
		}
	}
	l.order(order{Op: opCount})
	e := l.await(func(e event) bool { return e.Event == evCounted })
	t.Logf("%d bytes came, %d of no use: %.1f %%", e.Peers, e.Wasted, 100*float64(e.Wasted)/float64(e.Peers))
	if e.Peers == 0 || e.Wasted > e.Peers*3/10 {
		t.Errorf("%d bytes came, %d of no use", e.Peers, e.Wasted)
	}
	l.end()
}

// newDisk mounts a file system of a size.
func newDisk(t *testing.T, size int64) string {
	t.Helper()
	dir := t.TempDir()
	file, at := filepath.Join(dir, "image"), filepath.Join(dir, "at")
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Truncate(file, size), os.Mkdir(at, 0o700)); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"mkfs.ext4", "-q", "-m", "0", file}, {"mount", "-o", "loop", file, at}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Skipf("needs %s: %v: %s", args[0], err, out)
		}
	}
	t.Cleanup(func() {
		if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return at
}

// TestDiskIsFull: others fill the disk while an image comes. Who reads what is not here is told, the rest goes on, and
// what is missing comes when there is room.
func TestDiskIsFull(t *testing.T) {
	w := newWorld(t)
	here := w.addImage(t, "here", some(1, "here", 1<<20, 50))
	late := w.addWeights(t, "late", some(2, "late", 12<<20, 5))
	at := newDisk(t, 256<<20)
	l := newLife(t, filepath.Join(at, "host"))
	sealed := l.seal("first", here)
	var fs unix.Statfs_t
	if err := unix.Statfs(at, &fs); err != nil {
		t.Fatal(err)
	}
	// The store leaves 32 MiB to its index: 4 MiB more is too little.
	others, err := os.Create(filepath.Join(at, "others"))
	if err != nil {
		t.Fatal(err)
	}
	defer others.Close()
	take := int64(fs.Bavail)*fs.Bsize - 36<<20
	if take <= 0 || take > math.MaxInt32*16 {
		t.Fatalf("%d bytes to take", take)
	}
	if err := unix.Fallocate(int(others.Fd()), 0, 0, take); err != nil {
		t.Fatal(err)
	}
	dir := l.ensure("second", late)
	if err := late.files.compare(dir); !errors.Is(err, unix.EIO) {
		t.Errorf("compared what there is no room for: %v", err)
	}
	if said := string(l.host.said()); !strings.Contains(said, blockstore.ErrNoSpace.Error()) {
		t.Errorf("the host does not say why:\n%s", said)
	}
	if err := here.files.compare(sealed); err != nil {
		t.Error(err)
	}
	if err := others.Truncate(0); err != nil {
		t.Fatal(err)
	}
	if err := late.files.compare(l.seal("third", late)); err != nil {
		t.Error(err)
	}
	if err := late.files.compare(dir); err != nil {
		t.Error(err)
	}
	l.end()
}
