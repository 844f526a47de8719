package mount

import (
	"context"
	"io"
	"path/filepath"

	"rialto/blockstore"
	"rialto/blockstore/mount/internal/wire"
)

func (m *Mounts) treePath(root blockstore.CID) string {
	return filepath.Join(m.cfg.Dir, "tables", root.String()+".tree")
}

// mountFUSE has the server mount a file system of the whole tree.
func (m *Mounts) mountFUSE(ctx context.Context, at string, root blockstore.CID, t *blockstore.Tree, rec *record) error {
	if err := m.publish(ctx, root, t); err != nil {
		return err
	}
	if rec.Device = m.device(); rec.Device == 0 {
		return errGone
	}
	path := m.treePath(root)
	if err := m.artifact(path, func(w io.Writer) error { return wire.WriteTree(w, t) }); err != nil {
		return err
	}
	_, err := m.call(ctx, wire.Request{Op: wire.OpMount, Root: root, Tree: path, At: at})
	return err
}
