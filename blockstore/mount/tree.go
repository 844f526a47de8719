package mount

import (
	"context"
	"errors"
	"path/filepath"

	"rialto/blockstore"
)

func (m *Mounts) treePath(root blockstore.CID) string {
	return filepath.Join(m.cfg.Dir, "tables", root.String()+".tree")
}

func (m *Mounts) mountFUSE(context.Context, string, blockstore.CID, *blockstore.Tree, *record) error {
	return errors.ErrUnsupported
}
