package disk

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"golang.org/x/time/rate"

	"rialto/blockstore"
)

// ScrubReport says what a scrub found.
type ScrubReport struct {
	Blocks     int
	Bytes      int64
	Damaged    []blockstore.CID // forgotten, unless they are held
	Held       []blockstore.CID // those of Damaged that are here still, because they are held
	Unreadable []blockstore.CID // the system failed to read them: they are kept, as the device may come back
}

// Scrub reads every block, at most limit bytes a second on average if limit is positive, and forgets
// what is damaged, so that it is fetched again. It compares each 64 KiB with its crc32c, which was
// computed when the block's hash had been verified. Where that matches no hash is computed: a crc32c
// misses a random error once in four billion, Get hashes anyway, and nobody can aim an error at it who
// could not write to the disk. Blocks put meanwhile may be left out.
func (s *Store) Scrub(ctx context.Context, limit int64) (ScrubReport, error) {
	var report ScrubReport
	pace := rate.NewLimiter(rate.Inf, 0)
	if limit > 0 {
		pace = rate.NewLimiter(rate.Limit(limit), blockstore.MaxBlock)
	}
	buf := make([]byte, blockstore.MaxBlock)
	for batch, err := range s.batches(ctx) {
		if err != nil {
			return report, err
		}
		// In the order of the disk, as far as a batch goes.
		slices.SortFunc(batch, func(a, b entry) int {
			return cmp.Or(cmp.Compare(a.at.pack, b.at.pack), cmp.Compare(a.at.page, b.at.page))
		})
		for _, e := range batch {
			if err := pace.WaitN(ctx, int(e.at.size)); err != nil {
				return report, err
			}
			n, err := s.ReadAt(ctx, e.cid, buf[:e.at.size], 0)
			switch {
			case err == nil:
				report.Blocks++
				report.Bytes += int64(n)
			case errors.Is(err, blockstore.ErrNotFound): // deleted meanwhile
			case errors.Is(err, blockstore.ErrMismatch):
				report.Damaged = append(report.Damaged, e.cid)
				if has, _ := s.Has(ctx, e.cid); has {
					report.Held = append(report.Held, e.cid)
				}
			case ctx.Err() != nil:
				return report, context.Cause(ctx)
			default:
				report.Unreadable = append(report.Unreadable, e.cid)
			}
		}
	}
	return report, nil
}
