//go:build unix

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"

	"rialto/blockstore"
	"rialto/blockstore/image"
	"rialto/broker"
	"rialto/provider"
	"rialto/tunnel"
	"rialto/tunnel/tunneltest"
)

// ends are the provider's ends of tunnels, by network namespace.
type ends struct {
	t testing.TB

	mu   sync.Mutex
	open map[string]end
}

// end is one end of a tunnel with a network of its own.
type end interface {
	Listen(address netip.AddrPort) (net.Listener, error)
	Stats() (tunnel.Stats, error)
	Close() error
}

type endDevice struct {
	end
	name string
}

func (endDevice) Limit(int64) error { return nil }

func (d endDevice) Name() string { return d.name }

func (e *ends) Open(_ context.Context, netns, name string, c tunnel.Config) (tunnel.Device, error) {
	opened := tunneltest.Open(e.t, c)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.open == nil {
		e.open = map[string]end{}
	}
	e.open[netns] = opened
	return endDevice{opened, name}, nil
}

func (*ends) Remove(context.Context, string) error { return nil }

func (e *ends) listen(netns, address string) (net.Listener, error) {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	opened := e.open[netns]
	e.mu.Unlock()
	if opened == nil {
		return nil, errors.New("no tunnel")
	}
	return opened.Listen(to)
}

// processes is a runtime whose containers are processes of this machine.
type processes struct {
	ends *ends

	mu    sync.Mutex
	boxes map[broker.LeaseID]*box
}

func (p *processes) Prepare(_ context.Context, l provider.Launch) (provider.Sandbox, error) {
	b := &box{owner: p, lease: l.Lease, changed: make(chan struct{}), exited: make(chan struct{})}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.boxes == nil {
		p.boxes = map[broker.LeaseID]*box{}
	}
	p.boxes[l.Lease] = b
	return b, nil
}

func (p *processes) Adopt(_ context.Context, lease broker.LeaseID) (provider.Sandbox, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if b := p.boxes[lease]; b != nil {
		return b, nil
	}
	return nil, provider.ErrNoSandbox
}

func (p *processes) List(context.Context) ([]broker.LeaseID, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Sorted(maps.Keys(p.boxes)), nil
}

func (p *processes) Remove(_ context.Context, lease broker.LeaseID) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.boxes, lease)
	return nil
}

type chunk struct {
	stream provider.Stream
	data   []byte
}

// box is one process and all that it printed.
type box struct {
	owner *processes
	lease broker.LeaseID

	mu      sync.Mutex
	cmd     *exec.Cmd
	output  []chunk
	ended   bool
	exit    provider.Exit
	reason  string
	changed chan struct{} // closed and replaced when output or ended change
	exited  chan struct{}
}

type boxWriter struct {
	*box
	stream provider.Stream
}

func (w boxWriter) Write(p []byte) (int, error) {
	w.change(func() { w.output = append(w.output, chunk{w.stream, slices.Clone(p)}) })
	return len(p), nil
}

func (b *box) change(do func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	do()
	close(b.changed)
	b.changed = make(chan struct{})
}

func (b *box) Netns() string { return "/netns/" + string(b.lease) }

func (b *box) command(ctx context.Context, args, env []string, dir string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, env...)
	if _, err := os.Stat(dir); err == nil {
		cmd.Dir = dir
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C of the test's terminal is not for containers
	return cmd
}

func (b *box) Start(_ context.Context, p provider.Program) error {
	cmd := b.command(context.Background(), p.Args, p.Env, p.Workdir)
	cmd.Stdout, cmd.Stderr = boxWriter{b, provider.Stdout}, boxWriter{b, provider.Stderr}
	if err := cmd.Start(); err != nil {
		return err
	}
	b.change(func() { b.cmd = cmd })
	go func() { // ends with the process
		err := cmd.Wait()
		b.change(func() {
			b.ended, b.exit = true, provider.Exit{Code: exitCode(cmd, err), Reason: b.reason}
			close(b.exited)
		})
	}()
	return nil
}

func exitCode(cmd *exec.Cmd, err error) int {
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal())
	}
	if err != nil && cmd.ProcessState.ExitCode() < 0 {
		return 255
	}
	return cmd.ProcessState.ExitCode()
}

func (b *box) Started() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.cmd != nil
}

func (b *box) Exec(ctx context.Context, r provider.ExecRequest) (int, error) {
	cmd := b.command(ctx, r.Args, r.Env, r.Workdir)
	if r.TTY {
		return onPTY(cmd, r)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = r.Stdin, r.Stdout, r.Stderr
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	return exitCode(cmd, cmd.Wait()), nil
}

// onPTY runs a process on a terminal of its own.
func onPTY(cmd *exec.Cmd, r provider.ExecRequest) (int, error) {
	cmd.SysProcAttr = nil // the terminal makes it the leader of a session
	f, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: r.Rows, Cols: r.Cols})
	if err != nil {
		return 0, err
	}
	done := make(chan struct{})
	go func() { // ends with the process
		defer close(done)
		_, _ = io.Copy(r.Stdout, f) // reading a terminal whose last user has gone is an error
	}()
	go func() { _, _ = io.Copy(f, r.Stdin) }() // ends with the customer's input
	for resize := r.Resize; ; {
		select {
		case s, ok := <-resize:
			if !ok {
				resize = nil // no more of them
				continue
			}
			_ = pty.Setsize(f, &pty.Winsize{Rows: s.Rows, Cols: s.Cols})
		case <-done:
			err = cmd.Wait()
			f.Close()
			return exitCode(cmd, err), nil
		}
	}
}

