package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"sync/atomic"

	"rialto/blockstore"
	"rialto/blockstore/image"
	"rialto/broker/service"
)

// Bounds of an image that the broker builds. An import keeps the image's files below 64 KiB on the broker's disk until
// it is over, and a list of all files in memory, a few hundred bytes each. They are above the largest images that
// people run on GPUs; whoever has a larger one imports it on his own machine.
const (
	buildFiles = 1_000_000
	buildBytes = 128 << 30
)

// builder imports images from their registries for their roots alone: the blocks are not kept, because registries
// and providers have them.
type builder struct {
	registry image.Registry
	scratch  string
}

var _ service.Builder = (*builder)(nil)

// newBuilder returns a builder that reaches the registries of a policy. Whatever an earlier one left in its scratch
// directory is removed. The caller closes it.
func newBuilder(policy image.Policy, scratch string) (*builder, error) {
	if err := os.RemoveAll(scratch); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(scratch, 0o700); err != nil {
		return nil, err
	}
	return &builder{registry: image.Registry{Transport: policy.Transport()}, scratch: scratch}, nil
}

// Close drops idle connections.
func (b *builder) Close() error {
	(&http.Client{Transport: b.registry.Transport}).CloseIdleConnections()
	return nil
}

// Build implements service.Builder.
func (b *builder) Build(ctx context.Context, name string, digest blockstore.Digest, progress func(done, total int64)) (blockstore.CID, error) {
	source, err := b.registry.Open(ctx, name, digest)
	if err != nil {
		return blockstore.CID{}, err
	}
	total := source.CompressedSize()
	progress(0, total)
	var done atomic.Int64
	got, err := source.Import(ctx, image.Import{
		Put:     func(context.Context, blockstore.Block) error { return nil },
		Read:    func(n int) { progress(done.Add(int64(n)), total) },
		Scratch: b.scratch,
		Limits:  image.Limits{Entries: buildFiles, Bytes: buildBytes},
	})
	if err != nil {
		return blockstore.CID{}, fmt.Errorf("image %s: %w", name, err)
	}
	return got.Root, nil
}
