//go:build linux

package campaign

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"rialto/blockstore"
	"rialto/blockstore/disk"
	"rialto/blockstore/exchange"
	"rialto/blockstore/mount"
	"rialto/p2p"
	"rialto/p2p/identity"
	"rialto/provider"
	"rialto/provider/images"
)

// The first argument of the processes that are this binary again.
const (
	hostVerb   = "campaign-host"
	serverVerb = "mount-server"
)

// Operations that a host is told, one JSON object a line.
const (
	opEnsure  = "ensure"
	opRelease = "release"
	opSettle  = "settle"
	opScrub   = "scrub"
	opCount   = "count"
	opEnd     = "end"
)

// Events that a host tells, and the moments that it is killed at. The first six are answers.
const (
	evReady    = "ready"    // Held and Bytes say what is here
	evShown    = "shown"    // a want is at Dir
	evFailed   = "failed"   // a want is not, because of Err
	evSettled  = "settled"  // nothing of an earlier host is shown
	evScrubbed = "scrubbed" // Damaged blocks
	evCounted  = "counted"  // Peers and Wasted bytes came
	evMount    = "mount"    // a tree is about to be mounted
	evSeal     = "seal"     // a tree is about to be sealed
	evSealed   = "sealed"   // or could not be
	evEvict    = "evict"    // what is here is looked through, to delete some of it
	evChanged  = "changed"  // what is whole here has changed
)

// order is what a host is told.
type order struct {
	Op   string
	Name string // of what is wanted
	Want provider.Want
}

// event is what a host tells.
type event struct {
	Event   string
	Name    string   `json:",omitempty"`
	Tree    string   `json:",omitempty"`
	Dir     string   `json:",omitempty"`
	Err     string   `json:",omitempty"`
	Held    []string `json:",omitempty"` // roots that are whole
	Bytes   int64    `json:",omitempty"` // that the store owns
	Orphans int64    `json:",omitempty"` // of those, in blocks that no record names
	Strays  []string `json:",omitempty"` // these blocks
	Damaged int      `json:",omitempty"`
	Peers   int64    `json:",omitempty"` // bytes from there
	Remote  int64    `json:",omitempty"` // bytes from the registry
	Wasted  int64    `json:",omitempty"` // bytes from peers that were of no use
}

// host is what a provider runs, less the agent.
type host struct {
	library *images.Images
	store   *disk.Store
	peers   *counted
	dir     string

	mu    sync.Mutex
	out   *json.Encoder
	using map[string]func() // by name: how to end the use
}

// hostMain is the process: args are its directory and the store's quota.
func hostMain(args []string, in io.Reader, out io.Writer) int {
	var quota int64
	if _, err := fmt.Sscan(args[1], &quota); err != nil {
		return 2
	}
	h := &host{dir: args[0], out: json.NewEncoder(out), using: make(map[string]func())}
	if err := h.run(context.Background(), quota, in); err != nil {
		fmt.Fprintln(os.Stderr, "host:", err)
		return 1
	}
	return 0
}

func (h *host) tell(e event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	_ = h.out.Encode(e) // who is not heard is about to be killed
}

// run wires what cmd/rialto-provider wires, and does what it is told until it is told to end, or nobody tells.
func (h *host) run(ctx context.Context, quota int64, in io.Reader) (err error) {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	key, err := identity.LoadOrCreate(filepath.Join(h.dir, "identity.key"))
	if err != nil {
		return err
	}
	network, err := p2p.New(p2p.Config{Key: key, Listen: []string{"/ip4/127.0.0.1/tcp/0"}, Limits: p2p.ProviderLimits(), Logger: log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, network.Close()) }()
	h.store, err = disk.Open(ctx, disk.Config{Dir: filepath.Join(h.dir, "blocks"), Quota: quota, Reserve: -1, PackSize: 4 << 20, Logger: log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.store.Close()) }()
	blocks, err := exchange.New(exchange.Config{Host: network.Libp2p(), Store: h.store, Logger: log})
	if err != nil {
		return err
	}
	at := filepath.Join(h.dir, "mounts")
	if err := os.MkdirAll(at, 0o700); err != nil {
		return err
	}
	can, err := mount.Probe(ctx, at, os.Args[0], serverVerb)
	if err != nil {
		return err
	}
	mounts, err := mount.New(mount.Config{Dir: at, Can: can, Args: []string{os.Args[0], serverVerb}, Logger: log})
	if err != nil {
		return err
	}
	h.peers = &counted{Exchange: blocks}
	h.library, err = images.New(ctx, images.Config{
		Dir: filepath.Join(h.dir, "images"), Store: h.store, Peers: h.peers, Mounts: watched{mounts, h.tell},
		Policy: loopback(), Changed: func() { h.tell(event{Event: evChanged}) }, Logger: log,
	})
	if err != nil {
		return err
	}
	support, stop := context.WithCancel(ctx)
	defer stop()
	g := new(errgroup.Group)
	g.Go(func() error { return blocks.Run(support) })
	g.Go(func() error { return mounts.Run(support) })
	h.obey(ctx, in)
	err = h.library.Close()
	stop()
	err = errors.Join(err, g.Wait())
	patient, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return errors.Join(err, mounts.Close(patient))
}

