package disk_test

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"

	badger "github.com/dgraph-io/badger/v4"
	"golang.org/x/sys/unix"

	"rialto/blockstore"
	"rialto/blockstore/disk"
)

const (
	benchBatch = 64
	benchLimit = 24 // batches before the disk is cleared, outside the measured time
)

// batcher makes batches of random blocks that are never the same twice. Their memory is used again.
type batcher struct {
	data [][]byte
	next uint64
}

func newBatcher() *batcher {
	b := &batcher{}
	random := rand.NewChaCha8([32]byte{1})
	for range benchBatch {
		p := make([]byte, blockstore.MaxBlock)
		random.Read(p)
		b.data = append(b.data, p)
	}
	return b
}

func (b *batcher) fresh() [][]byte {
	for _, p := range b.data {
		b.next++
		binary.BigEndian.PutUint64(p, b.next)
	}
	return b.data
}

func (b *batcher) blocks(tb testing.TB) []blockstore.Block {
	tb.Helper()
	var blocks []blockstore.Block
	for _, p := range b.fresh() {
		block, err := blockstore.NewBlock(p)
		if err != nil {
			tb.Fatal(err)
		}
		blocks = append(blocks, block)
	}
	return blocks
}

// cpu returns the seconds that this process has computed, user and system.
func cpu(tb testing.TB) float64 {
	tb.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}

// rss returns how many MiB of memory the process has, and how many of them are its own and no file's.
func rss(tb testing.TB) (all, own float64) {
	tb.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, 0
	}
	read := func(name string) float64 {
		_, rest, _ := bytes.Cut(status, []byte(name+":"))
		kib, _ := strconv.Atoi(string(bytes.Fields(rest)[0]))
		return float64(kib) / 1024
	}
	return read("VmRSS"), read("RssAnon")
}

// measured runs do with the timer on and reports what it cost.
func measured(b *testing.B, bytes int, do func()) {
	b.Helper()
	b.StartTimer()
	before := cpu(b)
	do()
	used := cpu(b) - before
	b.StopTimer()
	costs[b] += used
	sizes[b] += bytes
}

var (
	costs = map[*testing.B]float64{}
	sizes = map[*testing.B]int{}
)

// warm makes the machine give the memory that the page cache will take, which on a virtual one costs
// whoever is first more than the writing.
func warm(b *testing.B) {
	b.Helper()
	name := filepath.Join(b.TempDir(), "warm")
	f, err := os.Create(name)
	if err != nil {
		b.Fatal(err)
	}
	defer os.Remove(name)
	defer f.Close()
	for _, p := range slices.Repeat(newBatcher().data, benchLimit) {
		if _, err := f.Write(p); err != nil {
			b.Fatal(err)
		}
	}
	if err := f.Sync(); err != nil {
		b.Fatal(err)
	}
}

