package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// World is the lab as the demonstration, the tests and the benchmark use it: a broker, a registry with
// the image, three agents and a customer, each on a host of its own.
type World struct {
	*Lab
	Market   *Market
	Registry *Proc
	Ref      string // the image
	Agents   []*Agent
	Customer *Customer
}

// NewWorld builds the world. On an error nothing is left of it.
func NewWorld(ctx context.Context, cfg Config) (w *World, err error) {
	l, err := New(cfg)
	if err != nil {
		return nil, err
	}
	w = &World{Lab: l}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Close())
		}
	}()
	hosts := make(map[string]*Host)
	for _, name := range []string{"broker", "registry", "alpha", "bravo", "charlie", "customer"} {
		if hosts[name], err = l.Host(ctx, name); err != nil {
			return nil, err
		}
	}
	if w.Registry, w.Ref, err = l.Registry(ctx, hosts["registry"]); err != nil {
		return nil, err
	}
	if w.Market, err = l.Broker(ctx, hosts["broker"], cfg.Broker...); err != nil {
		return nil, err
	}
	for _, a := range []struct {
		host, gpu, price string
		extra            []string
	}{
		{"alpha", "RTX 4090:2", "0.40/h", nil},
		{"bravo", "RTX 4090:1", "0.45/h", nil},
		{"charlie", "H100 SXM:1", "1.87/h", []string{"--min-bid", "0.60/h"}},
	} {
		agent, err := l.Agent(ctx, hosts[a.host], w.Market, AgentConfig{GPU: a.gpu, Price: a.price, Extra: a.extra})
		if err != nil {
			return nil, err
		}
		w.Agents = append(w.Agents, agent)
	}
	w.Customer, err = l.Customer(ctx, hosts["customer"], w.Market, "demo", "10.00")
	return w, err
}

// Forget restarts an agent that has no block of any image. What it had is moved aside and deleted with the
// lab: ext4 makes new files ten times as slowly for a while after it deleted many, which would be measured.
func (w *World) Forget(ctx context.Context, a *Agent) error {
	if err := a.Proc.Stop(); err != nil {
		return err
	}
	aside, err := os.MkdirTemp(w.cfg.Work, "forgotten-")
	if err != nil {
		return err
	}
	for _, dir := range []string{"blocks", "images", "mounts"} {
		if err := os.Rename(w.Path(a.Host.Name, dir), filepath.Join(aside, dir)); err != nil {
			return err
		}
	}
	return a.Start(ctx, w.Market)
}

// Demo shows the main job from end to end and proves that nothing is left. Every line that begins with
// "$" is a command that ran just so on the customer's host.
func Demo(ctx context.Context, cfg Config, out io.Writer) error {
	say := func(format string, args ...any) { fmt.Fprintf(out, "\n── "+format+"\n", args...) }
	start := time.Now()
	say("a broker, a registry with a Debian image, three GPU hosts and a customer: six network namespaces")
	w, err := NewWorld(ctx, cfg)
	if err != nil {
		return err
	}
	err = w.show(ctx, out, say)
	say("tearing everything down")
	err = errors.Join(err, w.Close())
	left, lerr := w.Leftovers()
	if err = errors.Join(err, lerr); err != nil {
		return err
	}
	fmt.Fprintf(out, "left over: %d processes, namespaces, links, mounts or control groups\n", len(left))
	for _, l := range left {
		fmt.Fprintln(out, "  ", l)
	}
	if len(left) > 0 {
		return errors.New("the demonstration left things behind")
	}
	fmt.Fprintf(out, "done in %.0f s\n", time.Since(start).Seconds())
	return nil
}