// obey returns when it is told to end, with nothing under way and nothing in use.
func (h *host) obey(ctx context.Context, in io.Reader) {
	ready := event{Event: evReady, Bytes: h.store.Stats().Bytes}
	if err := h.count(ctx, &ready); err != nil {
		ready.Err = err.Error()
	}
	h.tell(ready)
	ctx, cancel := context.WithCancel(ctx)
	var work sync.WaitGroup
	defer work.Wait()
	defer cancel()
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		var o order
		if err := json.Unmarshal(lines.Bytes(), &o); err != nil {
			h.tell(event{Event: evFailed, Err: err.Error()})
			return
		}
		switch o.Op {
		case opEnsure:
			work.Go(func() { h.ensure(ctx, o) })
		case opRelease:
			h.mu.Lock()
			release := h.using[o.Name]
			delete(h.using, o.Name)
			h.mu.Unlock()
			if release != nil {
				release()
			}
		case opSettle:
			e := event{Event: evSettled}
			if err := h.library.Settle(ctx); err != nil {
				e.Err = err.Error()
			}
			h.tell(e)
		case opScrub:
			report, err := h.store.Scrub(ctx, 0)
			e := event{Event: evScrubbed, Damaged: len(report.Damaged) + len(report.Unreadable)}
			if err != nil {
				e.Err = err.Error()
			}
			h.tell(e)
		case opCount:
			h.tell(h.peers.count())
		case opEnd:
			return
		}
	}
}

func (h *host) ensure(ctx context.Context, o order) {
	img, err := h.library.Ensure(ctx, o.Want, nil)
	if err != nil {
		h.tell(event{Event: evFailed, Name: o.Name, Err: err.Error()})
		return
	}
	h.mu.Lock()
	h.using[o.Name] = img.Release
	h.mu.Unlock()
	h.tell(event{Event: evShown, Name: o.Name, Dir: img.RootFS, Peers: img.Fetched.Peers, Remote: img.Fetched.Registry})
}

// count says what is here, and what of it belongs to nothing. Nothing may be under way.
func (h *host) count(ctx context.Context, e *event) error {
	held, weights, err := h.library.Held(ctx)
	if err != nil {
		return err
	}
	e.Held = weights
	for _, i := range held {
		e.Held = append(e.Held, i.Root)
	}
	named, err := h.named(ctx)
	if err != nil {
		return err
	}
	for ref, err := range h.store.Each(ctx) {
		if err != nil {
			return err
		}
		if !named[ref.CID] {
			e.Orphans += int64(ref.Size)
			e.Strays = append(e.Strays, ref.CID.String())
		}
	}
	return nil
}

// named returns the blocks that records name, read from the files and not from the code that is tested.
func (h *host) named(ctx context.Context) (map[blockstore.CID]bool, error) {
	files, err := filepath.Glob(filepath.Join(h.dir, "images", "roots", "*.json"))
	if err != nil {
		return nil, err
	}
	named := make(map[blockstore.CID]bool)
	add := func(c blockstore.CID) {
		named[c] = true
		if b, err := h.store.Get(ctx, c); err == nil {
			if parts, err := blockstore.Parts(b); err == nil {
				for _, p := range parts {
					named[p] = true
				}
			}
		}
	}
	for _, name := range files {
		raw, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		var rec struct{ Tree blockstore.CID }
		if err := json.Unmarshal(raw, &rec); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		root, err := blockstore.ParseCID(strings.TrimSuffix(filepath.Base(name), ".json"))
		if err != nil {
			return nil, err
		}
		add(root)
		add(rec.Tree)
		if t, err := blockstore.LoadTree(ctx, rec.Tree, h.store); err == nil {
			for _, r := range t.Blocks {
				named[r.CID] = true
			}
		}
	}
	return named, nil
}

// counted keeps downloads.
type counted struct {
	*exchange.Exchange
	mu  sync.Mutex
	all []*exchange.Download
}

func (c *counted) Open(ctx context.Context, peers []exchange.Peer, sink func(blockstore.Block) error) (*exchange.Download, error) {
	d, err := c.Exchange.Open(ctx, peers, sink)
	if err == nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.all = append(c.all, d)
	}
	return d, err
}

func (c *counted) count() event {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := event{Event: evCounted}
	for _, d := range c.all {
		got := d.Fetched()
		e.Peers += got.Bytes
		e.Wasted += got.Wasted
	}
	return e
}

// watched tells of what is about to happen to mounts.
type watched struct {
	*mount.Mounts
	tell func(event)
}

func (w watched) Mount(ctx context.Context, root blockstore.CID, t *blockstore.Tree, src mount.Source) (string, error) {
	w.tell(event{Event: evMount, Tree: root.String()})
	return w.Mounts.Mount(ctx, root, t, src)
}

func (w watched) Seal(ctx context.Context, root blockstore.CID, t *blockstore.Tree, src mount.Source) error {
	w.tell(event{Event: evSeal, Tree: root.String()})
	defer w.tell(event{Event: evSealed, Tree: root.String()})
	return w.Mounts.Seal(ctx, root, t, src)
}

// List is asked for when blocks are about to be deleted.
func (w watched) List(ctx context.Context) ([]mount.Mounted, error) {
	w.tell(event{Event: evEvict})
	return w.Mounts.List(ctx)
}
