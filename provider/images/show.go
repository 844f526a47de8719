//go:build linux

package images

import (
	"context"
	"errors"
	"slices"
	"time"

	"rialto/blockstore"
	"rialto/blockstore/mount"
)

// tree is a tree that is shown on this host.
type tree struct {
	root blockstore.CID
	fill *fill

	// Guarded by Images.mu.
	dir   string           // where it is shown to who comes now
	list  *blockstore.Tree // all of it; of a private one perhaps its blocks alone
	users int
	whole bool
	fresh bool // nobody has read anything of it yet
}

// list returns a public tree that is shown, which spares reading its list of files; nil if it is not. A private one must be
// opened by each who wants it.
func (m *Images) list(root blockstore.CID) *blockstore.Tree {
	m.mu.Lock()
	defer m.mu.Unlock()
	if t := m.shown[root]; t != nil && !t.fill.target.private {
		return t.list
	}
	return nil
}

func (m *Images) take(ctx context.Context) error {
	select {
	case m.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (m *Images) pass() { <-m.turn }

// show mounts a tree, or finds it mounted, and begins to fill it. It comes with a user. The fill is the tree's from
// then on; one that is not needed is closed.
func (m *Images) show(ctx context.Context, f *fill, is found) (*tree, error) {
	if err := m.take(ctx); err != nil {
		return nil, err
	}
	defer m.pass()
	m.mu.Lock()
	t := m.shown[is.record.Tree]
	whole := t != nil && t.whole
	if t != nil {
		t.users++
		if len(t.list.Nodes) == 0 { // since the agent was started again, until somebody brought the key
			t.list = is.tree
		}
	}
	m.mu.Unlock()
	if whole || t == nil && is.record.Whole {
		f.counted = true
		if f.meter.count().Registry == 0 { // else it came just now
			f.meter.total(is.tree.Size())
			f.meter.local(is.tree.Size())
		}
	}
	if t != nil {
		if whole {
			is.record.Whole = true
		}
		return t, errors.Join(m.revive(ctx, t), m.records.keep(is.record), f.close())
	}
	// An eviction that looked around before the record was made may have taken it for an older one, and dropped it.
	if err := m.records.keep(is.record); err != nil {
		return nil, err
	}
	f.tree, f.root = is.tree, is.record.Tree
	dir, err := m.cfg.Mounts.Mount(ctx, f.root, f.tree, f)
	if err != nil {
		return nil, err
	}
	read, err := m.cfg.Mounts.Trace(ctx, f.root)
	t = &tree{root: f.root, dir: dir, fill: f, list: is.tree, users: 1, fresh: err == nil && len(read) == 0} // an error: it is sealed
	m.mu.Lock()
	m.shown[t.root] = t
	m.mu.Unlock()
	f.running.Go(func() { m.fillUp(f.lifetime(), t, is.record) }) //nolint:contextcheck // it outlives ctx
	return t, nil
}

// revive shows a tree again whose mount server died, to who comes now. The caller has the turn.
func (m *Images) revive(ctx context.Context, t *tree) error {
	all, err := m.cfg.Mounts.List(ctx)
	if err != nil || !slices.ContainsFunc(all, func(at mount.Mounted) bool { return at.Root == t.root && at.Lost }) {
		return err
	}
	m.mu.Lock()
	list := t.list
	m.mu.Unlock()
	dir, err := m.cfg.Mounts.Mount(ctx, t.root, list, t.fill)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	t.dir = dir
	return nil
}

// fillUp brings what is missing of a tree, and shows it from then on without us in between.
func (m *Images) fillUp(ctx context.Context, t *tree, rec record) {
	log := m.cfg.Logger.With("want", t.fill.target.name())
	err := t.fill.run(ctx)
	for pause := time.Second; errors.Is(err, errStore) && ctx.Err() == nil; pause = min(2*pause, time.Minute) {
		log.WarnContext(ctx, "image waits for room", "err", err)
		select {
		case <-time.After(pause):
			err = t.fill.run(ctx)
		case <-ctx.Done():
		}
	}
	if err == nil {
		rec.Whole = true
		err = m.records.keep(rec)
	}
	if err != nil {
		if ctx.Err() == nil {
			log.WarnContext(ctx, "image is not whole; what a container reads is asked for again", "err", err)
		}
		return
	}
	m.mu.Lock()
	t.whole = true
	m.mu.Unlock()
	m.cfg.Changed()
	if err := t.fill.rest(); err != nil {
		log.WarnContext(ctx, "end of a download", "err", err)
	}
	if !t.fill.target.private { // else the mount server decrypts it
		if err := m.seal(ctx, t); err != nil && ctx.Err() == nil {
			log.WarnContext(ctx, "image could not be sealed; it is shown through the mount server", "err", err)
		}
	}
	if err := m.evict(ctx, 0, t.fill); err != nil && ctx.Err() == nil {
		log.WarnContext(ctx, "no room could be made for blocks", "err", err)
	}
}

// seal shows a tree that is whole from the store's own files. Who uses it already goes on as before.
func (m *Images) seal(ctx context.Context, t *tree) error {
	var cids []blockstore.CID
	for ref := range t.fill.tree.Refs() {
		cids = append(cids, ref.CID)
	}
	if err := t.fill.hold(ctx, cids...); err != nil {
		return err
	}
	if err := m.cfg.Mounts.Seal(ctx, t.root, t.fill.tree, t.fill); err != nil {
		return err
	}
	dir, err := m.cfg.Mounts.Mount(ctx, t.root, t.fill.tree, t.fill)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	t.dir = dir
	return nil
}

// trace returns what was read of a tree first, in order.
func (m *Images) trace(ctx context.Context, t *tree) (blockstore.Trace, error) {
	read, err := m.cfg.Mounts.Trace(ctx, t.root)
	if err != nil {
		return nil, err
	}
	trace := make(blockstore.Trace, 0, min(len(read), blockstore.MaxTrace))
	for _, touch := range read[:min(len(read), blockstore.MaxTrace)] {
		trace = append(trace, uint32(touch.Block)) //nolint:gosec // a number of a block of the tree
	}
	if !trace.Valid(len(t.fill.tree.Blocks)) {
		return nil, errors.New("the mount server traced blocks that the tree does not have")
	}
	return trace, nil
}

// linger is how long an image goes on to arrive that nobody uses any more: the next job may want it, and then finds it
// whole. A gigabit line brings 7 GB in that time.
const linger = time.Minute

// leave takes a user from a tree, and the tree away when nobody has used it for a while and it is not whole. One that is
// whole stays shown: it costs nothing. A private one goes at once, whole or not, and what opens it with it. The caller
// holds mu.
func (m *Images) leave(t *tree) {
	t.users--
	private := t.fill.target.private
	if t.users > 0 || t.whole && !private || m.shown[t.root] != t {
		return
	}
	m.running.Go(func() { // ends with the images' lifetime, or after linger, and the mount server's answer
		wait := linger
		if private {
			wait = 0
		}
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-m.lifetime().Done():
		}
		ctx := context.WithoutCancel(m.lifetime())
		if m.take(ctx) != nil {
			return
		}
		defer m.pass()
		m.mu.Lock()
		unused := t.users == 0 && (!t.whole || private) && m.shown[t.root] == t
		if unused {
			delete(m.shown, t.root)
		}
		m.mu.Unlock()
		if !unused {
			return
		}
		if err := m.hide(t); err != nil {
			m.cfg.Logger.Warn("take away an image", "want", t.fill.target.name(), "err", err)
		}
	})
}

// hide ends what show began. The tree must not be shown to anybody any more.
func (m *Images) hide(t *tree) error {
	return errors.Join(t.fill.close(), m.cfg.Mounts.Unmount(t.root))
}

// Settle takes away what an earlier process shows and nobody has wanted since. Until then it counts as in use, for
// containers that outlived that process may read it; so it is called when each of them has asked for its images again,
// or has ended. Without it a store that is full of what a killed agent showed makes no room any more.
func (m *Images) Settle(ctx context.Context) error {
	if err := m.take(ctx); err != nil {
		return err
	}
	defer m.pass()
	mounted, err := m.cfg.Mounts.List(ctx)
	if err != nil {
		return err
	}
	unwanted := make(map[blockstore.CID]struct{})
	m.mu.Lock()
	for _, at := range mounted {
		if m.shown[at.Root] == nil {
			unwanted[at.Root] = struct{}{}
		}
	}
	m.mu.Unlock()
	var errs []error
	for root := range unwanted {
		errs = append(errs, m.cfg.Mounts.Unmount(root))
	}
	return errors.Join(errs...)
}

// Locate says where a block lies, without looking at it.
func (f *fill) Locate(ctx context.Context, ref blockstore.Ref) (mount.Place, error) {
	at, err := f.images.cfg.Store.Locate(ctx, ref.CID)
	return mount.Place{Path: at.Path, Offset: at.Offset, Verified: f.stored(ref.CID)}, err
}

// stored reports whether this fill put the block, which was compared with its name before that.
func (f *fill) stored(c blockstore.CID) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, yes := f.sure[c]
	return yes
}

