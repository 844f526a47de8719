// Package exchange moves blocks between peers by Bitswap 1.2.0, as any boxo or Kubo node speaks it, under
// the protocol prefix /rialto on the host's own libp2p connections.
//
// # What is tuned, and why
//
// Stock Bitswap is bound by latency: a server keeps one 1 MiB block in flight per peer, which at 50 ms
// is 7 MB/s. Here it keeps 16 MiB. A want-list beyond 1024 entries stalls, so that a fetch never has more
// than 512 wants out, and never more than 64 MiB, which bounds memory. There is no content routing: who has
// blocks is given with each fetch; those peers are asked, and connected ones that have no public address.
//
// # What is not trusted
//
// Bitswap itself hashes what arrives, so that wrong bytes are merely blocks that nobody wanted. Those are
// counted against the peer that sent them. A fetch ends early when all its peers are gone, when all
// said that they do not have a block, when all sent wrong bytes, or when they are too slow to wait for.
//
// # What may be slow
//
// The sink of a fetch may block for as long as it likes. It never holds up Bitswap, which has room for all
// that was asked for, and it is not held against the peers.
package exchange

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ipfs/boxo/bitswap"
	"github.com/ipfs/boxo/bitswap/client"
	"github.com/ipfs/boxo/bitswap/network/bsnet"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"

	"rialto/blockstore"
)

// Prefix stands before Bitswap's own protocol names.
const Prefix = "/rialto"

const (
	maxWants       = 512
	batchWants     = 32
	batchBytes     = 8 << 20
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
	// ErrNotRunning reports a fetch outside Run.
	ErrNotRunning = errors.New("block exchange is not running")
)

// Config holds an exchange's collaborators.
type Config struct {
	Host  host.Host        // the p2p host's
	Store blockstore.Store // what is served
	// Patience is how long a fetch waits for its next MinProgress bytes; zero: 10 s, twice what Bitswap
	// itself waits before it asks the next peer.
	Patience time.Duration
	// MinProgress is the least that peers must send within Patience; zero: 1 MiB, which any registry beats.
	MinProgress int64
	// Retry is how long nothing may come until all that is missing is asked for anew; zero: 2 s. It
	// doubles each time, until something comes.
	Retry  time.Duration
	Logger *slog.Logger
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
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, nil
}

// Exchange serves and fetches blocks. Methods are safe for concurrent use.
type Exchange struct {
	cfg     Config
	ready   chan struct{} // closed once bitswap is set
	bitswap *bitswap.Bitswap
	asked   *asked

	servedBlocks, servedBytes atomic.Int64

	mu      sync.Mutex
	fetches map[*fetch]struct{}
	wrong   map[peer.ID]int
}

// Stats counts what was served since the start.
type Stats struct {
	ServedBlocks int64
	ServedBytes  int64
}

// New returns an exchange that does nothing yet.
func New(cfg Config) (*Exchange, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	return &Exchange{
		cfg:     cfg,
		ready:   make(chan struct{}),
		asked:   &asked{fetches: make(map[peer.ID]int)},
		fetches: make(map[*fetch]struct{}),
		wrong:   make(map[peer.ID]int),
	}, nil
}

// Run serves blocks, and lets Fetch work, until the context ends. It may be called once.
func (x *Exchange) Run(ctx context.Context) error {
	timeouts := client.DefaultDontHaveTimeoutConfig()
	timeouts.MinTimeout = silence
	net := bsnet.NewFromIpfsHost(askingHost{x.cfg.Host, x.asked}, bsnet.Prefix(Prefix))
	x.bitswap = bitswap.New(context.WithoutCancel(ctx), net, finder{x}, served{x.cfg.Store},
		bitswap.MaxOutstandingBytesPerPeer(outstanding),
		bitswap.EngineTaskWorkerCount(workers),
		bitswap.TaskWorkerCount(workers),
		bitswap.EngineBlockstoreWorkerCount(workers),
		bitswap.MaxCidSize(64),
		bitswap.ProviderSearchDelay(searchDelay),
		bitswap.WithoutDuplicatedBlockStats(),
		bitswap.WithTracer(tracer{x}),
		bitswap.WithClientOption(client.WithTraceBlock(true)),
		bitswap.WithClientOption(client.WithDontHaveTimeoutConfig(timeouts)),
		bitswap.WithClientOption(client.BroadcastControlEnable(true)),
		bitswap.WithClientOption(client.WithDefaultProviderQueryManager(false)),
	)
	close(x.ready)
	<-ctx.Done()
	return x.bitswap.Close()
}

// Stats returns the counters.
func (x *Exchange) Stats() Stats {
	return Stats{ServedBlocks: x.servedBlocks.Load(), ServedBytes: x.servedBytes.Load()}
}
