package blocks

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"rialto/blockstore"
	"rialto/blockstore/exchange"
	"rialto/blockstore/mount"
	"rialto/broker"
	"rialto/cmd/internal/lab"
	"rialto/p2p"
	"rialto/p2p/identity"
	"rialto/p2p/p2ptest/line"
	"rialto/provider"
	"rialto/provider/images"
)

const (
	gbit    = 125e6 // bytes a second
	farAway = 50 * time.Millisecond
)

// python imports all modules in a root file system and returns how long the process took, and how long it computed.
func python(ctx context.Context, root string) (took, computed time.Duration, err error) {
	cmd := exec.CommandContext(ctx, "chroot", root, "/usr/bin/python3", "-c", importAll)
	cmd.Env = []string{"PATH=/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE=1"}
	begin := time.Now()
	_, err = lab.Output(cmd)
	took = time.Since(begin)
	if cmd.ProcessState != nil {
		computed = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	}
	return took, computed, err
}

// warmImports compares imports from mounts with those from ext4, everything cached. It returns the best from ext4.
func (t tree) warmImports(ctx context.Context, r *report, native string) (seconds, error) {
	type place struct {
		name, root     string
		first          time.Duration
		best, computed seconds
	}
	places := []place{{name: "limit: unpacked on ext4", root: native}}
	for _, c := range []struct {
		name string
		tier mount.Tier
	}{{"lazy", mount.Lazy}, {"sealed", mount.Sealed}, {"rival: a FUSE tree", mount.FUSE}} {
		m, err := t.mounts.MountAs(ctx, t.root, t.tree, t, c.tier)
		if err != nil {
			return 0, errors.Join(err, t.mounts.Unmount(t.root))
		}
		places = append(places, place{name: c.name, root: m.Path})
	}
	const times = 3 * rounds
	measure := func() error {
		for i := range times + 1 {
			for k := range places { // by turns, because what else the machine does changes
				p := &places[k]
				took, computed, err := python(ctx, p.root)
				if err != nil {
					return err
				}
				if i == 0 {
					p.first, p.best, p.computed = took, none(), none()
					continue
				}
				p.best.take(took)
				p.computed.take(computed)
			}
		}
		return nil
	}
	if err := errors.Join(measure(), t.mounts.Unmount(t.root)); err != nil {
		return 0, err
	}
	ext4 := places[0].best
	r.section(fmt.Sprintf("import of %d modules by the image's Python, warm; best of %d", modules, times))
	r.figure("import_warm_ratio", "the slower of lazy and sealed, to ext4", float64(max(places[1].best, places[2].best)/ext4), "")
	for _, p := range places {
		r.row(p.name, float64(p.best), "s", fmt.Sprintf("%.2f s of CPU; first %.2f s", float64(p.computed), p.first.Seconds()))
	}
	return ext4, nil
}

// record returns which blocks an import reads, in order.
func (t tree) record(ctx context.Context, l *lab.Lab) (trace blockstore.Trace, err error) {
	err = t.anew(ctx, l, asVerified, func(t tree, m mount.Mounted) error {
		if _, _, err := python(ctx, m.Path); err != nil {
			return err
		}
		touches, err := t.mounts.Trace(ctx, t.root)
		for _, x := range touches {
			trace = append(trace, uint32(x.Block)) //nolint:gosec // a tree has fewer blocks
		}
		return err
	})
	if err == nil && len(trace) == 0 {
		err = errors.New("the mount server recorded no touch")
	}
	return trace, err
}

// node is a host on the network of this process.
type node struct {
	*exchange.Exchange
	host *p2p.Host
	stop func() error
}