func (b *box) Logs(ctx context.Context, follow bool, sink provider.LogSink) error {
	for i := 0; ; {
		b.mu.Lock()
		output, ended, changed := b.output[i:], b.ended, b.changed
		b.mu.Unlock()
		for _, c := range output {
			if err := sink(c.stream, c.data); err != nil {
				return err
			}
		}
		i += len(output)
		if ended || !follow {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (*box) Dial(ctx context.Context, port uint16) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
}

func (b *box) Listen(_ context.Context, address string) (net.Listener, error) {
	return b.owner.ends.listen(b.Netns(), address)
}

func (*box) Extend(context.Context, time.Duration) error { return nil }

func (*box) Notify(context.Context, string, []byte) error { return nil }

func (b *box) Stop(ctx context.Context, grace time.Duration, reason string) error {
	b.mu.Lock()
	cmd, ended := b.cmd, b.ended
	b.reason = reason
	b.mu.Unlock()
	if cmd == nil || ended {
		return nil
	}
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) // it may have ended this moment
	select {
	case <-b.exited:
	case <-time.After(grace):
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

func (b *box) Wait(ctx context.Context) (provider.Exit, error) {
	select {
	case <-b.exited:
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.exit, nil
	case <-ctx.Done():
		return provider.Exit{}, ctx.Err()
	}
}

func (b *box) Delete(ctx context.Context) error {
	return errors.Join(b.Stop(ctx, 0, "deleted"), b.owner.Remove(ctx, b.lease))
}

// images has every image: half of its bytes come from peers, half from the registry.
type images struct {
	blocks *blocks            // what private ones are opened from
	arrive chan struct{}      // nil: images arrive at once; else once it is closed
	from   []broker.PeerBytes // who serves each of them
}

func (i *images) Ensure(ctx context.Context, w provider.Want, progress func(broker.Fetched)) (provider.Image, error) {
	const mib = 1 << 20
	if broker.IsLocalImage(w.Image) && w.Root == "" {
		return provider.Image{}, errors.New("nobody has the image")
	}
	progress(broker.Fetched{Peers: 50 * mib, Total: 212 * mib})
	if i.arrive != nil {
		select {
		case <-i.arrive:
		case <-ctx.Done():
			return provider.Image{}, ctx.Err()
		}
	}
	if err := i.unlock(ctx, w); err != nil {
		return provider.Image{}, err
	}
	got := broker.Fetched{Peers: 200 * mib, Registry: 12 * mib, Total: 212 * mib, From: i.from}
	root := w.Root
	if root == "" {
		root = blockstore.Sum([]byte(w.Digest)).String()
	}
	return provider.Image{RootFS: "/", Root: root, Digest: w.Digest, Cmd: []string{"true"}, Workdir: "/", Fetched: got, Release: func() {}, Trace: readFirst}, nil
}

// readFirst is what every run reads first.
func readFirst(context.Context) (blockstore.Trace, error) { return blockstore.Trace{7, 8, 0}, nil }

func (*images) Held(context.Context) ([]broker.ImageHeld, []string, error) { return nil, nil, nil }
func (*images) Advise(broker.PeerID, []broker.RootAdvice, time.Time)       {}
func (*images) Yield(context.Context, int64) error                         { return nil }
func (*images) Settle(context.Context) error                               { return nil }

// journal forgets everything.
type journal struct {
	mu     sync.Mutex
	epochs map[string]uint64
}

func (j *journal) Epochs(context.Context) (map[string]uint64, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return maps.Clone(j.epochs), nil
}

func (*journal) Records(context.Context) ([]provider.Record, error) { return nil, nil }

func (j *journal) Save(_ context.Context, r provider.Record) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.epochs == nil {
		j.epochs = map[string]uint64{}
	}
	for _, g := range r.GPUs {
		j.epochs[g.UUID] = max(j.epochs[g.UUID], g.Epoch)
	}
	return nil
}

// blocks is the broker's store of uploaded blocks.
type blocks struct {
	mu   sync.Mutex
	kept map[blockstore.CID]blockstore.Block
}

func (b *blocks) Get(_ context.Context, c blockstore.CID) (blockstore.Block, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	block, ok := b.kept[c]
	if !ok {
		return block, &blockstore.BlockError{Op: "get", CID: c, Err: blockstore.ErrNotFound}
	}
	return block, nil
}

func (b *blocks) Has(ctx context.Context, c blockstore.CID) (bool, error) {
	_, err := b.Get(ctx, c)
	return err == nil, nil
}

// hold reports whether a block contains a text.
func (b *blocks) hold(text string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, block := range b.kept {
		if bytes.Contains(block.Data(), []byte(text)) {
			return true
		}
	}
	return false
}

func (b *blocks) forget() {
	b.mu.Lock()
	defer b.mu.Unlock()
	clear(b.kept)
}

func (b *blocks) Put(_ context.Context, all ...blockstore.Block) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.kept == nil {
		b.kept = map[blockstore.CID]blockstore.Block{}
	}
	for _, block := range all {
		b.kept[block.CID()] = block
	}
	return nil
}

// builder imports images from registries, wherever they are.
type builder struct{}

func (builder) Build(ctx context.Context, name string, digest blockstore.Digest, progress func(done, total int64)) (blockstore.CID, error) {
	source, err := image.Registry{}.Open(ctx, name, digest)
	if err != nil {
		return blockstore.CID{}, err
	}
	got, err := source.Import(ctx, image.Import{Put: func(context.Context, blockstore.Block) error { return nil }})
	if err != nil {
		return blockstore.CID{}, err
	}
	progress(source.CompressedSize(), source.CompressedSize())
	return got.Root, nil
}
