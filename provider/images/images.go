//go:build linux

// Package images brings images and weights onto a host and shows them as directories: from its own block store, from
// peers, or from a registry, in this order. Where the lease names no peers, or those fail, a [Finder] is asked for
// others before the registry is, for roots that the customer vouches for.
//
// A tree is shown as soon as the list of its files is here. Its blocks follow: what a program reads first comes first,
// what it read last time comes before it asks, and all others behind those. See package mount for how.
//
// # What is trusted
//
// What the customer signed, and this host's own work. A root that came from peers is used for jobs whose signed spec
// names that root, and only if its OCI manifest is the one that the spec names as well. For all other jobs the host
// imports the image itself, layer by layer, each against its diff_id. Each block must hash to its name. Where peers
// fail while a container runs, the registry takes over: the same image gives the same blocks, and one that does not is
// refused.
//
// # Private images and weights
//
// Their blocks come, stay and go as all others do, without a key. The customer's key is asked for each job that uses
// them, also while another job shows the same tree, and it must open the tree: a root alone is no right to see what is in
// it. What it opens is kept in memory for as long as a job uses the tree, which is then taken away at once; the key is
// dropped as soon as it was used. A private tree is not sealed.
//
// # Files
//
//	roots/CID.json   what is here, whole or in part: kind, digests, last use
//	layers/DIFFID    the files of layers that were imported, so that images with a common base share the work
//	scratch/         small files of an import under way, without names
//	filling          is there while there are blocks that no record names, and stays if some will be left; the next
//	                 process looks for them
//
// Blocks are in the store. Everything here may be deleted while no agent runs: it is fetched again.
package images

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"

	"rialto/blockstore"
	"rialto/blockstore/disk"
	"rialto/blockstore/exchange"
	"rialto/blockstore/image"
	"rialto/blockstore/mount"
	"rialto/broker"
	"rialto/provider"
)

// ErrUnavailable reports an image or weights that no source could give.
var ErrUnavailable = errors.New("not available from any source")

// Peers begins downloads from peers; see exchange.Exchange.
type Peers interface {
	Open(ctx context.Context, peers []exchange.Peer, sink func(blockstore.Block) error) (*exchange.Download, error)
}

// Mounts shows trees as directories; see mount.Mounts.
type Mounts interface {
	// Mount shows a tree, whose blocks it asks source for, and returns the directory. A tree that was sealed is shown
	// in a directory of its own, beside the one where it was shown before.
	Mount(ctx context.Context, root blockstore.CID, t *blockstore.Tree, source mount.Source) (dir string, err error)
	// Seal prepares that a tree, all of whose blocks are here, is shown without asking anybody, from the next Mount on.
	Seal(ctx context.Context, root blockstore.CID, t *blockstore.Tree, source mount.Source) error
	// Unmount ends it. What containers have open stays readable as far as its blocks are here.
	Unmount(root blockstore.CID) error
	// Forget deletes what is kept of a tree that is not shown.
	Forget(root blockstore.CID) error
	// List returns what is mounted, also by an earlier process.
	List(ctx context.Context) ([]mount.Mounted, error)
	// Trace returns the first touches of blocks of a tree that is shown, but not sealed, since it was mounted.
	Trace(ctx context.Context, root blockstore.CID) ([]mount.Touch, error)
}

// Config is what a host's images are made of. Dir, Store and Mounts are required.
type Config struct {
	Dir    string
	Store  *disk.Store
	Mounts Mounts
	Peers  Peers // nil: only the registry
	// Finder is asked for peers that the lease does not name; nil: nobody is.
	Finder Finder
	// Keychain has credentials for registries; nil: anonymous.
	Keychain authn.Keychain
	// Policy says which registries may be reached.
	Policy image.Policy
	// Transport reaches registries in place of the one that Policy makes; for tests.
	Transport http.RoundTripper
	// Timeout ends the import of one image; zero: an hour, enough for 40 GB at 100 Mbit/s.
	Timeout time.Duration
	// Limits bound an image.
	Limits image.Limits
	// Changed is called when Held has changed; nil: nobody. It must not block.
	Changed func()
	Logger  *slog.Logger
}

