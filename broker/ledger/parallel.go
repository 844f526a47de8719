package ledger

import (
	"context"
	"runtime"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
)

// parallel calls fn for 0 to n-1 on all cores, in pieces, and returns its first error.
func parallel(ctx context.Context, n int, fn func(ctx context.Context, i int) error) error {
	const piece = 64
	g, ctx := errgroup.WithContext(ctx)
	var next atomic.Int64
	for range runtime.GOMAXPROCS(0) {
		g.Go(func() error {
			for {
				from := int(next.Add(piece)) - piece
				if from >= n {
					return nil
				}
				if err := ctx.Err(); err != nil {
					return err
				}
				for i := from; i < min(from+piece, n); i++ {
					if err := fn(ctx, i); err != nil {
						return err
					}
				}
			}
		})
	}
	return g.Wait()
}
