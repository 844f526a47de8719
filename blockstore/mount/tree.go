package mount

import (
	"context"
	"io"
	"path/filepath"

	"rialto/blockstore"
	"rialto/blockstore/mount/internal/wire"
)

func (m *Mounts) treePath(root blockstore.CID, private bool) string {
	if private {
		return filepath.Join(m.privateDir(root), "tree")
	}
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
	q := wire.Request{Op: wire.OpMount, Root: root, Tree: m.treePath(root, t.Private()), At: at}
	names := t
	if t.Private() { // its names are as those of a public tree, which has another root
		names = &blockstore.Tree{Nodes: t.Nodes, Blocks: t.Blocks}
		own, err := names.Encode()
		if err != nil {
			return err
		}
		q.Names = own[0].CID()
	}
	if err := m.make(t, q.Tree, func(w io.Writer) error { return wire.WriteTree(w, names) }); err != nil {
		return err
	}
	_, err := m.call(ctx, q)
	return err
}