func (w *World) show(ctx context.Context, out io.Writer, say func(string, ...any)) error {
	run := func(args ...string) error { return w.Customer.show(ctx, out, args...) }

	say("what is on offer (every GPU of this demonstration is simulated, and says so)")
	if err := run("offers"); err != nil {
		return err
	}
	say("what a job would cost")
	if err := run("quote", "--gpu", "any", "--for", "10m", w.Ref); err != nil {
		return err
	}
	say("a job on the cheapest host: its image comes from the registry")
	hello := `import os,sys,time
for i in range(3): print("hello", i, "from", os.uname().nodename, flush=True); time.sleep(.3)`
	if err := run("run", "--gpu", "any", "--max-price", "0.50/h", w.Ref, "--", "python3", "-c", hello); err != nil {
		return err
	}
	say("the broker has imported the image as well, and vouches for what its layers add up to")
	if err := run("image", "add", w.Ref); err != nil {
		return err
	}
	say("the same on another host: it starts at once, and what it reads comes from the first host, not from the registry")
	if err := run("run", "--gpu", "RTX 4090", "--provider", "bravo", w.Ref, "--", "python3", "-c", hello); err != nil {
		return err
	}
	say("the same again where the image is: a warm start")
	if err := run("run", "--provider", "bravo", w.Ref, "--", "python3", "-c", `print("warm")`); err != nil {
		return err
	}
	if err := w.server(ctx, out, say); err != nil {
		return err
	}
	say("what it came to")
	for _, args := range [][]string{{"ps", "-a"}, {"bill"}, {"account"}} {
		if err := run(args...); err != nil {
			return err
		}
	}
	return nil
}

// server runs an HTTP server in a container and reaches it through the tunnel.
func (w *World) server(ctx context.Context, out io.Writer, say func(string, ...any)) error {
	say("an HTTP server in a container, reached through the tunnel")
	serve := `mkdir /tmp/www && echo "served from $(hostname) through WireGuard" > /tmp/www/index.html && cd /tmp/www && exec python3 -m http.server 8000`
	args := []string{"run", "--detach", "--json", "--gpu", "any", w.Ref, "--", "sh", "-c", serve}
	fmt.Fprintln(out, "$", commandLine(args))
	stdout, err := Output(w.Customer.Rialto(ctx, args...))
	if err != nil {
		return err
	}
	var job struct {
		ID string `json:"id"`
	}
	if err := json.Unmarshal(stdout, &job); err != nil || job.ID == "" {
		return fmt.Errorf("run --detach --json: no id in %q", stdout)
	}
	fmt.Fprintln(out, job.ID)
	args = []string{"forward", job.ID, "8080:8000"}
	fmt.Fprintln(out, "$", commandLine(args), "&")
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	forward := w.Customer.Rialto(ctx, args...)
	var log bytes.Buffer
	forward.Stderr = &log
	if err := forward.Start(); err != nil {
		return err
	}
	defer func() {
		cancel()
		_ = forward.Wait() // it was cancelled
	}()
	const url = "http://127.0.0.1:8080/"
	fmt.Fprintln(out, "$ curl", url)
	page, err := w.Customer.Host.Poll(ctx, url)
	if err != nil {
		return fmt.Errorf("%w: %s", err, lastLines(log.Bytes()))
	}
	fmt.Fprint(out, page)
	for _, args := range [][]string{
		{"exec", job.ID, "--", "python3", "-c", "import os; print('exec in', os.uname().nodename, 'as uid', os.getuid())"},
		{"stop", job.ID},
		{"logs", job.ID},
	} {
		if err := w.Customer.show(ctx, out, args...); err != nil {
			return err
		}
	}
	return nil
}

// Poll fetches a page that may take a moment to be there.
func (h *Host) Poll(ctx context.Context, url string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		page, err := h.get(ctx, url)
		if err == nil {
			return page, nil
		}
		select {
		case <-ctx.Done():
			return "", err
		case <-tick.C:
		}
	}
}

// show runs a command as the customer and shows it with all that it prints.
func (c *Customer) show(ctx context.Context, out io.Writer, args ...string) error {
	fmt.Fprintln(out, "$", commandLine(args))
	cmd := c.Rialto(ctx, args...)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("rialto %s: %w", args[0], err)
	}
	return nil
}

// commandLine writes a command as a person would type it.
func commandLine(args []string) string {
	quoted := make([]string, 0, len(args)+1)
	quoted = append(quoted, "rialto")
	for _, a := range args {
		if strings.ContainsAny(a, " \n\"'();$&>") {
			a = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
		quoted = append(quoted, a)
	}
	return strings.Join(quoted, " ")
}
