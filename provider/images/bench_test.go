//go:build linux

package images_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"rialto/broker"
)

// pythonImage is about 220 MB in 8,000 files, sized as in an image with a Python tree: 65 % below 4 KiB,
// 31 % below 64 KiB, 3.4 % below 1 MiB, a few larger. Half of its bytes compress.
func pythonImage() []map[string][]byte {
	r := rand.New(rand.NewPCG(1, 2))
	layers := []map[string][]byte{{}, {}, {}}
	for i := range 8000 {
		var n int
		switch p := r.IntN(1000); {
		case p < 650:
			n = r.IntN(4 << 10)
		case p < 960:
			n = 4<<10 + r.IntN(24<<10)
		case p < 997:
			n = 64<<10 + r.IntN(512<<10)
		default:
			n = 1<<20 + r.IntN(6<<20)
		}
		data := random(uint64(i), n)
		clear(data[n/2:])
		layers[i%3][fmt.Sprintf("usr/lib/python3/p%02d/sub%d/file%04d.py", i%97, i%5, i)] = data
	}
	return layers
}

// BenchmarkPrepare deletes nothing until its end, for the sake of file systems that spread does not reach.
func BenchmarkPrepare(b *testing.B) {
	all := b
	s := openShop(b)
	w := s.push(b, "python", pythonImage()...)
	seed := newHost(b, nil)
	img, err := seed.Ensure(b.Context(), w, nil)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("registry", func(b *testing.B) {
		median(b, func() func() {
			n := newHost(all, nil)
			return func() { ensure(b, n, w) }
		})
	})
	b.Run("peer", func(b *testing.B) {
		w := w
		w.Root, w.Sources = img.Root, []broker.BlockSource{seed.source()}
		median(b, func() func() {
			n := newHost(all, nil)
			return func() {
				got := ensure(b, n, w)
				b.ReportMetric(float64(got.Fetched.Peers)/1e6, "MB_peers")
			}
		})
	})
	b.Run("local", func(b *testing.B) {
		median(b, func() func() {
			tree := filepath.Join(seed.dir, "trees", "*", img.Root)
			found, err := filepath.Glob(tree)
			if err != nil || len(found) != 1 {
				b.Fatal(found, err)
			}
			if err := os.Rename(found[0], filepath.Join(all.TempDir(), "old")); err != nil {
				b.Fatal(err)
			}
			return func() { ensure(b, seed, w) }
		})
	})
	b.Run("warm", func(b *testing.B) {
		median(b, func() func() {
			return func() { ensure(b, seed, w) }
		})
	})
}

// median reports the median wall time and CPU time of what prepare returns.
func median(b *testing.B, prepare func() func()) {
	b.Helper()
	var wall, cpu []time.Duration
	for b.Loop() {
		b.StopTimer()
		run := prepare()
		b.StartTimer()
		begin, used := time.Now(), cpuTime(b)
		run()
		wall, cpu = append(wall, time.Since(begin)), append(cpu, cpuTime(b)-used)
	}
	slices.Sort(wall)
	slices.Sort(cpu)
	b.ReportMetric(wall[len(wall)/2].Seconds()*1e3, "ms_median")
	b.ReportMetric(wall[0].Seconds()*1e3, "ms_best")
	b.ReportMetric(cpu[len(cpu)/2].Seconds()*1e3, "cpu_ms_median")
}

// cpuTime is what this process, and so both ends of a transfer, has used.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
