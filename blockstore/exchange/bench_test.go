package exchange_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	blocks2 "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"

	"rialto/blockstore"
	"rialto/blockstore/exchange"
	"rialto/p2p/p2ptest/line"
)

const gbit = 125e6 // bytes a second

// cpu returns the CPU time of this process, which is both ends.
func cpu() float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}

// fill puts n random blocks into a store.
func fill(tb testing.TB, s blockstore.Store, n, size int) []blockstore.Ref {
	tb.Helper()
	r := rand.NewChaCha8([32]byte{1})
	refs := make([]blockstore.Ref, n)
	for i := range refs {
		p := make([]byte, size)
		r.Read(p)
		b, err := blockstore.NewBlock(p)
		if err != nil {
			tb.Fatal(err)
		}
		if err := s.Put(tb.Context(), b); err != nil {
			tb.Fatal(err)
		}
		refs[i] = b.Ref()
	}
	return refs
}

// through returns the peer as it is seen behind a link; nil: on loopback.
func through(n exchange.Peer, l *line.Line) exchange.Peer {
	i := slices.IndexFunc(n.Addrs, func(a string) bool { return strings.Contains(a, "/tcp/") })
	if l == nil {
		return exchange.Peer{ID: n.ID, Addrs: n.Addrs[i : i+1]}
	}
	return exchange.Peer{ID: n.ID, Addrs: []string{fmt.Sprintf("/ip4/127.0.0.1/tcp/%d", l.Port())}}
}

// tcpAddr returns where the peer listens.
func tcpAddr(tb testing.TB, n exchange.Peer) string {
	tb.Helper()
	for _, a := range n.Addrs {
		if rest, ok := strings.CutPrefix(a, "/ip4/127.0.0.1/tcp/"); ok {
			port, _, _ := strings.Cut(rest, "/")
			return "127.0.0.1:" + port
		}
	}
	tb.Fatal("no TCP address")
	return ""
}

// BenchmarkFetch moves blocks from one server to one client in this process, both ends' CPU time included: the fast
// path, Bitswap as we tune it, boxo with its defaults, and TCP alone (hashed on loopback) as the limit; without a delay also
// nginx, in a process of its own, that sends a file which is hashed. Behind 50 ms there is a line of 1 Gbit/s. What was
// received is not stored: BenchmarkPut has what that takes.
func BenchmarkFetch(b *testing.B) {
	for _, rtt := range []time.Duration{0, 50 * time.Millisecond} {
		for _, kind := range []string{"fast", "fast256K", "bitswap", "stock", "tcp", "nginx", "nginxTLS"} {
			if rtt > 0 && strings.HasPrefix(kind, "nginx") {
				continue
			}
			b.Run(fmt.Sprintf("rtt=%v/%s", rtt, kind), func(b *testing.B) { benchFetch(b, kind, rtt) })
		}
	}
}

func benchFetch(b *testing.B, kind string, rtt time.Duration) {
	b.Helper()
	blocks, size := 512, 1<<20
	switch {
	case kind == "fast256K":
		blocks, size = 2048, 256<<10
	case kind == "stock" && rtt > 0:
		blocks = 64
	case kind == "tcp" && rtt > 0:
		var rate float64
		for b.Loop() {
			rate = copyOver(b, rtt, gbit, 512<<20)
		}
		b.ReportMetric(rate/1e6, "MB/s")
		b.ReportMetric(rate/gbit, "link50_ratio")
		return
	case kind == "tcp":
		benchTCP(b, blocks)
		return
	case strings.HasPrefix(kind, "nginx"):
		benchNginx(b, blocks, kind == "nginxTLS")
		return
	}
	store := new(blockstore.Memory)
	refs := fill(b, store, blocks, size)
	var once func()
	var server exchange.Peer
	if kind == "stock" {
		ms := memory()
		for _, r := range refs {
			blk, err := store.Get(b.Context(), r.CID)
			if err != nil {
				b.Fatal(err)
			}
			x, err := blocks2.NewBlockWithCid(blk.Data(), stockName(b, r.CID))
			if err != nil {
				b.Fatal(err)
			}
			if err := ms.Put(b.Context(), x); err != nil {
				b.Fatal(err)
			}
		}
		_, server, _ = stock(b, ms)
	} else {
		server = start(b, exchange.Config{Store: store, BitswapOnly: kind == "bitswap"}).peer()
	}
	var l *line.Line
	if rtt > 0 {
		l = newLink(b, tcpAddr(b, server), rtt, gbit)
	}
	server = through(server, l)
	if kind == "stock" {
		once = func() { stockFetch(b, server, refs) }
	} else {
		x := start(b, exchange.Config{BitswapOnly: kind == "bitswap"})
		once = func() {
			got, err := x.Fetch(b.Context(), slices.Values(refs), []exchange.Peer{server}, func(blockstore.Block) error { return nil })
			if err != nil || got.Bytes != int64(blocks*size) {
				b.Fatalf("fetched %+v, %v", got, err)
			}
		}
	}
	b.SetBytes(int64(blocks * size))
	before := cpu()
	for b.Loop() {
		once()
	}
	report(b, before, int64(blocks*size), rtt)
}

