package main

import (
	"context"
	"time"

	"rialto/tunnel/console"
)

// resizes sends the terminal's size whenever it changes, until ctx ends. Windows has no signal for it.
func resizes(ctx context.Context, size func() console.Size) <-chan console.Size {
	sizes := make(chan console.Size)
	go func() { // ends with ctx
		tick := time.NewTicker(500 * time.Millisecond)
		defer tick.Stop()
		last := size()
		for {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			now := size()
			if now == last {
				continue
			}
			select {
			case sizes <- now:
				last = now
			case <-ctx.Done():
				return
			}
		}
	}()
	return sizes
}
