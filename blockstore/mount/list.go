package mount

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"rialto/blockstore"
	"rialto/blockstore/mount/internal/wire"
)

// Mounted is a tree that is mounted.
type Mounted struct {
	ID   string
	Root blockstore.CID
	Tier Tier
	Path string
	// Lost says that the server of a tier that needs one died: only what the kernel has cached can be read still.
	Lost bool
	Took time.Duration // to mount it; zero of one that was there
}

// record is what is kept of a mount for the next agent.
type record struct {
	Root   blockstore.CID
	Tier   Tier
	Device uint64 `json:",omitempty"` // of the server's file system
}

const recordFile = "mount.json"

func mountID(root blockstore.CID, tier Tier) string { return string(tier) + "-" + root.String() }

func (m *Mounts) target(id string) string { return filepath.Join(m.cfg.Dir, "mounts", id, "root") }

func (m *Mounts) write(id string, r record) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(m.cfg.Dir, "mounts", id, recordFile), b, 0o600)
}

// read returns a mount, or ErrNotMounted.
func (m *Mounts) read(id string, points map[string]bool) (Mounted, error) {
	at := m.target(id)
	b, err := os.ReadFile(filepath.Join(filepath.Dir(at), recordFile))
	if errors.Is(err, fs.ErrNotExist) || err == nil && !points[at] {
		return Mounted{}, ErrNotMounted
	}
	if err != nil {
		return Mounted{}, err
	}
	var r record
	if json.Unmarshal(b, &r) != nil || id != mountID(r.Root, r.Tier) {
		return Mounted{}, ErrNotMounted // torn by a crash: as good as none
	}
	return Mounted{ID: id, Root: r.Root, Tier: r.Tier, Path: at, Lost: r.Device != 0 && r.Device != m.device()}, nil
}

// device returns the number of the file system of a server that lives, or zero.
func (m *Mounts) device() uint64 {
	at := filepath.Join(m.serverDir(), wire.DeviceDir)
	var st unix.Stat_t
	var alive unix.Statfs_t // the kernel keeps attributes of a dead one, but not this
	if unix.Stat(at, &st) != nil || unix.Statfs(at, &alive) != nil {
		return 0
	}
	return st.Dev
}

// List returns what is mounted, by this process or an earlier one. It removes what is left of mounts that never came
// to be, or that the host's restart ended.
func (m *Mounts) List(ctx context.Context) ([]Mounted, error) {
	ids, err := os.ReadDir(filepath.Join(m.cfg.Dir, "mounts"))
	if err != nil {
		return nil, err
	}
	points, err := mountPoints()
	if err != nil {
		return nil, err
	}
	var all []Mounted
	for _, e := range ids {
		got, err := m.read(e.Name(), points)
		if errors.Is(err, ErrNotMounted) {
			if err := m.sweep(ctx, e.Name()); err != nil {
				return nil, err
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, got)
	}
	return all, nil
}

// sweep removes a mount's rest, unless somebody mounts it now.
func (m *Mounts) sweep(ctx context.Context, id string) error {
	_, name, _ := strings.Cut(id, "-")
	root, err := blockstore.ParseCID(name)
	if err != nil {
		return m.unmount(id) // none of ours
	}
	unlock, err := m.lock(ctx, root)
	if err != nil {
		return err
	}
	defer unlock()
	points, err := mountPoints()
	if err != nil {
		return err
	}
	if _, err := m.read(id, points); !errors.Is(err, ErrNotMounted) {
		return err
	}
	return m.unmount(id)
}

// Unmount takes a tree's mounts away, also while they are in use: who has files open reads on, as far as blocks are
// here. It does nothing if there are none.
func (m *Mounts) Unmount(root blockstore.CID) error {
	ctx, cancel := context.WithTimeout(context.Background(), handshake) // of a server that hangs
	defer cancel()
	return m.takeAway(ctx, root)
}

func (m *Mounts) takeAway(ctx context.Context, root blockstore.CID) error {
	unlock, err := m.lock(ctx, root)
	if err != nil {
		return &Error{"unmount", root, err}
	}
	defer unlock()
	m.end(root)
	// The server first: if we die before the mounts are away, it lets go of the tree when they are. The other way round
	// it would keep the tree, and where its blocks were, when nothing tells the next agent any more.
	errs := []error{m.remove(ctx, root, false)}
	for _, tier := range tiers() {
		errs = append(errs, m.unmount(mountID(root, tier)))
	}
	errs = append(errs, os.RemoveAll(m.privateDir(root)))
	if err := errors.Join(errs...); err != nil {
		return &Error{"unmount", root, err}
	}
	return nil
}

// remove has the server, if there is one, serve a tree only to who has it open, or with forget to nobody.
func (m *Mounts) remove(ctx context.Context, root blockstore.CID, forget bool) error {
	_, err := m.call(ctx, wire.Request{Op: wire.OpRemove, Root: root, Forget: forget})
	if errors.Is(err, errGone) {
		return nil
	}
	return err
}

// Forget deletes what is kept of a tree. It does nothing while the tree is mounted. It comes before the tree's blocks
// are deleted: who still has a file open that is not sealed gets errors from then on, and not what is there instead.
func (m *Mounts) Forget(root blockstore.CID) error {
	ctx, cancel := context.WithTimeout(context.Background(), handshake)
	defer cancel()
	unlock, err := m.lock(ctx, root)
	if err != nil {
		return &Error{"forget", root, err}
	}
	defer unlock()
	points, err := mountPoints()
	if err != nil {
		return err
	}
	if m.mounted(root, points) {
		return nil
	}
	m.mu.Lock()
	delete(m.sources, root)
	m.mu.Unlock()
	errs := []error{m.remove(ctx, root, true), os.RemoveAll(m.sealedDir(root))}
	for _, path := range []string{m.tablePath(root, false), m.metaPath(root, false, false), m.metaPath(root, false, true), m.treePath(root, false)} {
		for _, suffix := range []string{"", sumSuffix} {
			if err := os.Remove(path + suffix); !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return &Error{"forget", root, err}
	}
	return nil
}

// unmount ends a mount and removes its directory. It is idempotent.
func (m *Mounts) unmount(id string) error {
	at := m.target(id)
	if err := detach(at); err != nil {
		return err
	}
	return removeEmpty(at, filepath.Dir(at))
}

// removeEmpty removes a mount point and its directory, and never what might lie in a mount.
func removeEmpty(at, dir string) error {
	for _, remove := range []string{at, filepath.Join(dir, recordFile), dir} {
		if err := os.Remove(remove); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Close unmounts everything and ends the server, once nobody has a file open. Run must have returned. What is cached on
// the disk stays.
func (m *Mounts) Close(ctx context.Context) error {
	pid, err := m.endServer(ctx)
	errs := []error{err}
	all, err := m.List(ctx)
	errs = append(errs, err)
	for _, mt := range all {
		errs = append(errs, m.takeAway(ctx, mt.Root))
	}
	if pid > 0 {
		errs = append(errs, awaitEnd(ctx, pid))
	}
	return errors.Join(errs...)
}
