package mount

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"rialto/blockstore"
	"rialto/blockstore/mount/internal/server"
	"rialto/blockstore/mount/internal/wire"
)

// Tier is a way to mount a tree.
type Tier string

// Tiers. The package comment says what each is.
const (
	Lazy   Tier = "lazy"
	Loop   Tier = "loop"
	FUSE   Tier = "fuse"
	Sealed Tier = "sealed"
)

func tiers() []Tier { return []Tier{Lazy, Loop, FUSE, Sealed} }

// What a caller decides on.
var (
	ErrIncomplete = errors.New("not all blocks are here")
	ErrNotMounted = errors.New("no such mount")
	// ErrPrivate reports what cannot be done with a private tree.
	ErrPrivate = errors.New("the tree is private")
)

// Error says which operation failed for which tree.
type Error struct {
	Op   string
	Root blockstore.CID
	Err  error
}

func (e *Error) Error() string { return e.Op + " tree " + e.Root.String() + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Config says how to mount.
type Config struct {
	Dir string       // absolute; is created
	Can Capabilities // of Probe

	// Exe and Args are the command line of a program that calls ServerMain with the arguments that follow Args. Exe
	// is this very program by default, also after an upgrade has replaced its file.
	Exe  string
	Args []string

	// Deadline is how long a read waits for a block; default 60 s, above which programs take a host for dead.
	Deadline time.Duration
	// Linger is how long the server stays when nothing is open and no agent is connected; default 1 min, which is
	// longer than an agent needs to start again.
	Linger time.Duration

	Logger *slog.Logger // nil discards
}

func (c Config) withDefaults() (Config, error) {
	if !filepath.IsAbs(c.Dir) || len(c.Args) == 0 || !c.Can.probed {
		return c, errors.New("mounts need an absolute directory, a server's command line, and what Probe found")
	}
	if c.Exe == "" {
		c.Exe = "/proc/self/exe"
	}
	if c.Deadline <= 0 {
		c.Deadline = time.Minute
	}
	if c.Linger <= 0 {
		c.Linger = time.Minute
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, nil
}

// Touch is the first read of a block of a tree: its number there, and when, since the mount. A list of them says what
// a program reads as it starts, in order.
type Touch = wire.Touch

// Failure is a read that got an I/O error because a block did not come.
type Failure = wire.Failure

// ServerMain is the mount server. It returns the process's exit code.
func ServerMain(args []string) int { return server.Main(args) }

// Mounts mounts trees. Methods are safe for concurrent use.
type Mounts struct {
	cfg Config

	starting sync.Mutex    // held while a server is started
	started  chan struct{} // tells Run
	ahead    chan hint

	mu      sync.Mutex
	busy    map[blockstore.CID]chan struct{} // trees that somebody works on
	sums    map[string]stamp                 // files that were found to be what their record says
	sources map[blockstore.CID]origin        // of trees, until they are forgotten
	changed chan struct{}                    // closed when there is another source
}

// New returns what the directory holds already, and removes files that a crash left half written. Run answers reads, of what is mounted already
// once Mount has said from which source.
func New(cfg Config) (*Mounts, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	for _, d := range []string{"tables", "meta", "sealed", "mounts", "private"} {
		if err := os.MkdirAll(filepath.Join(cfg.Dir, d), 0o700); err != nil {
			return nil, err
		}
	}
	for _, d := range []string{"tables", "meta"} {
		if err := sweepNew(filepath.Join(cfg.Dir, d)); err != nil {
			return nil, err
		}
	}
	m := &Mounts{
		cfg: cfg, started: make(chan struct{}, 1), ahead: make(chan hint, 16),
		busy: make(map[blockstore.CID]chan struct{}), sums: make(map[string]stamp),
		sources: make(map[blockstore.CID]origin), changed: make(chan struct{}),
	}
	return m, m.sweepPrivate()
}

// lock waits until nobody else works on a tree.
func (m *Mounts) lock(ctx context.Context, root blockstore.CID) (unlock func(), err error) {
	for {
		m.mu.Lock()
		other := m.busy[root]
		if other == nil {
			mine := make(chan struct{})
			m.busy[root] = mine
			m.mu.Unlock()
			return func() {
				m.mu.Lock()
				defer m.mu.Unlock()
				delete(m.busy, root)
				close(mine)
			}, nil
		}
		m.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Mount mounts a tree, in the best way that there is: sealed, if Seal came before, else so that blocks are asked for
// as they are read. It returns the directory. A tree that is mounted already is served from the new source; for that, a
// private tree needs no more than its blocks. The tree must be valid. Readers wait while Run does not run.
func (m *Mounts) Mount(ctx context.Context, root blockstore.CID, t *blockstore.Tree, src Source) (dir string, err error) {
	unlock, err := m.lock(ctx, root)
	if err != nil {
		return "", &Error{"mount", root, err}
	}
	defer unlock()
	if m.wasSealed(root) {
		got, err := m.mount(ctx, root, t, src, Sealed, true)
		if err == nil {
			return got.Path, nil
		}
		if !errors.Is(err, errNotSealed) {
			m.cfg.Logger.Warn("sealed tree cannot be mounted; it is mounted as one that is not", "root", root, "err", err)
		}
	}
	tier, err := m.cfg.Can.Lazy()
	if err != nil {
		return "", &Error{"mount", root, err}
	}
	got, err := m.mount(ctx, root, t, src, tier, false)
	if err != nil {
		return "", &Error{"mount", root, err}
	}
	return got.Path, nil
}

// MountAs mounts a tree in one way. Sealed seals it first, if need be.
func (m *Mounts) MountAs(ctx context.Context, root blockstore.CID, t *blockstore.Tree, src Source, tier Tier) (Mounted, error) {
	unlock, err := m.lock(ctx, root)
	if err != nil {
		return Mounted{}, &Error{"mount", root, err}
	}
	defer unlock()
	got, err := m.mount(ctx, root, t, src, tier, false)
	if err != nil {
		return Mounted{}, &Error{"mount " + string(tier), root, err}
	}
	return got, nil
}

// mount mounts a tree, which the caller has locked. ready means that it must be sealed already.
func (m *Mounts) mount(
	ctx context.Context, root blockstore.CID, t *blockstore.Tree, src Source, tier Tier, ready bool,
) (Mounted, error) {
	begin := time.Now()
	id := mountID(root, tier)
	points, err := mountPoints()
	if err != nil {
		return Mounted{}, err
	}
	old, err := m.read(id, points)
	if err == nil && !old.Lost {
		m.use(root, src, t.Blocks)
		return old, nil
	}
	if err != nil && !errors.Is(err, ErrNotMounted) {
		return Mounted{}, err
	}
	if len(t.Nodes) == 0 {
		return Mounted{}, fmt.Errorf("%w and not mounted any more: without its key only one that is can be served", ErrPrivate)
	}
	at := m.target(id)
	if err := detach(at); err != nil { // one that is lost, or whose agent died before it made a record
		return Mounted{}, err
	}
	if err := os.MkdirAll(at, 0o755); err != nil {
		return Mounted{}, err
	}
	rec := record{Root: root, Tier: tier}
	switch tier {
	case Lazy, Loop:
		err = m.mountLazy(ctx, at, root, t, &rec)
	case Sealed:
		err = m.mountSealed(ctx, at, root, t, src, ready)
	case FUSE:
		err = m.mountFUSE(ctx, at, root, t, &rec)
	default:
		err = fmt.Errorf("unknown tier %q", tier)
	}
	if err == nil {
		err = m.write(id, rec)
	}
	if err != nil {
		if t.Private() {
			err = errors.Join(err, os.RemoveAll(m.privateDir(root)))
		}
		return Mounted{}, errors.Join(err, m.unmount(id))
	}
	m.use(root, src, t.Blocks)
	return Mounted{ID: id, Root: root, Tier: tier, Path: at, Took: time.Since(begin)}, nil
}

// Trace returns the first touches of blocks of a tree that is mounted, but not sealed.
func (m *Mounts) Trace(ctx context.Context, root blockstore.CID) ([]Touch, error) {
	r, err := m.call(ctx, wire.Request{Op: wire.OpTrace, Root: root})
	return r.Trace, err
}

// Failures returns the latest reads that failed, oldest first.
func (m *Mounts) Failures(ctx context.Context) ([]Failure, error) {
	r, err := m.call(ctx, wire.Request{Op: wire.OpFailures})
	if errors.Is(err, errGone) {
		return nil, nil
	}
	return r.Failures, err
}
