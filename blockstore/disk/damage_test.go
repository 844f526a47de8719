package disk_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"rialto/blockstore"
	"rialto/blockstore/disk"
	"rialto/blockstore/storetest"
)

// flipped makes a store of 1,000 blocks and turns one bit in each of them on the disk.
func flipped(t *testing.T) (*disk.Store, []blockstore.Block, map[blockstore.CID]int) {
	t.Helper()
	s := open(t, disk.Config{Dir: t.TempDir(), PackSize: 8 << 20})
	t.Cleanup(func() { s.Close() })
	random := rand.New(rand.NewPCG(3, 4))
	var blocks []blockstore.Block
	for i := range 1000 {
		size := 1 + random.IntN(30_000)
		if i%100 == 0 {
			size = blockstore.MaxBlock - i
		}
		blocks = append(blocks, storetest.Block(t, fmt.Sprint("bit", i), size))
	}
	if err := s.Put(t.Context(), blocks...); err != nil {
		t.Fatal(err)
	}
	at := make(map[blockstore.CID]int)
	for _, b := range blocks {
		place, err := s.Locate(t.Context(), b.CID())
		if err != nil {
			t.Fatal(err)
		}
		bit := random.IntN(8 * place.Size)
		must(t, flip(place.Path, place.Offset+int64(bit/8), 1<<(bit%8)))
		at[b.CID()] = bit / 8
	}
	return s, blocks, at
}

func flip(name string, off int64, bits byte) error {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	p := make([]byte, 1)
	if _, err := f.ReadAt(p, off); err != nil {
		return err
	}
	p[0] ^= bits
	_, err = f.WriteAt(p, off)
	return err
}

// wantForgotten checks that damaged blocks can be fetched and put again.
func wantForgotten(t *testing.T, s *disk.Store, blocks []blockstore.Block) {
	t.Helper()
	for _, b := range blocks {
		if ok, err := s.Has(t.Context(), b.CID()); ok || err != nil {
			t.Fatalf("has a damaged block: %v, %v", ok, err)
		}
	}
	if err := s.Put(t.Context(), blocks...); err != nil {
		t.Fatal(err)
	}
	wantAll(t, s, blocks)
}

// One bit in each of 1,000 blocks: each way to read finds them all and serves none.
func TestEveryFlippedBitIsFound(t *testing.T) {
	t.Run("get", func(t *testing.T) {
		s, blocks, _ := flipped(t)
		for _, b := range blocks {
			if got, err := s.Get(t.Context(), b.CID()); !errors.Is(err, blockstore.ErrMismatch) || got.Size() != 0 {
				t.Fatalf("get of a damaged block: %d bytes, %v", got.Size(), err)
			}
		}
		wantForgotten(t, s, blocks)
	})
	t.Run("verify", func(t *testing.T) {
		s, blocks, _ := flipped(t)
		good := storetest.Block(t, "good", 100_000)
		if err := errors.Join(s.Put(t.Context(), good), s.Verify(t.Context(), good.CID())); err != nil {
			t.Fatal(err)
		}
		for _, b := range blocks {
			if err := s.Verify(t.Context(), b.CID()); !errors.Is(err, blockstore.ErrMismatch) {
				t.Fatalf("verify of a damaged block: %v", err)
			}
			if err := s.Verify(t.Context(), b.CID()); !errors.Is(err, blockstore.ErrNotFound) {
				t.Fatalf("once more: %v", err)
			}
		}
		wantForgotten(t, s, blocks)
	})
	t.Run("read", func(t *testing.T) {
		s, blocks, at := flipped(t)
		for i, b := range blocks {
			// A range that the bit is in, or one that only shares its chunk.
			bit, p := at[b.CID()], make([]byte, b.Size())
			off := 0
			if i%2 == 0 {
				off = bit / 65536 * 65536
				p = p[:1]
			}
			n, err := s.ReadAt(t.Context(), b.CID(), p, off)
			if !errors.Is(err, blockstore.ErrMismatch) || n > bit || !bytes.Equal(p[:n], b.Data()[off:off+n]) {
				t.Fatalf("read of a damaged block: %d bytes of %d, bit in %d, %v", n, b.Size(), bit, err)
			}
		}
		wantForgotten(t, s, blocks)
	})
	t.Run("scrub", func(t *testing.T) {
		s, blocks, _ := flipped(t)
		good := storetest.Block(t, "good", 100_000)
		if err := s.Put(t.Context(), good); err != nil {
			t.Fatal(err)
		}
		h, err := s.Hold(t.Context(), blocks[5].CID())
		if err != nil {
			t.Fatal(err)
		}
		report, err := s.Scrub(t.Context(), 1<<30)
		if err != nil {
			t.Fatal(err)
		}
		if report.Blocks != 1 || report.Bytes != int64(good.Size()) || len(report.Damaged) != len(blocks) || len(report.Unreadable) != 0 {
			t.Errorf("%d good, %d damaged, %d unreadable", report.Blocks, len(report.Damaged), len(report.Unreadable))
		}
		if !slices.Equal(report.Held, []blockstore.CID{blocks[5].CID()}) {
			t.Errorf("held: %v", report.Held)
		}
		if _, err := s.Get(t.Context(), blocks[5].CID()); !errors.Is(err, blockstore.ErrMismatch) {
			t.Errorf("get of a damaged block that is held: %v", err)
		}
		h.Release()
		if _, err := s.Get(t.Context(), blocks[5].CID()); !errors.Is(err, blockstore.ErrMismatch) {
			t.Errorf("get of a damaged block that was held: %v", err)
		}
		wantForgotten(t, s, blocks)
		if report, err := s.Scrub(t.Context(), 0); err != nil || report.Blocks != 1001 || len(report.Damaged) != 0 {
			t.Errorf("scrub after repair: %+v, %v", report, err)
		}
	})
}

