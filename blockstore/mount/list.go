package mount

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
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
	if json.Unmarshal(b, &r) != nil || id != string(r.Tier)+"-"+r.Root.String() {
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
			err = m.sweep(ctx, e.Name())
			if err != nil {
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
	unlock, err := m.lock(ctx, id)
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

// Unmount takes a mount away, also while it is in use: who has files open may read on. It does nothing if there is no
// such mount.
func (m *Mounts) Unmount(ctx context.Context, id string) error {
	unlock, err := m.lock(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	points, err := mountPoints()
	if err != nil {
		return err
	}
	old, err := m.read(id, points)
	if errors.Is(err, ErrNotMounted) {
		return m.unmount(id)
	}
	if err != nil {
		return err
	}
	if err := m.unmount(id); err != nil {
		return &Error{"unmount", old.Root, err}
	}
	return m.forget(ctx, old)
}

// unmount ends a mount and removes its directory. It is idempotent.
func (m *Mounts) unmount(id string) error {
	if id == "" || id != filepath.Base(id) || id == "." || id == ".." {
		return ErrNotMounted
	}
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

// forget tells the server that a tree is not wanted, unless another mount needs it.
func (m *Mounts) forget(ctx context.Context, old Mounted) error {
	if old.Tier == Sealed {
		return nil
	}
	all, err := m.List(ctx)
	if err != nil {
		return err
	}
	for _, o := range all {
		if o.Root == old.Root && o.Tier != Sealed {
			return nil
		}
	}
	_, err = m.call(ctx, wire.Request{Op: wire.OpRemove, Name: old.Root.String()})
	if errors.Is(err, errGone) {
		return nil
	}
	return err
}

// Close unmounts everything and ends the server. Run must have returned. What is cached on the disk stays.
func (m *Mounts) Close(ctx context.Context) error {
	all, err := m.List(ctx)
	errs := []error{err}
	for _, mt := range all {
		errs = append(errs, m.Unmount(ctx, mt.ID))
	}
	return errors.Join(append(errs, m.endServer(ctx))...)
}
