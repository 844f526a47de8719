package mount_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"rialto/blockstore"
	"rialto/blockstore/erofs/erofstest"
	"rialto/blockstore/mount"
)

// encrypted is the private tree of files: what a store has of it, and its root.
func encrypted(tb testing.TB, files *erofstest.Files) (*erofstest.Files, blockstore.CID) {
	tb.Helper()
	salt := blockstore.Salt{1, 2, 3}
	private := &erofstest.Files{Tree: &blockstore.Tree{Nodes: files.Tree.Nodes}}
	for i, p := range files.Data {
		k, c := salt.Key(p), bytes.Clone(p)
		k.Crypt(c, 0)
		private.Data = append(private.Data, c)
		private.Tree.Keys = append(private.Tree.Keys, k)
		private.Tree.Blocks = append(private.Tree.Blocks, blockstore.Ref{CID: blockstore.Sum(c), Size: files.Tree.Blocks[i].Size})
	}
	own, _, err := private.Tree.EncodePrivate(salt)
	if err != nil {
		tb.Fatal(err)
	}
	return private, own[0].CID()
}

// holds reports whether a file below a directory contains some bytes.
func holds(tb testing.TB, dir string, want []byte) string {
	tb.Helper()
	found := ""
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		p, err := os.ReadFile(path)
		if bytes.Contains(p, want) {
			found = path
		}
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
	return found
}

// onDisk returns the files that mounts keep of private trees.
func onDisk(tb testing.TB, dir string) []string {
	tb.Helper()
	all, err := filepath.Glob(filepath.Join(dir, "private", "*", "*"))
	if err != nil {
		tb.Fatal(err)
	}
	return all
}

// TestPrivate mounts a private tree in each tier that decrypts, and looks for what must not be on the disk.
func TestPrivate(t *testing.T) {
	files := erofstest.Corners(t)
	private, root := encrypted(t, files)
	for name, mode := range modes() {
		t.Run(name, func(t *testing.T) {
			src := newStore(t, t.TempDir(), private, false)
			src.hide()
			dir := t.TempDir()
			r := newRig(t, dir, src, mode.change)
			m, err := r.MountAs(t.Context(), root, private.Tree, src, mode.tier)
			if err != nil {
				t.Fatal(err)
			}
			erofstest.Compare(t, m.Path, files)
			if st, err := os.Stat(filepath.Join(dir, "private", root.String())); err != nil || st.Mode().Perm() != 0o700 {
				t.Errorf("directory of a private tree: %v, %v", st.Mode(), err)
			}
			if len(onDisk(t, dir)) == 0 {
				t.Error("no files of the private tree; the test looks in the wrong place")
			}
			for _, d := range []string{"private", "meta", "tables", "sealed", "mounts/" + m.ID + "/" + "mount.json"} {
				for _, i := range []int{0, len(private.Tree.Keys) - 1} {
					if at := holds(t, filepath.Join(dir, d), private.Tree.Keys[i][:]); at != "" {
						t.Errorf("the key of block %d is in %s", i, at)
					}
				}
			}
			if err := r.Unmount(root); err != nil {
				t.Fatal(err)
			}
			if left := onDisk(t, dir); len(left) > 0 {
				t.Errorf("left after the mount: %v", left)
			}
			for _, d := range []string{"meta", "tables"} {
				if left, _ := os.ReadDir(filepath.Join(dir, d)); len(left) > 0 {
					t.Errorf("files of the private tree are in %s: %v", d, left)
				}
			}
			// And again, with another table.
			if m, err = r.MountAs(t.Context(), root, private.Tree, src, mode.tier); err != nil {
				t.Fatal(err)
			}
			erofstest.Compare(t, m.Path, files)
		})
	}
}

func TestPrivateIsNeverSealed(t *testing.T) {
	needMounts(t)
	private, root := encrypted(t, erofstest.Corners(t))
	src := newStore(t, t.TempDir(), private, false)
	r := newRig(t, t.TempDir(), src, nil)
	if err := r.Seal(t.Context(), root, private.Tree, src); !errors.Is(err, mount.ErrPrivate) {
		t.Errorf("sealed: %v", err)
	}
	if _, err := r.MountAs(t.Context(), root, private.Tree, src, mount.Sealed); !errors.Is(err, mount.ErrPrivate) {
		t.Errorf("mounted sealed: %v", err)
	}
}

