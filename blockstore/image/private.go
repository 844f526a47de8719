package image

import (
	"context"
	"fmt"

	"rialto/blockstore"
)

// ImportPrivate is Import of private weights: what put receives is encrypted. It returns the root's key as well.
func (w *Weights) ImportPrivate(
	ctx context.Context, salt blockstore.Salt, put func(context.Context, blockstore.Block) error,
) (blockstore.CID, blockstore.Key, error) {
	hide := blockstore.NewEncrypter(salt, put)
	t, err := w.build(ctx, hide.Put)
	if err == nil {
		t, err = hide.Tree(t)
	}
	if err != nil {
		return blockstore.CID{}, blockstore.Key{}, fmt.Errorf("import weights: %w", err)
	}
	w.built = t
	return putPrivateTree(t, salt, func(b blockstore.Block) error { return put(ctx, b) })
}

// hide puts a private image's lists.
func (i *Imported) hide(e *blockstore.Encrypter, salt blockstore.Salt, put func(blockstore.Block) error) (err error) {
	if i.Tree, err = e.Tree(i.Tree); err != nil {
		return err
	}
	if i.Image.Tree, i.Image.TreeKey, err = putPrivateTree(i.Tree, salt, put); err != nil {
		return err
	}
	blocks, key, err := i.Image.EncodePrivate(salt)
	if err != nil {
		return err
	}
	i.Root, i.Key = blocks[0].CID(), key
	return putBackward(blocks, put)
}

// putPrivateTree is putTree of a private one.
func putPrivateTree(t *blockstore.Tree, salt blockstore.Salt, put func(blockstore.Block) error) (blockstore.CID, blockstore.Key, error) {
	blocks, key, err := t.EncodePrivate(salt)
	if err != nil {
		return blockstore.CID{}, blockstore.Key{}, err
	}
	return blocks[0].CID(), key, putBackward(blocks, put)
}