// roomPause is how long a reader waits before it asks again whether there is room.
const roomPause = 500 * time.Millisecond

// Block makes a block present, and says where it lies. It stays there for as long as the tree is shown.
func (f *fill) Block(ctx context.Context, ref blockstore.Ref) (mount.Place, error) {
	at, err := f.place(ctx, ref.CID)
	if !errors.Is(err, blockstore.ErrNotFound) && !errors.Is(err, blockstore.ErrMismatch) {
		return at, err
	}
	for {
		if err = f.bring(ctx, ref); err == nil {
			return f.place(ctx, ref.CID)
		}
		if !errors.Is(err, blockstore.ErrNoSpace) {
			return mount.Place{}, err
		}
		select {
		case <-time.After(roomPause): // what an earlier agent left shown, or others fetch, may go before the reader's patience does
		case <-ctx.Done():
			return mount.Place{}, err
		}
	}
}

// place checks that a block that is here is what was put, whose name had been checked, and holds it. A damaged one is
// noted, to be mended when it comes again.
func (f *fill) place(ctx context.Context, c blockstore.CID) (mount.Place, error) {
	store := f.images.cfg.Store
	if !f.stored(c) {
		if err := store.Verify(ctx, c); err != nil {
			if errors.Is(err, blockstore.ErrMismatch) {
				f.images.mu.Lock()
				f.images.damage[c] = struct{}{}
				f.images.mu.Unlock()
			}
			return mount.Place{}, err
		}
	}
	if err := f.hold(ctx, c); err != nil {
		return mount.Place{}, err
	}
	at, err := store.Locate(ctx, c)
	return mount.Place{Path: at.Path, Offset: at.Offset, Verified: true}, err
}