// BenchmarkSeeds fetches from eight servers at once, all in this process.
func BenchmarkSeeds(b *testing.B) {
	const blocks, size = 512, 1 << 20
	store := new(blockstore.Memory)
	refs := fill(b, store, blocks, size)
	var peers []exchange.Peer
	for range 8 {
		peers = append(peers, through(start(b, exchange.Config{Store: store}).peer(), nil))
	}
	x := start(b, exchange.Config{})
	b.SetBytes(blocks * size)
	before := cpu()
	for b.Loop() {
		got, err := x.Fetch(b.Context(), slices.Values(refs), peers, func(blockstore.Block) error { return nil })
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(got.Wasted)/float64(got.Bytes), "wasted/bytes")
	}
	report(b, before, blocks*size, 0)
}

func report(b *testing.B, before float64, size int64, rtt time.Duration) {
	b.Helper()
	bytes := float64(size) * float64(b.N)
	b.ReportMetric((cpu()-before)/(bytes/1e9), "CPU-s/GB")
	if rtt > 0 {
		b.ReportMetric(bytes/b.Elapsed().Seconds()/gbit, "link50_ratio")
	}
}

// stockName returns a block's name as boxo knows it.
func stockName(tb testing.TB, c blockstore.CID) cid.Cid {
	tb.Helper()
	mh, err := multihash.Encode(c[:], multihash.SHA2_256)
	if err != nil {
		tb.Fatal(err)
	}
	return cid.NewCidV1(cid.Raw, mh)
}

// stockFetch is a boxo client with its defaults, asked for no more than it can take at a time.
func stockFetch(tb testing.TB, server exchange.Peer, refs []blockstore.Ref) {
	tb.Helper()
	client, _, h := stock(tb, memory())
	ctx, cancel := context.WithCancel(tb.Context())
	defer cancel()
	if _, err := h.Connect(ctx, server.Addrs[0]+"/p2p/"+server.ID); err != nil {
		tb.Fatal(err)
	}
	session := client.NewSession(ctx)
	for part := range slices.Chunk(refs, 256) {
		names := make([]cid.Cid, len(part))
		for i, r := range part {
			names[i] = stockName(tb, r.CID)
		}
		blocks, err := session.GetBlocks(ctx, names)
		if err != nil {
			tb.Fatal(err)
		}
		n := 0
		for range blocks {
			n++
		}
		if n != len(part) {
			tb.Fatalf("%d of %d blocks", n, len(part))
		}
	}
}

// benchTCP is the limit: bytes over a TCP connection, hashed.
func benchTCP(b *testing.B, blocks int) {
	b.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	go func() {
		out := make([]byte, 1<<20)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			for range blocks {
				c.Write(out)
			}
			c.Close()
		}
	}()
	block := make([]byte, 1<<20)
	b.SetBytes(int64(blocks) << 20)
	before := cpu()
	for b.Loop() {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		for range blocks {
			if _, err := io.ReadFull(c, block); err != nil {
				b.Fatal(err)
			}
			sha256.Sum256(block)
		}
		c.Close()
	}
	report(b, before, int64(blocks)<<20, 0)
}