// TestNextAgentServesPrivateTreeWithoutItsKey: the server has the blocks' keys. Where there is no mount any more, nobody
// makes one without them.
func TestNextAgentServesPrivateTreeWithoutItsKey(t *testing.T) {
	needMounts(t)
	files := erofstest.Corners(t)
	private, root := encrypted(t, files)
	dir := t.TempDir()
	src := newStore(t, t.TempDir(), private, false)
	first := newRig(t, dir, src, nil)
	at, err := first.Mount(t.Context(), root, private.Tree, src)
	if err != nil {
		t.Fatal(err)
	}
	first.stop()
	crashed := filepath.Join(dir, "private", blockstore.Sum([]byte("crashed")).String())
	if err := errors.Join(os.Mkdir(crashed, 0o700), os.WriteFile(filepath.Join(crashed, "tree"), []byte("names"), 0o600)); err != nil {
		t.Fatal(err)
	}
	next := newRig(t, dir, src, nil)
	if _, err := os.Stat(crashed); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what a crash left is there still: %v", err)
	}
	locked := &blockstore.Tree{Blocks: private.Tree.Blocks}
	if again, err := next.Mount(t.Context(), root, locked, src); err != nil || again != at {
		t.Fatalf("got %s, %v, want %s", again, err, at)
	}
	erofstest.Compare(t, at, files)
	open, err := os.Open(filepath.Join(at, large))
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	if err := next.Unmount(root); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(open); err != nil || !bytes.Equal(got, files.Content(find(t, files, large))) {
		t.Errorf("who has a file open reads %d bytes, %v", len(got), err)
	}
	if _, err := next.Mount(t.Context(), root, locked, src); !errors.Is(err, mount.ErrPrivate) {
		t.Errorf("mounted without a key: %v", err)
	}
	if all, err := next.List(t.Context()); err != nil || len(all) > 0 {
		t.Errorf("mounted: %v, %v", all, err)
	}
	if left := onDisk(t, dir); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// TestPrivateServerIsKilled: the agent has the keys still, and mounts again.
func TestPrivateServerIsKilled(t *testing.T) {
	needMounts(t)
	files := erofstest.Corners(t)
	private, root := encrypted(t, files)
	dir := t.TempDir()
	src := newStore(t, t.TempDir(), private, true)
	r := newRig(t, dir, src, nil)
	if _, err := r.Mount(t.Context(), root, private.Tree, src); err != nil {
		t.Fatal(err)
	}
	pid := serverPID(t, dir)
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	ended(t, pid)
	if _, err := r.Mount(t.Context(), root, &blockstore.Tree{Blocks: private.Tree.Blocks}, src); !errors.Is(err, mount.ErrPrivate) {
		t.Errorf("mounted without a key: %v", err)
	}
	at, err := r.Mount(t.Context(), root, private.Tree, src)
	if err != nil {
		t.Fatal(err)
	}
	erofstest.Compare(t, at, files)
}

// TestBlockOfAnotherTree: a tree that names a private tree's blocks gets what is encrypted, as everybody may.
func TestBlockOfAnotherTree(t *testing.T) {
	needMounts(t)
	files := erofstest.Corners(t)
	private, root := encrypted(t, files)
	src := newStore(t, t.TempDir(), private, false)
	r := newRig(t, t.TempDir(), src, nil)
	if _, err := r.Mount(t.Context(), root, private.Tree, src); err != nil {
		t.Fatal(err)
	}
	thief := &erofstest.Files{Tree: &blockstore.Tree{Nodes: slices.Clone(files.Tree.Nodes), Blocks: private.Tree.Blocks}, Data: private.Data}
	erofstest.Compare(t, r.mount(t, thief, mount.Lazy).Path, thief)
}