func (c Config) withDefaults() (Config, error) {
	if c.Dir == "" || c.Store == nil || c.Mounts == nil {
		return c, errors.New("images without a directory, a block store or mounts")
	}
	if c.Timeout == 0 {
		c.Timeout = time.Hour
	}
	if c.Changed == nil {
		c.Changed = func() {}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Transport == nil {
		c.Transport = c.Policy.Transport()
	}
	return c, nil
}

// Images is a host's images and weights. It implements provider.Images.
type Images struct {
	cfg     Config
	scratch string
	records records

	lifetime func() context.Context // ends when Close begins
	end      context.CancelFunc
	running  sync.WaitGroup
	turn     chan struct{} // holds one token: who has it may mount, unmount and evict

	mu        sync.Mutex
	damage    map[blockstore.CID]struct{} // blocks that are here and wrong
	importing int                         // calls of filling that are not done
	unclean   bool                        // one of them left blocks that no record names
	jobs      map[string]*job             // preparations under way, by what is wanted
	wants     uint64                      // of private things, so far
	shown     map[blockstore.CID]*tree    // by the root of the tree
	advice    map[broker.PeerID]advice    // by broker
}

var _ provider.Images = (*Images)(nil)

// New reads what is here and forgets what is not whole any more. Who makes it closes it.
func New(ctx context.Context, cfg Config) (*Images, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	m := &Images{
		cfg: cfg, scratch: filepath.Join(cfg.Dir, "scratch"),
		turn: make(chan struct{}, 1), damage: make(map[blockstore.CID]struct{}), jobs: make(map[string]*job), shown: make(map[blockstore.CID]*tree),
		advice: make(map[broker.PeerID]advice),
	}
	if err := errors.Join(os.RemoveAll(m.scratch), os.MkdirAll(m.scratch, 0o700)); err != nil { // a crash may leave files there
		return nil, err
	}
	if m.records, err = openRecords(ctx, cfg.Dir, cfg.Store, cfg.Logger); err != nil {
		return nil, fmt.Errorf("open records of images: %w", err)
	}
	if err := m.sweep(ctx); err != nil {
		return nil, fmt.Errorf("sweep blocks of no image: %w", err)
	}
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	m.lifetime, m.end = func() context.Context { return life }, end
	return m, nil
}

// Close ends all that is under way. No call of Ensure may be under way. What is shown stays shown, and containers that
// the agent leaves to the next one can read what is here; the rest when the next one has shown it.
func (m *Images) Close() error {
	m.end()
	m.running.Wait()
	m.mu.Lock()
	shown := slices.Collect(maps.Values(m.shown))
	clear(m.shown)
	m.mu.Unlock()
	var errs []error
	for _, t := range shown {
		errs = append(errs, t.fill.close())
	}
	return errors.Join(errs...)
}

// Held lists what is whole here, sorted.
func (m *Images) Held(context.Context) (images []broker.ImageHeld, weights []string, err error) {
	for _, r := range m.records.list() {
		switch {
		case !r.Whole:
		case r.Digest.IsZero():
			weights = append(weights, r.Root.String())
		default:
			images = append(images, broker.ImageHeld{Digest: r.Digest.String(), Root: r.Root.String()})
		}
	}
	return images, weights, nil
}

// job is one preparation that several callers may wait for. It ends early when all have gone.
type job struct {
	target target
	done   chan struct{}
	cancel context.CancelFunc
	meter  *meter
	tree   *tree          // after done, with a user for the job itself
	image  provider.Image // after done
	err    error          // after done

	waiting int // guarded by Images.mu
}

// Ensure brings what is wanted onto the host, as far as a container needs it to start, and shows it until the image's
// Release. Concurrent wants of one thing share the work. progress is told until Release.
func (m *Images) Ensure(ctx context.Context, w provider.Want, progress func(broker.Fetched)) (provider.Image, error) {
	t, err := parseWant(w)
	if err != nil {
		return provider.Image{}, err
	}
	j := m.join(ctx, t)
	quiet := j.meter.listen(progress)
	select {
	case <-j.done:
	case <-ctx.Done():
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	j.waiting--
	if j.waiting == 0 {
		j.cancel()
	}
	select {
	case <-j.done:
	default:
		quiet()
		return provider.Image{}, context.Cause(ctx)
	}
	if j.err != nil {
		quiet()
		return provider.Image{}, j.err
	}
	j.tree.users++
	img := j.image
	img.RootFS = j.tree.dir
	if j.tree.fresh {
		j.tree.fresh = false
		img.Trace = func(ctx context.Context) (blockstore.Trace, error) { return m.trace(ctx, j.tree) }
	}
	img.Fetched = j.meter.count()
	img.Release = sync.OnceFunc(func() { //nolint:contextcheck // it has none
		quiet()
		m.mu.Lock()
		defer m.mu.Unlock()
		m.leave(j.tree)
	})
	if j.waiting == 0 {
		m.leave(j.tree) //nolint:contextcheck // the job's own use
	}
	return img, nil
}

// join returns the job for a target, begun if nobody did or if all who waited for it are gone.
func (m *Images) join(ctx context.Context, t target) *job {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wants++
	t.serial = m.wants
	if j := m.jobs[t.key()]; j != nil && j.waiting > 0 {
		j.waiting++
		return j
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), m.cfg.Timeout)
	j := &job{target: t, done: make(chan struct{}), cancel: cancel, waiting: 1, meter: newMeter()}
	m.jobs[t.key()] = j
	m.running.Go(func() { // ends with ctx, which ends when the last who waits has gone
		p := &preparation{images: m, target: t, meter: j.meter}
		j.tree, j.image, j.err = p.run(ctx)
		m.mu.Lock()
		defer m.mu.Unlock()
		if j.err == nil && j.waiting == 0 {
			m.leave(j.tree) //nolint:contextcheck // ctx is over
		}
		if m.jobs[t.key()] == j {
			delete(m.jobs, t.key())
		}
		close(j.done)
	})
	return j
}
