package mount

import (
	"os"
	"path/filepath"

	"rialto/blockstore"
)

// privateDir is where the files of a private tree are while it is mounted.
func (m *Mounts) privateDir(root blockstore.CID) string {
	return filepath.Join(m.cfg.Dir, "private", root.String())
}

// sweepPrivate removes files of private trees that are not mounted: a crash, or the host's restart, left them.
func (m *Mounts) sweepPrivate() error {
	dir := filepath.Join(m.cfg.Dir, "private")
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) == 0 {
		return err
	}
	points, err := mountPoints()
	if err != nil {
		return err
	}
	for _, e := range entries {
		root, err := blockstore.ParseCID(e.Name())
		if err == nil && m.mounted(root, points) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// mounted reports whether a tree is mounted in any way.
func (m *Mounts) mounted(root blockstore.CID, points map[string]bool) bool {
	for _, tier := range tiers() {
		if points[m.target(mountID(root, tier))] {
			return true
		}
	}
	return false
}
