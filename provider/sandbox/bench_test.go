package sandbox

import (
	"slices"
	"testing"
	"time"

	"rialto/provider"
)

// BenchmarkStart measures the time from Start of a prepared sandbox until its process exists.
func BenchmarkStart(b *testing.B) {
	r, root := newRuntime(b), image(b)
	var took []time.Duration
	for b.Loop() {
		b.StopTimer()
		s := prepare(b, r, provider.Launch{CPUs: 1, MemoryMiB: 256})
		b.StartTimer()
		begin := time.Now()
		if err := s.Start(b.Context(), program(root, "print", "1", "x")); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(begin))
		b.StopTimer()
		finish(b, s)
		if err := s.Delete(b.Context()); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	slices.Sort(took)
	b.ReportMetric(took[len(took)/2].Seconds()*1e3, "p50-ms")
}

// BenchmarkPrepare measures what happens while the image is still on its way.
func BenchmarkPrepare(b *testing.B) {
	r := newRuntime(b)
	for b.Loop() {
		s := prepare(b, r, provider.Launch{})
		b.StopTimer()
		if err := s.Delete(b.Context()); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
