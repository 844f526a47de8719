// Package exchange moves blocks between peers, on the host's own libp2p connections.
//
// # The fast path: /rialto/blocks/1
//
// A client opens streams to a peer and keeps them for as long as it downloads: one for what is urgent and for
// HAVE, and one for bulk, or three to a peer more than 20 ms away. It asks for blocks by name in WANT frames, takes
// questions back by CANCEL, and asks by HAVE which blocks are there; the server answers each in its order: the bytes,
// "not here", "busy, later", "cancelled", or a map. Package wire is the encoding, byte by byte.
//
// What was asked for in bulk and becomes urgent is not asked for twice: MOVE on the urgent stream has the server answer
// there, if it did not send the block yet, and answer "cancelled" on the stream that is not to bring it. So the bytes come
// once, whichever of both was faster.
//
// Blocks are named by their sha256 and not by their number in an image. 32 bytes for 256 KiB to 1 MiB are 0.01 %, and
// for that the server needs to know no image and keeps no state: it serves whatever it holds.
//
// There is no credit on the wire. A client's questions that were not answered are its credit: it asks for
// twice the measured bandwidth × round trip, so that the link is never idle and its rate is found by doubling.
// A server bounds questions on a stream, streams of a peer, and memory in all; it can hold its upload to a rate, which
// peers then share equally by bytes.
//
// # Bitswap
//
// Bitswap 1.2.0 is served under its standard names, /ipfs/bitswap, so that any boxo or Kubo node reads what
// [Config].Public allows, and peers that do not speak the fast path are asked by it. Bitswap chooses its encoding by
// the protocol's whole name, so that one server cannot have two prefixes, and a second server would keep a
// second set of books on the same peers for nothing: there are no others to keep apart from.
//
// Kubo asks for a file by its UnixFS root. [Exchange.AddFiles] has the nodes over a tree's large files served as well;
// a download never asks for one.
//
// Stock Bitswap is bound by latency: a server keeps one 1 MiB block in flight per peer, which at 50 ms
// is 7 MB/s. Here it keeps 16 MiB. A want-list beyond 1024 entries stalls, so that a download never has more
// than 512 wants out. There is no content routing: who has blocks is given with each download.
//
// # Who is asked for what
//
// A [Download] asks each peer for as much as its window allows, so that the work is split by measured rate.
// What takes longer than twice what nine of ten blocks took is asked of somebody else, too; what is urgent sooner. In a
// swarm, whose peers fetch the same blocks, they are asked again and again what they have, the rarest
// block is fetched first, and who has everything is asked only for what nobody else has or is about to fetch. That others
// have it is believed for as long as blocks come: half a second without any, and it does not count.
// At most 64 MiB are asked for or not taken by the sink yet, which bounds memory.
//
// # What is not trusted
//
// Every block is hashed before anybody sees it. A peer that sends wrong bytes is dropped for good by the download and
// reported with what it sent; after three such blocks it is not asked by this exchange any more. Bitswap
// itself hashes what arrives, so that wrong bytes are merely blocks that nobody wanted.
// Waiting ends early when all peers are gone, when all said that they do not have a block, when all sent
// wrong bytes, or when they are too slow to wait for.
//
// # What may be slow
//
// The sink of a download may block for as long as it likes. It never holds up streams or Bitswap, which have room
// for all that was asked for, and it is not held against the peers.
package exchange

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/ipfs/boxo/bitswap"
	"github.com/ipfs/boxo/bitswap/client"
	"github.com/ipfs/boxo/bitswap/network/bsnet"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"rialto/blockstore"
	"rialto/blockstore/exchange/internal/fast"
)

const (
	maxWants       = 512
	batchWants     = 32
	windowBytes    = 64 << 20
	outstanding    = 16 << 20 // per peer, on the serving side
	workers        = 32
	connectTimeout = 10 * time.Second
	searchDelay    = time.Millisecond // until Bitswap asks the finder, which knows at once
	strikes        = 3                // wrong blocks until a peer is not asked any more
	// silence is how long Bitswap waits for a block before it takes the peer's silence for "I do not have
	// it", and strikes a peer off the session after sixteen of these. Its own 50 ms pass whenever a machine
	// is busy; with this, a silent peer among others is found well before Patience ends.
	silence = 3 * time.Second
)

var (
	// ErrNoPeers reports that no peer could be reached, or that all went away.
	ErrNoPeers = errors.New("no peer reachable")
	// ErrNotHeld reports that no peer has a block.
	ErrNotHeld = errors.New("no peer has the block")
	// ErrPoisoned reports that every peer sent bytes that nobody asked for.
	ErrPoisoned = errors.New("peer sent wrong bytes")
	// ErrStalled reports peers that sent too little for too long.
	ErrStalled = errors.New("peers are too slow")
	// ErrNotRunning reports a download outside Run.
	ErrNotRunning = errors.New("block exchange is not running")
	// ErrClosed reports a download after Close.
	ErrClosed = errors.New("download is closed")
)