func report(b *testing.B) {
	b.Helper()
	gb := float64(sizes[b]) / 1e9
	b.ReportMetric(gb*1e3/b.Elapsed().Seconds(), "MB/s")
	b.ReportMetric(costs[b]/gb, "cpu-s/GB")
	all, own := rss(b)
	b.ReportMetric(all, "rss-MiB")
	b.ReportMetric(own, "anon-MiB")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkPut puts batches of 64 blocks of 1 MiB, from bytes to durable: hash, data, index, sync.
// "file" is the limit: hash, write and sync one file, with no index. "badger" keeps the blocks as values.
func BenchmarkPut(b *testing.B) {
	b.Run("store", func(b *testing.B) {
		s := open(b, disk.Config{Dir: b.TempDir()})
		defer s.Close()
		batches := newBatcher()
		b.StopTimer()
		warm(b)
		b.ResetTimer()
		for i := range b.N {
			measured(b, benchBatch<<20, func() {
				if err := s.Put(b.Context(), batches.blocks(b)...); err != nil {
					b.Fatal(err)
				}
			})
			if i%benchLimit == benchLimit-1 {
				if _, err := s.Sweep(b.Context(), func(blockstore.CID) bool { return false }); err != nil {
					b.Fatal(err)
				}
			}
		}
		report(b)
	})
	// Each of two callers hashes while the other one's batch is written: two cores.
	b.Run("two callers", func(b *testing.B) {
		s := open(b, disk.Config{Dir: b.TempDir()})
		defer s.Close()
		batches := []*batcher{newBatcher(), newBatcher()}
		batches[1].next = 1 << 40
		b.StopTimer()
		warm(b)
		b.ResetTimer()
		for i := 0; i < b.N; i += benchLimit {
			n := min(benchLimit, b.N-i)
			measured(b, n*benchBatch<<20, func() {
				var callers sync.WaitGroup
				for w := range batches {
					callers.Go(func() {
						for range (n + w) / 2 {
							if err := s.Put(b.Context(), batches[w].blocks(b)...); err != nil {
								b.Error(err)
							}
						}
					})
				}
				callers.Wait()
			})
			if _, err := s.Sweep(b.Context(), func(blockstore.CID) bool { return false }); err != nil {
				b.Fatal(err)
			}
		}
		report(b)
	})
	b.Run("file", func(b *testing.B) {
		name := filepath.Join(b.TempDir(), "file")
		f, err := os.Create(name)
		if err != nil {
			b.Fatal(err)
		}
		defer f.Close()
		batches := newBatcher()
		b.StopTimer()
		warm(b)
		b.ResetTimer()
		off := int64(0)
		for i := range b.N {
			measured(b, benchBatch<<20, func() {
				for _, block := range batches.blocks(b) {
					if _, err := f.WriteAt(block.Data(), off); err != nil {
						b.Fatal(err)
					}
					off += int64(block.Size())
				}
				if err := f.Sync(); err != nil {
					b.Fatal(err)
				}
			})
			if i%benchLimit == benchLimit-1 {
				if err := f.Truncate(0); err != nil {
					b.Fatal(err)
				}
				off = 0
			}
		}
		report(b)
	})
	b.Run("badger", func(b *testing.B) {
		openDB := func() *badger.DB {
			db, err := badger.Open(badger.DefaultOptions(b.TempDir()).WithLogger(nil).WithValueThreshold(1 << 10).WithMetricsEnabled(false))
			if err != nil {
				b.Fatal(err)
			}
			return db
		}
		db := openDB()
		defer func() { db.Close() }()
		batches := newBatcher()
		b.StopTimer()
		warm(b)
		b.ResetTimer()
		for i := range b.N {
			measured(b, benchBatch<<20, func() {
				wb := db.NewWriteBatch()
				for _, block := range batches.blocks(b) {
					c := block.CID()
					if err := wb.Set(c[:], block.Data()); err != nil {
						b.Fatal(err)
					}
				}
				if err := wb.Flush(); err != nil {
					b.Fatal(err)
				}
				if err := db.Sync(); err != nil {
					b.Fatal(err)
				}
			})
			if i%benchLimit == benchLimit-1 {
				db.Close()
				db = openDB()
			}
		}
		report(b)
	})
}

func benchFill(b *testing.B) (*disk.Store, []blockstore.CID) {
	b.Helper()
	s := open(b, disk.Config{Dir: b.TempDir()})
	b.Cleanup(func() { s.Close() })
	batches := newBatcher()
	var cids []blockstore.CID
	for range 4 {
		blocks := batches.blocks(b)
		if err := s.Put(b.Context(), blocks...); err != nil {
			b.Fatal(err)
		}
		for _, block := range blocks {
			cids = append(cids, block.CID())
		}
	}
	return s, cids
}

// BenchmarkSweep deletes 1 GiB in blocks of 1 MiB; the disk has its space back when it returns.
func BenchmarkSweep(b *testing.B) {
	s := open(b, disk.Config{Dir: b.TempDir()})
	defer s.Close()
	batches := newBatcher()
	b.StopTimer()
	b.ResetTimer()
	for range b.N {
		for range 16 {
			if err := s.Put(b.Context(), batches.blocks(b)...); err != nil {
				b.Fatal(err)
			}
		}
		measured(b, 16*benchBatch<<20, func() {
			if _, err := s.Sweep(b.Context(), func(blockstore.CID) bool { return false }); err != nil {
				b.Fatal(err)
			}
		})
	}
	report(b)
}

// BenchmarkOpen opens a store of 1 GiB, in blocks of 1 MiB, whose index is there or is lost.
func BenchmarkOpen(b *testing.B) {
	for _, lost := range []bool{false, true} {
		b.Run("lost="+strconv.FormatBool(lost), func(b *testing.B) {
			dir := b.TempDir()
			s := open(b, disk.Config{Dir: dir})
			batches := newBatcher()
			b.StopTimer()
			for range 16 {
				if err := s.Put(b.Context(), batches.blocks(b)...); err != nil {
					b.Fatal(err)
				}
			}
			b.ResetTimer()
			for range b.N {
				s.Close()
				if lost {
					if err := os.RemoveAll(filepath.Join(dir, "index")); err != nil {
						b.Fatal(err)
					}
				}
				b.StartTimer()
				s = open(b, disk.Config{Dir: dir})
				b.StopTimer()
			}
			s.Close()
		})
	}
}

// BenchmarkGet reads whole blocks of 1 MiB out of the page cache and hashes them.
func BenchmarkGet(b *testing.B) {
	s, cids := benchFill(b)
	b.SetBytes(blockstore.MaxBlock)
	i := 0
	for b.Loop() {
		if _, err := s.Get(b.Context(), cids[i%len(cids)]); err != nil {
			b.Fatal(err)
		}
		i++
	}
}

// BenchmarkReadAt reads parts of blocks out of the page cache and checks them.
func BenchmarkReadAt(b *testing.B) {
	for _, n := range []int{4 << 10, 64 << 10, 1 << 20} {
		b.Run(strconv.Itoa(n>>10)+"KiB", func(b *testing.B) {
			s, cids := benchFill(b)
			p := make([]byte, n)
			b.SetBytes(int64(n))
			i := 0
			for b.Loop() {
				off := i * 7919 % (blockstore.MaxBlock/n + 1) * n % blockstore.MaxBlock
				if _, err := s.ReadAt(b.Context(), cids[i%len(cids)], p, off); err != nil {
					b.Fatal(err)
				}
				i++
			}
		})
	}
}