const damagedBlocks = 40

func damagedBlock(i int) blockstore.Block {
	b, err := blockstore.NewBlock(bytes.Repeat([]byte{byte(i + 1)}, 5000+i))
	if err != nil {
		panic(err)
	}
	return b
}

// openAndCompare is a process that opens a store, compares what must be in it, and ends it well.
func openAndCompare(dir string) error {
	ctx := context.Background()
	s, err := disk.Open(ctx, disk.Config{Dir: dir, Reserve: -1, PackSize: 100_000})
	if err != nil {
		return err
	}
	n := 0
	for range s.Each(ctx) {
		n++
	}
	if n != damagedBlocks*3/4 {
		return fmt.Errorf("%d blocks", n)
	}
	for i := range n {
		if _, err := s.Get(ctx, damagedBlock(i).CID()); err != nil {
			return err
		}
	}
	return s.Close()
}

// Whatever happens to Badger's files, the packs have everything. Two processes may die of it.
func TestIndexFilesDamaged(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	must(t, err)
	template := t.TempDir()
	s := open(t, disk.Config{Dir: template, PackSize: 100_000})
	for i := range damagedBlocks {
		must(t, s.Put(t.Context(), damagedBlock(i)))
	}
	for i := range damagedBlocks / 4 {
		must(t, s.Delete(t.Context(), damagedBlock(damagedBlocks-1-i).CID()))
	}
	// Twice: as a process leaves it that closes the store, and as one that is killed.
	copies := map[string]string{"killed": t.TempDir(), "closed": t.TempDir()}
	copyDir(t, copies["killed"], template)
	s.Close()
	copyDir(t, copies["closed"], template)
	noise := make([]byte, 8192)
	rand.NewChaCha8([32]byte{9}).Read(noise)
	ways := map[string]func(name string, size int64) error{
		"removed":  func(name string, _ int64) error { return os.Remove(name) },
		"emptied":  func(name string, _ int64) error { return os.Truncate(name, 0) },
		"halved":   func(name string, size int64) error { return os.Truncate(name, size/2) },
		"shorter":  func(name string, size int64) error { return os.Truncate(name, size-1) },
		"bit 100":  func(name string, size int64) error { return flip(name, min(100, size-1), 4) },
		"bit 1000": func(name string, size int64) error { return flip(name, min(1000, size-1), 4) },
		"end":      func(name string, size int64) error { return flip(name, size-5, 4) },
		"noise":    func(name string, size int64) error { return os.WriteFile(name, noise[:min(size, 8192)], 0o600) },
	}
	for state, from := range copies {
		names, err := filepath.Glob(filepath.Join(from, "index", "*"))
		if err != nil || len(names) < 4 {
			t.Fatal(names, err)
		}
		for _, name := range names {
			for way, damage := range ways {
				t.Run(state+"/"+filepath.Base(name)+"/"+way, func(t *testing.T) {
					t.Parallel()
					dir := t.TempDir()
					copyDir(t, dir, from)
					file := filepath.Join(dir, "index", filepath.Base(name))
					info, err := os.Stat(file)
					must(t, err)
					if info.Size() < 6 {
						t.Skip("an empty file")
					}
					must(t, damage(file, info.Size()))
					for deaths := 0; ; deaths++ {
						cmd := exec.Command(self)
						cmd.Env = append(os.Environ(), openDir+"="+dir)
						out, err := cmd.CombinedOutput()
						if err == nil {
							break
						}
						if deaths == 2 {
							t.Fatalf("%v: %s", err, out)
						}
					}
				})
			}
		}
	}
}

// After a power cut the index may be as it was at any moment since it was last synced, while the packs
// have all that was confirmed.
func TestIndexLosesItsEnd(t *testing.T) {
	dir, index := t.TempDir(), ""
	cfg := disk.Config{Dir: dir, PackSize: 300_000}
	s := open(t, cfg)
	var blocks []blockstore.Block
	for i := range 60 {
		b := storetest.Block(t, fmt.Sprint("power", i), 1000+i*500)
		if i == 25 {
			index = t.TempDir()
			copyDir(t, index, filepath.Join(dir, "index"))
		}
		must(t, s.Put(t.Context(), b))
		blocks = append(blocks, b)
	}
	before := s.Stats()
	must(t, s.Close())
	must(t, os.RemoveAll(filepath.Join(dir, "index")))
	must(t, os.Rename(index, filepath.Join(dir, "index")))
	s = open(t, cfg)
	defer s.Close()
	for _, b := range blocks {
		if got, err := s.Get(t.Context(), b.CID()); err != nil || !bytes.Equal(got.Data(), b.Data()) {
			t.Errorf("get of a confirmed block: %v", err)
		}
	}
	if got := s.Stats(); got != before {
		t.Errorf("stats %+v, want %+v", got, before)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// copyDir copies files with their holes, as Badger's logs are mostly that.
func copyDir(t *testing.T, to, from string) {
	t.Helper()
	err := filepath.WalkDir(from, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, name)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		if d.IsDir() {
			return os.MkdirAll(target, 0o700)
		}
		if d.Name() == "ballast" || d.Name() == "LOCK" {
			return nil
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		used := bytes.TrimRight(data, "\x00")
		return errors.Join(os.WriteFile(target, used, 0o600), os.Truncate(target, int64(len(data))))
	})
	must(t, err)
}
