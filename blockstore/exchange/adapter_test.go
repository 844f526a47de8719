package exchange

import (
	"context"
	"testing"

	boxo "github.com/ipfs/boxo/blockstore"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	ipld "github.com/ipfs/go-ipld-format"

	"rialto/blockstore"
	"rialto/blockstore/storetest"
)

// around is a Store behind boxo's interface, seen as a Store again: what goes both ways must come out the same.
type around struct{ inner boxo.Blockstore }

func ours(c blockstore.CID, err error) error {
	if ipld.IsNotFound(err) {
		return &blockstore.BlockError{Op: "get", CID: c, Err: blockstore.ErrNotFound}
	}
	return err
}

func (a around) Has(ctx context.Context, c blockstore.CID) (bool, error) {
	return a.inner.Has(ctx, toCID(c))
}

func (a around) Size(ctx context.Context, c blockstore.CID) (int, error) {
	n, err := a.inner.GetSize(ctx, toCID(c))
	return n, ours(c, err)
}

func (a around) Get(ctx context.Context, c blockstore.CID) (blockstore.Block, error) {
	b, err := a.inner.Get(ctx, toCID(c))
	if err != nil {
		return blockstore.Block{}, ours(c, err)
	}
	return blockstore.Verify(c, b.RawData())
}

func (a around) Put(ctx context.Context, bs ...blockstore.Block) error {
	var theirs []blocks.Block
	for _, b := range bs {
		t, err := blocks.NewBlockWithCid(b.Data(), toCID(b.CID()))
		if err != nil {
			return err
		}
		theirs = append(theirs, t)
	}
	return a.inner.PutMany(ctx, theirs)
}

func (a around) ReadAt(ctx context.Context, c blockstore.CID, p []byte, off int) (int, error) {
	return blockstore.ReadAt(ctx, a, c, p, off)
}

func (a around) Delete(ctx context.Context, cids ...blockstore.CID) error {
	for _, c := range cids {
		if err := a.inner.DeleteBlock(ctx, toCID(c)); err != nil {
			return err
		}
	}
	return nil
}

func TestAdapter(t *testing.T) {
	storetest.Run(t, func(*testing.T) blockstore.Store { return around{served{new(blockstore.Memory), newFiles(0)}} })
}

// Names of other kinds than ours are nothing that we have.
func TestAdapterOtherNames(t *testing.T) {
	s := served{new(blockstore.Memory), newFiles(0)}
	for _, name := range []string{
		"QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG",              // CIDv0
		"bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi", // dag-pb
		"bafkqaaa", // identity
	} {
		c, err := cid.Decode(name)
		if err != nil {
			t.Fatal(err)
		}
		if has, err := s.Has(t.Context(), c); has || err != nil {
			t.Errorf("has %v: %v, %v", c, has, err)
		}
		if _, err := s.Get(t.Context(), c); !ipld.IsNotFound(err) {
			t.Errorf("get %v: %v", c, err)
		}
	}
}
