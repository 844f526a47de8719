package agent

import (
	"context"
	"errors"
	"net"
	"time"

	"rialto/blockstore"
	"rialto/provider"
	"rialto/tunnel/console"
)

// backend shows a sandbox to the console's server.
type backend struct {
	box  provider.Sandbox
	keys *keyring
}

var _ console.Backend = backend{}

// glance is how long Status waits to tell an ended workload from one that runs.
const glance = 100 * time.Millisecond

// Status implements [console.Backend].
func (b backend) Status(ctx context.Context) (console.Status, error) {
	if !b.box.Started() {
		return console.Status{}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, glance)
	defer cancel()
	exit, err := b.box.Wait(ctx)
	switch {
	case err == nil:
		return console.Status{Started: true, Ended: true, Code: exit.Code, Reason: exit.Reason}, nil
	case ctx.Err() != nil:
		return console.Status{Started: true}, nil
	default:
		return console.Status{}, err
	}
}

// Logs implements [console.Backend].
func (b backend) Logs(ctx context.Context, follow bool, sink console.Sink) error {
	return b.box.Logs(ctx, follow, func(stream provider.Stream, p []byte) error { return sink(byte(stream), p) })
}

// Wait implements [console.Backend].
func (b backend) Wait(ctx context.Context) (console.Exit, error) {
	exit, err := b.box.Wait(ctx)
	return console.Exit{Code: exit.Code, Reason: exit.Reason}, err
}

// Exec implements [console.Backend].
func (b backend) Exec(ctx context.Context, e console.Exec) (int, error) {
	if !b.box.Started() {
		return 0, console.ErrNotStarted
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var sizes chan provider.Size
	if e.Resize != nil {
		sizes = make(chan provider.Size)
		go func() { // ends with the exec or with the customer's sizes
			defer close(sizes)
			for {
				select {
				case size, ok := <-e.Resize:
					if !ok {
						return
					}
					select {
					case sizes <- provider.Size(size):
					case <-ctx.Done():
						return
					}
				case <-ctx.Done():
					return
				}
			}
		}()
	}
	return b.box.Exec(ctx, provider.ExecRequest{
		Args: e.Args, Env: e.Env, Workdir: e.Workdir, TTY: e.TTY, Rows: e.Size.Rows, Cols: e.Size.Cols,
		Stdin: e.Stdin, Stdout: e.Stdout, Stderr: e.Stderr, Resize: sizes,
	})
}

// Key implements [console.Backend].
func (b backend) Key(_ context.Context, root string, key console.Secret) error {
	return b.keys.put(root, blockstore.Key(key))
}

// Dial implements [console.Backend].
func (b backend) Dial(ctx context.Context, port uint16) (net.Conn, error) {
	if !b.box.Started() {
		return nil, console.ErrNotStarted
	}
	conn, err := b.box.Dial(ctx, port)
	if err != nil && errors.Is(err, context.DeadlineExceeded) {
		return nil, errors.New("the workload does not answer on this port")
	}
	return conn, err
}