func newNode(store blockstore.Store) (*node, error) {
	key, err := identity.Generate()
	if err != nil {
		return nil, err
	}
	h, err := p2p.New(p2p.Config{Key: key, Listen: []string{"/ip4/127.0.0.1/tcp/0"}})
	if err != nil {
		return nil, err
	}
	x, err := exchange.New(exchange.Config{Host: h.Libp2p(), Store: store})
	if err != nil {
		return nil, errors.Join(err, h.Close())
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- x.Run(ctx) }() // ends with stop
	return &node{x, h, func() error {
		cancel()
		return errors.Join(<-done, h.Close())
	}}, nil
}

// port returns where the node listens.
func (n *node) port() (string, error) {
	for _, a := range n.host.Addrs() {
		if parts := strings.Split(a, "/"); len(parts) > 4 && parts[3] == "tcp" {
			return parts[4], nil
		}
	}
	return "", fmt.Errorf("no TCP address among %q", n.host.Addrs())
}

// coldImports measures imports on a host that has nothing and is far away from the one that has the tree.
func (t tree) coldImports(ctx context.Context, r *report, l *lab.Lab, native seconds) (err error) {
	trace, err := t.record(ctx, l)
	if err != nil {
		return err
	}
	size := 0
	for _, b := range trace {
		size += t.tree.Blocks[b].Size
	}
	server, err := newNode(t.store)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.stop()) }()
	port, err := server.port()
	if err != nil {
		return err
	}
	far, err := line.New(ctx, "127.0.0.1:"+port, farAway, gbit)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, far.Close()) }()
	source := broker.BlockSource{Peer: broker.PeerID(server.host.ID()), Addrs: []string{fmt.Sprintf("/ip4/127.0.0.1/tcp/%d", far.Port())}}

	with, without, cost := none(), none(), none()
	for i := range 3 {
		took, used, err := t.coldImport(ctx, l, source, trace)
		if err != nil {
			return err
		}
		with.take(took)
		cost = min(cost, seconds(used))
		if i > 0 {
			continue
		}
		if took, _, err = t.coldImport(ctx, l, source, nil); err != nil {
			return err
		}
		without.take(took)
	}
	r.section("the same import on a host that has nothing, from one peer 50 ms away through 1 Gbit/s; from the lease to the end; best of 3")
	r.figure("cold_import_50ms_s", "trace replayed, then all the rest", float64(with),
		fmt.Sprintf("%.1f s of CPU on both ends, Python's included; trace of %d blocks, %d MB", float64(cost), len(trace), size/1e6))
	r.row("without a trace", float64(without), "s", "once")
	r.row("limit: the trace's bytes at line rate or Python alone", max(float64(size)/gbit, float64(native)), "s", "by arithmetic, no round trip")
	r.row("rival: the whole image at line rate, before unpacking", float64(t.tree.Size())/gbit, "s", "by arithmetic, uncompressed")
	return nil
}

func (t tree) coldImport(ctx context.Context, l *lab.Lab, from broker.BlockSource, trace blockstore.Trace) (took time.Duration, used float64, err error) {
	dir, err := os.MkdirTemp(l.Path(), "cold-")
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	host, err := openLocal(ctx, l, dir)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, host.stop()) }()
	client, err := newNode(host.store)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, client.stop()) }()
	library, err := images.New(ctx, images.Config{Dir: filepath.Join(dir, "images"), Store: host.store, Mounts: host.mounts, Peers: client.Exchange})
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, library.Close()) }()
	before, begin := cpu(), time.Now()
	img, err := library.Ensure(ctx, provider.Want{Root: t.root.String(), Sources: []broker.BlockSource{from}, Trace: trace}, func(broker.Fetched) {})
	if err != nil {
		return 0, 0, err
	}
	defer img.Release()
	if _, _, err := python(ctx, img.RootFS); err != nil {
		return 0, 0, err
	}
	return time.Since(begin), cpu() - before, nil
}

// cpu returns the CPU time of this process and of those that it has waited for.
func cpu() float64 {
	var sum float64
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var u unix.Rusage
		if unix.Getrusage(who, &u) == nil {
			sum += float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
		}
	}
	return sum
}
