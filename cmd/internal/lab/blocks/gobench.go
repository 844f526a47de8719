package blocks

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// gobench holds what `go test -bench -count=N` printed: metrics of each benchmark, one value for each of its runs.
type gobench map[string]map[string][]float64

// readGobench reads lines such as
//
//	BenchmarkFetch/rtt=0s/fast-2   1   712345678 ns/op   753.1 MB/s   2.1 CPU-s/GB
func readGobench(path string) (gobench, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	all := make(gobench)
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) < 4 || !strings.HasPrefix(fields[0], "Benchmark") {
			continue
		}
		name := fields[0]
		if i := strings.LastIndexByte(name, '-'); i > 0 {
			name = name[:i] // the number of processors
		}
		metrics := all[name]
		if metrics == nil {
			metrics = make(map[string][]float64)
			all[name] = metrics
		}
		for i := 2; i+1 < len(fields); i += 2 {
			v, err := strconv.ParseFloat(fields[i], 64)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", path, err)
			}
			metrics[fields[i+1]] = append(metrics[fields[i+1]], v)
		}
	}
	return all, nil
}

// best returns the highest value of a metric, or the lowest, and the value that another metric had in the same run.
func (g gobench) best(name, metric string, low bool, beside string) (v, other float64, ok bool) {
	values := g[name][metric]
	if len(values) == 0 {
		return 0, 0, false
	}
	at := 0
	for i, x := range values {
		if x > values[at] != low && x != values[at] {
			at = i
		}
	}
	if others := g[name][beside]; at < len(others) {
		other = others[at]
	}
	return values[at], other, true
}

// wire shows the exchange's benchmarks.
func (g gobench) wire(r *report) {
	r.section("blocks from one peer in one process, 1 MiB each, hashed (CPU seconds of both ends per GB)")
	rate := func(row, key, name string) {
		v, cost, ok := g.best("BenchmarkFetch/rtt=0s/"+row, "MB/s", false, "CPU-s/GB")
		note := fmt.Sprintf("%.2f CPU-s/GB", cost)
		switch {
		case ok && key == "":
			r.row(name, v, "MB/s", note)
		case ok:
			r.figure(key, name, v, note)
		case key != "":
			r.absent(errNoBench, key)
		}
	}
	rate("fast", "fastpath_mbps", "fast path: TLS, verified")
	rate("bitswap", "bitswap_mbps", "Bitswap as we tune it")
	rate("stock", "", "boxo with its defaults")
	rate("nginxTLS", "", "rival: nginx over TLS 1.3, one file, hashed")
	rate("nginx", "", "rival: nginx over HTTP with sendfile, hashed; plain")
	rate("tcp", "", "limit: plain TCP and sha256")
	link := func(row, key, name string) {
		v, cost, ok := g.best("BenchmarkFetch/rtt=50ms/"+row, "link50_ratio", false, "CPU-s/GB")
		note := ""
		if cost > 0 {
			note = fmt.Sprintf("%.2f CPU-s/GB", cost)
		}
		switch {
		case ok && key == "":
			r.row(name, v, "of 1 Gbit/s", note)
		case ok:
			r.figure(key, name, v, note)
		case key != "":
			r.absent(errNoBench, key)
		}
	}
	r.section("the same through a line of 1 Gbit/s and 50 ms round trip")
	link("fast", "link50_ratio", "fast path")
	link("bitswap", "", "Bitswap as we tune it")
	link("stock", "", "boxo with its defaults")
	link("tcp", "", "limit: one plain TCP connection")
}

// swarm shows how one origin's bytes reach twenty peers.
func (g gobench) swarm(r *report) {
	r.section("1 -> 20 peers in one process, 64 MiB for a GB, each on a line of 8 MB/s up")
	ratio, _, ok := g.best("BenchmarkSwarm", "time/alone", true, "")
	egress, wasted, ok2 := g.best("BenchmarkSwarm", "origin/size", true, "wasted/bytes")
	if !ok || !ok2 {
		r.absent(errNoBench, "fanout20_origin_gb", "fanout20_time_ratio")
		return
	}
	r.figure("fanout20_origin_gb", "the origin sends, for each GB of the content", egress, fmt.Sprintf("%.1f %% came twice", 100*wasted))
	r.figure("fanout20_time_ratio", "all twenty have it after", ratio, "")
	r.row("rival: each asks the origin only (by arithmetic)", 20, "GB", "and 20 x the time")
	r.row("limit: the origin sends each block once", 1, "GB", "")
}

// put shows the block store's benchmarks.
func (g gobench) put(r *report) {
	r.section("put, batches of 64 x 1 MiB: hash, write, index, fsync; one caller")
	for _, c := range []struct{ row, key, name string }{
		{"store", "put_mbps", "block store"},
		{"two_callers", "", "block store, two callers"},
		{"badger", "", "rival: blocks as Badger's values"},
		{"file", "", "limit: one file, hashed and synced, no index"},
	} {
		v, cost, ok := g.best("BenchmarkPut/"+c.row, "MB/s", false, "cpu-s/GB")
		note := fmt.Sprintf("%.2f CPU-s/GB", cost)
		switch {
		case ok && c.key == "":
			r.row(c.name, v, "MB/s", note)
		case ok:
			r.figure(c.key, c.name, v, note)
		case c.key != "":
			r.absent(errNoBench, c.key)
		}
	}
}
