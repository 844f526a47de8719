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

// What a caller decides on.
var (
	ErrIncomplete = errors.New("not all blocks are here")
	ErrNotMounted = errors.New("no such mount")
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

// Place is where the bytes of a block lie.
type Place struct {
	Path     string // of a file that the mount server may open
	Offset   int64
	Verified bool // these very bytes were compared with the block's name since this process started
}

// Source is the agent's store of blocks, and its way to more of them. It is safe for concurrent use.
type Source interface {
	// Locate says where a block lies that is here, or returns blockstore.ErrNotFound.
	Locate(ctx context.Context, ref blockstore.Ref) (Place, error)
	// Block makes a block be here, which may take until ctx ends, and says where it lies. Its error is what people
	// read about a file that could not be read, so it names the peers that were tried.
	Block(ctx context.Context, ref blockstore.Ref) (Place, error)
}

// Config says how to mount.
type Config struct {
	Dir    string // absolute; is created
	Source Source
	Can    Capabilities // of Probe

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
	if c.Source == nil || !filepath.IsAbs(c.Dir) || len(c.Args) == 0 {
		return c, errors.New("mounts need a source, an absolute directory and a server's command line")
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
	ahead    chan []blockstore.Ref

	mu   sync.Mutex
	busy map[string]chan struct{} // mounts that somebody works on
	sums map[string]stamp         // files that were found to be what their record says
}

// New returns what the directory holds already, without touching it. Run serves it.
func New(cfg Config) (*Mounts, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	for _, d := range []string{"tables", "meta", "sealed", "mounts"} {
		if err := os.MkdirAll(filepath.Join(cfg.Dir, d), 0o700); err != nil {
			return nil, err
		}
	}
	return &Mounts{
		cfg: cfg, started: make(chan struct{}, 1), ahead: make(chan []blockstore.Ref, 16),
		busy: make(map[string]chan struct{}), sums: make(map[string]stamp),
	}, nil
}

// lock waits until nobody else works on a mount.
func (m *Mounts) lock(ctx context.Context, id string) (unlock func(), err error) {
	for {
		m.mu.Lock()
		other := m.busy[id]
		if other == nil {
			mine := make(chan struct{})
			m.busy[id] = mine
			m.mu.Unlock()
			return func() {
				m.mu.Lock()
				defer m.mu.Unlock()
				delete(m.busy, id)
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

// Mount mounts a tree whose root CID is root, or returns the mount that is there already. The tree must be valid. Lazy
// tiers need Run to be running, or whoever reads waits.
func (m *Mounts) Mount(ctx context.Context, root blockstore.CID, t *blockstore.Tree, tier Tier) (Mounted, error) {
	id := string(tier) + "-" + root.String()
	unlock, err := m.lock(ctx, id)
	if err != nil {
		return Mounted{}, err
	}
	defer unlock()
	begin := time.Now()
	got, err := m.mount(ctx, id, root, t, tier)
	if err != nil {
		return Mounted{}, &Error{"mount " + string(tier), root, err}
	}
	got.Took = time.Since(begin)
	return got, nil
}

func (m *Mounts) mount(ctx context.Context, id string, root blockstore.CID, t *blockstore.Tree, tier Tier) (Mounted, error) {
	points, err := mountPoints()
	if err != nil {
		return Mounted{}, err
	}
	if old, err := m.read(id, points); err == nil {
		if !old.Lost {
			return old, nil
		}
		if err := m.unmount(id); err != nil {
			return Mounted{}, err
		}
	} else if !errors.Is(err, ErrNotMounted) {
		return Mounted{}, err
	}
	at := m.target(id)
	if err := detach(at); err != nil { // of an agent that died before it made a record
		return Mounted{}, err
	}
	if err := os.MkdirAll(at, 0o755); err != nil {
		return Mounted{}, err
	}
	rec := record{Root: root, Tier: tier}
	switch tier {
	case Lazy, Loop:
		err = m.mountLazy(ctx, at, root, t, tier, &rec)
	case Sealed:
		err = m.mountSealed(ctx, at, root, t)
	case FUSE:
		err = errors.ErrUnsupported
	default:
		err = fmt.Errorf("unknown tier %q", tier)
	}
	if err == nil {
		err = m.write(id, rec)
	}
	if err != nil {
		return Mounted{}, errors.Join(err, m.unmount(id))
	}
	return Mounted{ID: id, Root: root, Tier: tier, Path: at}, nil
}

// Trace returns the first touches of blocks of a mount that is not sealed.
func (m *Mounts) Trace(ctx context.Context, mt Mounted) ([]Touch, error) {
	r, err := m.call(ctx, wire.Request{Op: wire.OpTrace, Name: mt.Root.String()})
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
