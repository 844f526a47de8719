package client

import (
	"context"
	"errors"
	"net"
	"sync"

	"rialto/tunnel/internal/splice"
)

// maxForwarded bounds the connections of one listener; more wait in the kernel's queue.
const maxForwarded = 256

// Forward accepts connections on ln, opens a partner for each with dial and copies both ways until both
// directions have ended. A side that only ends its writing stays readable. It closes ln and every connection
// when ctx ends, and returns nil then. A dial that fails closes its connection and is given to failed, if not nil.
func Forward(ctx context.Context, ln net.Listener, dial func(context.Context) (net.Conn, error), failed func(error)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	return serve(ctx, ln, func(c net.Conn) {
		partner, err := dial(ctx)
		if err != nil {
			if failed != nil && ctx.Err() == nil {
				failed(err)
			}
			return
		}
		splice.Join(ctx, c, partner)
	})
}

// serve runs handle for every connection of ln until ctx ends, and waits for all of them.
func serve(ctx context.Context, ln net.Listener, handle func(net.Conn)) error {
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	defer ln.Close()
	var wait sync.WaitGroup
	defer wait.Wait()
	slots := make(chan struct{}, maxForwarded)
	for {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		c, err := ln.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			return err
		}
		wait.Go(func() {
			defer func() { <-slots }()
			defer c.Close()
			handle(c)
		})
	}
}
