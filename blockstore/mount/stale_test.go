package mount_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"rialto/blockstore"
	"rialto/blockstore/erofs/erofstest"
	"rialto/blockstore/mount"
)

// readLeaf reads a leaf of the large file of an open file, past what the kernel has cached.
func readLeaf(t *testing.T, f *os.File, leaf int) ([]byte, error) {
	t.Helper()
	for _, advice := range []int{unix.FADV_DONTNEED, unix.FADV_RANDOM} { // the latter: nothing ahead
		if err := unix.Fadvise(int(f.Fd()), 0, 0, advice); err != nil {
			t.Fatal(err)
		}
	}
	p := make([]byte, blockstore.MaxBlock)
	n, err := f.ReadAt(p, int64(leaf)*blockstore.MaxBlock)
	return p[:n], err
}

// TestPackOfTheSameName: a store that deleted a pack gives its name to the next one, while the old one is read still.
func TestPackOfTheSameName(t *testing.T) {
	needMounts(t)
	files := erofstest.Corners(t)
	n := find(t, files, large)
	src := newStore(t, t.TempDir(), files, false)
	r := newRig(t, t.TempDir(), src, func(c *mount.Config) { c.Can.ShortReads = errors.New("test") })
	m := r.mount(t, files, mount.Lazy)
	name := filepath.Join(t.TempDir(), "pack")
	lie := func(leaf int, other []byte) {
		data := files.Data[n.Block+leaf]
		other = append(other, data...)
		if err := os.WriteFile(name+".new", append(other, make([]byte, blockstore.MaxBlock)...), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(name+".new", name); err != nil {
			t.Fatal(err)
		}
		src.move(files.Tree.Blocks[n.Block+leaf].CID, mount.Place{Path: name, Offset: int64(len(other) - len(data))})
	}
	f, err := os.Open(filepath.Join(m.Path, large))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for leaf := range 3 {
		lie(leaf, bytes.Repeat([]byte{byte(leaf)}, leaf*blockstore.Page))
		for before := range leaf + 1 {
			if got, err := readLeaf(t, f, before); err != nil || !bytes.Equal(got, files.Data[n.Block+before]) {
				t.Errorf("leaf %d is not what it was, %v", before, err)
			}
		}
	}
}

// TestForgottenWhileOpen: who has a file open of a tree whose blocks are deleted gets errors, and never what is in the
// blocks' places then. Who mounts the tree again gets it from where its blocks are now.
func TestForgottenWhileOpen(t *testing.T) {
	needMounts(t)
	files := erofstest.Corners(t)
	n := find(t, files, large)
	root := rootOf(files)
	src := newStore(t, t.TempDir(), files, false)
	r := newRig(t, t.TempDir(), src, func(c *mount.Config) { c.Can.ShortReads = errors.New("test") })
	m := r.mount(t, files, mount.Lazy)
	f, err := os.Open(filepath.Join(m.Path, large))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	want := files.Data[n.Block]
	if got, err := readLeaf(t, f, 0); err != nil || !bytes.Equal(got, want) {
		t.Fatal("cannot read the first leaf: ", err)
	}
	if err := r.Unmount(root); err != nil {
		t.Fatal(err)
	}
	if got, err := readLeaf(t, f, 0); err != nil || !bytes.Equal(got, want) {
		t.Error("who has a file open does not read on: ", err)
	}
	if err := r.Forget(root); err != nil {
		t.Fatal(err)
	}
	at := src.places[files.Tree.Blocks[n.Block].CID]
	pack, err := os.OpenFile(at.Path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer pack.Close()
	if err := unix.Fallocate(int(pack.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, at.Offset, int64(len(want))); err != nil {
		t.Fatal(err)
	}
	if got, err := readLeaf(t, f, 0); !errors.Is(err, unix.EIO) {
		t.Errorf("read %d bytes of a block that is gone, %v; right: %v", len(got), err, bytes.Equal(got, want))
	}
	moved := filepath.Join(t.TempDir(), "moved")
	if err := os.WriteFile(moved, want, 0o600); err != nil {
		t.Fatal(err)
	}
	src.move(files.Tree.Blocks[n.Block].CID, mount.Place{Path: moved})
	erofstest.Compare(t, r.mount(t, files, mount.Lazy).Path, files)
}