// Config holds an exchange's collaborators.
type Config struct {
	Host  host.Host        // the p2p host's
	Store blockstore.Store // what is served
	// Public says which blocks are served over Bitswap, to strangers; nil: all. The nodes over a tree's files are as
	// public as its root. It is called concurrently.
	Public func(blockstore.CID) bool
	// Upload and UploadPeer bound the bytes a second that the fast path serves to all and to each peer;
	// zero: unlimited. Peers share them equally.
	Upload, UploadPeer int64
	// BitswapOnly leaves the fast path out, in both directions.
	BitswapOnly bool
	// Patience is how long a download waits for its next MinProgress bytes; zero: 10 s, twice what a server
	// waits before it says that it is busy.
	Patience time.Duration
	// MinProgress is the least that peers must send within Patience; zero: 1 MiB, which any registry beats.
	MinProgress int64
	// Retry is how long nothing may come until Bitswap is asked for all that is missing anew; zero: 2 s. It
	// doubles each time, until something comes.
	Retry time.Duration
	// Poisoned is told of the first wrong bytes of each peer in each download. It must not block nor call the exchange;
	// nil: nobody is told.
	Poisoned func(Poison)
	Logger   *slog.Logger
}

func (c Config) withDefaults() (Config, error) {
	if c.Host == nil || c.Store == nil {
		return c, errors.New("block exchange without a host or a store")
	}
	if c.Patience == 0 {
		c.Patience = 10 * time.Second
	}
	if c.MinProgress == 0 {
		c.MinProgress = 1 << 20
	}
	if c.Retry == 0 {
		c.Retry = 2 * time.Second
	}
	if c.Poisoned == nil {
		c.Poisoned = func(Poison) {}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, nil
}

// Exchange serves and fetches blocks. Methods are safe for concurrent use.
type Exchange struct {
	cfg     Config
	key     uint64        // of the host: see rank
	ready   chan struct{} // closed once bitswap is set
	bitswap *bitswap.Bitswap
	asked   *asked
	files   *files

	mu        sync.Mutex
	ended     bool
	downloads map[*Download]struct{}
	wrong     map[peer.ID]int
	late      map[blockstore.CID]time.Time // asked for over Bitswap until then, by downloads that ended
	served    map[peer.ID]*Served
	stats     Served
	fetched   map[string]*Served // by peer id, of downloads that ended
}

// New returns an exchange that does nothing yet.
func New(cfg Config) (*Exchange, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	return &Exchange{
		cfg:       cfg,
		key:       key(cfg.Host.ID()),
		ready:     make(chan struct{}),
		asked:     &asked{fetches: make(map[peer.ID]int)},
		files:     newFiles(maxFileNodes),
		downloads: make(map[*Download]struct{}),
		wrong:     make(map[peer.ID]int),
		late:      make(map[blockstore.CID]time.Time),
		served:    make(map[peer.ID]*Served),
		fetched:   make(map[string]*Served),
	}, nil
}

// Run serves blocks, and lets downloads work, until the context ends. It may be called once.
func (x *Exchange) Run(ctx context.Context) error {
	timeouts := client.DefaultDontHaveTimeoutConfig()
	timeouts.MinTimeout = silence
	net := bsnet.NewFromIpfsHost(askingHost{x.cfg.Host, x.asked})
	x.bitswap = bitswap.New(context.WithoutCancel(ctx), net, finder{x}, served{x.cfg.Store, x.files},
		bitswap.MaxOutstandingBytesPerPeer(outstanding),
		bitswap.EngineTaskWorkerCount(workers),
		bitswap.TaskWorkerCount(workers),
		bitswap.EngineBlockstoreWorkerCount(workers),
		bitswap.MaxCidSize(64),
		bitswap.ProviderSearchDelay(searchDelay),
		bitswap.WithoutDuplicatedBlockStats(),
		bitswap.WithPeerBlockRequestFilter(x.public),
		bitswap.WithTracer(tracer{x}),
		bitswap.WithClientOption(client.WithTraceBlock(true)),
		bitswap.WithClientOption(client.WithDontHaveTimeoutConfig(timeouts)),
		bitswap.WithClientOption(client.BroadcastControlEnable(true)),
		bitswap.WithClientOption(client.WithDefaultProviderQueryManager(false)),
	)
	server := &fast.Server{
		Store: x.cfg.Store, Upload: x.cfg.Upload, UploadPeer: x.cfg.UploadPeer, Sent: x.count, Logger: x.cfg.Logger,
	}
	if !x.cfg.BitswapOnly {
		x.cfg.Host.SetStreamHandler(fast.Protocol, func(s network.Stream) { server.Handle(ctx, s) })
	}
	close(x.ready)
	<-ctx.Done()
	x.cfg.Host.RemoveStreamHandler(fast.Protocol)
	x.end()
	server.Close()
	return x.bitswap.Close()
}

// enlist keeps a download until it is delisted, if the exchange runs.
func (x *Exchange) enlist(d *Download) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.ended {
		x.downloads[d] = struct{}{}
	}
	return !x.ended
}

// delist forgets a download that has ended. What it asked for over Bitswap may still come.
func (x *Exchange) delist(d *Download) {
	const keep = time.Minute
	d.mu.Lock()
	var open []blockstore.CID
	if d.swap != nil {
		for c := range d.swap.s.lanes[0].flights {
			open = append(open, c)
		}
		d.swap.leave()
	}
	d.mu.Unlock()
	now, got := time.Now(), d.Fetched()
	x.mu.Lock()
	defer x.mu.Unlock()
	if _, listed := x.downloads[d]; listed { // or it was closed twice
		gain(x.fetched, got)
	}
	delete(x.downloads, d)
	for c, until := range x.late {
		if now.After(until) {
			delete(x.late, c)
		}
	}
	for _, c := range open {
		x.late[c] = now.Add(keep)
	}
}

// end ends all downloads.
func (x *Exchange) end() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.ended = true
	for d := range x.downloads {
		d.cancel(ErrNotRunning)
	}
}
