package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"rialto/cmd/internal/cli"
	"rialto/pricing"
	"rialto/provider/agent"
)

const maxStatus = 16 << 20

// listenControl opens the socket on which the host's owner reaches the agent. Only root can use it.
func listenControl(ctx context.Context, path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err // a stale one is ours: the journal's lock says that no other agent runs here
	}
	l, err := new(net.ListenConfig).Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen for status: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// serveControl answers until ctx ends, and closes l.
func serveControl(ctx context.Context, l net.Listener, h http.Handler) error {
	server := &http.Server{
		Handler: h, ReadHeaderTimeout: 5 * time.Second,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(l); err != nil && ctx.Err() == nil {
		return fmt.Errorf("serve status: %w", err)
	}
	return nil
}

// ask sends a request to the running agent.
func ask(ctx context.Context, state, method, path string) (*http.Response, error) {
	socket := filepath.Join(state, socketName)
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}
	request, err := http.NewRequestWithContext(ctx, method, "http://agent"+path, http.NoBody)
	if err != nil {
		return nil, err
	}
	response, err := client.Do(request)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return nil, cli.Hint(fmt.Errorf("the agent's socket %s may not be opened", socket), "try it with sudo")
	case err != nil && ctx.Err() == nil:
		return nil, cli.Hint(fmt.Errorf("no agent answers at %s", socket), "is `rialto-provider run` running, and with this --state?")
	case err != nil:
		return nil, ctx.Err()
	case response.StatusCode >= http.StatusMultipleChoices:
		defer response.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(response.Body, 4096))
		return nil, fmt.Errorf("agent: %s: %s", response.Status, strings.TrimSpace(string(text)))
	}
	return response, nil
}

func statusCommand() *cobra.Command {
	var state string
	var asJSON bool
	c := &cobra.Command{
		Use:     "status",
		Short:   "Show what the running agent offers and runs",
		Example: "  rialto-provider status\n  rialto-provider status --json",
		Args:    cli.Args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			response, err := ask(c.Context(), state, http.MethodGet, "/v1/status")
			if err != nil {
				return err
			}
			defer response.Body.Close()
			var s agent.Status
			if err := json.NewDecoder(io.LimitReader(response.Body, maxStatus)).Decode(&s); err != nil {
				return fmt.Errorf("agent's status: %w", err)
			}
			return cli.Printer{Out: c.OutOrStdout(), JSON: asJSON}.Print(s, func(w io.Writer) error { return writeStatus(w, s) })
		},
	}
	c.Flags().StringVar(&state, "state", defaultState, "the agent's folder")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func writeStatus(w io.Writer, s agent.Status) error {
	fmt.Fprintf(w, "%s (%s), %v per GPU, %s served to peers, %s fetched from them\n", cli.Clean(s.Host), s.Peer, pricing.Rate(s.Rate),
		cli.FormatBytes(s.Served), cli.FormatBytes(s.Fetched))
	if text := formatTariff(s.Tariff()); text != "" {
		fmt.Fprintln(w, text)
	}
	if s.Draining {
		fmt.Fprintln(w, "drained: takes no new jobs until `rialto-provider drain --off`")
	}
	writeAccused(w, s)
	fmt.Fprintln(w)
	brokers := cli.Table{Columns: []cli.Column{{Title: "BROKER"}, {Title: "CONNECTION"}, {Title: "SINCE"}}}
	for _, b := range s.Brokers {
		state, since := "none", ""
		if b.Connected {
			state = "up"
		}
		if !b.Since.IsZero() {
			since = b.Since.Local().Format(time.DateTime)
		}
		brokers.Add(b.Addr, state, since)
	}
	gpus := cli.Table{Columns: []cli.Column{{Title: "GPU"}, {Title: "MODEL"}, {Title: "MEMORY", Align: cli.Right}, {Title: "STATE"}}}
	for _, g := range s.GPUs {
		state := "not offered"
		switch {
		case g.Lease != "":
			state = "leased as " + string(g.Lease)
		case g.Cause != "":
			state = "not usable: " + g.Cause
		case g.Offered:
			state = "offered"
		}
		model := g.Model
		if g.Simulated {
			model += " (simulated)"
		}
		gpus.Add(g.UUID, model, cli.FormatMiB(g.MemoryMiB), state)
	}
	leases := cli.Table{Columns: []cli.Column{{Title: "LEASE"}, {Title: "JOB"}, {Title: "STATE"}, {Title: "USED", Align: cli.Right}, {Title: "IN", Align: cli.Right}, {Title: "OUT", Align: cli.Right}, {Title: "NOTE"}}}
	for _, l := range s.Leases {
		note := l.Message
		if l.Unacked {
			note = strings.TrimSpace(note + " (end not acknowledged yet)")
		}
		leases.Add(string(l.Lease), string(l.Job), l.State, cli.FormatDuration(time.Duration(l.UsedMS)*time.Millisecond),
			cli.FormatTraffic(l.Ingress), cli.FormatTraffic(l.Egress), note)
	}
	for _, t := range []*cli.Table{&brokers, &gpus, &leases} {
		if err := t.Write(w); err != nil {
			return err
		}
		fmt.Fprintln(w)
	}
	return writePeers(w, s)
}

func drainCommand() *cobra.Command {
	var state string
	var now, off bool
	c := &cobra.Command{
		Use:   "drain",
		Short: "Take no more jobs, and wait for those that run",
		Long: "Take the host's GPUs off the market and wait until no job has one. The host stays drained, also when\n" +
			"the agent is restarted, until `rialto-provider drain --off`.",
		Example: "  rialto-provider drain\n  rialto-provider drain --now\n  rialto-provider drain --off",
		Args:    cli.Args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			if off {
				response, err := ask(c.Context(), state, http.MethodDelete, "/v1/drain")
				if err != nil {
					return err
				}
				response.Body.Close()
				fmt.Fprintln(c.OutOrStdout(), "not drained: the GPUs are offered again")
				return nil
			}
			path := "/v1/drain"
			if now {
				path += "?now=1"
			}
			fmt.Fprintln(c.ErrOrStderr(), "draining; Ctrl-C stops the waiting, not the draining")
			response, err := ask(c.Context(), state, http.MethodPost, path)
			if err != nil {
				return err
			}
			response.Body.Close()
			fmt.Fprintln(c.OutOrStdout(), "drained: no job has a GPU")
			return nil
		},
	}
	c.Flags().StringVar(&state, "state", defaultState, "the agent's folder")
	c.Flags().BoolVar(&now, "now", false, "end the jobs that run, instead of waiting for them")
	c.Flags().BoolVar(&off, "off", false, "end the drain: offer the GPUs again")
	c.MarkFlagsMutuallyExclusive("now", "off")
	return c
}
