package exchange

import (
	"context"
	"errors"

	"github.com/ipfs/boxo/bitswap/message"
	boxo "github.com/ipfs/boxo/blockstore"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	ipld "github.com/ipfs/go-ipld-format"
	"github.com/libp2p/go-libp2p/core/peer"
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
	if !c.Defined() || c.Version() != 1 || c.Type() != cid.Raw {
		return blockstore.CID{}, false
	}
	mh, err := multihash.Decode(c.Hash())
	if err != nil || mh.Code != multihash.SHA2_256 || len(mh.Digest) != len(blockstore.CID{}) {
		return blockstore.CID{}, false
	}
	return blockstore.CID(mh.Digest), true
}

// served is a Store as boxo's server sees it.
type served struct{ store blockstore.Store }

var _ boxo.Blockstore = served{}

func (s served) Has(ctx context.Context, c cid.Cid) (bool, error) {
	ours, ok := fromCID(c)
	if !ok {
		return false, nil
	}
	return s.store.Has(ctx, ours)
}

func (s served) GetSize(ctx context.Context, c cid.Cid) (int, error) {
	ours, ok := fromCID(c)
	if !ok {
		return -1, ipld.ErrNotFound{Cid: c}
	}
	n, err := s.store.Size(ctx, ours)
	if err != nil {
		return -1, notFound(c, err)
	}
	return n, nil
}

// Get returns a block that the store has hashed just now.
func (s served) Get(ctx context.Context, c cid.Cid) (blocks.Block, error) {
	ours, ok := fromCID(c)
	if !ok {
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

// tracer sees every message.
type tracer struct{ x *Exchange }

func (t tracer) MessageSent(_ peer.ID, m message.BitSwapMessage) {
	for _, b := range m.Blocks() {
		t.x.servedBlocks.Add(1)
		t.x.servedBytes.Add(int64(len(b.RawData())))
	}
}

func (t tracer) MessageReceived(from peer.ID, m message.BitSwapMessage) {
	dontHaves := m.DontHaves()
	blocks := m.Blocks()
	if len(dontHaves) == 0 && len(blocks) == 0 {
		return
	}
	t.x.mu.Lock()
	fetches := make([]*fetch, 0, len(t.x.fetches))
	for f := range t.x.fetches {
		fetches = append(fetches, f)
	}
	t.x.mu.Unlock()
	for _, f := range fetches {
		f.dontHave(from, dontHaves)
	}
	for _, b := range blocks {
		t.x.judge(from, b.Cid(), fetches)
	}
}

// judge counts a block that nobody asked for against its sender. One that is here already is only late.
func (x *Exchange) judge(from peer.ID, c cid.Cid, fetches []*fetch) {
	for _, f := range fetches {
		if f.wants(c) {
			return
		}
	}
	if ours, ok := fromCID(c); ok {
		if has, err := x.cfg.Store.Has(context.Background(), ours); err != nil || has {
			return
		}
	}
	x.mu.Lock()
	x.wrong[from]++
	bad := x.wrong[from] == strikes
	x.mu.Unlock()
	if !bad {
		return
	}
	x.cfg.Logger.Warn("peer sends wrong blocks and is not asked any more", "peer", from.String())
	for _, f := range fetches {
		f.poison(from)
	}
}
