package disk_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"rialto/blockstore"
	"rialto/blockstore/disk"
	"rialto/blockstore/storetest"
)

// allocated returns the bytes that the packs take on the disk.
func allocated(t *testing.T, dir string) (total int64, packs int) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "packs", "*.pack"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		var st unix.Stat_t
		if err := unix.Stat(name, &st); err != nil {
			t.Fatal(err)
		}
		total += st.Blocks * 512
	}
	return total, len(names)
}

// What is set aside stays free, and is there again afterwards.
func TestSetAside(t *testing.T) {
	s := open(t, disk.Config{Dir: t.TempDir()})
	defer s.Close()
	block := storetest.Block(t, "aside", 4096)
	s.SetAside(1 << 60)
	if err := s.Put(t.Context(), block); !errors.Is(err, blockstore.ErrNoSpace) {
		t.Errorf("put into what is set aside: %v, want ErrNoSpace", err)
	}
	s.SetAside(-1)
	if err := s.Put(t.Context(), block); err != nil {
		t.Errorf("put afterwards: %v", err)
	}
}

// What is deleted comes back, whole segments and single blocks, and packs without blocks go.
func TestSpaceComesBack(t *testing.T) {
	for _, size := range []int{4096, 150_000, blockstore.MaxBlock} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, disk.Config{Dir: dir, PackSize: 16 << 20})
			defer s.Close()
			var cids []blockstore.CID
			for i := range 60 {
				b := storetest.Block(t, fmt.Sprint("space", i), size)
				cids = append(cids, b.CID())
				if err := s.Put(t.Context(), b, storetest.Block(t, fmt.Sprint("neighbour", i), size)); err != nil {
					t.Fatal(err)
				}
			}
			full, _ := allocated(t, dir)
			before := s.Stats().Bytes
			if err := s.Delete(t.Context(), cids...); err != nil {
				t.Fatal(err)
			}
			now, _ := allocated(t, dir)
			deleted := int64(len(cids) * size)
			if got := full - now; got < deleted*95/100 {
				t.Errorf("deleting %d bytes gave %d back", deleted, got)
			}
			if owned := before - s.Stats().Bytes; owned < deleted || owned > deleted+int64(len(cids)*4096) {
				t.Errorf("deleting %d bytes disowned %d", deleted, owned)
			}
			freed, err := s.Sweep(t.Context(), func(blockstore.CID) bool { return false })
			if err != nil {
				t.Fatal(err)
			}
			left, packs := allocated(t, dir)
			if got := now - left; got < freed*95/100 || freed < deleted {
				t.Errorf("sweeping %d bytes says %d and gave %d back", deleted, freed, got)
			}
			if packs > 1 || s.Stats().Packs > 1 {
				t.Errorf("%d packs are left", packs)
			}
		})
	}
}

// small mounts a file system of a size and returns its root.
func small(t *testing.T, fstype, source, options string) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root to mount")
	}
	dir := t.TempDir()
	if err := unix.Mount(source, dir, fstype, 0, options); err != nil {
		t.Skipf("cannot mount %s: %v", fstype, err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fillDisk takes all but some bytes of a file system, and returns a function that gives them back.
func fillDisk(t *testing.T, dir string, but int64) (giveBack func()) {
	t.Helper()
	name := filepath.Join(dir, "others")
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if n := int64(st.Bavail)*st.Bsize - but; n > 0 {
		if err := unix.Fallocate(int(f.Fd()), 0, info.Size(), n); err != nil {
			t.Fatal(err)
		}
	}
	return func() {
		if err := os.Remove(name); err != nil {
			t.Error(err)
		}
	}
}

func TestFullDisk(t *testing.T) {
	mounts := map[string]func(*testing.T) string{
		"tmpfs": func(t *testing.T) string { t.Helper(); return small(t, "tmpfs", "rialto-test", "size=128m") },
		"ext4":  func(t *testing.T) string { t.Helper(); return small(t, "ext4", loop(t, 128<<20), "") },
	}
	for name, mount := range mounts {
		t.Run(name, func(t *testing.T) {
			root := mount(t)
			dir := filepath.Join(root, "store")
			s := open(t, disk.Config{Dir: dir, PackSize: 8 << 20})
			defer func() { s.Close() }()
			// To the end of what the store may take.
			var kept []blockstore.Block
			var err error
			for i := 0; err == nil; i++ {
				var batch []blockstore.Block
				for j := range 8 {
					batch = append(batch, storetest.Block(t, fmt.Sprint("full", i, j), 300_000))
				}
				before := s.Stats()
				if err = s.Put(t.Context(), batch...); err == nil {
					kept = append(kept, batch...)
				} else if got := s.Stats(); got != before {
					t.Errorf("a refused put changed %+v to %+v", before, got)
				}
			}
			if !errors.Is(err, blockstore.ErrNoSpace) || len(kept) < 80 {
				t.Fatalf("after %d blocks: %v", len(kept), err)
			}
			var st unix.Statfs_t
			must(t, unix.Statfs(root, &st))
			if free := int64(st.Bavail) * st.Bsize; free < 32<<20 || free > 40<<20 {
				t.Errorf("%d bytes are left for the index", free)
			}
			// Others take the rest, the ballast's place included, and everything is there still.
			giveBack := fillDisk(t, root, 0)
			wantAll(t, s, kept)
			if err := s.Put(t.Context(), storetest.Block(t, "one more", 10)); !errors.Is(err, blockstore.ErrNoSpace) {
				t.Errorf("put on a full disk: %v", err)
			}
			if err := s.Delete(t.Context(), kept[0].CID()); err != nil {
				t.Errorf("delete on a full disk: %v", err)
			}
			kept = kept[1:]
			fillDisk(t, root, 0)
			if err := s.Delete(t.Context(), kept[0].CID()); !errors.Is(err, blockstore.ErrNoSpace) {
				t.Errorf("delete without ballast: %v", err)
			}
			wantAll(t, s, kept)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			fillDisk(t, root, 0)
			if other, err := disk.Open(t.Context(), disk.Config{Dir: dir}); !errors.Is(err, blockstore.ErrNoSpace) {
				other.Close()
				t.Fatalf("open on a full disk: %v", err)
			}
			giveBack()
			s = open(t, disk.Config{Dir: dir, PackSize: 8 << 20})
			wantAll(t, s, kept)
			if err := s.Delete(t.Context(), kept[0].CID(), kept[1].CID()); err != nil {
				t.Error(err)
			}
			more := storetest.Block(t, "more", 300_000)
			if err := s.Put(t.Context(), more); err != nil {
				t.Errorf("put after space is back: %v", err)
			}
			wantAll(t, s, append(kept[2:], more))
		})
	}
}

// loop makes an ext4 file system in a file and returns its loop device.
func loop(t *testing.T, size int64) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root for a loop device")
	}
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, size); err != nil {
		t.Fatal(err)
	}
	run(t, "mkfs.ext4", "-q", "-F", image)
	device := run(t, "losetup", "--find", "--show", image)
	t.Cleanup(func() { run(t, "losetup", "--detach", device) })
	return device
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skip("needs ", name)
	}
	out, err := exec.Command(path, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", name, err, out)
	}
	return strings.TrimSpace(string(out))
}

