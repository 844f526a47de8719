//go:build unix

package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"rialto/tunnel/console"
)

// resizes sends the terminal's size whenever it changes, until ctx ends.
func resizes(ctx context.Context, size func() console.Size) <-chan console.Size {
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, syscall.SIGWINCH)
	sizes := make(chan console.Size)
	go func() { // ends with ctx
		defer signal.Stop(changed)
		for {
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
			select {
			case sizes <- size():
			case <-ctx.Done():
				return
			}
		}
	}()
	return sizes
}
