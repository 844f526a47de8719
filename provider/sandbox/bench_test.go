package sandbox

import (
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"rialto/provider"
)

// eachDisk runs a benchmark on both kinds of disk.
func eachDisk(b *testing.B, bench func(*testing.B, *Runtime)) {
	b.Helper()
	for name, unlimited := range map[string]bool{"limited": false, "unlimited": true} {
		b.Run(name, func(b *testing.B) {
			r, err := New(Config{StateDir: filepath.Join(b.TempDir(), "state"), RuncPath: needs(b), Tag: tag(), UnlimitedDisk: unlimited})
			if err != nil {
				b.Fatal(err)
			}
			bench(b, r)
		})
	}
}

func reportMedian(b *testing.B, name string, took []time.Duration) {
	b.Helper()
	slices.Sort(took)
	b.ReportMetric(took[len(took)/2].Seconds()*1e3, name)
}

// BenchmarkLife measures the time of Prepare, while the image is still on its way; from Start of a prepared
// sandbox until its process exists; and of Delete.
func BenchmarkLife(b *testing.B) {
	root := image(b)
	eachDisk(b, func(b *testing.B, r *Runtime) {
		b.Helper()
		var prepared, started, deleted []time.Duration
		for b.Loop() {
			begin := time.Now()
			s := prepare(b, r, provider.Launch{CPUs: 1, MemoryMiB: 256})
			prepared = append(prepared, time.Since(begin))
			begin = time.Now()
			if err := s.Start(b.Context(), program(root, "print", "1", "x")); err != nil {
				b.Fatal(err)
			}
			started = append(started, time.Since(begin))
			finish(b, s)
			begin = time.Now()
			if err := s.Delete(b.Context()); err != nil {
				b.Fatal(err)
			}
			deleted = append(deleted, time.Since(begin))
		}
		reportMedian(b, "prepare-p50-ms", prepared)
		reportMedian(b, "start-p50-ms", started)
		reportMedian(b, "delete-p50-ms", deleted)
	})
}

// BenchmarkWrites measures, inside a container, what a workload writes to its root file system.
func BenchmarkWrites(b *testing.B) {
	root := image(b)
	for _, args := range [][]string{{"files", "/new", "5000"}, {"files", "/new", "5000", "sync"}, {"sequential", "/new", "256"}} {
		b.Run(fmt.Sprint(args), func(b *testing.B) {
			eachDisk(b, func(b *testing.B, r *Runtime) {
				b.Helper()
				var first, second []time.Duration
				for b.Loop() {
					s := prepare(b, r, provider.Launch{})
					if err := s.Start(b.Context(), program(root, args...)); err != nil {
						b.Fatal(err)
					}
					got := finish(b, s)
					var one, two time.Duration
					if n, _ := fmt.Sscan(got.stdout, &one, &two); n == 0 {
						b.Fatalf("%+v %s", got.exit, got.all)
					}
					first, second = append(first, one), append(second, two)
					if err := s.Delete(b.Context()); err != nil {
						b.Fatal(err)
					}
				}
				reportMedian(b, "first-p50-ms", first)
				if args[0] == "files" {
					reportMedian(b, "again-p50-ms", second)
				}
			})
		})
	}
}