// A file system that turned read-only after an error gives what it has and refuses the rest.
func TestReadOnly(t *testing.T) {
	root := small(t, "ext4", loop(t, 128<<20), "")
	dir := filepath.Join(root, "store")
	s := open(t, disk.Config{Dir: dir})
	defer func() {
		if err := s.Close(); !errors.Is(err, unix.EROFS) {
			t.Errorf("close: %v", err)
		}
	}()
	blocks := fill(t, s, 20)
	if err := unix.Mount("", root, "", unix.MS_REMOUNT, "abort"); err != nil {
		t.Skipf("cannot abort an ext4 file system: %v", err)
	}
	more := storetest.Block(t, "more", 10)
	if err := s.Put(t.Context(), more); !errors.Is(err, unix.EROFS) {
		t.Errorf("put: %v", err)
	}
	if err := s.Delete(t.Context(), blocks[0].CID()); !errors.Is(err, unix.EROFS) {
		t.Errorf("delete: %v", err)
	}
	wantAll(t, s, blocks)
	if ok, err := s.Has(t.Context(), more.CID()); ok || err != nil {
		t.Errorf("has what was refused: %v, %v", ok, err)
	}
}

// A pack is what a mount needs: pages, zeros behind a block, and the block where Locate says.
func TestLocate(t *testing.T) {
	dir := t.TempDir()
	s := open(t, disk.Config{Dir: dir, PackSize: 1 << 20})
	defer s.Close()
	var blocks []blockstore.Block
	for i := range 300 {
		blocks = append(blocks, storetest.Block(t, fmt.Sprint("place", i), 1+i*397))
	}
	if err := s.Put(t.Context(), blocks...); err != nil {
		t.Fatal(err)
	}
	seen := make(map[string][]byte)
	for _, b := range blocks {
		place, err := s.Locate(t.Context(), b.CID())
		if err != nil {
			t.Fatal(err)
		}
		if seen[place.Path] == nil {
			if seen[place.Path], err = os.ReadFile(place.Path); err != nil {
				t.Fatal(err)
			}
		}
		file := seen[place.Path]
		end := (place.Offset + int64(place.Size) + 4095) &^ 4095
		if place.Offset%4096 != 0 || place.Size != b.Size() || int64(len(file)) < end || len(file)%4096 != 0 {
			t.Fatalf("%+v in a file of %d", place, len(file))
		}
		got := file[place.Offset:end]
		if !bytes.Equal(got[:b.Size()], b.Data()) || len(bytes.Trim(got[b.Size():], "\x00")) != 0 {
			t.Fatalf("%+v: other bytes", place)
		}
	}
	if len(seen) < 10 {
		t.Errorf("%d packs", len(seen))
	}
	if _, err := s.Locate(t.Context(), blockstore.Sum([]byte("absent"))); !errors.Is(err, blockstore.ErrNotFound) {
		t.Errorf("locate an absent block: %v", err)
	}
}
