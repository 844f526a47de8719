//go:build linux

// Package images brings images and weights onto a host: from its own block store, from peers, or from a
// registry, in this order, and unpacks them while they arrive.
//
// # What is trusted
//
// The digest that the customer signed, and nothing else. A peer's manifest must prove itself against it
// ([image.Prove]); each block must hash to its name; each layer must hash to its diff_id. A peer that fails
// costs time only: what is missing then comes from the registry, where the signed digest is checked again.
//
// # Files
//
//	roots/CID.json        what is whole here: kind, digests
//	trees/BOOT/CID/       unpacked, read-only by convention
//	trees/BOOT/new-*      under construction
//
// BOOT is the kernel's boot id. Trees are not synced to the disk, because that takes longer than unpacking;
// so a tree of another boot may have holes where the power failed, and is deleted. Blocks are synced.
package images

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"

	"rialto/blockstore"
	"rialto/blockstore/exchange"
	"rialto/blockstore/unpack"
	"rialto/broker"
	"rialto/provider"
)

// ErrUnavailable reports an image or weights that no source could give.
var ErrUnavailable = errors.New("not available from any source")

// Peers fetches blocks from peers; see exchange.Exchange.
type Peers interface {
	Fetch(ctx context.Context, refs iter.Seq[blockstore.Ref], peers []exchange.Peer, sink func(blockstore.Block) error) (exchange.Fetched, error)
}

// Config is what a host's images are made of. Dir and Store are required.
type Config struct {
	Dir   string
	Store blockstore.Store
	Peers Peers // nil: only the registry
	// Keychain has credentials for registries; nil: anonymous.
	Keychain authn.Keychain
	// Policy says which registries may be reached.
	Policy Policy
	// Transport reaches registries in place of the one that Policy makes; for tests.
	Transport http.RoundTripper
	// Timeout ends the preparation of one image; zero: an hour, enough for 40 GB at 100 Mbit/s.
	Timeout time.Duration
	// Limits bound a tree; its Bytes also bound what a registry may send.
	Limits unpack.Limits
	Logger *slog.Logger
}

func (c Config) withDefaults() (Config, error) {
	if c.Dir == "" || c.Store == nil {
		return c, errors.New("images without a directory or a block store")
	}
	if c.Timeout == 0 {
		c.Timeout = time.Hour
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Transport == nil {
		c.Transport = c.Policy.transport()
	}
	return c, nil
}

// Images is a host's images and weights. It implements provider.Images.
type Images struct {
	cfg   Config
	trees trees
	roots roots

	mu   sync.Mutex
	jobs map[string]*job // by what is wanted
}

var _ provider.Images = (*Images)(nil)

// New reads what is here, deletes trees of other boots, and forgets what is not whole any more.
func New(ctx context.Context, cfg Config) (*Images, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	m := &Images{cfg: cfg, jobs: make(map[string]*job)}
	if m.trees, err = openTrees(cfg.Dir); err != nil {
		return nil, fmt.Errorf("open image trees: %w", err)
	}
	if m.roots, err = openRoots(ctx, cfg.Dir, cfg.Store, cfg.Logger); err != nil {
		return nil, fmt.Errorf("open image roots: %w", err)
	}
	return m, nil
}

// Held lists what is whole here, sorted.
func (m *Images) Held(context.Context) (images []broker.ImageHeld, weights []string, err error) {
	for _, r := range m.roots.list() {
		if r.Digest.IsZero() {
			weights = append(weights, r.Root.String())
			continue
		}
		images = append(images, broker.ImageHeld{Digest: r.Digest.String(), Root: r.Root.String()})
	}
	return images, weights, nil
}

// job is one preparation that several callers may wait for. It ends early when all have gone.
type job struct {
	done   chan struct{}
	cancel context.CancelFunc
	image  provider.Image // after done
	err    error          // after done

	mu      sync.Mutex
	waiting int
	tell    map[*func(broker.Fetched)]struct{}
}

// Ensure brings what is wanted onto the host. Concurrent wants of one thing share the work.
func (m *Images) Ensure(ctx context.Context, w provider.Want, progress func(broker.Fetched)) (provider.Image, error) {
	t, err := parseWant(w)
	if err != nil {
		return provider.Image{}, err
	}
	j := m.join(ctx, t)
	if progress != nil {
		j.mu.Lock()
		j.tell[&progress] = struct{}{}
		j.mu.Unlock()
	}
	select {
	case <-j.done:
	case <-ctx.Done():
	}
	j.mu.Lock()
	delete(j.tell, &progress)
	j.waiting--
	last := j.waiting == 0
	j.mu.Unlock()
	if last {
		j.cancel()
	}
	select {
	case <-j.done:
		return j.image, j.err
	default:
		return provider.Image{}, context.Cause(ctx)
	}
}

// join returns the job for a target, begun if nobody did or if all who waited for it are gone.
func (m *Images) join(ctx context.Context, t target) *job {
	m.mu.Lock()
	defer m.mu.Unlock()
	if j := m.jobs[t.key()]; j != nil {
		j.mu.Lock()
		defer j.mu.Unlock()
		if j.waiting > 0 {
			j.waiting++
			return j
		}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), m.cfg.Timeout)
	j := &job{done: make(chan struct{}), cancel: cancel, waiting: 1, tell: make(map[*func(broker.Fetched)]struct{})}
	m.jobs[t.key()] = j
	go func() { // ends with ctx, which ends when the last who waits has gone
		defer cancel()
		p := &preparation{images: m, target: t, meter: meter{report: j.report}}
		j.image, j.err = p.run(ctx)
		m.mu.Lock()
		if m.jobs[t.key()] == j {
			delete(m.jobs, t.key())
		}
		m.mu.Unlock()
		close(j.done)
	}()
	return j
}

func (j *job) report(f broker.Fetched) {
	j.mu.Lock()
	tell := make([]func(broker.Fetched), 0, len(j.tell))
	for fn := range j.tell {
		tell = append(tell, *fn)
	}
	j.mu.Unlock()
	for _, fn := range tell {
		fn(f)
	}
}

// target is a want whose names were read.
type target struct {
	image   string // empty: weights
	signed  blockstore.Digest
	root    blockstore.CID // zero: not known
	sources []exchange.Peer
}

func parseWant(w provider.Want) (target, error) {
	t := target{image: w.Image}
	var err error
	if w.Root != "" {
		if t.root, err = blockstore.ParseCID(w.Root); err != nil {
			return target{}, fmt.Errorf("root of a block manifest: %w", err)
		}
	}
	if w.Image != "" {
		if t.signed, err = blockstore.ParseDigest(w.Digest); err != nil {
			return target{}, fmt.Errorf("digest of %s: %w", w.Image, err)
		}
	} else if t.root.IsZero() {
		return target{}, errors.New("weights without a root")
	}
	for _, s := range w.Sources {
		t.sources = append(t.sources, exchange.Peer{ID: string(s.Peer), Addrs: s.Addrs})
	}
	return t, nil
}

// key is equal for targets that are the same thing. Where to get it from is the first caller's word.
func (t target) key() string {
	if t.image == "" {
		return t.root.String()
	}
	return t.signed.String() + " " + t.image
}
