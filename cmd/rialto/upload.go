package main

import (
	"context"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"rialto/blockstore"
	"rialto/cmd/internal/cli"
)

// uploads is how many blocks travel at once.
const uploads = 8

// upload brings blocks to the broker, each once.
type upload struct {
	market *market
	bar    *cli.Bar
	size   int64 // of what is read
	done   atomic.Int64
	sent   atomic.Int64
}

// putFunc is what an importer calls with each block, from any goroutine.
type putFunc func(ctx context.Context, b blockstore.Block) error

// all runs an importer and uploads what is missing of what it puts.
func (u *upload) all(ctx context.Context, importer func(context.Context, putFunc) error) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(uploads)
	err := importer(gctx, func(_ context.Context, b blockstore.Block) error {
		g.Go(func() error { return u.put(gctx, b) })
		return gctx.Err()
	})
	if uploadErr := g.Wait(); uploadErr != nil {
		return uploadErr // it is why the importer ended
	}
	return err
}

// read counts bytes that were read.
func (u *upload) read(n int) {
	u.done.Add(int64(n))
	u.show()
}

// put uploads one block unless the broker has it. A broker that is away for a moment is asked again.
func (u *upload) put(ctx context.Context, b blockstore.Block) error {
	has, err := retry(ctx, func() (bool, error) { return u.market.HasBlock(ctx, b.CID()) })
	if err != nil || has {
		return err
	}
	if _, err := retry(ctx, func() (struct{}, error) { return struct{}{}, u.market.PutBlock(ctx, b) }); err != nil {
		return err
	}
	u.sent.Add(int64(b.Size()))
	u.show()
	return nil
}

func (u *upload) show() {
	u.bar.Set(u.done.Load(), u.size, "("+cli.FormatBytes(u.sent.Load())+" sent)")
}
