package storetest_test

import (
	"context"
	"testing"

	boxo "github.com/ipfs/boxo/blockstore"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	"github.com/ipfs/go-datastore"
	"github.com/ipfs/go-datastore/sync"
	ipld "github.com/ipfs/go-ipld-format"
	"github.com/multiformats/go-multihash"

	"rialto/blockstore"
	"rialto/blockstore/storetest"
)

// boxoStore is boxo's own block store, seen as a Store: what the suite asks for is what others do, too.
type boxoStore struct{ inner boxo.Blockstore }

var _ blockstore.Store = boxoStore{}

func theirs(c blockstore.CID) cid.Cid {
	mh, err := multihash.Encode(c[:], multihash.SHA2_256)
	if err != nil {
		panic(err) // the length is right
	}
	return cid.NewCidV1(cid.Raw, mh)
}

func ours(op string, c blockstore.CID, err error) error {
	if ipld.IsNotFound(err) {
		return &blockstore.BlockError{Op: op, CID: c, Err: blockstore.ErrNotFound}
	}
	return err
}

func (s boxoStore) Has(ctx context.Context, c blockstore.CID) (bool, error) {
	return s.inner.Has(ctx, theirs(c))
}

func (s boxoStore) Size(ctx context.Context, c blockstore.CID) (int, error) {
	n, err := s.inner.GetSize(ctx, theirs(c))
	return n, ours("size", c, err)
}

func (s boxoStore) Get(ctx context.Context, c blockstore.CID) (blockstore.Block, error) {
	b, err := s.inner.Get(ctx, theirs(c))
	if err != nil {
		return blockstore.Block{}, ours("get", c, err)
	}
	return blockstore.Verify(c, b.RawData())
}

func (s boxoStore) ReadAt(ctx context.Context, c blockstore.CID, p []byte, off int) (int, error) {
	return blockstore.ReadAt(ctx, s, c, p, off)
}

func (s boxoStore) Put(ctx context.Context, bs ...blockstore.Block) error {
	list := make([]blocks.Block, len(bs))
	for i, b := range bs {
		if b.Size() == 0 {
			return &blockstore.BlockError{Op: "put", Err: blockstore.ErrSize}
		}
		var err error
		if list[i], err = blocks.NewBlockWithCid(b.Data(), theirs(b.CID())); err != nil {
			return err
		}
	}
	return s.inner.PutMany(ctx, list)
}

func (s boxoStore) Delete(ctx context.Context, cids ...blockstore.CID) error {
	for _, c := range cids {
		if err := s.inner.DeleteBlock(ctx, theirs(c)); err != nil {
			return err
		}
	}
	return nil
}

func TestBoxo(t *testing.T) {
	storetest.Run(t, func(*testing.T) blockstore.Store {
		return boxoStore{boxo.NewBlockstore(sync.MutexWrap(datastore.NewMapDatastore()))}
	})
}
