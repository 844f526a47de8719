package exchange

import (
	"context"
	"errors"

	boxo "github.com/ipfs/boxo/blockstore"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	ipld "github.com/ipfs/go-ipld-format"
	"github.com/multiformats/go-multihash"

	"rialto/blockstore"
)

// toCID returns boxo's form of a block's name.
func toCID(c blockstore.CID) cid.Cid {
	mh, err := multihash.Encode(c[:], multihash.SHA2_256)
	if err != nil {
		return cid.Undef // impossible: the length is right
	}
	return cid.NewCidV1(cid.Raw, mh)
}

// fromCID returns our form, if the name is of the one kind that we keep.
func fromCID(c cid.Cid) (blockstore.CID, bool) {
	sum, ok := sha256Of(c, cid.Raw)
	return sum.CID(), ok
}

// served is a Store as boxo's server sees it, and the nodes over its files.
type served struct {
	store blockstore.Store
	files *files
}

var _ boxo.Blockstore = served{}

func (s served) Has(ctx context.Context, c cid.Cid) (bool, error) {
	ours, ok := fromCID(c)
	if !ok {
		return s.files.get(c) != nil, nil
	}
	return s.store.Has(ctx, ours)
}

func (s served) GetSize(ctx context.Context, c cid.Cid) (int, error) {
	ours, ok := fromCID(c)
	if !ok {
		if node := s.files.get(c); node != nil {
			return len(node), nil
		}
		return -1, ipld.ErrNotFound{Cid: c}
	}
	n, err := s.store.Size(ctx, ours)
	if err != nil {
		return -1, notFound(c, err)
	}
	return n, nil
}

// Get returns a block that the store has hashed just now, or a node.
func (s served) Get(ctx context.Context, c cid.Cid) (blocks.Block, error) {
	ours, ok := fromCID(c)
	if !ok {
		if node := s.files.get(c); node != nil {
			return blocks.NewBlockWithCid(node, c)
		}
		return nil, ipld.ErrNotFound{Cid: c}
	}
	b, err := s.store.Get(ctx, ours)
	if err != nil {
		return nil, notFound(c, err)
	}
	return blocks.NewBlockWithCid(b.Data(), c)
}

func (s served) Put(ctx context.Context, b blocks.Block) error {
	return s.PutMany(ctx, []blocks.Block{b})
}

func (s served) PutMany(ctx context.Context, bs []blocks.Block) error {
	ours := make([]blockstore.Block, 0, len(bs))
	for _, b := range bs {
		c, ok := fromCID(b.Cid())
		if !ok {
			return errors.ErrUnsupported
		}
		verified, err := blockstore.Verify(c, b.RawData())
		if err != nil {
			return err
		}
		ours = append(ours, verified)
	}
	return s.store.Put(ctx, ours...)
}

func (s served) DeleteBlock(ctx context.Context, c cid.Cid) error {
	ours, ok := fromCID(c)
	if !ok {
		return nil
	}
	return s.store.Delete(ctx, ours)
}

// AllKeysChan is not served: nobody may list what is here.
func (s served) AllKeysChan(context.Context) (<-chan cid.Cid, error) {
	return nil, errors.ErrUnsupported
}

// notFound puts "not here" in the words that boxo's server understands.
func notFound(c cid.Cid, err error) error {
	if errors.Is(err, blockstore.ErrNotFound) || errors.Is(err, blockstore.ErrMismatch) {
		return ipld.ErrNotFound{Cid: c}
	}
	return err
}
