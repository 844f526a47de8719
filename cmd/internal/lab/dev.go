package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// Dev starts a broker and one provider with a simulated GPU on this machine's loopback, opens an account
// with play money, says how to use them, and tears everything down when ctx ends.
func Dev(ctx context.Context, cfg Config, out io.Writer) (err error) {
	l, err := New(cfg)
	if err != nil {
		return err
	}
	defer func() {
		left, lerr := l.Leftovers()
		if err = errors.Join(err, lerr); err == nil && len(left) > 0 {
			err = fmt.Errorf("left over: %q", left)
		}
		if err == nil {
			fmt.Fprintln(out, "stopped; nothing is left over")
		}
	}()
	defer func() { err = errors.Join(err, l.Close()) }()
	m, err := l.Broker(ctx, l.Machine("broker"))
	if err != nil {
		return err
	}
	a, err := l.Agent(ctx, l.Machine("laptop"), m, AgentConfig{
		GPU: "RTX 4090:2", Price: "0.40/h", Extra: []string{"--allow-registry", "127.0.0.0/8"},
	})
	if err != nil {
		return err
	}
	c, err := l.Customer(ctx, l.Machine("customer"), m, "dev", "25.00")
	if err != nil {
		return err
	}
	fmt.Fprintf(out, `
A market of your own is running: one broker, one provider with two SIMULATED GPUs.
In another terminal:

  export RIALTO_HOME=%s PATH=%s:$PATH
  rialto offers
  rialto run --gpu any docker.io/library/python:3-slim -- python3 -c 'print("hello")'

Page %s/   (rialto web: the same, signed in, with logs)
API  %s/openapi.json
Ctrl-C stops everything and leaves no trace.
`, c.home, cfg.Bin, m.URL, m.URL)
	select {
	case <-ctx.Done():
		fmt.Fprintln(out, "\nstopping …")
		return nil
	case <-m.Proc.done:
		return m.Proc.ended()
	case <-a.Proc.done:
		return a.Proc.ended()
	}
}
