//go:build linux

package images

import (
	"context"
	"errors"
	"fmt"

	"rialto/blockstore"
	"rialto/blockstore/image"
)

// errLocked reports that something is here and cannot be opened.
var errLocked = errors.New("private")

// loadPrivate reads the lists of what is wanted as far as anybody may, waits for the key, and opens them. Without a way
// to a key the tree has no more than its blocks.
func (p *preparation) loadPrivate(ctx context.Context, f *fill) (found, error) {
	is := found{record: record{Root: p.target.root, Tree: p.target.root}}
	if here, ok := p.images.records.get(p.target.root); ok {
		is.record = here
	}
	var sealed *blockstore.LockedImage
	var err error
	if p.target.image != "" {
		// The digest is the root's own: that of the manifest is nobody's business.
		is.record.Digest = p.target.root.Digest()
		if sealed, err = blockstore.LoadLockedImage(ctx, p.target.root, f); err != nil {
			return is, err
		}
		is.record.Tree = sealed.Tree
	}
	list, err := blockstore.LoadLockedTree(ctx, is.record.Tree, f)
	if err != nil {
		return is, err
	}
	if p.target.unlock == nil {
		is.tree = &blockstore.Tree{Blocks: list.Blocks}
		return is, nil
	}
	key, err := p.target.unlock(ctx)
	if err == nil && sealed != nil {
		if is.image, err = sealed.Open(key); err == nil {
			key = is.image.TreeKey
			err = image.Prove(is.image, is.image.Digest(), nil)
		}
	}
	if err == nil {
		is.tree, err = list.Open(key)
	}
	if err != nil {
		err = fmt.Errorf("%s is %w: %w", p.target.name(), errLocked, err)
	}
	return is, err
}
