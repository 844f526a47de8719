package exchange_test

import (
	"slices"
	"sync"
	"testing"
	"time"

	"rialto/blockstore"
	"rialto/blockstore/exchange"
)

// BenchmarkSwarm has 20 peers fetch the same 64 MiB from one origin and each other. Every host uploads at 8 MB/s at
// most, as on lines of that rate: two cores could not tell twenty real ones apart.
func BenchmarkSwarm(b *testing.B) {
	const peers, blocks, size, rate = 20, 256, 256 << 10, 8e6
	for b.Loop() {
		store := new(blockstore.Memory)
		refs := fill(b, store, blocks, size)
		origin := start(b, exchange.Config{Store: store, Upload: rate})
		single := start(b, exchange.Config{Upload: rate})
		begin := time.Now()
		if _, err := single.Fetch(b.Context(), slices.Values(refs), []exchange.Peer{through(origin.peer(), nil)}, into(single.store)); err != nil {
			b.Fatal(err)
		}
		alone := time.Since(begin)

		sent := origin.Stats().ServedBytes
		all := []exchange.Peer{through(origin.peer(), nil)}
		nodes := make([]node, peers)
		for i := range nodes {
			nodes[i] = start(b, exchange.Config{Upload: rate})
			all = append(all, through(nodes[i].peer(), nil))
		}
		begin = time.Now()
		before := cpu()
		var wasted int64
		var mu sync.Mutex
		var wg sync.WaitGroup
		for _, n := range nodes {
			wg.Go(func() {
				got, err := n.Fetch(b.Context(), slices.Values(refs), all, into(n.store))
				if err != nil {
					b.Error(err)
				}
				mu.Lock()
				wasted += got.Wasted
				mu.Unlock()
			})
		}
		wg.Wait()
		took := time.Since(begin)
		b.ReportMetric(float64(origin.Stats().ServedBytes-sent)/(blocks*size), "origin/size")
		b.ReportMetric(took.Seconds()/alone.Seconds(), "time/alone")
		b.ReportMetric(alone.Seconds(), "alone-s")
		b.ReportMetric(float64(wasted)/(peers*blocks*size), "wasted/bytes")
		b.ReportMetric((cpu()-before)/(peers*blocks*size/1e9), "CPU-s/GB")
	}
}
